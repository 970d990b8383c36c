//! The project's own code, for checks of documents that name it.

use std::path::Path;

use super::script::in_project;

/// Returns all Rust code of the program and its tests.
pub fn code() -> String {
    let mut code = String::new();
    for folder in ["src", "tests"] {
        rust_files(&in_project(folder), &mut code);
    }
    code
}

fn rust_files(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("node_modules") {
            rust_files(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).expect("a file"));
        }
    }
}

/// Returns whether the code has a test of this name: a function with the attribute, or one that a macro runs for each
/// kind of log.
pub fn is_test(name: &str, code: &str) -> bool {
    code.match_indices(&format!("fn {name}(")).any(|(at, _)| {
        let marks = code[..at].lines().rev().take_while(|line| !line.is_empty() && !line.starts_with('}'));
        marks.take(4).any(|line| line.trim() == "#[test]")
    }) || code.contains(&format!("\n    {name}\n"))
}
