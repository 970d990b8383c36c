//! Makes each fault that `loom-tests/README.md` lists in a copy of the source, and checks that a model fails.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run::Outcome;

const README: &str = "loom-tests/README.md";
const COPY: &str = "target/mutants/source";

/// One change of one file.
struct Edit {
    file: String,
    from: String,
    to: String,
}

struct Mutant {
    name: String,
    edits: Vec<Edit>,
    caught_by: String,
}

pub(crate) fn check(only: Option<&str>) -> Outcome {
    let text = fs::read_to_string(README).map_err(|error| format!("{README}: {error}"))?;
    let mutants = read(&text)?;
    let mut missed = Vec::new();
    for mutant in mutants.iter().filter(|m| only.is_none_or(|only| m.name.contains(only))) {
        copy_source()?;
        for edit in &mutant.edits {
            apply(edit).map_err(|error| format!("{}: {error}", mutant.name))?;
        }
        let caught = run(&mutant.caught_by)?;
        println!("{}  {}", if caught { "caught" } else { "MISSED" }, mutant.name);
        if !caught {
            missed.push(mutant.name.as_str());
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(format!("no model noticed: {}", missed.join("; "))) }
}

/// Reads the mutants: a heading, diff blocks that begin with a file's path, and the model that fails.
fn read(text: &str) -> Result<Vec<Mutant>, String> {
    let mut mutants: Vec<Mutant> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("### ") {
            mutants.push(Mutant { name: name.to_owned(), edits: Vec::new(), caught_by: String::new() });
        }
        let Some(mutant) = mutants.last_mut() else { continue };
        if line == "```diff" {
            let file = lines.next().ok_or("a diff without a file")?.to_owned();
            let (mut from, mut to) = (String::new(), String::new());
            for line in lines.by_ref().take_while(|line| *line != "```") {
                let (side, line) = match line.split_at_checked(1) {
                    Some(("-", line)) => (&mut from, line),
                    Some(("+", line)) => (&mut to, line),
                    _ => return Err(format!("{}: a line of a diff begins with - or +: {line}", mutant.name)),
                };
                side.push_str(line);
                side.push('\n');
            }
            mutant.edits.push(Edit { file, from, to });
        } else if let Some((_, rest)) = line.split_once("Caught by `") {
            mutant.caught_by = rest.split('`').next().unwrap_or_default().to_owned();
        }
    }
    match mutants.iter().find(|m| m.edits.is_empty() || m.caught_by.is_empty()) {
        Some(mutant) => Err(format!("{}: has no diff, or names no model", mutant.name)),
        None => Ok(mutants),
    }
}

fn copy_source() -> Outcome {
    for dir in ["src", "loom-tests"] {
        copy(Path::new(dir), &Path::new(COPY).join(dir))
            .map_err(|error| format!("copying {dir}: {error}"))?;
    }
    Ok(())
}

/// Copies files that differ, so that cargo compiles only what a mutant changed.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_name() == "target" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            let content = fs::read(entry.path())?;
            if fs::read(&target).ok().as_ref() != Some(&content) {
                fs::write(&target, content)?;
            }
        }
    }
    Ok(())
}

/// Applies a change; `from` may be a part of a line.
fn apply(edit: &Edit) -> Outcome {
    let path = Path::new(COPY).join(&edit.file);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", edit.file))?;
    let (from, to) = (edit.from.trim_end_matches('\n'), edit.to.trim_end_matches('\n'));
    if !text.contains(from) {
        return Err(format!("{} does not contain\n{from}", edit.file));
    }
    fs::write(&path, text.replacen(from, to, 1)).map_err(|error| format!("{}: {error}", edit.file))
}

/// Returns true if the model fails. A mutant that does not compile is an error.
fn run(model: &str) -> Result<bool, String> {
    let target = std::env::current_dir().map_err(|error| error.to_string())?.join("target/mutants/target");
    let output = Command::new("cargo")
        .args(["test", "--release", "--lib", "--quiet", "--", "--exact", model])
        .current_dir(Path::new(COPY).join("loom-tests"))
        .env("RUSTFLAGS", "--cfg loom")
        .env("LOOM_MAX_PREEMPTIONS", "2")
        .env("CARGO_TARGET_DIR", target)
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("could not compile") {
        return Err(format!("does not compile:\n{errors}"));
    }
    let ran = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && !ran.contains("1 passed") {
        return Err(format!("there is no model {model}"));
    }
    Ok(!output.status.success())
}
