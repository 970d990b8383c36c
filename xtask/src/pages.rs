//! Checks that the documents name files, tests and headings that exist.

use std::fs;
use std::path::Path;

/// Pages for contributors: every path that they name in backticks has to exist.
const MAPS: &[&str] = &["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/tests.md"];

/// Beginnings of a path of this repository.
const FOLDERS: &[&str] =
    &["src/", "xtask/", "tests/", "docs/", "clients/", "benches/", "deploy/", "fuzz/", "loom-tests/"];

pub(crate) fn check(faults: &mut Vec<String>) {
    for page in MAPS {
        let text = fs::read_to_string(page).unwrap_or_default();
        for word in missing_paths(&text, |path| Path::new(path).exists()) {
            faults.push(format!("{page}: {word} does not exist: use its new name"));
        }
        for name in tests_named(&text) {
            let is_there = [format!("tests/{name}.rs"), format!("tests/{name}/main.rs")];
            if !is_there.iter().any(|path| Path::new(path).exists()) {
                faults.push(format!("{page}: there is no test file {name}: use its new name"));
            }
        }
    }
    for page in
        crate::house::files(&["docs", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"])
    {
        let text = fs::read_to_string(&page).unwrap_or_default();
        for (file, anchor) in anchors_in(&text) {
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap_or(Path::new("")).join(file)
            };
            let is_there =
                fs::read_to_string(&target).is_ok_and(|text| slugs(&text).any(|slug| slug == anchor));
            if !is_there {
                let page = page.display();
                faults.push(format!("{page}: no heading {anchor} in {}: mend the link", target.display()));
            }
        }
    }
}

/// Returns the paths in backticks that `exists` denies.
fn missing_paths(text: &str, exists: impl Fn(&str) -> bool) -> Vec<&str> {
    let words = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_path = |word: &&str| {
        FOLDERS.iter().any(|folder| word.starts_with(folder))
            && !word.contains([' ', '*', '{'])
            && !word.contains("NAME")
    };
    words.filter(is_path).filter(|word| !exists(word)).collect()
}

/// Returns the names after `--test`.
fn tests_named(text: &str) -> impl Iterator<Item = &str> {
    text.split("--test ")
        .skip(1)
        .filter_map(|rest| rest.split([' ', '`', '\n']).next())
        .filter(|name| !name.is_empty())
}

/// Returns the links with an anchor, as file and anchor.
fn anchors_in(text: &str) -> Vec<(&str, &str)> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://")).filter_map(|target| target.split_once('#')).collect()
}

/// Returns the anchors of a page's headings.
fn slugs(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tests_and_anchors_are_found() {
        let text =
            "`src/a.rs`, `src/NAME.rs`, `docs/x.md` and [b](b.md#a-b), `cargo test --test lag --test resume`";
        assert_eq!(missing_paths(text, |path| path == "src/a.rs"), ["docs/x.md"]);
        assert_eq!(tests_named(text).collect::<Vec<_>>(), ["lag", "resume"]);
        assert_eq!(anchors_in(text), [("b.md", "a-b")]);
        assert!(slugs("## The embedder's own code").eq(["the-embedders-own-code"]));
    }
}
