//! From a folder of files to parsed templates, and what is wrong with those that cannot be.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use minijinja::Environment;

use super::front_matter::{self, FrontMatter, Kind};
use super::{ButtonNames, Form, LoadError, Problem, Template, Templates, engine, source};

/// More than a template could ever render to.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Templates that are there without a file, by id, with their text as Markdown.
const BUILT_IN: [(&str, &str); 1] = [("postbell.test", include_str!("postbell.test.md"))];

/// Reads the folder; see [`Templates::load`].
pub(super) fn load(dir: &Path) -> Result<Templates, LoadError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        LoadError(format!(
            "NOTIFICATION_TEMPLATES_DIR (--templates-dir): given {dir:?}, which cannot be read: {error}; \
             allowed: a folder of <template_id>.md and <template_id>.txt"
        ))
    };
    let files = files(dir).map_err(|error| unreadable(&error))?;
    let mut environment = engine::environment().map_err(|error| unreadable(&error))?;
    let mut forms = BTreeMap::new();
    for (form, files) in files {
        let template = match files.as_slice() {
            [file] => load_file(&mut environment, file, &form),
            _ => Err(problem(&files[0], None, format!("{} stands beside it; keep one of them", name(&files[1])))),
        };
        forms.insert(form, template);
    }
    let mut problems: Vec<Problem> = forms.values().filter_map(|template| template.as_ref().err()).cloned().collect();
    problems.extend(forms.iter().filter_map(|(form, template)| {
        let Form::Digest(id) = form else { return None };
        // Nothing would ever use it: most likely its name is misspelt.
        let lonely = !forms.contains_key(&Form::Single(id.clone()));
        let file = template.as_ref().map_or_else(|problem| &problem.file, |template| &template.name).clone();
        let text = format!("is the digest form of no template; allowed beside {id}.md or {id}.txt");
        lonely.then_some(Problem { file, line: None, text })
    }));
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    let mut built_in = BTreeMap::new();
    for (id, text) in BUILT_IN {
        let form = Form::Single(id.to_owned());
        // A file of the same id takes its place, also one that is broken: whoever wrote it shall hear of it.
        if !forms.contains_key(&form) {
            let file = PathBuf::from(format!("{id}.md"));
            let template = parse(&mut environment, &file, text, &form).map_err(|problem| unreadable(&problem))?;
            built_in.insert(form, template);
        }
    }
    Ok(Templates { environment, forms, built_in, problems })
}

/// The files of each form; two of one form are one too many.
fn files(dir: &Path) -> io::Result<BTreeMap<Form, Vec<PathBuf>>> {
    let mut files: BTreeMap<Form, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let file = name(&path);
        let Some((stem, "md" | "txt")) = file.rsplit_once('.') else { continue };
        // Links are followed: a Kubernetes ConfigMap mounts its files so.
        if stem.is_empty() || file.starts_with('.') || file.eq_ignore_ascii_case("README.md") || !path.is_file() {
            continue;
        }
        let form = match stem.strip_suffix(".digest") {
            Some(id) => Form::Digest(id.to_owned()),
            None => Form::Single(stem.to_owned()),
        };
        files.entry(form).or_default().push(path);
    }
    files.values_mut().for_each(|files| files.sort());
    Ok(files)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn problem(path: &Path, line: Option<usize>, text: String) -> Problem {
    Problem { file: name(path), line, text }
}

fn load_file(environment: &mut Environment<'static>, path: &Path, form: &Form) -> Result<Template, Problem> {
    let text = read(path).map_err(|text| problem(path, None, text))?;
    parse(environment, path, &text, form)
}

/// Parses the text of a file, and adds its body and its title to the environment.
fn parse(environment: &mut Environment<'static>, path: &Path, file: &str, form: &Form) -> Result<Template, Problem> {
    let wrong = |wrong: front_matter::Wrong| problem(path, wrong.line, wrong.text);
    let (yaml, body, lines) = front_matter::split(file).map_err(wrong)?;
    let FrontMatter { title, kind, buttons, mentions } =
        yaml.map_or_else(|| Ok(FrontMatter::default()), front_matter::read).map_err(wrong)?;
    let by_name = if path.extension().is_some_and(|extension| extension == "md") { Kind::Markdown } else { Kind::Text };
    let kind = kind.unwrap_or(by_name);
    let name = match kind {
        Kind::Markdown | Kind::ActionCard => format!("{form}.md"),
        Kind::Text => format!("{form}.txt"),
    };
    let mut add = |name: &str, source: String, title_line: Option<usize>| {
        if let Some(unknown) = source::unknown_name(environment, &source) {
            return Err(problem(path, title_line.or(Some(unknown.line)), unknown.text));
        }
        environment.add_template_owned(name.to_owned(), source).map_err(|error| {
            let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            problem(path, title_line.or(error.line()), what)
        })
    };
    add(&name, source::prepare(body, lines), None)?;
    let mut button_names = Vec::with_capacity(buttons.len());
    let line = file.lines().position(|line| line.starts_with("button")).map(|at| at + 1);
    for (index, button) in buttons.into_iter().enumerate() {
        let names = ButtonNames {
            title: format!("{name}#button{index}{}", engine::TITLE),
            url: format!("{name}#button{index}#url.md"),
        };
        add(&names.title, button.title, line)?;
        // The address of a link, so that a value in it is treated like one in the body's links.
        add(&names.url, format!("[]({})", button.url.trim()), line)?;
        button_names.push(names);
    }
    let title_name = title.is_some().then(|| name.clone() + engine::TITLE);
    if let (Some(title), Some(name)) = (title, &title_name) {
        let line = file.lines().position(|line| line.starts_with("title")).map(|at| at + 1);
        add(name, title, line)?;
    }
    Ok(Template { name, title: title_name, kind, buttons: button_names, mentions })
}

fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(format!("is larger than {} kB", MAX_FILE_BYTES / 1024));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8; save it as such".to_owned())?;
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text).replace("\r\n", "\n");
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(text) }
}
