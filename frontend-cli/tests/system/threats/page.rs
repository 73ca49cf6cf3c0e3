//! SECURITY.md names every attack, and no test that is not there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Attacks of each letter.
const ROWS: [(char, u32); 8] =
    [('A', 20), ('B', 11), ('C', 12), ('D', 7), ('E', 9), ('F', 7), ('G', 8), ('H', 6)];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cells of the page's tables, without their heads.
fn rows() -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(workspace().join("SECURITY.md")).unwrap();
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::to_owned).collect::<Vec<_>>())
        .filter(|cells| {
            cells.first().is_some_and(|cell| cell.starts_with(|first: char| first.is_ascii_uppercase()))
        })
        .collect()
}

#[test]
fn every_attack_has_a_test_or_a_reason() {
    let named: BTreeSet<String> = rows()
        .iter()
        .flat_map(|cells| {
            let rows: Vec<_> = cells[0].split(['(', ',']).map(|id| id.trim().to_owned()).collect();
            rows
        })
        .collect();
    let missing: Vec<String> = ROWS
        .iter()
        .flat_map(|&(letter, count)| (1..=count).map(move |number| format!("{letter}{number}")))
        .filter(|id| !named.contains(id))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let mut sources = String::new();
    for folder in ["parser", "image", "cache", "sandbox", "solver", "engine", "frontend-cli"] {
        read_all(&workspace().join(folder), &mut sources);
    }
    let named: BTreeSet<String> = rows()
        .iter()
        .filter(|cells| cells.len() == 3)
        .flat_map(|cells| cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(named.len() > 60, "{named:?}");
    let lost: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

fn read_all(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, text);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}
