//! Tests of the table of settings and of the layers over it.

use std::path::{Path, PathBuf};

use std::time::Duration;

use super::keys::rows;
use super::layers::{flag, variable};
use super::*;

fn fault(sources: &Sources) -> String {
    sources.load().expect_err("a fault").to_string()
}

#[test]
fn every_key_has_its_own_flag_and_variable() {
    let unique = |names: Vec<String>| {
        let all: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(all.len(), names.len(), "{names:?}");
    };
    unique(rows().map(|row| row.path.to_owned()).collect());
    unique(rows().map(flag).collect());
    unique(rows().map(variable).collect());
}

#[test]
fn the_printed_defaults_read_back_as_the_defaults() {
    assert_eq!(Config::from_toml(&defaults_toml()), Ok(Config::default()));
    assert_eq!(Config::from_toml(""), Ok(Config::default()));
}

#[test]
fn every_setting_reads_what_it_prints() {
    let mut config = Config::default();
    for row in rows() {
        let words = (row.lens)(&mut config).words();
        (row.lens)(&mut config).set(&words).unwrap_or_else(|error| panic!("{}: {error}", row.path));
    }
    assert_eq!(config, Config::default());
}

#[test]
fn flags_go_before_the_environment_before_the_file_before_defaults() {
    let toml = "heartbeat = \"1s\"\nretry = \"1s\"\nkeep_alive = \"1s\"\n";
    let sources = Sources::new()
        .text(toml)
        .environment([("FANWIRE_RETRY", "2s"), ("FANWIRE_KEEP_ALIVE", "2s"), ("PATH", "/bin")])
        .flag("keep_alive", ["3s"]);
    let loaded = sources.load().expect("right");
    let seconds = |time: Duration| time.as_secs();
    let server = &loaded.config.server;
    assert_eq!(
        [server.body_timeout, server.heartbeat, server.retry, server.keep_alive].map(seconds),
        [30, 1, 2, 3]
    );
    let origins =
        ["body_timeout", "heartbeat", "retry", "keep_alive"].map(|key| loaded.origin(key).to_string());
    assert_eq!(origins, ["default", "(text):1", "FANWIRE_RETRY", "--keep-alive"]);
}

#[test]
fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
    for (toml, near) in [
        ("max_mesage_bytes = 1", "max_message_bytes"),
        ("[limits]\nmax_connections = 5", "max_connections"),
        ("[bus]\nshard = 2", "bus.shards"),
        ("timeout = \"3s\"", "drain.timeout"),
        ("[log]\nlevl = \"info\"", "log.level"),
    ] {
        let error = fault(&Sources::new().text(toml));
        assert!(error.ends_with(&format!("did you mean `{near}`?")), "{error}");
    }
    let error = fault(&Sources::new().text("quite_another_thing = 1"));
    assert_eq!(
        error,
        "(text):1: unknown key `quite_another_thing`; `fanwire check --print-defaults` shows all"
    );
}

#[test]
fn every_fault_is_reported_with_key_value_origin_and_range() {
    let toml =
        "loops = 0\nmax_message_bytes = \"64 apples\"\n[log]\nformat = \"xml\"\n[drain]\ntimeout = 10\n";
    let sources = Sources::new()
        .text(toml)
        .environment([("FANWIRE_CONFLATE_KEY", "type,color")])
        .flag("heartbeat", ["1d", "2d"]);
    let error = sources.load().expect_err("faults");
    let faults: Vec<String> = error.faults().iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "(text):1: loops = 0: 0 is not from 1 to 256",
            "(text):2: max_message_bytes = 64 apples: expected bytes, as 64KiB, 4MiB or 65536",
            "(text):4: log.format = xml: expected one of text, json",
            "(text):6: drain.timeout = 10: `10` has no unit that is a time's: ms, s, m, h or d, as 30s",
            "FANWIRE_CONFLATE_KEY: conflate_key = type,color: `color` is no attribute: type, source, stream, \
             execution, correlation, entity_kind, entity_id, channel",
            "--heartbeat: heartbeat = [1d, 2d]: expected one value, not a list",
        ]
    );
    assert_eq!(error.faults()[0].key(), "loops");
}

#[test]
fn a_file_that_is_not_there_or_no_toml_is_a_fault() {
    let missing = Sources::new().file("/nonexistent/fanwire.toml");
    assert!(
        fault(&missing).starts_with("/nonexistent/fanwire.toml: cannot be read: "),
        "{}",
        fault(&missing)
    );
    assert!(fault(&Sources::new().text("a = 1\nb c\n")).starts_with("(text):2: "));
    assert_eq!(
        fault(&Sources::new().text("bus.capacity = 1000")),
        "(text):1: bus.capacity = 1000: is not a power of two, as 1024"
    );
}

#[test]
fn a_variable_with_a_slip_is_noticed_and_a_foreign_one_is_not() {
    let sources = Sources::new().environment([
        ("FANWIRE_HEARTBEET", "1s"),
        ("FANWIRE_SERVICE_HOST", "10.0.0.1"),
        ("FANWIRE_PORT_8765_TCP", "tcp://10.0.0.1:8765"),
        ("FANWIRE_LOOPS", "2"),
    ]);
    let strange = sources.strange_variables();
    assert_eq!(strange, [("FANWIRE_HEARTBEET".to_owned(), "FANWIRE_HEARTBEAT".to_owned())]);
    assert_eq!(sources.load().expect("right").config.loops, 2);
}

#[test]
fn a_reload_applies_live_settings_and_names_the_others() {
    let running = Config::default();
    let loaded = Sources::new().text("loops = 4\nheartbeat = \"5s\"\n").load().expect("right");
    let (changes, takes) = loaded.changes_from(&running);
    let found: Vec<_> = changes.iter().map(|c| (c.key, c.value.as_str(), c.live)).collect();
    assert_eq!(found, [("loops", "4", false), ("heartbeat", "\"5s\"", true)]);
    assert_eq!((takes.loops, takes.server.heartbeat), (1, Duration::from_secs(5)));
}

/// `FANWIRE_BLESS=1` rewrites the page.
#[test]
fn the_documentation_has_every_setting() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = std::fs::read_to_string(&page).expect("the page is there");
    let (before, rest) = text.split_once("<!-- settings -->\n").expect("a mark before the settings");
    let (_, after) = rest.split_once("<!-- end of settings -->\n").expect("a mark after the settings");
    let new = format!("{before}<!-- settings -->\n{}\n<!-- end of settings -->\n{after}", print::markdown());
    if std::env::var_os("FANWIRE_BLESS").is_some() {
        std::fs::write(&page, &new).expect("the page can be written");
        return;
    }
    assert!(text == new, "docs/configuration.md is not what the table says: FANWIRE_BLESS=1 writes it anew");
}

#[test]
fn relative_paths_in_a_file_are_beside_it() {
    let words = layers::beside(Path::new("/etc/fanwire/fanwire.toml"), value::Words::One("cert.pem".into()));
    assert_eq!(words, value::Words::One("/etc/fanwire/cert.pem".into()));
    let _ = PathBuf::new();
}

#[test]
fn a_zero_of_an_older_file_is_none_with_a_warning() {
    let toml =
        "accept_rate = 0\nmax_memory_bytes = \"0MiB\"\nshare_pages_bytes = \"none\"\n[bus]\nmax_bytes = 0\n";
    let loaded = Sources::new().text(toml).flag("accept_rate", ["0"]).load().expect("right");
    let Config { server, bus, .. } = &loaded.config;
    assert_eq!((server.accept_rate, server.max_memory_bytes, bus.max_bytes), (None, None, None));
    assert_eq!(server.share_pages_bytes, None);
    let warnings: Vec<String> = loaded.warnings().iter().map(ToString::to_string).collect();
    let says = |origin: &str, key: &str| {
        format!("{origin}: {key}: 0 is read as none, as in earlier versions; write \"none\"")
    };
    assert_eq!(
        warnings,
        [
            says("(text):1", "accept_rate"),
            says("(text):2", "max_memory_bytes"),
            says("(text):5", "bus.max_bytes"),
            says("--accept-rate", "accept_rate"),
        ]
    );
}

/// Returns the default that a field's documentation states after `Default:`, without what is said about it.
fn documented_default(source: &str, field: &str) -> Option<String> {
    let at = source.find(&format!("    pub {field}: "))?;
    let docs = source[..at].lines().rev().take_while(|line| line.trim_start().starts_with("///"));
    let mut docs: Vec<&str> = docs.map(|line| line.trim_start().trim_start_matches('/').trim()).collect();
    docs.reverse();
    let text = docs.join(" ");
    let (_, default) = text.split_once("Default: ")?;
    let end = [". ", ", ", "; "].iter().filter_map(|stop| default.find(stop)).min();
    let default = &default[..end.unwrap_or(default.len())];
    Some(default.trim_end_matches('.').replace([',', '`'], ""))
}

/// Returns whether a key's default is what its documentation says: `8,192` or `8 KiB`, `60 s` or `1 min`, `none`.
fn is_default(path: &str, documented: &str) -> bool {
    let row = keys::find(path).expect("a key of the table");
    let mut config = Config::default();
    let default = (row.lens)(&mut config).words();
    let text = match documented {
        "none" | "empty" => String::new(),
        text => text.replace(" min", "m").replace(' ', ""),
    };
    (row.lens)(&mut config).set(&value::Words::One(text)).is_ok()
        && (row.lens)(&mut config).words() == default
}

#[test]
fn documented_defaults_are_the_defaults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("it is there");
    let table = read("config/keys.rs");
    let sources = [
        ("engine.", read("engine/config.rs"), true),
        ("bus.", read("bus/builder.rs"), false),
        ("server.auth.", read("server/auth/config.rs"), false),
        ("server.", read("server/config.rs"), false),
        ("", read("config/settings.rs"), true),
    ];
    let mut checked = 0;
    for key in super::keys() {
        let row = table.split_once(&format!("row(\"{}\",", key.path)).expect("each key has a row").1;
        let field = row.split_once("&mut c.").expect("each row has a field").1;
        let field = field.split([',', ')']).next().unwrap_or_default();
        let found = sources.iter().find(|(prefix, ..)| field.starts_with(prefix));
        let (prefix, source, is_required) = found.expect("the last has no prefix");
        let field = &field[prefix.len()..];
        match documented_default(source, field) {
            Some(default) => {
                checked += 1;
                assert!(is_default(key.path, &default), "{prefix}{field}: documented as {default}");
            }
            None => assert!(!is_required, "{prefix}{field} has no `Default: ` in its documentation"),
        }
    }
    assert!(checked > 15, "{checked}");
}
