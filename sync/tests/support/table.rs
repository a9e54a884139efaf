//! Tables of what is allowed, and comparing what was seen with them.

use std::collections::{BTreeMap, BTreeSet};

use sync::wire::Header;

/// A table's cells by row and column.
fn table(text: &'static str) -> BTreeMap<(&'static str, &'static str), &'static str> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).map(|line| line.split('|').map(str::trim));
    let columns: Vec<&str> = lines.next().into_iter().flatten().skip(1).collect();
    let mut cells = BTreeMap::new();
    for mut line in lines {
        let row = line.next().unwrap();
        let line: Vec<&str> = line.collect();
        assert_eq!(line.len(), columns.len(), "{row}");
        for (column, cell) in columns.iter().zip(line) {
            assert!(cells.insert((row, *column), cell).is_none(), "{row} twice");
        }
    }
    cells
}

/// Compares what was seen with the table, all cells at once. Whoever adds a row or column finds it printed.
pub fn compare(told: &'static str, rows: &[&str], columns: &[&'static str], seen: &[(String, &'static str, String)]) {
    let mut all: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    seen.iter().for_each(|(row, column, cell)| _ = all.entry((row, column)).or_default().insert(cell));
    let cells = |row: &str, column: &str| all.get(&(row, column)).cloned().unwrap_or_default();
    let told = table(told);
    let mut wrong = Vec::new();
    for row in rows {
        for column in columns {
            let (seen, expected) = (cells(row, column), told.get(&(*row, *column)).copied().unwrap_or("nothing"));
            if seen != BTreeSet::from([expected]) {
                wrong.push(format!("{row}, {column}: {seen:?} instead of {expected}"));
            }
        }
    }
    if !wrong.is_empty() {
        println!("what | {}", columns.join(" | "));
        for row in rows {
            let line: Vec<String> =
                columns.iter().map(|column| cells(row, column).into_iter().collect::<Vec<_>>().join(" or ")).collect();
            println!("{row} | {}", line.join(" | "));
        }
    }
    assert!(wrong.is_empty(), "{} cells differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(told.len(), rows.len() * columns.len(), "the table has rows or columns that were not tried");
}

/// Every kind of message that this program knows.
pub fn kinds() -> BTreeSet<u8> {
    let known = |kind: &u8| Header::decode(&[2, 0, 0, 0, *kind]).is_ok_and(|header| !header.is_unknown());
    (0..=255).filter(known).collect()
}
