//! Parses the text form of past findings.
//!
//! `cargo xtask fuzz` uses this too. A case is some lines of comment (`# …`), then its bytes as lines of quoted text (`"…"`,
//! in order) with `\x0a`, `\r`, `\n`, `\t`, `\"` and `\\`. An empty line ends it.

/// An input and its description.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) what: String,
    pub(crate) bytes: Vec<u8>,
}

/// Returns the cases of a file, or the first line that belongs to no case.
pub(crate) fn read(text: &str) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for part in text.split("\n\n").filter(|part| part.lines().any(|line| line.starts_with('"'))) {
        let mut case = Case { what: String::new(), bytes: Vec::new() };
        for line in part.lines().filter(|line| !line.is_empty()) {
            let quoted = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            match (line.strip_prefix("# "), quoted) {
                (Some(comment), _) => {
                    case.what += if case.what.is_empty() { "" } else { " " };
                    case.what += comment;
                }
                (_, Some(quoted)) => unescape(quoted, &mut case.bytes).ok_or_else(|| line.to_owned())?,
                _ => return Err(line.to_owned()),
            }
        }
        cases.push(case);
    }
    Ok(cases)
}

fn unescape(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.extend_from_slice(plain.as_bytes());
        let taken = match escaped.as_bytes().first()? {
            b'x' => {
                out.push(u8::from_str_radix(escaped.get(1..3)?, 16).ok()?);
                3
            }
            b'r' => push(out, b'\r'),
            b'n' => push(out, b'\n'),
            b't' => push(out, b'\t'),
            same @ (b'"' | b'\\') => push(out, *same),
            _ => return None,
        };
        rest = &escaped[taken..];
    }
    out.extend_from_slice(rest.as_bytes());
    Some(())
}

fn push(out: &mut Vec<u8>, byte: u8) -> usize {
    out.push(byte);
    1
}
