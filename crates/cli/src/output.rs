//! A table for people, JSON for programs.

use std::io::{IsTerminal as _, Write as _};

use serde_json::Value;

use crate::failure::Result;

/// How to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// A column: its title, and where its value is.
pub type Column = (&'static str, &'static str);

impl Shape {
    /// As asked for, or by what reads.
    pub fn of(json: bool, table: bool) -> Self {
        if table || (!json && std::io::stdout().is_terminal()) { Self::Table } else { Self::Json }
    }

    /// Shows items, one a line.
    pub fn list(self, items: &[Value], columns: &[Column]) -> Result<()> {
        if self == Self::Json {
            return json(&Value::Array(items.to_vec()));
        }
        if items.is_empty() {
            return line("Nothing.");
        }
        let rows: Vec<Vec<String>> =
            items.iter().map(|item| columns.iter().map(|(_, at)| cell(item, at)).collect()).collect();
        table(&columns.iter().map(|(title, _)| (*title).to_owned()).collect::<Vec<_>>(), &rows)
    }

    /// Shows one thing, a field a line.
    pub fn one(self, item: &Value, fields: &[Column]) -> Result<()> {
        if self == Self::Json {
            return json(item);
        }
        let width = fields.iter().map(|(title, _)| title.len()).max().unwrap_or(0);
        for (title, at) in fields {
            line(&format!("{title:<width$}  {}", cell(item, at)))?;
        }
        Ok(())
    }

    /// Shows what was done: a sentence, or the answer.
    pub fn done(self, text: &str, answer: &Value) -> Result<()> {
        if self == Self::Json { json(answer) } else { line(text) }
    }
}

fn json(value: &Value) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// A line on the output.
pub fn line(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// For people beside the output, such as a prompt.
pub fn aside(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What stands at `a.b` of an item, without what could move a terminal's cursor.
fn cell(item: &Value, at: &str) -> String {
    let value = at.split('.').fold(item, |value, name| &value[name]);
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items
            .iter()
            .map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn table(titles: &[String], rows: &[Vec<String>]) -> Result<()> {
    let count = |text: &String| text.chars().count();
    let widths: Vec<usize> = (0..titles.len())
        .map(|i| rows.iter().map(|row| count(&row[i])).chain([count(&titles[i])]).max().unwrap_or(0).min(60))
        .collect();
    let bold = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for (n, row) in std::iter::once(&titles.to_vec()).chain(rows).enumerate() {
        let cells = row.iter().zip(&widths).map(|(text, width)| {
            let cut: String = if count(text) > *width {
                text.chars().take(width - 1).chain(['…']).collect()
            } else {
                text.clone()
            };
            format!("{cut:<width$}")
        });
        let text = cells.collect::<Vec<_>>().join("  ");
        let text = text.trim_end();
        line(&if n == 0 && bold { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() })?;
    }
    Ok(())
}
