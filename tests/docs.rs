//! Tests the pages of `docs/`: their commands run unchanged, and the tests and pages that they name exist.

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use support::named;
use support::script::in_project;

/// Returns the `sh` blocks of a page, joined in their order.
fn commands(page: &str) -> String {
    let mut inside = false;
    let mut script = String::new();
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => {
                script.push_str(line);
                script.push('\n');
            }
            _ => {}
        }
    }
    script
}

/// Runs a page's commands in a new folder. If they start a server, it is the test's own.
fn run_page(name: &str) {
    let page = std::fs::read_to_string(in_project("docs").join(name)).expect("the page");
    let free =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let script = commands(&page).replace("127.0.0.1:8765", &free.to_string());
    assert!(!script.is_empty(), "{name} has no commands");
    let folder = std::env::temp_dir().join(format!("fanwire-docs-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let programs = Path::new(env!("CARGO_BIN_EXE_fanwire")).parent().expect("a folder").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("timeout");
    // Processes that the commands started end with the folder.
    let whole = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\nset -eu\n{script}");
    command.args(["60", "bash", "-c", &whole]).current_dir(&folder).stdin(Stdio::null());
    command.env("PATH", path).env("FANWIRE_LISTEN", free.to_string()).env("NO_COLOR", "1");
    if script.contains("fanwire serve") {
        command.env("FANWIRE_URL", format!("http://{free}"));
    }
    let output = command.output().expect("it runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{name}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_filters_text_is_accepted_where_the_page_promises_it() {
    run_page("filters.md");
}

#[test]
fn an_operators_first_steps_work_as_documented() {
    run_page("operating.md");
}

#[test]
fn the_commands_of_the_other_pages_run() {
    for name in ["tuning.md", "protocol.md", "migrating.md", "presence.md", "tls.md"] {
        run_page(name);
    }
}

#[test]
fn the_commands_of_kept_streams_run() {
    run_page("runs.md");
}

/// A page around a recipe: `fetch` and an `EventSource` as browsers have them, and what the recipe shows.
const BROWSER: &str = r"
const base = process.argv[2];
const fetched = globalThis.fetch;
globalThis.fetch = (target, options) => fetched(base + target, options);
class EventSource extends EventTarget {
  constructor(target) { super(); this.abort = new AbortController(); this.read(target).catch(() => {}); }
  async read(target) {
    const answer = await fetch(target, { signal: this.abort.signal });
    let rest = '';
    for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
      const blocks = (rest + piece).split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) {
        const of = (name) => block.split('\n').filter((line) => line.startsWith(name + ': ')).map((line) => line.slice(name.length + 2));
        const data = of('data').join('\n');
        if (!data) continue;
        const event = new MessageEvent(of('event')[0] ?? 'message', { data });
        this.dispatchEvent(event);
        if (event.type === 'message') this.onmessage?.(event);
      }
    }
  }
  close() { this.abort.abort(); closed(); }
}
let shown = [], said = '', closed = () => {};
const show = (one) => { shown.push(one); changed(); };
const end = (text) => { said = text; };
let changed = () => {};
const until = (done) => new Promise((found) => { changed = () => done() && found(); changed(); });
const post = (event) => fetch('/publish', { method: 'POST', body: JSON.stringify(event) });
const check = (is, what) => { if (!is) throw new Error(what + ': ' + JSON.stringify(shown)); };
";

/// Returns the page's block of JavaScript that has this text.
fn recipe(page: &str, part: &str) -> String {
    let mut blocks = page.split("```js\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(part)).unwrap_or_else(|| panic!("no recipe has {part}")).to_owned()
}

#[test]
fn the_recipes_of_kept_streams_work() {
    let server = support::Server::with(&[
        "--retain",
        "by=stream; end=run.finished; match=stream=run-*",
        "--retain",
        "by=channel; match=channel=room.*",
        "--retain",
        "by=type; match=type=audit.**",
    ]);
    for n in 0..120 {
        server.publish(format!(r#"{{"type":"audit.login","payload":{{"n":{n}}}}}"#));
        server.publish(format!(r#"{{"type":"chat","channel":"room.1","payload":{{"n":{n}}}}}"#));
    }
    server.publish(r#"{"type":"token","stream_id":"run-42","payload":{"delta":"Hel"}}"#);
    let page = std::fs::read_to_string(in_project("docs/runs.md")).expect("the page");
    let folder = std::env::temp_dir().join(format!("fanwire-recipes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let rows = [
        (
            "new EventSource('/sse?stream=run-42",
            "await until(() => shown.at(-1) === 'Hel');
             const over = new Promise((done) => { closed = done; });
             await post({ type: 'token', stream_id: 'run-42', payload: { delta: 'lo' } });
             await post({ type: 'run.finished', stream_id: 'run-42' });
             await over;
             check(shown.at(-1) === 'Hello', 'the text');",
        ),
        (
            "async function enter(room)",
            "const live = await enter('room.1');
             await post({ type: 'chat', channel: 'room.1', payload: { n: 120 } });
             await until(() => shown.length === 51);
             check(shown.every((event, at) => event.payload.n === 70 + at), 'the last 50 and a new one');
             live.close();
             shown = [];
             const empty = await enter('room.2');
             await post({ type: 'chat', channel: 'room.2', payload: { n: 0 } });
             await until(() => shown.length === 1);
             empty.close();",
        ),
        (
            "async function older()",
            "for (let page = 0; !said && page < 20; page++) await older();
             check(said === 'This is all.', said);
             check(shown.length === 120 && shown.every((event, at) => event.payload.n === 119 - at), 'all, newest first');",
        ),
    ];
    for (part, after) in rows {
        let file = folder.join("recipe.mjs");
        std::fs::write(&file, format!("{BROWSER}\n{}\n{after}\nprocess.exit(0);\n", recipe(&page, part)))
            .expect("a file");
        let mut command = Command::new("timeout");
        command.arg("60").arg("node").arg(&file).arg(format!("http://{}", server.addr)).stdin(Stdio::null());
        let output = command.output().expect("node runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{part}: {} {error}", output.status);
    }
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn the_metrics_that_the_pages_name_exist() {
    let server = support::Server::start();
    let metrics = support::http::get(server.addr, "/metrics").text().to_owned();
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut named = 0;
    for entry in std::fs::read_dir(in_project("docs")).expect("the pages") {
        let path = entry.expect("a page").path();
        let Some(page) =
            std::fs::read_to_string(&path).ok().filter(|_| path.extension().is_some_and(|e| e == "md"))
        else {
            continue;
        };
        for room in ["server_", "feed_", "engine_", "presence_"] {
            for (at, begin) in page.match_indices(&format!("fanwire_{room}")) {
                let name: String = page[at..].chars().take_while(|c| is_name(*c)).collect();
                // A name followed by an asterisk or braces stands for several names.
                named += 1;
                assert!(metrics.contains(&name) || name == begin, "{}: {name}", path.display());
            }
        }
    }
    assert!(named >= 10, "{named}");
}

#[test]
fn the_guarantees_name_tests_that_exist() {
    let page = std::fs::read_to_string(in_project("docs/guarantees.md")).expect("the page");
    let code = named::code();
    let mut rows = 0;
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let Some(shown) = line.trim_end_matches('|').rsplit('|').next() else { continue };
        for name in shown.split('`').skip(1).step_by(2) {
            assert!(named::is_test(name, &code), "{line}: {name} is no test");
            rows += 1;
        }
    }
    assert!(rows >= 10, "{rows}");
}

#[test]
fn pages_link_to_existing_targets() {
    let mut pages: Vec<_> =
        std::fs::read_dir(in_project("docs")).expect("docs").flatten().map(|entry| entry.path()).collect();
    pages.extend(
        ["README.md", "SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "deploy/README.md"]
            .map(in_project),
    );
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(page).expect("a page");
        for target in
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file = page.parent().expect("a folder").join(target);
            assert!(file.exists(), "{} links to {target}, which is not there", page.display());
        }
    }
}

/// The dependency lines in embedding.md and README name a package of this repository and existing features, and they
/// resolve without a network.
#[test]
fn the_line_for_an_embedders_manifest_resolves() {
    let folder = std::env::temp_dir().join(format!("fanwire-embedder-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("src")).expect("a folder");
    std::fs::write(folder.join("src/main.rs"), "fn main() {}\n").expect("a file");
    let mut lines = 0;
    for page in ["docs/embedding.md", "README.md"] {
        let text = std::fs::read_to_string(in_project(page)).expect("the page");
        assert!(
            !text.contains("fanwire = { version") && !text.contains("fanwire = \""),
            "{page}: it is on no registry"
        );
        for line in text.lines().filter(|line| line.starts_with("fanwire = {")) {
            assert!(line.contains("path = \"../fanwire\""), "{page}: {line}");
            let here = line.replace("../fanwire", env!("CARGO_MANIFEST_DIR"));
            let manifest = format!(
                "[package]\nname = \"embedder\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n{here}\n"
            );
            std::fs::write(folder.join("Cargo.toml"), manifest).expect("a file");
            std::fs::copy(in_project("Cargo.lock"), folder.join("Cargo.lock")).expect("a file");
            let mut tree = Command::new(env!("CARGO"));
            tree.args(["tree", "--offline", "--prefix", "none", "-e", "normal", "-p", "fanwire"])
                .current_dir(&folder);
            let output = tree.output().expect("cargo runs");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            let crates = String::from_utf8_lossy(&output.stdout).lines().count();
            // The bus without features has few dependencies. A feature that is on by mistake would add some.
            let is_bare = !line.contains("features = [");
            assert!(crates > 5 && (!is_bare || crates < 20), "{line}: {crates} crates");
            lines += 1;
        }
    }
    assert!(lines >= 3, "{lines}");
    let _ = std::fs::remove_dir_all(&folder);
}

/// Compares a number of bytes in README with the page that has the measurements.
#[test]
fn the_readme_has_the_bytes_of_a_connection_that_were_measured() {
    let page = std::fs::read_to_string(in_project("docs/benchmarks-server.md")).expect("the page");
    let row = page.lines().find(|line| line.starts_with("| **WebSocket / SSE** |")).expect("a row");
    let bytes = row.trim_matches(['|', ' ']).rsplit('|').next().expect("a cell");
    let bytes = bytes.trim_matches(['*', ' ']).split(' ').next().expect("a number");
    let readme = std::fs::read_to_string(in_project("README.md")).expect("README");
    let row = readme
        .lines()
        .find(|line| line.starts_with("| memory of an idle WebSocket connection |"))
        .expect("a row");
    assert!(row.contains(&format!("| {bytes} B |")), "{row}: it was {bytes} bytes");
}

/// The table of features lists the crates that cargo resolves.
#[test]
fn the_table_of_features_counts_compiled_crates() {
    let page = std::fs::read_to_string(in_project("docs/embedding.md")).expect("the page");
    let table = page.split("| `features` |").nth(1).expect("the table");
    let mut rows = 0;
    for row in table.lines().skip(2).take_while(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let features = if cells[0] == "none" { String::new() } else { cells[0].replace(['`', ' '], "") };
        let mut tree = Command::new(env!("CARGO"));
        tree.args(["tree", "--offline", "--package", "fanwire", "-e", "normal,build", "--prefix", "none"]);
        tree.args(["--no-default-features", "--features", &features]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = tree.output().expect("cargo runs");
        assert!(output.status.success(), "{row}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
        let crates: std::collections::BTreeSet<String> =
            names.filter(|name| !name.starts_with("fanwire ")).collect();
        assert_eq!(cells[2], crates.len().to_string(), "{row}: `cargo xtask features` makes the table anew");
        rows += 1;
    }
    assert!(rows >= 10, "{rows}");
}
