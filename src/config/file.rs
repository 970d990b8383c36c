//! Reads a TOML file as a list of settings with their lines.
//!
//! Invariant: a line that is not TOML is reported with its number, and nothing is dropped silently.

use toml::de::{DeTable, DeValue};

use super::retain::{self, RETAIN};
use super::toml_hint;
use super::value::Words;

/// Setting in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileEntry {
    /// Key with its sections, such as `drain.timeout`.
    pub(super) path: String,
    /// Line of the value, from 1.
    pub(super) line: usize,
    /// Value; `None` if it is of a kind that no setting has.
    pub(super) words: Option<Words>,
}

/// Returns the settings of a file, or the line of the first fault and its description.
pub(super) fn read(text: &str) -> Result<Vec<FileEntry>, (usize, String)> {
    let line = |at: usize| text.as_bytes()[..at.min(text.len())].split(|b| *b == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let what = error.message().replace('\n', ", ");
        (line(at), toml_hint::explain(text, line(at), &what).unwrap_or(what))
    })?;
    let mut entries = Vec::new();
    flatten(table.get_ref(), "", &line, &mut entries);
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn flatten(table: &DeTable<'_>, prefix: &str, line: &impl Fn(usize) -> usize, entries: &mut Vec<FileEntry>) {
    for (key, value) in table {
        let path =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        if let DeValue::Table(inner) = value.get_ref() {
            flatten(inner, &path, line, entries);
            continue;
        }
        if let DeValue::Array(array) = value.get_ref()
            && path == RETAIN
            && array.iter().any(|item| matches!(item.get_ref(), DeValue::Table(_)))
        {
            // One entry for each rule, with its own line.
            entries.extend(array.iter().map(|item| FileEntry {
                path: path.clone(),
                line: line(item.span().start),
                words: rule_of(item.get_ref()).map(|rule| Words::Many(vec![rule])),
            }));
            continue;
        }
        let words = match value.get_ref() {
            DeValue::Array(array) => {
                array.iter().map(|item| item_of(item.get_ref())).collect::<Option<Vec<_>>>().map(Words::Many)
            }
            value => scalar(value).map(Words::One),
        };
        entries.push(FileEntry { path, line: line(value.span().start), words });
    }
}

/// Returns an item of a list as text; an `[[endpoint]]` with `path` and `dialect` is `PATH=DIALECT`.
fn item_of(value: &DeValue<'_>) -> Option<String> {
    let DeValue::Table(table) = value else { return scalar(value) };
    let text = |key| scalar(table.get(key)?.get_ref());
    (table.len() == 2).then(|| Some(format!("{}={}", text("path")?, text("dialect")?))).flatten()
}

/// Returns a `[[retain]]` as its line.
fn rule_of(value: &DeValue<'_>) -> Option<String> {
    let DeValue::Table(table) = value else { return scalar(value) };
    let text = |value: &DeValue<'_>| match value {
        DeValue::Array(array) => {
            let items: Option<Vec<_>> = array.iter().map(|item| scalar(item.get_ref())).collect();
            items.map(|items| items.join(", "))
        }
        value => scalar(value),
    };
    let members: Option<Vec<_>> =
        table.iter().map(|(key, value)| Some((&**key.get_ref(), text(value.get_ref())?))).collect();
    Some(retain::line(members?.into_iter()))
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_become_paths_with_their_lines() {
        let text = "a = 1\nb.c = \"x\"\n[d]\ne = [\"y\", 2]\nf = true\n[d.g]\nh = 1979-05-27\n";
        let entries = read(text).expect("TOML");
        let found: Vec<_> = entries.iter().map(|e| (e.path.as_str(), e.line, e.words.clone())).collect();
        let one = |text: &str| Some(Words::One(text.to_owned()));
        let many = Some(Words::Many(vec!["y".to_owned(), "2".to_owned()]));
        assert_eq!(
            found,
            [
                ("a", 1, one("1")),
                ("b.c", 2, one("x")),
                ("d.e", 4, many),
                ("d.f", 5, one("true")),
                ("d.g.h", 7, None)
            ]
        );
    }

    #[test]
    fn endpoints_are_tables_or_texts() {
        let words = |text| read(text).expect("TOML").remove(0).words;
        let all = Some(Words::Many(vec!["/a=hive".to_owned(), "/b=native".to_owned()]));
        let tables = "[[endpoint]]\npath = \"/a\"\ndialect = \"hive\"\n[[endpoint]]\npath = \"/b\"\ndialect = \"native\"\n";
        assert_eq!(words(tables), all);
        assert_eq!(words("endpoint = [\"/a=hive\", \"/b=native\"]"), all);
        assert_eq!(words("[[endpoint]]\npath = \"/a\"\ncolour = \"red\"\n"), None);
    }

    #[test]
    fn invalid_toml_is_reported_with_its_line() {
        for (text, line) in
            [("a = 1\nb = \n", 2), ("a = 1\na = 2\n", 2), ("[x\n", 1), ("a = \"\n", 1), ("\n\n=\n", 3)]
        {
            let (at, what) = read(text).expect_err(text);
            assert_eq!((at, what.contains('\n')), (line, false), "{text}: {what}");
        }
    }
}
