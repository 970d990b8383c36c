//! The settings as text: a commented TOML file, and the table in docs/configuration.md.
//!
//! Invariant: the TOML text reads back as the defaults.

use std::fmt::Write as _;

use super::keys::{GROUPS, KeyRow, When};
use super::layers::{flag, variable};
use super::settings::Config;
use super::value::as_toml;

/// Description of a setting, for programs that derive flags or a form from it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConfigKey {
    /// Key with its sections, such as `drain.timeout`.
    pub path: &'static str,
    /// Flag without its dashes, such as `drain-timeout`.
    pub flag: String,
    /// Environment variable, such as `FANWIRE_DRAIN_TIMEOUT`.
    pub variable: String,
    /// Description.
    pub help: &'static str,
    /// Heading in the documentation.
    pub heading: &'static str,
    /// Placeholder for a value: `BYTES`, `TIME`, `N`, `BOOL`, ….
    pub kind: &'static str,
    /// Allowed values; empty if `kind` says enough.
    pub range: String,
    /// Default as TOML, if there is one.
    pub default: Option<String>,
    /// Whether it may be given several times.
    pub is_list: bool,
    /// Whether a running server takes a new value.
    pub is_live: bool,
}

/// Returns all settings, in the order of the documentation. Allocates.
#[must_use]
pub fn keys() -> Vec<ConfigKey> {
    let mut config = Config::default();
    let all = GROUPS.iter().flat_map(|group| group.rows.iter().map(|row| (group.heading, row)));
    all.map(|(heading, row)| key(heading, row, &mut config)).collect()
}

fn key(heading: &'static str, row: &'static KeyRow, config: &mut Config) -> ConfigKey {
    let setting = (row.lens)(config);
    ConfigKey {
        path: row.path,
        flag: flag(row),
        variable: variable(row),
        help: row.help,
        heading,
        kind: setting.kind(),
        range: setting.range(),
        default: as_toml(&*setting),
        is_list: matches!(setting.words(), super::value::Words::Many(_)),
        is_live: row.when == When::Live,
    }
}

/// Returns a TOML file with every default, and a comment on each setting.
#[must_use]
pub fn defaults_toml() -> String {
    let mut out = String::from(
        "# Fanwire's settings with their defaults. A flag goes before an environment variable, that before this\n\
         # file: `drain.timeout` is also --drain-timeout and FANWIRE_DRAIN_TIMEOUT. Bytes are 65536 or \"64KiB\", times\n\
         # \"500ms\", \"30s\", \"2m\". Marked (live): a running server takes a new value at SIGHUP.\n",
    );
    let mut section = "";
    let mut heading = "";
    for key in keys() {
        let (in_section, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if key.heading != heading {
            heading = key.heading;
            let _ = write!(out, "\n## {heading}\n");
        }
        if in_section != section {
            section = in_section;
            let _ = write!(out, "\n[{section}]\n");
        }
        let live = if key.is_live { " (live)" } else { "" };
        let range = if key.range.is_empty() { String::new() } else { format!(" [{}]", key.range) };
        let _ = write!(out, "\n# {}.{range}{live}\n", key.help);
        let _ = match key.default {
            Some(default) => writeln!(out, "{name} = {default}"),
            None => writeln!(out, "# {name} = \"{}\"", key.kind),
        };
    }
    out
}

/// Returns the settings as Markdown tables, one for each heading.
#[cfg(test)]
pub(super) fn markdown() -> String {
    let mut out = String::new();
    let mut heading = "";
    for key in keys() {
        if key.heading != heading {
            heading = key.heading;
            let _ = write!(
                out,
                "\n### {heading}\n\n| key | default | range | live | what |\n|---|---|---|---|---|\n"
            );
        }
        let default = key.default.map_or("none".to_owned(), |default| format!("`{default}`"));
        let live = if key.is_live { "yes" } else { "" };
        let range = if key.range.is_empty() { key.kind } else { &key.range };
        let _ = writeln!(out, "| `{}` | {default} | {range} | {live} | {} |", key.path, key.help);
    }
    out
}
