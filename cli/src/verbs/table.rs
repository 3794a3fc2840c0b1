//! Prints what the server answers as a Table.

use serde_json::Value;

/// How a list is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View<'a> {
    /// Wide columns too.
    pub wide: bool,
    /// A column for the namespace.
    pub namespace: bool,
    /// Put before each name, as `deployment.apps`.
    pub prefix: Option<&'a str>,
    /// No heading.
    pub no_headers: bool,
}

/// Cells as text, heading first.
pub fn cells(table: &Value, view: View<'_>) -> Vec<Vec<String>> {
    let columns = table["columnDefinitions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let shown: Vec<usize> = (0..columns.len())
        .filter(|i| view.wide || columns[*i]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut out = Vec::new();
    if !view.no_headers && !columns.is_empty() {
        let heads = shown
            .iter()
            .map(|i| columns[*i]["name"].as_str().unwrap_or("").to_uppercase());
        let namespace = view.namespace.then(|| "NAMESPACE".to_owned());
        out.push(namespace.into_iter().chain(heads).collect());
    }
    for row in table["rows"].as_array().into_iter().flatten() {
        let namespace = row["object"]["metadata"]["namespace"]
            .as_str()
            .unwrap_or("")
            .to_owned();
        let values = shown.iter().map(|i| {
            let text = text(&row["cells"][*i]);
            match view.prefix {
                Some(prefix) if columns[*i]["format"] == "name" => format!("{prefix}/{text}"),
                _ => text,
            }
        });
        out.push(
            view.namespace
                .then_some(namespace)
                .into_iter()
                .chain(values)
                .collect(),
        );
    }
    out
}

fn text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.replace(['\n', '\r'], " "),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// Rows in columns, three spaces apart.
pub fn align(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| {
        rows.iter()
            .filter_map(|r| r.get(i))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}   "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_align_and_hide_wide_columns() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "format": "name", "priority": 0}, {"name": "Node", "priority": 1}],
            "rows": [{"cells": ["web", "n1"], "object": {"metadata": {"namespace": "default"}}}],
        });
        let narrow = View {
            prefix: Some("pod"),
            namespace: true,
            ..Default::default()
        };
        assert_eq!(
            align(&cells(&table, narrow)),
            "NAMESPACE   NAME\ndefault     pod/web\n"
        );
        let wide = View {
            wide: true,
            ..Default::default()
        };
        assert_eq!(align(&cells(&table, wide)), "NAME   NODE\nweb    n1\n");
    }
}
