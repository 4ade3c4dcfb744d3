//! A table whose last column is a sentence: on a terminal it goes on a line of its own, cut to the width; for other programs
//! each row stays on one line.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::cut;

/// One row.
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    /// The sentence.
    pub(super) note: Option<String>,
    /// Whole lines that follow it.
    pub(super) below: String,
}

/// How far what belongs to a row is indented.
const INDENT: &str = "    ";

/// Narrower is not readable.
const LEAST: usize = 40;

/// How wide the terminal is; none: it is written for another program.
pub(super) fn width() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// The table, with a line break at its end. `columns` are those of the cells and that of the note.
pub(super) fn show(columns: &[&str], rows: &[Row], width: Option<usize>) -> String {
    let shown_columns = if width.is_some() { columns.len() - 1 } else { columns.len() };
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(&columns[..shown_columns]);
    for row in rows {
        let note = width.is_none().then(|| row.note.as_deref().unwrap_or_default());
        let cells = row.cells.iter().map(String::as_str).chain(note);
        table.add_row(cells.map(printable));
    }
    let lines = table.trim_fmt();
    let mut lines = lines.lines();
    let mut shown = format!("{}\n", lines.next().unwrap_or_default());
    for (row, line) in rows.iter().zip(lines) {
        shown.push_str(line);
        shown.push('\n');
        if let (Some(width), Some(note)) = (width, &row.note) {
            let most = width.saturating_sub(INDENT.len()).max(LEAST);
            shown.push_str(&format!("{INDENT}{}\n", printable(&cut(note, most))));
        }
        for line in row.below.lines() {
            shown.push_str(&format!("{INDENT}{line}\n"));
        }
    }
    shown
}

/// On one line, and without what a terminal would obey: it may come from anybody.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A time as JSON has it, to the second; PostgreSQL's times are UTC here.
pub(super) fn seconds(at: &str) -> String {
    at.chars().take(19).collect::<String>().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_is_beside_or_below_the_cells() {
        let row = Row {
            cells: vec!["a\u{1b}[2J".to_owned()],
            note: Some("because of this, and of that, and of nothing else".to_owned()),
            below: "more\n".to_owned(),
        };
        let rows = [row];
        let piped = show(&["cell", "why"], &rows, None);
        assert!(piped.contains("because of this, and of that, and of nothing else\n    more\n"), "{piped}");
        assert!(!piped.contains('\u{1b}') && piped.lines().count() == 3, "{piped}");
        let narrow = show(&["cell", "why"], &rows, Some(44));
        assert!(narrow.contains("\n    because of this, and of that, and of no…\n    more\n"), "{narrow}");
        assert!(!narrow.contains("why"), "{narrow}");
    }
}
