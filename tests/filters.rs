//! Tests the statements of docs/filters.md on filters and patterns, line by line.

use fanwire::{Filter, Pattern};

fn rows() -> impl Iterator<Item = Vec<String>> {
    include_str!("../docs/filters.md")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
}

/// Returns the texts between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_filter_of_the_page_is_one_and_prints_as_one() {
    let mut count = 0;
    for row in rows().filter(|row| row.len() == 2) {
        let text = quoted(&row[0])[0];
        let filter: Filter = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(filter.to_string().parse::<Filter>().as_ref(), Ok(&filter), "{text}");
        count += 1;
    }
    assert!(count >= 12, "{count} filters");
}

#[test]
fn every_pattern_of_the_page_matches_as_documented() {
    let mut count = 0;
    for row in rows().filter(|row| row.len() == 3) {
        let pattern = Pattern::new(quoted(&row[0])[0]);
        for value in quoted(&row[1]) {
            assert!(pattern.matches(value), "{pattern} does not match {value}");
        }
        for value in quoted(&row[2]) {
            assert!(!pattern.matches(value), "{pattern} matches {value}");
        }
        count += 1;
    }
    assert!(count >= 4, "{count} patterns");
}
