//! As few messages as fit: which of the events that wait become the next one.

use minijinja::Value;
use minijinja::value::Serde;

use super::{Payload, RenderError, Templates};
use crate::message::Message;

/// The next message that several events become; see [`Templates::digest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// With the template's mentions; the members' own are the caller's to add. None where every event is bad.
    pub message: Option<Message>,
    /// The events in it, by their places: the first ones that are not bad, in their order.
    pub members: Vec<usize>,
    /// The events that the digest form cannot show, by their places, and why: it fails for each of them alone.
    pub bad: Vec<(usize, RenderError)>,
}

impl Templates {
    /// Renders the first of these events, as many as fit, as one message; a single one is rendered whether it fits or
    /// not. Who calls again with those that are neither in `members` nor `bad` gets all of them into as few messages.
    ///
    /// `fits` gets the message and the places of its events.
    pub fn digest(
        &self,
        template_id: &str,
        payloads: &[&Payload],
        fits: impl Fn(&Message, &[usize]) -> bool,
    ) -> Digest {
        let mut bad = Vec::new();
        let mut first = None;
        let (mut places, mut values) = (Vec::new(), Vec::new());
        for (place, payload) in payloads.iter().enumerate() {
            let value = Value::from(Serde(payload));
            match self.render_members(template_id, vec![value.clone()]) {
                Ok(message) => {
                    first.get_or_insert(message);
                    places.push(place);
                    values.push(value);
                }
                Err(error) => bad.push((place, error)),
            }
        }
        // What fails together, for its length, is treated as what does not fit.
        let of = |count: usize| {
            let message = self.render_members(template_id, values[..count].to_vec()).ok()?;
            fits(&message, &places[..count]).then_some(message)
        };
        let mut best = (usize::from(first.is_some()), first);
        // Mostly all fit.
        let (mut fitting, mut too_many) = (best.0, values.len() + 1);
        let mut count = values.len();
        while count > fitting {
            match of(count) {
                Some(message) => {
                    best = (count, Some(message));
                    fitting = count;
                }
                None => too_many = count,
            }
            count = fitting.midpoint(too_many);
        }
        places.truncate(best.0);
        Digest { message: best.1, members: places, bad }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::Folder;
    use super::*;
    use crate::channel;

    const DIGEST: &str = "---\ntitle: ${count} 份\n---\n<% for e in events %>\n- ${e.name}\n<% endfor %>";

    fn payloads(count: usize, name: impl Fn(usize) -> String) -> Vec<Payload> {
        (0..count).map(|n| json!({"name": name(n)}).as_object().unwrap().clone()).collect()
    }

    /// Every message it takes to show all, and the places of the bad ones.
    fn all(templates: &Templates, payloads: &[Payload]) -> (Vec<Message>, Vec<usize>) {
        let mut left: Vec<usize> = (0..payloads.len()).collect();
        let (mut messages, mut shown, mut bad) = (vec![], vec![], vec![]);
        while !left.is_empty() {
            let given: Vec<&Payload> = left.iter().map(|place| &payloads[*place]).collect();
            let digest = templates.digest("a", &given, |message, _| channel::fits(message));
            bad.extend(digest.bad.iter().map(|(at, _)| left[*at]));
            shown.extend(digest.members.iter().map(|at| left[*at]));
            messages.extend(digest.message);
            left.retain(|place| !shown.contains(place) && !bad.contains(place));
        }
        assert!(shown.is_sorted(), "in the order given");
        assert_eq!(shown.len() + bad.len(), payloads.len());
        (messages, bad)
    }

    #[test]
    fn five_hundred_become_as_few_messages_as_fit_in_their_order() {
        let templates = Folder::new(&[("a.md", "x"), ("a.digest.md", DIGEST)]).load();
        let payloads = payloads(500, |n| format!("候选人第 {n:03} 号，后端工程师，五年经验，现居杭州"));
        let (messages, bad) = all(&templates, &payloads);
        assert_eq!(bad, [0; 0]);
        let whole: usize = messages.iter().map(channel::body_size).sum();
        assert_eq!(messages.len(), whole.div_ceil(18_000), "no message more than it takes");
        let lines: Vec<&str> = messages.iter().flat_map(|message| message.body.lines()).collect();
        assert_eq!(lines.len(), 500);
        for (n, line) in lines.iter().enumerate() {
            assert!(line.contains(&format!("第 {n:03} 号")), "{line}");
        }
        let last = messages.last().unwrap();
        assert_eq!(last.title, format!("{} 份", last.body.lines().count()));
        assert!(messages.iter().all(channel::fits));
    }

    #[test]
    fn a_bad_one_falls_out_alone() {
        let templates = Folder::new(&[("a.md", "x"), ("a.digest.md", DIGEST)]).load();
        let mut payloads = payloads(5, |n| format!("n{n}"));
        payloads[2].remove("name");
        let given: Vec<&Payload> = payloads.iter().collect();
        let digest = templates.digest("a", &given, |_, members| members.len() <= 3);
        assert_eq!(digest.members, [0, 1, 3]);
        assert_eq!(digest.message.unwrap().body, "- n0  \n- n1  \n- n3");
        let (place, why) = &digest.bad[0];
        assert_eq!((*place, digest.bad.len()), (2, 1));
        assert!(why.to_string().contains("\"e.name\" is missing"), "{why}");
    }

    #[test]
    fn a_single_one_is_rendered_whether_it_fits_or_not() {
        let templates = Folder::new(&[("a.md", "x"), ("a.digest.md", DIGEST)]).load();
        let payloads = payloads(3, |n| if n == 0 { "长".repeat(10_000) } else { "短".to_owned() });
        let (messages, _) = all(&templates, &payloads);
        assert_eq!(messages.iter().map(|message| message.title.as_str()).collect::<Vec<_>>(), ["1 份", "2 份"]);
        assert!(!channel::fits(&messages[0]));
    }

    #[test]
    fn what_cannot_be_rendered_at_all_is_bad_throughout() {
        let templates = Folder::new(&[("a.md", "x"), ("a.digest.md", "${")]).load();
        let payloads = payloads(2, |n| n.to_string());
        let given: Vec<&Payload> = payloads.iter().collect();
        let digest = templates.digest("a", &given, |_, _| true);
        assert_eq!((digest.message, digest.members, digest.bad.len()), (None, vec![], 2));
        assert_eq!(templates.digest("a", &[], |_, _| true), Digest { message: None, members: vec![], bad: vec![] });
    }

    #[test]
    fn the_digests_that_come_with_it_name_every_event_in_order() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let templates = Templates::load(&dir).unwrap();
        for id in ["resume.parsed", "job.matched"] {
            let sample = std::fs::read_to_string(dir.join(format!("samples/{id}.json"))).unwrap();
            let sample: Payload = serde_json::from_str(&sample).unwrap();
            let payloads: Vec<Payload> = (0..60)
                .map(|n| {
                    let mut payload = sample.clone();
                    payload["candidate"]["name"] = json!(format!("甲{n}乙"));
                    payload.insert("score".to_owned(), json!(n * 37 % 60));
                    payload
                })
                .collect();
            let given: Vec<&Payload> = payloads.iter().collect();
            let digest = templates.digest(id, &given, |message, _| channel::fits(message));
            assert_eq!(digest.members.len(), 60, "{:?}", digest.bad);
            let body = digest.message.unwrap().body;
            let at: Vec<usize> = (0..60).map(|n| body.find(&format!("甲{n}乙")).unwrap()).collect();
            assert!(at.is_sorted(), "{body}");
        }
    }
}
