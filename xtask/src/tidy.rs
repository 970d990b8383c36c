//! Checks the house rules, so that no reviewer has to.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::house;
use crate::imports::{Edge, Graph};
use crate::pages;
use crate::prose;
use crate::run::Outcome;
use crate::source::Tree;

/// The rooms and their layers. A room imports from lower layers only, never from its own.
const LAYERS: &[(&str, u8)] = &[
    ("sync", 0),
    ("event", 1),
    ("codec", 1),
    ("metrics", 1),
    ("held", 1),
    ("threads", 1),
    ("catalogue", 2),
    ("filter", 2),
    ("bus", 3),
    ("dialect", 3),
    ("feed", 4),
    ("engine", 4),
    ("kept", 4),
    ("bridge", 4),
    ("server", 5),
    ("config", 6),
    ("tower", 6),
    ("cli", 7),
];

/// The layers within a room: its modules (a folder or a file; `mod` is the room's own `mod.rs`), with the same rule.
///
/// Each module of these rooms needs a row.
const ROOMS: &[(&str, &[(&str, u8)])] = &[("server", SERVER), ("engine", ENGINE)];

const SERVER: &[(&str, u8)] = &[
    ("rng", 0),
    ("tick", 0),
    ("origin", 0),
    ("workers", 0),
    ("endpoint", 0),
    ("schemas", 0),
    ("tls_config", 0),
    ("limits", 1),
    ("auth", 2),
    ("presence", 2),
    ("dedupe", 3),
    ("config", 4),
    ("error", 4),
    ("shared", 5),
    ("handover", 6),
    ("session", 6),
    ("http", 7),
    ("conn", 8),
    ("reactor", 9),
    ("acceptor", 9),
    ("handle", 10),
    ("kept_reader", 11),
    ("memory", 11),
    ("builder", 11),
    ("harness", 12),
    ("mod", 13),
];

const ENGINE: &[(&str, u8)] = &[
    ("error", 0),
    ("backoff", 0),
    ("listen", 0),
    ("reorder", 0),
    ("subject", 0),
    ("address", 1),
    ("log", 1),
    ("interest", 1),
    ("config", 2),
    ("history", 2),
    ("pause", 2),
    ("queue", 2),
    ("recorder", 3),
    ("status", 3),
    ("file", 3),
    ("nats", 3),
    ("redis", 3),
    ("append", 4),
    ("follow", 4),
    ("ingest", 4),
    ("runtime", 5),
    ("mod", 6),
];

/// Files that may contain `unsafe`.
const UNSAFE_FILES: &[&str] = &[
    "src/bus/ring/batch.rs",
    "src/bus/ring/cells.rs",
    "src/bus/ring/gated.rs",
    "src/bus/ring/prefetch.rs",
    "src/bus/ring/reader.rs",
    "src/bus/ring/reclaim.rs",
    "src/bus/ring/slot_codec.rs",
    "src/bus/ring/slots.rs",
    // Allocators that count.
    "tests/bus_hot_path.rs",
    "tests/support/heap.rs",
];

const GLOSSARY: &str = "docs/glossary.md";

/// Maximum number of words, which a reader can remember.
const WORDS_MAX: usize = 40;

/// Maximum number of lines of a file. A longer file has more than one subject.
const LINES_MAX: usize = 800;

/// Number of lines above an atomic ordering within which its comment must be.
const COMMENT_LINES: usize = 6;

/// Words for which this project has a better one, as they appear in code.
const BANNED: &[(&str, &str)] = &[
    ("topic", "channel or type"),
    ("consumer", "subscriber"),
    ("producer", "publisher"),
    ("shutdown_", "drain"),
];

/// Banned words that a file may use, because a library that it calls, or an option that users know from other programs,
/// has them.
const FOREIGN: &[(&str, &str)] = &[
    ("src/cli/bench/keys.rs", "topic"),
    ("src/cli/verify/mod.rs", "topic"),
    ("src/engine/nats/past.rs", "consumer"),
    ("src/engine/nats/follow.rs", "consumer"),
    ("src/engine/nats/link.rs", "consumer"),
    ("src/engine/nats/link.rs", "shutdown_"),
];

/// Rooms that start threads with `src/threads.rs` only, because a panic in any other thread would be unnoticed.
const WATCHED_ROOMS: &[&str] = &["engine", "bridge", "server"];

/// Marks of unfinished work.
const LEFTOVERS: &[&str] = &["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX", "HACK"];

/// Crates that the bus alone may depend on.
const BARE_DEPENDENCIES: &[&str] = &[
    "arc-swap",
    "bitflags",
    "bytemuck",
    "bytemuck_derive",
    "bytes",
    "crossbeam-utils",
    "fanwire",
    "foldhash",
    "futures-core",
    "hashbrown",
    "libc",
    "linux-raw-sys",
    "proc-macro2",
    "quote",
    "rustix",
    "rustversion",
    "smallvec",
    "syn",
    "triomphe",
    "unicode-ident",
];

pub(crate) fn check() -> Outcome {
    let mut faults = Vec::new();
    let mut files = house::files(&["src"]);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    for file in &files {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        check_file(&file.to_string_lossy().replace('\\', "/"), &text, &mut faults);
    }
    check_manifest(&mut faults);
    check_dependencies(&mut faults);
    check_map(&mut faults);
    let trees = [Tree::read("src/lib.rs")?, Tree::read("src/main.rs")?];
    let graph = Graph::of(&trees);
    check_layers(&graph, &mut faults);
    check_circles(&graph, &mut faults);
    check_widths(&trees, &mut faults);
    check_glossary(&trees, &mut faults);
    pages::check(&mut faults);
    check_paths(&mut faults)?;
    check_prose(&mut faults)?;
    if faults.is_empty() {
        println!("tidy: {} files", files.len());
        Ok(())
    } else {
        Err(format!("tidy found {}:\n{}", faults.len(), faults.join("\n")))
    }
}

/// Checks that each file imports from lower layers only, room by room and within the rooms of [`ROOMS`].
fn check_layers(graph: &Graph, faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for Edge { from, line, to, name } in graph.edges() {
        let (room, other) = (room_of(from), room_of(to));
        if room != other {
            if let (Some(layer), Some(below)) = (layer_of(room), layer_of(other))
                && below >= layer
            {
                faults.push(format!(
                    "{from}:{line}: room {room} (layer {layer}) uses {name} of {other} (layer {below}): move the item to a \
                     room below both, or pass what it gives as an argument"
                ));
            }
            continue;
        }
        let Some((_, rows)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            continue;
        };
        let layer = |module: &str| rows.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer);
        let (module, used) = (module_of(from), module_of(to));
        for missing in [module, used].into_iter().filter(|module| layer(module).is_none()) {
            if seen.insert((room, missing)) {
                faults.push(format!(
                    "src/{room}: module {missing} has no row in ROOMS of xtask/src/tidy.rs: add it"
                ));
            }
        }
        if let (Some(layer), Some(below)) = (layer(module), layer(used))
            && module != used
            && below >= layer
        {
            faults.push(format!(
                "{from}:{line}: {room}::{module} (layer {layer}) uses {name} of {room}::{used} (layer {below}): move the \
                 item to a module below both"
            ));
        }
    }
}

/// Returns the module of a room that a file belongs to: `conn` for `src/server/conn/effect.rs`.
fn module_of(file: &str) -> &str {
    let mut parts = file.strip_prefix("src/").unwrap_or(file).split('/');
    parts.next();
    parts.next().unwrap_or("mod").trim_end_matches(".rs")
}

fn check_circles(graph: &Graph, faults: &mut Vec<String>) {
    let circles: Vec<String> = graph.circles().iter().map(ToString::to_string).collect();
    let advice = "move the item that closes the circle to a file below both";
    report("import circles", circles, advice, faults);
}

fn check_widths(trees: &[Tree], faults: &mut Vec<String>) {
    let wide = house::wide(trees);
    let advice = "group fields that change together in a struct of their own";
    report("structs over 15 fields", wide, advice, faults);
}

/// Checks that the glossary stays short, and that each word's type exists in its room.
fn check_glossary(trees: &[Tree], faults: &mut Vec<String>) {
    let glossary = fs::read_to_string(GLOSSARY).unwrap_or_default();
    let mut words = BTreeSet::new();
    for row in glossary.lines().filter(|line| line.starts_with("| ") && line.contains("::")) {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let (word, path) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        if !words.insert(word) {
            faults.push(format!("{GLOSSARY}: {word} has two rows: keep one"));
        }
        let Some((room, name)) = path.trim_matches('`').split_once("::") else {
            faults.push(format!("{GLOSSARY}: {word}: write its type as `room::Type`"));
            continue;
        };
        let is_there = trees
            .iter()
            .flat_map(|tree| &tree.modules)
            .any(|module| !module.test && room_of(&module.file) == room && module.defs.contains(name));
        if !is_there {
            faults.push(format!(
                "{GLOSSARY}: {word}: src/{room} has no type {name}: use its new name, or drop the row"
            ));
        }
    }
    if words.is_empty() || words.len() > WORDS_MAX {
        faults.push(format!(
            "{GLOSSARY}: {} words, 1 to {WORDS_MAX} are allowed: drop the least used",
            words.len()
        ));
    }
}

/// Checks that sentences of comments and documents have a subject.
fn check_prose(faults: &mut Vec<String>) -> Outcome {
    let mut found = Vec::new();
    for file in house::files(&[&["src"], house::ELSEWHERE].concat()) {
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let name = file.to_string_lossy().replace('\\', "/");
        for paragraph in prose::paragraphs(&name, &text) {
            for opener in prose::openers(&paragraph).iter().filter(|opener| opener.word != "Where") {
                let prose::Opener { line, text, word } = opener;
                found.push(format!("{name}:{line}: a sentence begins with {word}: {text}"));
            }
        }
    }
    let advice = "begin with a verb (\"Returns ...\") or with the noun that the sentence is about (\"The client ...\")";
    report("sentences without a subject", found, advice, faults);
    Ok(())
}

/// Checks that the source files that documents name exist: the end of a path is enough, and capitals are placeholders.
fn check_paths(faults: &mut Vec<String>) -> Outcome {
    let files = house::files(&[&["src"], house::ELSEWHERE].concat());
    let files: Vec<String> =
        files.iter().map(|file| format!("/{}", file.to_string_lossy().replace('\\', "/"))).collect();
    let mut found = Vec::new();
    // The list of changes also names files that are gone.
    for document in files.iter().filter(|file| file.ends_with(".md") && *file != "/CHANGELOG.md") {
        let document = &document[1..];
        let text = fs::read_to_string(document).map_err(|error| format!("{document}: {error}"))?;
        for (at, line) in text.lines().enumerate() {
            let paths = line.split('`').skip(1).step_by(2).filter(|code| code.ends_with(".rs"));
            let is_path = |code: &&str| {
                code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-/.".contains(&b))
            };
            for path in paths.filter(is_path) {
                let end = format!("/{path}");
                if !files.iter().any(|file| file.ends_with(&end)) {
                    found.push(format!("{document}:{}: no file {path}", at + 1));
                }
            }
        }
    }
    report("names of files that do not exist", found, "write the file's present name", faults);
    Ok(())
}

/// Reports the faults of a rule, after its advice.
fn report(rule: &str, found: Vec<String>, advice: &str, faults: &mut Vec<String>) {
    if !found.is_empty() {
        faults.push(format!("{rule}: {}: {advice}", found.len()));
        faults.extend(found);
    }
}

/// Checks that the project's map has each room once.
fn check_map(faults: &mut Vec<String>) {
    let map = fs::read_to_string("ARCHITECTURE.md").unwrap_or_default();
    let mut seen = BTreeSet::new();
    for row in map.lines().filter(|line| line.starts_with("| `")) {
        let room = row.split('|').nth(1).unwrap_or_default().trim();
        if !seen.insert(room) {
            faults.push(format!("ARCHITECTURE.md: {room} has two rows: keep one"));
        }
    }
    for (room, _) in LAYERS {
        if !map.contains(&format!("`{room}`")) && !map.contains(&format!("`{room}/`")) {
            faults.push(format!("ARCHITECTURE.md: {room} has no row: add it to the table of rooms"));
        }
    }
}

fn room_of(file: &str) -> &str {
    let rest = file.strip_prefix("src/").unwrap_or(file);
    rest.split('/').next().unwrap_or(rest).trim_end_matches(".rs")
}

fn layer_of(room: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == room).map(|(_, layer)| *layer)
}

fn check_file(file: &str, text: &str, faults: &mut Vec<String>) {
    if !text.starts_with("//!") {
        faults.push(format!(
            "{file}: has no head: begin with `//!` and one sentence on what the module is for"
        ));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!(
            "{file}: {lines} lines, at most {LINES_MAX}: move one of its ideas to a file of its own"
        ));
    }
    let room = room_of(file);
    let layer = layer_of(room);
    let is_test = file.ends_with("tests.rs");
    let is_test_of_room = is_test || file.contains("/tests/") || file.contains("/sim/");
    let tests_from = text.lines().position(|line| line == "#[cfg(test)]").unwrap_or(usize::MAX);
    if layer.is_some() && !is_test {
        for number in orderings_without_a_word(text) {
            faults.push(format!("{file}:{number}: no comment names the ordering that this one pairs with: add it on the line or above"));
        }
    }
    for (number, line) in text.lines().enumerate() {
        let mut fault = |what: String| faults.push(format!("{file}:{}: {what}", number + 1));
        let code = line.split("//").next().unwrap_or(line);
        let is_unsafe =
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait"].iter().any(|u| code.contains(u));
        if is_unsafe && !UNSAFE_FILES.contains(&file) {
            fault("`unsafe` outside of UNSAFE_FILES: move it to src/bus/ring or use a safe crate".to_owned());
        }
        if (code.contains("std::sync::atomic") || code.contains("core::sync::atomic"))
            && file != "src/sync.rs"
        {
            fault("use crate::sync for atomics, so that loom can replace them".to_owned());
        }
        let starts_thread = ["thread::spawn(", "thread::Builder"].iter().any(|start| code.contains(start));
        if starts_thread && WATCHED_ROOMS.contains(&room) && !is_test_of_room && number < tests_from {
            fault("start the thread by crate::threads, which reports its panic".to_owned());
        }
        for word in LEFTOVERS {
            if line.contains(word) {
                fault(format!("{word} is left over: finish it or file an issue"));
            }
        }
        for (word, instead) in BANNED {
            let is_foreign = FOREIGN.contains(&(file, *word));
            if !is_foreign && code.to_lowercase().contains(word) {
                fault(format!("use {instead}, not {word}"));
            }
        }
    }
}

/// Finds lines outside tests that name an atomic ordering without a comment on them or close above.
fn orderings_without_a_word(text: &str) -> Vec<usize> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let lines: Vec<&str> = code.lines().collect();
    let names_one = |line: &str| {
        ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"].iter().any(|ordering| {
            line.split("//").next().unwrap_or(line).contains(&format!("Ordering::{ordering}"))
        })
    };
    (0..lines.len())
        .filter(|&at| names_one(lines[at]))
        .filter(|&at| !lines[at.saturating_sub(COMMENT_LINES)..=at].iter().any(|line| line.contains("//")))
        .map(|at| at + 1)
        .collect()
}

fn check_manifest(faults: &mut Vec<String>) {
    let manifest = fs::read_to_string("Cargo.toml").unwrap_or_default();
    for field in ["rust-version", "license", "description", "readme", "categories", "keywords"] {
        if !manifest.lines().any(|line| line.starts_with(field)) {
            faults.push(format!("Cargo.toml: {field} is missing"));
        }
    }
    // Each feature has to appear in the crate's documentation.
    let documented = fs::read_to_string("src/lib.rs").unwrap_or_default();
    let features = manifest.split("\n[features]\n").nth(1).unwrap_or_default();
    for line in features.lines().take_while(|line| !line.starts_with('[')) {
        let Some((feature, _)) = line.split_once(" = [") else { continue };
        if feature != "default"
            && !documented
                .lines()
                .any(|line| line.starts_with("//!") && line.contains(&format!("`{feature}`")))
        {
            faults.push(format!(
                "src/lib.rs: the feature {feature} is not documented: add a row to the table of features"
            ));
        }
    }
    for file in
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE-MIT", "LICENSE-APACHE"]
    {
        if !Path::new(file).exists() {
            faults.push(format!("{file} is missing"));
        }
    }
}

fn check_dependencies(faults: &mut Vec<String>) {
    let args = [
        "tree",
        "-p",
        "fanwire",
        "--no-default-features",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let Ok(output) = Command::new("cargo").args(args).output() else {
        faults.push("cargo tree did not run".to_owned());
        return;
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if !name.is_empty() && !BARE_DEPENDENCIES.contains(&name) {
            faults.push(format!(
                "the bus alone depends on {name}: put it behind a feature, or add it to BARE_DEPENDENCIES"
            ));
        }
    }
}
