//! An answer in rows and columns, for people as a table and for programs as JSON.

use std::io::Write as _;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value};

use crate::banner::say;
use crate::output::Output;

pub(super) struct Sheet {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
    /// Said after a table; a program finds it out from the rows.
    remark: String,
    /// What a program gets instead of the rows.
    document: Option<Value>,
}

impl Sheet {
    pub(super) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), remark: String::new(), document: None }
    }

    /// Nothing but a sentence: what was done.
    pub(super) fn done(remark: impl Into<String>) -> Self {
        Self { remark: remark.into(), ..Self::new(&[]) }
    }

    /// Deleting is fine where nothing was; but nobody is told that something went.
    pub(super) fn deleted(what: String, was_there: bool) -> Self {
        Self::done(format!("{what} {}", if was_there { "is deleted" } else { "was not there" }))
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Value>) {
        let cells: Vec<Value> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    pub(super) fn remark(mut self, remark: impl Into<String>) -> Self {
        self.remark = remark.into();
        self
    }

    pub(super) fn document(mut self, document: Value) -> Self {
        self.document = Some(document);
        self
    }

    pub(super) fn print(&self, output: Output) -> Result<()> {
        match output {
            Output::Json => {
                say(serde_json::to_string_pretty(&self.json())?);
                let says_more = self.document.is_none() && !self.columns.is_empty() && !self.remark.is_empty();
                if says_more {
                    // Beside the rows, so that a program's input stays rows.
                    let _ = writeln!(std::io::stderr(), "{}", self.remark);
                }
            }
            Output::Table => {
                if !self.columns.is_empty() {
                    say(self.table());
                }
                if !self.remark.is_empty() {
                    say(&self.remark);
                }
            }
        }
        Ok(())
    }

    /// A list of objects, or what was done, or the document.
    fn json(&self) -> Value {
        if let Some(document) = &self.document {
            return document.clone();
        }
        if self.columns.is_empty() {
            return serde_json::json!({ "done": self.remark });
        }
        let object = |row: &Vec<Value>| {
            let names = self.columns.iter().map(|name| name.replace(' ', "_"));
            Value::Object(names.zip(row.iter().cloned()).collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(&self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(text));
        }
        for (at, _) in self.columns.iter().enumerate() {
            if !self.rows.is_empty() && self.rows.iter().all(|row| row[at].is_number() || row[at].is_null()) {
                table.column_mut(at).expect("one for each").set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

fn text(cell: &Value) -> String {
    match cell {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sheet_is_a_table_for_people_and_objects_for_programs() {
        let mut sheet = Sheet::new(&["queue", "next offset"]);
        sheet.row(["a".into(), 7.into()]);
        sheet.row(["b".into(), Value::Null]);
        assert_eq!(sheet.json(), json!([{"queue": "a", "next_offset": 7}, {"queue": "b", "next_offset": null}]));
        let table = sheet.table().to_string();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["queue", "next", "offset"], vec!["a", "7"], vec!["b", "-"]]);
        assert_eq!(Sheet::done("topic T is deleted").json(), json!({"done": "topic T is deleted"}));
    }
}
