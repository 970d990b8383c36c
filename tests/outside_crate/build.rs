//! Takes the pieces of Rust code from the pages for embedders, and writes a module that has each piece as a program.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Address of the pages' servers. The programs listen where `LISTEN` says.
const ADDRESS: &str = "\"127.0.0.1:3000\"";

fn main() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut programs = Vec::new();
    for name in ["embedding.md", "migrating.md"] {
        let page = docs.join(name);
        println!("cargo:rerun-if-changed={}", page.display());
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        for (fence, lines) in blocks(&text) {
            match fence.split(',').next() {
                Some("rust") => programs.push(unhidden(&lines)),
                Some("diff") => programs.extend(['+', '-'].map(|gone| side(&lines, gone))),
                _ => {}
            }
        }
    }
    let mut module = String::new();
    let mut table = String::new();
    for (nth, program) in programs.iter().enumerate() {
        let _ = writeln!(module, "mod piece{nth} {{\n{}\n}}", callable(program));
        let _ = writeln!(table, "    ({program:?}, || piece{nth}::main().report()),");
    }
    let _ = write!(
        module,
        "/// Each piece's text, and what runs it.\npub const PIECES: &[(&str, fn() -> ExitCode)] = &[\n{table}];\n"
    );
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("pieces.rs"), module).expect("a file");
}

/// Returns the code blocks of a page: the word after the fence, and the lines.
fn blocks(page: &str) -> Vec<(&str, Vec<&str>)> {
    let mut blocks: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(fence) if !is_inside => blocks.push((fence, Vec::new())),
            Some(_) => {}
            None if is_inside => blocks.last_mut().expect("it began").1.push(line),
            None => {}
        }
        is_inside ^= line.starts_with("```");
    }
    blocks
}

/// Returns the lines as rustdoc compiles them: without the `#` of hidden ones.
fn unhidden(lines: &[&str]) -> String {
    let shown = |line: &&str| line.strip_prefix("# ").unwrap_or(line).to_owned();
    lines.iter().map(shown).collect::<Vec<_>>().join("\n")
}

/// Returns a side of a diff: the lines that do not begin with `gone`.
fn side(lines: &[&str], gone: char) -> String {
    let kept = lines.iter().filter(|line| !line.starts_with(gone));
    kept.map(|line| line.get(1..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Returns the program with a `main` that another module can call. A piece without `main` is wrapped in one, as rustdoc
/// does.
fn callable(program: &str) -> String {
    let program = program.replace(ADDRESS, "crate::listen()");
    for main in ["async fn main()", "fn main()"] {
        if program.contains(&format!("pub {main}")) {
            return program;
        }
        if program.contains(main) {
            return program.replacen(main, &format!("pub {main}"), 1);
        }
    }
    let is_fallible = program.lines().last().is_some_and(|line| line.starts_with("Ok::<"));
    let (call, end) = if is_fallible { ("(|| {", "})().expect(\"it runs\")") } else { ("{", "}") };
    format!("pub fn main() {{\n{call}\n{program}\n{end}\n}}")
}
