//! Explains a line that is not TOML: the value that was probably meant, and how to write it.
//!
//! Invariant: a value is repeated only if its key is known and holds no secret.

use super::keys;
use super::settings::Config;
use super::value::{Words, quoted};

/// Explains a line that the parser refused with the error `what`, if it has one of the usual mistakes.
pub(super) fn explain(text: &str, line_number: usize, what: &str) -> Option<String> {
    // The line by itself is valid, so it is not explained.
    if what.starts_with("duplicate key") {
        return None;
    }
    let mut lines = text.lines();
    let section = section_of(text, line_number);
    let line = lines.nth(line_number.checked_sub(1)?)?.trim();
    if line.contains(['“', '”', '„', '‘', '’', '«', '»']) {
        return Some("quotes are \" or ' here: a word processor has replaced them".to_owned());
    }
    if ["//", ";", "--", "/*"].iter().any(|comment| line.starts_with(comment)) {
        return Some("a comment begins with #".to_owned());
    }
    if let Some(rest) = line.strip_prefix('[') {
        let name = rest.trim_matches(['[', ']', ' ']);
        return Some(format!("a section is [{name}] on a line of its own"));
    }
    let Some((key, value)) = line.split_once('=') else {
        let parts = [line.split_once(':'), line.split_once(char::is_whitespace)];
        let key = parts.iter().flatten().map(|(key, _)| key.trim());
        return Some(match key.clone().find(|key| keys::find(&path_of(section, key)).is_some()) {
            Some(key) => format!("a key and its value have = between them, as `{key} = …`"),
            None if key.count() > 0 => "a key and its value have = between them".to_owned(),
            None => "expected `key = value`, a [section], or # before a comment".to_owned(),
        });
    };
    Some(of_value(section, key.trim(), value.trim()))
}

/// Returns the section of a line; empty above the first.
fn section_of(text: &str, line_number: usize) -> &str {
    let before = text.lines().take(line_number.saturating_sub(1));
    let headers =
        before.filter_map(|line| line.trim().strip_prefix('[')?.split_once(']').map(|(name, _)| name));
    headers.last().unwrap_or_default().trim_matches(['[', ' '])
}

fn path_of(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// Explains a value that is not TOML.
fn of_value(section: &str, key: &str, value: &str) -> String {
    let value = value.strip_prefix('=').unwrap_or(value).trim();
    let path = path_of(section, key);
    let row = keys::find(&path);
    // Not repeated for an unknown key, or one that may hold a secret.
    let unless_secret = |value: &str| match row.filter(|row| !row.may_hold_secrets()) {
        Some(_) => quoted(value),
        None => "\"…\"".to_owned(),
    };
    let bare = without_comment(value);
    if bare.is_empty() {
        return format!("{path}: there is no value; leave the line out, or write {key} = \"\" for none");
    }
    // An IPv6 address begins like a list.
    if let Some(inner) = bare.strip_prefix('[').filter(|inner| !inner.contains("]:")) {
        if !inner.ends_with(']') {
            return format!("{path}: a list ends with ], as {key} = [\"one\", \"two\"]");
        }
        return format!(
            "{path}: each text of a list needs quotes and a comma after it, as {key} = [\"one\", \"two\"]"
        );
    }
    if bare.starts_with('{') {
        return format!("{path}: expected a text, a number, true or false, or a list of them");
    }
    if let Some(quote) = bare.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        return of_quoted(&path, key, quote, bare);
    }
    let bare = bare.trim_end_matches([',', ';']).trim_end();
    if bare.contains(',') && bare.bytes().all(|b| b.is_ascii_digit() || b == b',') {
        return format!("{path}: a number has no commas: {key} = {}", bare.replace(',', "_"));
    }
    if let Some(flag) = as_bool(bare).filter(|_| row.is_none_or(keys::KeyRow::is_switch)) {
        return format!("{path}: write {key} = {flag}");
    }
    // Also reports the fault that the value would have in quotes.
    let then = row.and_then(|row| (row.lens)(&mut Config::default()).set(&Words::One(bare.to_owned())).err());
    match then {
        Some(why) => format!("{path}: a text needs quotes, and {why}"),
        None => format!("{path}: a text needs quotes: {key} = {}", unless_secret(bare)),
    }
}

/// Explains a value that begins with a quote.
fn of_quoted(path: &str, key: &str, quote: char, value: &str) -> String {
    let Some((inner, after)) = value[1..].split_once(quote) else {
        return format!("{path}: the value ends without its {quote}");
    };
    if quote == '"' && inner.contains('\\') {
        return format!(
            "{path}: \\ in \"…\" begins an escape: write \\\\ for one, or take single quotes, as {key} = 'C:\\folder'"
        );
    }
    match after.trim_start().chars().next() {
        Some(',') if after.contains(quote) => {
            format!("{path}: several values are a list: {key} = [\"one\", \"two\"]")
        }
        Some(_) => format!("{path}: only a # comment may follow the value"),
        None => format!("{path}: this text is none in TOML"),
    }
}

/// Returns the value without its trailing comment. After a quote, a `#` is part of the text.
fn without_comment(value: &str) -> &str {
    let before = value.split_once('#').map_or(value, |(before, _)| before);
    if before.contains(['"', '\'']) { value } else { before.trim_end() }
}

fn as_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn a_fault_is_reported_with_the_right_syntax() {
        for (text, want) in [
            (
                "listen = 127.0.0.1",
                "listen: a text needs quotes, and expected ADDRESS:PORT of this machine, as 127.0.0.1:8765",
            ),
            ("listen = 127.0.0.1:8765", "listen: a text needs quotes: listen = \"127.0.0.1:8765\""),
            ("listen = 0.0.0.0:443 # all", "listen = \"0.0.0.0:443\""),
            ("listen = [::1]:8765", "listen: a text needs quotes: listen = \"[::1]:8765\""),
            ("listen = localhost:8765", "listen = \"localhost:8765\""),
            ("heartbeat = 30s", "heartbeat: a text needs quotes: heartbeat = \"30s\""),
            ("max_lag_bytes = 64KiB", "max_lag_bytes = \"64KiB\""),
            ("max_body_bytes = 1.5MiB", "max_body_bytes: a text needs quotes, and expected bytes"),
            ("max_connections = 10,000", "max_connections: a number has no commas: max_connections = 10_000"),
            ("demo = True", "demo: write demo = true"),
            ("demo = yes", "demo: write demo = true"),
            ("demo = off;", "demo: write demo = false"),
            ("dialect = hive", "dialect: a text needs quotes: dialect = \"hive\""),
            ("dialect = [hive, fcc]", "dialect: each text of a list needs quotes"),
            ("dialect = \"hive\", \"fcc\"", "dialect: several values are a list"),
            ("dialect = [\"hive\"", "dialect: a list ends with ]"),
            ("listen = \"127.0.0.1:8765", "listen: the value ends without its \""),
            ("listen = “127.0.0.1:8765”", "quotes are \" or ' here"),
            ("listen = \"127.0.0.1:8765\";", "listen: only a # comment"),
            ("engine = \"file://C:\\data\"", "begins an escape"),
            ("listen: \"127.0.0.1:8765\"", "= between them, as `listen = …`"),
            ("listen \"127.0.0.1:8765\"", "= between them, as `listen = …`"),
            ("listen == \"127.0.0.1:8765\"", "listen: "),
            ("// a comment", "a comment begins with #"),
            ("; a comment", "a comment begins with #"),
            ("listen =", "listen: there is no value"),
            ("listen", "expected `key = value`"),
            ("[drain", "a section is [drain]"),
            ("[log]\nlevel = info", "log.level: a text needs quotes: level = \"info\""),
            ("[log]\nlevel = loud", "log.level: a text needs quotes, and `loud` is no level"),
            ("[drain]\ntimeout = 10s", "drain.timeout: a text needs quotes: timeout = \"10s\""),
        ] {
            let error = Config::from_toml(text).expect_err(text);
            let line = text.lines().count();
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("(text):{line}: ")) && message.contains(want),
                "{text}\n{message}"
            );
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_secret_in_a_line_that_is_no_toml_is_not_repeated() {
        for text in [
            "[auth.jwt]\nhs256_secret = s3cret-word",
            "engine = redis://ann:s3cret-word@h:1",
            "ingest = redis://ann:s3cret-word@h:1#c",
            "ingest = [redis://ann:s3cret-word@h:1#c]",
            "[auth.jwt]\nhs256_secrets = s3cret-word",
            "[auth.jwt]\nhs256_secret = \"s3cret-word",
            "[auth.jwt]\nhs256_secret = \"s3cret-word\" x",
            "[auth.jwt]\nhs256_secret: s3cret-word",
            "s3cret-word",
        ] {
            let message = Config::from_toml(text).expect_err(text).to_string();
            assert!(!message.contains("s3cret"), "{text}\n{message}");
        }
    }

    #[test]
    fn a_key_in_the_wrong_section_is_refused_with_its_right_section() {
        for (text, want) in [
            (
                "[drain]\ntimeout = \"5s\"\nlisten = \"127.0.0.1:1\"",
                "`listen` is above the first [section]; did you mean `listen`?",
            ),
            (
                "[server]\nlisten = \"127.0.0.1:1\"",
                "`listen` is above the first [section]; did you mean `listen`?",
            ),
            (
                "[limits]\nmin_version = \"1.3\"",
                "`min_version` is under [tls]; did you mean `tls.min_version`?",
            ),
            ("lisen = \"127.0.0.1:1\"", "did you mean `listen`?"),
        ] {
            let message = Config::from_toml(text).expect_err(text).to_string();
            assert!(message.contains(want), "{text}\n{message}");
        }
    }
}
