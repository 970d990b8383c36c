//! `fanwire check`: validates filters and explains them for an event, validates a configuration and prints its
//! effect, and asks a server for its health (`health`).
//!
//! Always: the exit code is 0 if everything is valid and, if an event is given, a filter matches it. It is 1 otherwise.

use std::io::Read as _;

use fanwire::Filter;
use fanwire::config::SettingOrigin;
use fanwire::filter::{Explanation, FilterError};
use fanwire::server::MemoryLine;
use serde_json::json;

use super::error::{CliError, refused_config};
use super::settings::Settings;
use super::style::{BOLD, DIM, GREEN, RED, YELLOW, human_bytes};

/// Check filters and explain their verdict on an event; check a configuration and show the origin of each
/// value.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Filters in their text form, as 'type=task.* source=core payload.progress>=50'
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Print every setting with its default, as a TOML file with comments
    #[arg(long, conflicts_with_all = ["filters", "explain"])]
    print_defaults: bool,
    /// Ask the server of this configuration whether it is ready; exit code 0 if it is
    #[arg(long, conflicts_with_all = ["filters", "explain", "print_defaults"])]
    health: bool,
    #[command(flatten)]
    settings: Settings,
    /// Event as JSON, `@FILE`, or `-` for stdin: show which filters match it, and why the others do not
    #[arg(long, value_name = "EVENT")]
    explain: Option<String>,
    /// Print JSON, one line a filter
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> Result<(), CliError> {
    if args.print_defaults {
        anstream::print!("{}", fanwire::config::defaults_toml());
        return Ok(());
    }
    if args.health {
        let loaded = args.settings.sources().load().map_err(refused_config)?;
        return super::health::check(&loaded.config, args.json);
    }
    if args.filters.is_empty() {
        return check_config(args);
    }
    let mut filters = Vec::new();
    let mut faults = 0;
    for text in &args.filters {
        match text.parse::<Filter>() {
            Ok(filter) => filters.push(filter),
            Err(error) => {
                faults += 1;
                show_fault(text, &error, args.json);
            }
        }
    }
    if faults > 0 {
        let filters = if faults == 1 { "invalid filter" } else { "invalid filters" };
        return Err(CliError::new(filters).hint("docs/filters.md has the syntax, with examples."));
    }
    let Some(event) = &args.explain else {
        for filter in &filters {
            if args.json {
                anstream::println!("{}", json!({ "filter": filter.to_string(), "ok": true }));
            } else {
                anstream::println!("{GREEN}ok{GREEN:#}  {filter}");
            }
        }
        return Ok(());
    };
    let event = read_event(event)?;
    let mut wanted = 0;
    for filter in &filters {
        let why = filter.explain(&event);
        wanted += usize::from(why.is_wanted());
        show(filter, &why, args.json);
    }
    if wanted == 0 { Err(CliError::new("no filter matches this event")) } else { Ok(()) }
}

/// Prints every setting with its value and the origin of the value.
fn check_config(args: &CheckArgs) -> Result<(), CliError> {
    let sources = args.settings.sources();
    let loaded = sources.load().map_err(refused_config)?;
    for (given, known) in sources.strange_variables() {
        anstream::eprintln!("unknown variable {given}; did you mean {known}?");
    }
    for warning in loaded.warnings() {
        anstream::eprintln!("{YELLOW}{warning}{YELLOW:#}");
    }
    let effective = loaded.effective();
    if args.json {
        let all: serde_json::Map<_, _> = (effective.into_iter())
            .map(|(key, value, origin)| {
                (key.to_owned(), json!({ "value": value, "from": origin.to_string() }))
            })
            .collect();
        anstream::println!("{}", serde_json::Value::Object(all));
        return Ok(());
    }
    let width = |text: &str| text.chars().count();
    let widest = effective.iter().map(|(key, value, _)| key.len() + width(value)).max().unwrap_or_default();
    for (key, value, origin) in &effective {
        let pad = widest - key.len() - width(value);
        let style = if *origin == SettingOrigin::Default { DIM } else { GREEN };
        anstream::println!("{key} = {value}{:pad$}  {style}# {origin}{style:#}", "");
    }
    anstream::println!("");
    for (what, says) in loaded.config.access() {
        anstream::println!("{DIM}# {what}: {DIM:#}{says}");
    }
    show_memory(&loaded.config);
    anstream::println!(
        "\n{DIM}# worst-case match: one event costs a loop{DIM:#} {} ms {DIM}for each client that fills max_subscription_values with{DIM:#}\n{DIM}# conditions that are tried one by one (negated or wide sets, payloads), in parts; other clients are written to between them{DIM:#}",
        loaded.config.worst_match().as_micros().div_ceil(1_000)
    );
    Ok(())
}

/// Prints the memory that the settings allow, line by line, and the machine's own.
fn show_memory(config: &fanwire::config::Config) {
    anstream::println!("\n{DIM}# worst-case memory: the sum of what the limits allow{DIM:#}");
    for line in config.worst_case() {
        let MemoryLine { what, count, each, .. } = line;
        let product = if count == 1 { String::new() } else { format!(", {count} x {}", human_bytes(each)) };
        anstream::println!("{DIM}#{DIM:#} {:>10}  {what}{DIM}{product}{DIM:#}", human_bytes(line.bytes()));
    }
    let all = config.worst_case_bytes();
    let machine = machine_memory();
    let beside = machine.map(|has| format!("; this machine has {}", human_bytes(has))).unwrap_or_default();
    anstream::println!("{DIM}#{DIM:#} {:>10}  in all{DIM}{beside}{DIM:#}", human_bytes(all));
    anstream::println!(
        "{DIM}# Not included: the program and its threads' stacks (about 30 MiB), and the kernel's memory for sockets.{DIM:#}"
    );
    if config.server.max_memory_bytes.is_none() {
        anstream::println!(
            "{YELLOW}#{YELLOW:#} max_memory_bytes is not set: no budget bounds all clients together, only the single limits. \
             With a budget, one line stands for all clients."
        );
    } else if machine.is_some_and(|has| has < all) {
        anstream::println!(
            "{YELLOW}#{YELLOW:#} This is more than the machine has: lower bus.max_bytes or max_memory_bytes (docs/tuning.md)."
        );
    }
}

/// Returns the bytes of memory that this process may use: its control group's limit or the machine's memory, whichever
/// is less.
fn machine_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024);
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse::<u64>().ok());
    Some(group.map_or(total, |limit| limit.min(total)))
}

fn read_event(from: &str) -> Result<fanwire::Event, CliError> {
    let text = match from.strip_prefix('@') {
        _ if from == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        Some(file) => std::fs::read_to_string(file),
        None => Ok(from.to_owned()),
    };
    let text = text.map_err(|error| CliError::new(format!("{from}: {error}")))?;
    fanwire::Event::from_json(text.trim()).map_err(|error| {
        CliError::new(error).hint(
            r#"Give an event as JSON with at least a type, as {"type":"task.progress","source":"core"}."#,
        )
    })
}

fn show_fault(text: &str, error: &FilterError, as_json: bool) {
    if as_json {
        anstream::println!(
            "{}",
            json!({ "filter": text, "ok": false, "error": error.to_string(), "column": error.column() })
        );
        return;
    }
    let caret = error.caret();
    let caret = if error.column() == 0 { format!("{caret}\n  {text}") } else { caret };
    anstream::println!("{RED}fault{RED:#}  {caret}");
}

fn show(filter: &Filter, why: &Explanation, as_json: bool) {
    if as_json {
        let conditions: Vec<_> = (why.conditions().iter())
            .map(|c| json!({ "condition": c.text, "holds": c.holds, "found": c.found }))
            .collect();
        let line =
            json!({ "filter": filter.to_string(), "wanted": why.is_wanted(), "conditions": conditions });
        anstream::println!("{line}");
        return;
    }
    let (style, verdict) = if why.is_wanted() { (GREEN, "matches") } else { (RED, "no match") };
    let text = filter.to_string();
    let text = if text.is_empty() { "(everything)" } else { &text };
    anstream::println!("{style}{verdict}{style:#}  {BOLD}{text}{BOLD:#}");
    for condition in why.conditions() {
        let (style, mark) = if condition.holds { (GREEN, "holds") } else { (RED, "fails") };
        let found = condition.found.as_deref().unwrap_or("absent");
        anstream::println!("    {style}{mark}{style:#}  {}  {DIM}found: {found}{DIM:#}", condition.text);
    }
}
