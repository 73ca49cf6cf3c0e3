//! Columns as docker sets them: at least ten wide, three spaces between, the last one as it comes.

use crate::printable::printable;

/// Lays out `rows` under `head`.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|name| name.chars().count()).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell).into_owned()).collect()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        for (index, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if index + 1 < row.len() {
                let wide = (widths.get(index).copied().unwrap_or_default() + GAP).max(LEAST);
                text.extend(std::iter::repeat_n(' ', wide - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

const GAP: usize = 3;
const LEAST: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["busybox".into(), "latest".into(), "4.04MB".into()]];
        insta::assert_snapshot!(table(&["REPOSITORY", "TAG", "SIZE"], &rows), @r"
        REPOSITORY   TAG       SIZE
        busybox      latest    4.04MB
        ");
    }
}
