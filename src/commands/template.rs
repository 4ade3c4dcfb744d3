//! `postbell template check|preview`: what is wrong in the folder, and how a message will look.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::BadConfiguration;
use crate::config;
use crate::message::{Button, Format, Message};
use crate::template::{Facts, Payload, RenderError, Templates};

/// What to do with the templates.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Find every problem in the folder of templates, and render each sample in its samples folder
    Check(config::Templates),
    /// Render one template and show the message
    Preview(Preview),
}

/// Arguments of `postbell template preview`.
#[derive(clap::Args, Debug)]
pub struct Preview {
    #[command(flatten)]
    templates: config::Templates,

    /// Template to render
    template_id: String,

    /// File with the payload, a JSON object; - for standard input. Without it samples/<template_id>.json is taken
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,

    /// Set one variable of the payload; a value that is JSON is taken as such, key.inner sets a field
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Render the digest of this many copies of the payload
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000))]
    digest: Option<u16>,
}

/// Runs the command.
pub fn run(command: Command) -> anyhow::Result<()> {
    let (shown, result) = match command {
        Command::Check(folder) => check(&folder.templates_dir)?,
        Command::Preview(arguments) => (preview(&arguments)?, Ok(())),
    };
    std::io::stdout().lock().write_all(shown.as_bytes()).context("cannot write to standard output")?;
    result
}

/// What was found in a folder.
pub(super) struct Seen {
    /// Templates, broken ones included.
    pub(super) count: usize,
    /// Of these, rendered with a sample.
    pub(super) rendered: usize,
    /// What is wrong, each with its file.
    pub(super) problems: Vec<String>,
    /// Each template, with what it needs.
    listing: String,
}

/// Looks at every template of a folder, and renders the samples.
pub(super) fn look(dir: &Path) -> anyhow::Result<Seen> {
    let templates = load(dir)?;
    let mut listing = String::new();
    let mut problems: Vec<String> =
        templates.problems().iter().map(|problem| format!("{}/{problem}", dir.display())).collect();
    let (mut count, mut rendered) = (0, 0);
    for id in templates.ids() {
        count += 1;
        let variables: Vec<String> = templates.variables(id).into_iter().collect();
        let needs = if variables.is_empty() { "nothing".to_owned() } else { variables.join(", ") };
        writeln!(listing, "{id}\n  needs   {needs}")?;
        let sample = sample(dir, id);
        if !sample.is_file() {
            writeln!(listing, "  sample  none; put one in {}", sample.display())?;
            continue;
        }
        match check_sample(&templates, id, &sample) {
            Ok(says) => {
                rendered += 1;
                writeln!(listing, "  sample  {says}")?;
            }
            // The file itself is listed as a problem already where the template is broken.
            Err(problem) if problem.contains(" is broken: ") => {}
            Err(problem) => problems.push(problem),
        }
    }
    Ok(Seen { count, rendered, problems, listing })
}

/// What to print, and whether anything is wrong.
fn check(dir: &Path) -> anyhow::Result<(String, anyhow::Result<()>)> {
    let Seen { count, rendered, problems, listing: mut shown } = look(dir)?;
    for problem in &problems {
        writeln!(shown, "{problem}")?;
    }
    if count == 0 {
        return Ok((
            shown,
            Err(anyhow::anyhow!("{} has no template; put <template_id>.md or .txt there", dir.display())),
        ));
    }
    if !problems.is_empty() {
        return Ok((shown, Err(anyhow::anyhow!("{} in {}", plural(problems.len(), "problem"), dir.display()))));
    }
    writeln!(shown, "{}, {rendered} rendered with a sample, no problem", plural(count, "template"))?;
    Ok((shown, Ok(())))
}

/// Renders a sample, and a digest of two of it where there is one.
fn check_sample(templates: &Templates, id: &str, sample: &Path) -> Result<String, String> {
    let payload = read(sample).map_err(|error| format!("{error:#}"))?;
    let wrong = |error: RenderError| format!("{}: {error}", sample.display());
    let message = templates.render(id, &facts(id), &payload).map_err(wrong)?;
    let mut says = format!("\"{}\", {} bytes", message.title, message.body.len());
    if templates.has_digest(id) {
        let digest = templates.render_digest(id, &[&payload, &payload]).map_err(wrong)?;
        says = format!("{says}; digest of two \"{}\", {} bytes", digest.title, digest.body.len());
    }
    Ok(says)
}

fn preview(arguments: &Preview) -> anyhow::Result<String> {
    let Preview { templates: folder, template_id: id, payload, set, digest } = arguments;
    let templates = load(&folder.templates_dir)?;
    let sample = sample(&folder.templates_dir, id);
    let mut variables = match payload {
        Some(file) => read(file).map_err(|error| BadConfiguration(format!("--payload: {error:#}")))?,
        None if sample.is_file() => read(&sample)?,
        None => Payload::new(),
    };
    for assignment in set {
        assign(&mut variables, assignment).map_err(BadConfiguration)?;
    }
    let message = match digest {
        Some(count) => templates.render_digest(id, &vec![&variables; usize::from(*count)])?,
        None => templates.render(id, &facts(id), &variables)?,
    };
    Ok(show(&message))
}

fn show(message: &Message) -> String {
    let (format, buttons) = match &message.format {
        Format::Markdown => ("markdown", &[][..]),
        Format::Text => ("text", &[][..]),
        Format::ActionCard(buttons) => ("actionCard", buttons.as_slice()),
    };
    let buttons: String = buttons.iter().map(|Button { title, url }| format!("button    {title} → {url}\n")).collect();
    let mentions = &message.mentions;
    let all = mentions.at_all.then_some("everybody");
    let people = mentions.at_mobiles.iter().chain(&mentions.at_user_ids).map(String::as_str);
    let people: Vec<&str> = all.into_iter().chain(people).collect();
    let people = if people.is_empty() { "nobody".to_owned() } else { people.join(", ") };
    let Message { title, body, .. } = message;
    let bytes = body.len();
    format!("title     {title}\ntype      {format}\nmentions  {people}\n{buttons}body      {bytes} bytes\n\n{body}\n")
}

fn load(dir: &Path) -> Result<Templates, BadConfiguration> {
    Templates::load(dir).map_err(|error| BadConfiguration(error.to_string()))
}

fn sample(dir: &Path, id: &str) -> PathBuf {
    dir.join("samples").join(format!("{id}.json"))
}

fn read(file: &Path) -> anyhow::Result<Payload> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    serde_json::from_str(&text).with_context(|| format!("{} is not a JSON object", file.display()))
}

/// The event of a rendering that belongs to none.
fn facts(template_id: &str) -> Facts<'_> {
    Facts { id: uuid::Uuid::nil(), event_type: template_id, trace_id: Some("preview"), retry_count: 0 }
}

/// `key=value` or `key.inner=value`.
fn assign(payload: &mut Payload, assignment: &str) -> Result<(), String> {
    let wrong = || format!("--set: given {assignment:?}; allowed: key=value or key.inner=value");
    let (path, value) = assignment.split_once('=').ok_or_else(wrong)?;
    let mut path: Vec<&str> = path.split('.').collect();
    let last = path.pop().filter(|key| !key.is_empty()).ok_or_else(wrong)?;
    let mut object = payload;
    for key in path {
        let inner = object.entry(key).or_insert_with(|| Payload::new().into());
        object = inner.as_object_mut().ok_or_else(|| format!("--set: {key:?} in {assignment:?} is not an object"))?;
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    object.insert(last.to_owned(), value);
    Ok(())
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("templates")
    }

    fn arguments(template_id: &str, set: &[&str], digest: Option<u16>) -> Preview {
        let templates = config::Templates { templates_dir: shipped() };
        let set = set.iter().map(|set| (*set).to_owned()).collect();
        Preview { templates, template_id: template_id.to_owned(), payload: None, set, digest }
    }

    #[test]
    fn the_templates_that_come_with_it_have_no_problem_and_a_sample_each() {
        let (shown, result) = check(&shipped()).unwrap();
        assert!(result.is_ok(), "{shown}");
        assert!(shown.ends_with("5 templates, 5 rendered with a sample, no problem\n"), "{shown}");
    }

    #[test]
    fn a_check_lists_every_problem_where_it_is_and_fails() {
        let dir = std::env::temp_dir().join(format!("postbell-check-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(dir.join("samples")).unwrap();
        for (file, text) in [
            ("a.md", "${x"),
            ("b.md", "\n${x.y}"),
            ("c.md", "x"),
            ("samples/b.json", "{\"x\": {}}"),
            ("samples/c.json", "[]"),
        ] {
            std::fs::write(dir.join(file), text).unwrap();
        }
        let (shown, result) = check(&dir).unwrap();
        let here = dir.display();
        assert!(shown.contains(&format!("{here}/a.md:1: ")), "{shown}");
        let missing = "template b: variable \"x.y\" is missing from the payload (line 2)";
        assert!(shown.contains(&format!("{here}/samples/b.json: {missing}\n")), "{shown}");
        assert!(shown.contains(&format!("{here}/samples/c.json is not a JSON object: ")), "{shown}");
        assert_eq!(result.unwrap_err().to_string(), format!("3 problems in {here}"));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(check(&dir).unwrap_err().downcast_ref::<BadConfiguration>().is_some());
    }

    #[test]
    fn a_preview_shows_the_whole_message() {
        let shown = preview(&arguments("notice", &["title=停电", "content=[看](https://a.example)"], None)).unwrap();
        assert_eq!(
            shown,
            "title     停电\ntype      text\nmentions  nobody\nbody      36 bytes\n\n【停电】[看](https://a.example)\n"
        );
        let shown = preview(&arguments("resume.parsed", &["candidate.name=# a"], Some(30))).unwrap();
        assert!(shown.contains("30 份新简历") && shown.matches("[# a](").count() == 30, "{shown}");
        let shown = preview(&arguments("ai.review.done", &[], None)).unwrap();
        assert!(shown.contains("type      actionCard\n"), "{shown}");
        assert!(shown.contains("\nbutton    查看完整报告 → https://hire.example.com/reviews/45c48cce\n"), "{shown}");
    }

    #[test]
    fn both_commands_take_the_folder() {
        use clap::Parser as _;
        for line in ["check", "preview a.b --payload - --set a=1 --set b.c=x --digest 3"] {
            let words = format!("postbell template {line} --templates-dir dir");
            crate::cli::Cli::try_parse_from(words.split(' ')).unwrap();
        }
    }

    #[test]
    fn a_variable_is_json_where_it_can_be() {
        let mut payload = Payload::new();
        for assignment in ["a=1", "b=x=y", "c.d.e=[true]", "c.f=\"1\""] {
            assign(&mut payload, assignment).unwrap();
        }
        let expected = serde_json::json!({"a": 1, "b": "x=y", "c": {"d": {"e": [true]}, "f": "1"}});
        assert_eq!(serde_json::Value::from(payload.clone()), expected);
        for wrong in ["a", "=1", "a.=1", "a.b=1"] {
            assert!(assign(&mut payload, wrong).unwrap_err().starts_with("--set: "), "{wrong}");
        }
    }
}
