//! The diff in docs/migrating.md leads from a program that runs to a program that runs.

#[path = "migrating/after.rs"]
#[allow(unreachable_pub, reason = "a program as users write it")]
mod after;
#[path = "migrating/before.rs"]
#[allow(unreachable_pub, reason = "as above")]
mod before;

#[test]
fn both_programs_run() {
    before::main();
    after::main();
}

#[test]
fn the_diff_of_the_page_is_between_them() {
    let page = include_str!("../docs/migrating.md");
    let diff = page.split_once("```diff\n").and_then(|(_, rest)| rest.split_once("```")).expect("a diff").0;
    let side = |gone: char| -> String {
        let lines = diff.lines().filter(|line| !line.starts_with(gone));
        lines.flat_map(|line| [line.get(1..).unwrap_or_default(), "\n"]).collect()
    };
    assert_eq!(side('+'), include_str!("migrating/before.rs"));
    assert_eq!(side('-'), include_str!("migrating/after.rs"));
}
