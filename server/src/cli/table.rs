//! Text tables with aligned columns.

/// Lays rows out under their headings; numbers to the right.
pub(super) fn layout(headings: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(headings.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let numeric: Vec<bool> = (0..headings.len())
        .map(|column| {
            !rows.is_empty()
                && rows
                    .iter()
                    .all(|row| row.get(column).is_some_and(|c| c.parse::<f64>().is_ok() || c.is_empty()))
        })
        .collect();
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let pad = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                if numeric[column] { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
            })
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = line(headings) + &line(&rule);
    for row in rows {
        text += &line(row);
    }
    text
}

/// Text in one line; what would move the cursor or color the screen is shown, not done.
pub(super) fn safe(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(shown).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::layout;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let rows = vec![vec!["a".to_owned(), "5".to_owned()], vec!["long".to_owned(), "10".to_owned()]];
        let text = layout(&["name".to_owned(), "n".to_owned()], &rows);
        assert_eq!(text, "name   n\n----  --\na      5\nlong  10\n");
    }
}
