use serde_json::json;

use super::*;

/// A folder of templates that is gone when the test is.
pub(super) struct Folder(std::path::PathBuf);

impl Folder {
    pub(super) fn new(files: &[(&str, &str)]) -> Folder {
        let dir = std::env::temp_dir().join(format!("postbell-templates-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&dir).unwrap();
        for (name, text) in files {
            std::fs::write(dir.join(name), text).unwrap();
        }
        Folder(dir)
    }

    pub(super) fn load(&self) -> Templates {
        Templates::load(&self.0).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const FACTS: Facts<'static> =
    Facts { id: uuid::Uuid::nil(), event_type: "resume.parsed", trace_id: None, retry_count: 0 };

fn render(template: &str, payload: serde_json::Value) -> Result<Message, String> {
    let payload = payload.as_object().unwrap();
    Folder::new(&[("a.b.md", template)]).load().render("a.b", &FACTS, payload).map_err(|error| error.to_string())
}

fn body(template: &str, payload: serde_json::Value) -> String {
    render(template, payload).unwrap().body
}

fn error(template: &str, payload: serde_json::Value) -> String {
    render(template, payload).unwrap_err()
}

fn problems(files: &[(&str, &str)]) -> Vec<String> {
    Folder::new(files).load().problems().iter().map(Problem::to_string).collect()
}

#[test]
fn templates_can_be_shared_between_tasks() {
    fn shared<T: Send + Sync>() {}
    shared::<Templates>();
}

#[test]
fn a_body_alone_is_a_template() {
    let message = render("#### ${姓名}\n**评分** ${score}\n", json!({"姓名": "张三", "score": 95})).unwrap();
    let body = "#### 张三\n**评分** 95".to_owned();
    let title = "张三".to_owned();
    assert_eq!(message, Message { format: Format::Markdown, title, body, mentions: Mentions::default() });
}

#[test]
fn front_matter_sets_title_type_and_mentions() {
    let template = "---\ntitle: 新简历 ${name}\ntype: text\nat_all: true\nat_user_ids: [u1]\n---\n${name}\n";
    let message = render(template, json!({"name": "*张三*\n"})).unwrap();
    assert_eq!(
        (message.format, message.title.as_str(), message.body.as_str()),
        (Format::Text, "新简历 *张三*", "*张三*")
    );
    assert_eq!(message.mentions, Mentions { at_mobiles: vec![], at_user_ids: vec!["u1".into()], at_all: true });
}

#[test]
fn a_title_is_never_empty() {
    assert_eq!(render("![](https://a.example/b.png)", json!({})).unwrap().title, "a.b");
    assert_eq!(render("---\ntitle: ${x}\n---\ntext", json!({"x": " "})).unwrap().title, "a.b");
}

#[test]
fn a_missing_variable_is_named_with_its_line() {
    assert_eq!(
        error("a\nb\n${score}", json!({})),
        "template a.b: variable \"score\" is missing from the payload (line 3)"
    );
    assert_eq!(
        error("---\ntitle: a\n---\n\n${candidate.name}", json!({"candidate": {}})),
        "template a.b: variable \"candidate.name\" is missing from the payload (line 5)"
    );
    assert_eq!(
        error("${candidate.name}", json!({})),
        "template a.b: variable \"candidate\" is missing from the payload (line 1)"
    );
    for place in [
        "${x|upper}",
        "${x + 1}",
        "<% if x %>a<% endif %>",
        "<% for y in x %>a<% endfor %>",
        "${x|datetime}",
        "${x|link(x)}",
        "${x ~ 'a'}",
        "${x|join}",
    ] {
        assert_eq!(
            error(place, json!({})),
            "template a.b: variable \"x\" is missing from the payload (line 1)",
            "{place}"
        );
    }
    assert_eq!(
        error("---\ntitle: ${x}\n---\na", json!({})),
        "title of template a.b: variable \"x\" is missing from the payload (line 1)"
    );
}

#[test]
fn null_is_an_error_unless_there_is_a_default() {
    let null = json!({"x": null});
    assert_eq!(error("${x}", null.clone()), "template a.b: \"x\" is null; give it a |default(\"…\") (line 1)");
    assert_eq!(body("${x|default(\"未知\")}", null), "未知");
    assert_eq!(body("a${x|default}", json!({})), "a");
}

#[test]
fn lists_and_objects_are_not_dumped() {
    let payload = json!({"list": ["secret"], "object": {"a": "secret"}});
    assert_eq!(
        error("${list}", payload.clone()),
        "template a.b: \"list\" is a list; use |join(\"、\") or a <% for %> loop (line 1)"
    );
    assert_eq!(
        error("${object}", payload.clone()),
        "template a.b: \"object\" is an object; name one of its fields (line 1)"
    );
    assert_eq!(body("${list|join(\"、\")} ${object|tojson}", payload), "secret {\"a\":\"secret\"}");
}

#[test]
fn numbers_and_truth_are_written_as_they_are() {
    let payload = json!({"a": 95, "b": 0.93, "c": 95.0, "d": true, "e": 1e21, "f": u64::MAX, "g": -3});
    assert_eq!(
        body("${a} ${b} ${c} ${d} ${e} ${f} ${g} ${(b * 100)|round}", payload),
        "95 0.93 95 true 1000000000000000000000 18446744073709551615 -3 93"
    );
}

#[test]
fn an_error_never_shows_a_value_of_the_payload() {
    let payload = json!({"x": "hunter2 `x` `hunter2` is undefined", "y": {"hunter2": 1}, "z": ["hunter2"]});
    for template in [
        "${x|round}",
        "${x + y}",
        "${x.y.z}",
        "${x()}",
        "${x|datetime}",
        "${x|datetime(tz=x)}",
        "[a](${x})",
        "${x|link(x)}",
        "<% for a in y %>${a.b.c}<% endfor %>",
        "${y[x].z}",
        "${x|int}",
        "<% include x %>",
        "${x|replace(y, z)}",
        "${x|format(y)}",
        "${x.nothing()}",
        "${z|sum}",
        "${x|sort(attribute=x)|first|abs}",
        "${namespace(x)}",
        "${range(x)}",
    ] {
        // Some of these happen to have a meaning.
        let Err(error) = render(template, payload.clone()) else { continue };
        assert!(error.starts_with("template a.b: ") && !error.contains("hunter2"), "{template}: {error}");
    }
}

#[test]
fn an_address_that_is_none_is_an_error_that_names_it() {
    assert_eq!(
        error("a\n[看](${x.url})", json!({"x": {"url": "javascript:alert(1)"}})),
        "template a.b: \"x.url\" in a link is not an address with http://, https:// or dingtalk:// (line 2)"
    );
    assert_eq!(
        error("${x|link(y)}", json!({"x": "a", "y": "b"})),
        "template a.b: \"x|link(y)\" links to something that is no http://, https:// or dingtalk:// address (line 1)"
    );
    assert_eq!(body("${x|link(y)}", json!({"x": "a]", "y": "https://b.example/)"})), "[a\\]](https://b.example/%29)");
}

#[test]
fn the_event_is_there_unless_the_payload_has_one() {
    assert_eq!(body("${event.event_type} ${event.retry_count}", json!({})), "resume.parsed 0");
    assert_eq!(body("${event}", json!({"event": "面试"})), "面试");
}

#[test]
fn times_are_shown_in_china_or_where_the_template_says() {
    let payload = json!({"at": "2026-11-24T07:30:00Z"});
    assert_eq!(body("${at|datetime}", payload.clone()), "11-24 15:30");
    assert_eq!(body("${at|datetime(tz=\"UTC\", format=\"%Y年%m月%d日 %H:%M\")}", payload), "2026年11月24日 07:30");
    let error = error("${at|datetime}", json!({"at": "tomorrow"}));
    assert_eq!(
        error,
        "template a.b: \"at|datetime\" is not a time with its offset, such as 2026-11-24T15:30:00+08:00 (line 1)"
    );
}

#[test]
fn a_long_text_can_be_cut() {
    assert_eq!(body("${x|truncate(3)} ${y|truncate(3)}", json!({"x": "一二三四", "y": "一二三"})), "一二… 一二三");
    assert!(error("${x|truncate(3)}", json!({"x": [1]})).contains("\"x|truncate(3)\" is a list"));
}

#[test]
fn an_unknown_template_is_refused_with_those_there_are() {
    let templates = Folder::new(&[("a.b.md", "x"), ("c.txt", "x"), ("a.b.digest.md", "x")]).load();
    for unknown in ["x", "a.b.digest"] {
        let error = templates.render(unknown, &FACTS, &Payload::new()).unwrap_err();
        assert_eq!(error.to_string(), format!("unknown template \"{unknown}\"; the folder has: a.b, c"));
    }
    assert!(templates.has_digest("a.b") && !templates.has_digest("c"));
}

#[test]
fn a_broken_template_does_not_stop_the_others() {
    let templates = Folder::new(&[
        ("good.md", "x"),
        ("bad.md", "---\ntitle: a\n---\n\n${x"),
        ("card.md", "---\ntype: card\n---\nx"),
    ])
    .load();
    assert!(templates.render("good", &FACTS, &Payload::new()).is_ok());
    let error = templates.render("bad", &FACTS, &Payload::new()).unwrap_err().to_string();
    assert!(error.starts_with("template bad is broken: bad.md:5: "), "{error}");
    assert_eq!(
        templates.problems()[1].to_string(),
        "card.md:2: unknown type \"card\"; allowed: markdown, text, actionCard"
    );
    assert_eq!(templates.ids().collect::<Vec<_>>(), ["bad", "card", "good"]);
}

#[test]
fn what_is_wrong_in_the_folder_is_listed() {
    assert_eq!(problems(&[("a.md", "x"), ("a.txt", "x")]), ["a.md: a.txt stands beside it; keep one of them"]);
    assert_eq!(
        problems(&[("a.digest.md", "x")]),
        ["a.digest.md: is the digest form of no template; allowed beside a.md or a.txt"]
    );
    assert_eq!(problems(&[("a.md", "---\ntitle: a\n---\n\n${x|upprr}")]), ["a.md:5: unknown filter \"upprr\""]);
    assert_eq!(problems(&[("a.md", " \n")]), ["a.md: is empty"]);
    assert_eq!(
        problems(&[("a.md", "---\ntitle: a\n")]),
        ["a.md:1: the front matter does not end; put a line --- behind it"]
    );
    assert!(problems(&[("a.md", "---\ntype: text\ntitle: ${\n---\nx")])[0].starts_with("a.md:3: "));
    assert_eq!(
        problems(&[(".hidden.md", "${"), ("README.md", "${"), ("notes", "${"), ("a.md", "x")]),
        Vec::<String>::new()
    );
}

#[test]
fn a_folder_that_is_not_there_is_named_with_its_setting() {
    let error = Templates::load(Path::new("/no/such/folder")).unwrap_err().to_string();
    assert!(error.starts_with("NOTIFICATION_TEMPLATES_DIR (--templates-dir): given \"/no/such/folder\""), "{error}");
}

#[test]
fn nothing_can_be_made_to_run_for_ever_or_without_bound() {
    for (template, payload, expected) in [
        (
            "<% for a in range(9999) %><% for b in range(9999) %>.<% endfor %><% endfor %>",
            json!({}),
            "takes too many steps",
        ),
        (
            "<% for a in x %>${y}<% endfor %>",
            json!({"x": vec![1; 100], "y": "字".repeat(10_000)}),
            "renders more than 256 kB",
        ),
        ("${x * 100000000}", json!({"x": "ab"}), "takes too many steps"),
    ] {
        let error = error(template, payload);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn other_files_of_the_machine_cannot_be_included() {
    for name in ["/etc/passwd", "../a.md", "b.md"] {
        let error = error(&format!("<% include \"{name}\" %>"), json!({}));
        assert_eq!(error, "template a.b: names a template that the folder does not have (line 1)");
    }
    let folder = Folder::new(&[("a.md", "x<% include \"sign.md\" %>"), ("sign.md", "-- ${name}")]);
    let payload = json!({"name": "# a"});
    assert_eq!(folder.load().render("a", &FACTS, payload.as_object().unwrap()).unwrap().body, "x-- # a");
    let error = folder.load().render("a", &FACTS, &Payload::new()).unwrap_err().to_string();
    assert_eq!(error, "template a: variable \"name\" is missing from the payload (sign.md, line 1)");
}

#[test]
fn values_stay_escaped_through_macros_blocks_and_filters() {
    let payload = json!({"x": "**a** `b`", "list": ["[a](b)", "*"]});
    for (template, expected) in [
        ("<% set y %>${x}<% endset %>${y}", r"\*\*a\*\* \`b\`"),
        ("<% macro m(v) %>- ${v}<% endmacro %>${m(x)}", r"- \*\*a\*\* \`b\`"),
        ("${x|e}", r"\*\*a\*\* \`b\`"),
        ("<% filter upper %>${x}<% endfilter %>", r"\*\*A\*\* \`B\`"),
        ("${list|join(\", \")}", "\\[a\\]\u{200B}(b), \\*"),
        ("${list|tojson}", "\\[\"\\[a\\]\u{200B}(b)\",\"\\*\"\\]"),
        ("${x|safe}", "**a** `b`"),
    ] {
        assert_eq!(body(template, payload.clone()), expected, "{template}");
    }
}

#[test]
fn a_line_of_blocks_alone_leaves_no_line_and_a_block_in_a_line_keeps_it() {
    let payload = json!({"x": [1, 2]});
    let template = "a\n<% for y in x %>\n- ${y}<% if y == 1 %> first<% endif %>\n<# note #>\n<% endfor %>\nb";
    assert_eq!(body(template, payload.clone()), "a  \n- 1 first  \n- 2  \nb");
    assert_eq!(body("<% raw %>\n${x}\n<% endraw %>", payload), "${x}");
}

#[test]
fn a_digest_renders_the_payloads_of_many() {
    let templates = Folder::new(&[
        ("a.md", "x"),
        ("a.digest.md", "**${count} 份**\n<% for e in events %>\n- ${e.name}\n<% endfor %>"),
    ])
    .load();
    let (one, two) = (json!({"name": "张三"}), json!({"name": "# 李四"}));
    let message = templates.render_digest("a", &[one.as_object().unwrap(), two.as_object().unwrap()]).unwrap();
    assert_eq!(message.body, "**2 份**  \n- 张三  \n- \\# 李四");
}

#[test]
fn what_a_template_needs_is_known_without_a_payload() {
    let templates = Folder::new(&[("a.md", "---\ntitle: ${t}\n---\n${event.id} ${c.name|default(c.id)}<% for s in skills %>${s.x}${loop.index}<% endfor %>${range(3)|join}")]).load();
    assert_eq!(templates.variables("a").into_iter().collect::<Vec<_>>(), ["c.id", "c.name", "skills", "t"]);
}

#[test]
fn a_cards_buttons_are_templates_and_lead_only_to_addresses() {
    let card = "---\ntype: actionCard\nbutton: {title: \"看 ${name}\", url: \"https://a.example/r/${id}?b=(c)\"}\n---\n**${name}**";
    let payload = json!({"name": "*张三*\n", "id": "1/../../x y)", "url": "javascript:alert(1)"});
    let message = render(card, payload.clone()).unwrap();
    let button = |title: &str, url: &str| Button { title: title.into(), url: url.into() };
    let Format::ActionCard(buttons) = &message.format else { panic!("{message:?}") };
    assert_eq!(buttons, &[button("看 *张三*", "https://a.example/x%20y%29?b=%28c%29")]);
    assert_eq!(message.body, r"**\*张三\***");

    let whole = "---\ntype: actionCard\nbutton: {title: a, url: \"${url}\"}\n---\nx";
    let error = error(whole, payload.clone());
    assert!(error.starts_with("button of template a.b: \"url\" in a link is not an address with"), "{error}");
    assert!(!error.contains("javascript"), "{error}");
    let message = render(whole, json!({"url": "dingtalk://dingtalkclient/page?x=1&y=2"})).unwrap();
    assert_eq!(message.format, Format::ActionCard(vec![button("a", "dingtalk://dingtalkclient/page?x=1&y=2")]));
    let error = render(whole, json!({})).unwrap_err();
    assert!(error.contains("variable \"url\" is missing from the payload"), "{error}");
    let error = render("---\ntype: actionCard\nbutton: {title: a, url: \"ftp://x\"}\n---\nx", json!({})).unwrap_err();
    assert!(error.contains("its url is not an address with http://"), "{error}");
}

#[test]
fn a_button_without_an_address_is_left_out_and_a_card_without_a_button_is_markdown() {
    let optional = "{title: 会议, url: \"<% if meeting|default %>${meeting}<% endif %>\"}";
    let card =
        format!("---\ntype: actionCard\nbuttons:\n  - {optional}\n  - {{title: 简历, url: \"${{url}}\"}}\n---\nx");
    let titles = |payload| match render(&card, payload).unwrap().format {
        Format::ActionCard(buttons) => buttons.into_iter().map(|button| button.title).collect(),
        Format::Text | Format::Markdown => vec![],
    };
    assert_eq!(titles(json!({"url": "https://a.example", "meeting": "https://b.example"})), ["会议", "简历"]);
    assert_eq!(titles(json!({"url": "https://a.example"})), ["简历"]);
    let lonely = format!("---\ntype: actionCard\nbutton: {optional}\n---\nx");
    assert_eq!(render(&lonely, json!({})).unwrap().format, Format::Markdown);
    let templates = Folder::new(&[("a.md", card.as_str())]).load();
    assert_eq!(templates.variables("a").into_iter().collect::<Vec<_>>(), ["meeting", "url"]);
}

#[test]
fn no_value_of_the_payload_gets_into_an_error_by_any_way() {
    for template in [
        "${xs|map(SECRET)|join}",
        "${xs|map(x)|join}",
        "${xs|select(x)|join}",
        "${xs|map('replace', x)|join}",
        "<% include x %>",
        "<% import x as y %>",
        "<% extends x %>",
        "${x()}",
        "${x.y()}",
        "${xs[x]}",
        "${o[x].y}",
        "${o|dictsort(by=x)|join}",
        "${x|datetime(format=x, tz=x)}",
        "${x|datetime}",
        "${'2026-11-24T15:30:00Z'|datetime(format=x)}",
        "${'2026-11-24T15:30:00Z'|datetime(tz=x)}",
        "${'a'|link(x)}",
        "${x|link}",
        "${x|truncate(x)}",
        "${x|int}",
        "${x|float}",
        "${x + 1}",
        "${x < 1}",
        "${-x}",
        "${range(x)}",
        "${o}",
        "${xs}",
        "${namespace(x)}",
        "${x|format(1, 2)}",
        "${1|round(x)}",
        "${x|batch(x)}",
        "[a](${x})",
        "<% set a, b = x %>",
        "<% for a, b in xs %><% endfor %>",
    ] {
        let x = "marked SECRET";
        let payload = json!({"x": x, "xs": [x, "marked"], "o": {(x): x}});
        if let Err(error) = render(template, payload) {
            assert!(!error.contains("marked"), "{template}: {error}");
        }
    }
}

#[test]
fn the_built_in_template_is_there_without_a_file_and_is_not_listed_among_those_of_the_folder() {
    let templates = Folder::new(&[("a.md", "x")]).load();
    assert!(templates.contains("postbell.test"));
    assert_eq!(templates.problems(), []);
    assert_eq!(templates.ids().collect::<Vec<_>>(), ["a"]);
    assert_eq!(templates.variables("postbell.test").into_iter().collect::<Vec<_>>(), ["at", "robot", "text"]);
    let unknown = templates.render("b", &FACTS, &Payload::new()).unwrap_err();
    assert_eq!(unknown.to_string(), "unknown template \"b\"; the folder has: a");

    let message = |payload: serde_json::Value| {
        let message = templates.render("postbell.test", &FACTS, payload.as_object().unwrap()).unwrap();
        assert_eq!((message.title.as_str(), &message.format), ("🔔 postbell", &Format::Markdown));
        message.body
    };
    let at = "2026-11-27T10:43:00.5+00:00";
    let whole = message(json!({"robot": "hr", "text": "告警", "at": at}));
    for line in ["机器人工作正常。The robot works.", "**hr**", "告警", "2026-11-27 18:43:00 +08:00"] {
        assert!(whole.contains(line), "{whole}");
    }
    let least = message(json!({"robot": null, "text": null, "at": at}));
    assert!(!least.contains("**") && least.contains("18:43:00"), "{least}");
}

#[test]
fn a_file_takes_the_place_of_the_built_in_template_also_where_it_is_broken() {
    for file in ["postbell.test.md", "postbell.test.txt"] {
        let templates = Folder::new(&[(file, "${text} of ours")]).load();
        assert_eq!(templates.ids().collect::<Vec<_>>(), ["postbell.test"]);
        let payload = json!({"text": "one"});
        let message = templates.render("postbell.test", &FACTS, payload.as_object().unwrap()).unwrap();
        assert_eq!(message.body, "one of ours");
    }
    let templates = Folder::new(&[("postbell.test.md", "${text")]).load();
    let error = templates.render("postbell.test", &FACTS, &Payload::new()).unwrap_err();
    assert!(error.to_string().starts_with("template postbell.test is broken: postbell.test.md:1"), "{error}");
}
