//! API keys: long random texts. The server stores only their hashes, one line of JSON per key: `{"id", "hash", …claims}`.
//!
//! Invariant: the time of a search depends only on the hash of the presented text, never on a key.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::claims::Claims;
use super::grant::Grant;
use super::jwt::proof;
use super::template::Templates;
use super::{Denied, Fault};

/// Names of the claims that a line may hold in addition to `id` and `hash`. Any other name is an error, because a misspelt claim must
/// not widen a grant.
const CLAIMS: [&str; 12] = [
    "sub", "exp", "nbf", "streams", "types", "channels", "entities", "filter", "publish", "purge", "metrics",
    "admin",
];

/// Prefix of a hash in the file.
const PREFIX: &str = "sha256:";

#[derive(Debug)]
struct Entry {
    hash: [u8; 32],
    not_before: Option<i64>,
    grant: Arc<Grant>,
}

/// Keys of a file, by the first bytes of their hashes.
#[derive(Debug, Default)]
pub(super) struct ApiKeys {
    entries: HashMap<[u8; 8], Vec<Entry>>,
}

fn hash_of(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn first(hash: &[u8; 32]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    first
}

/// Returns a key's hash in the form of the file.
pub(super) fn hash_text(key: &str) -> String {
    let mut text = PREFIX.to_owned();
    for byte in hash_of(key) {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn read_hash(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix(PREFIX)?.as_bytes();
    let mut hash = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(hash)
}

impl ApiKeys {
    /// Reads a file's text. Skips empty lines and lines that start with `#`. An error names the line.
    pub(super) fn read(text: &str, templates: &Templates) -> Result<Self, String> {
        let mut keys = Self::default();
        for (number, line) in super::lines(text) {
            let entry = read_line(line, templates).map_err(|what| format!("line {number}: {what}"))?;
            let entries = keys.entries.entry(first(&entry.hash)).or_default();
            if entries.iter().any(|other| other.hash == entry.hash) {
                return Err(format!("line {number}: this key is in the file twice"));
            }
            entries.push(entry);
        }
        Ok(keys)
    }

    /// Returns the grant of a key, or `None` if the file has no such key.
    pub(super) fn find(&self, key: &str, now: i64) -> Option<Result<Arc<Grant>, Denied>> {
        let hash = hash_of(key);
        let entries = self.entries.get(&first(&hash))?;
        let entry = entries.iter().find(|entry| bool::from(entry.hash.ct_eq(&hash)))?;
        Some(if entry.not_before.is_some_and(|second| second > now) {
            Err(Denied::NotYet)
        } else if entry.grant.expires().is_some_and(|second| second <= now) {
            Err(Denied::Expired)
        } else {
            Ok(Arc::clone(&entry.grant))
        })
    }

    /// Returns whether the file still has the key, with equal rights.
    pub(super) fn has(&self, proof: u64) -> bool {
        self.entries.values().flatten().any(|entry| entry.grant.proof() == proof)
    }
}

fn read_line(line: &str, templates: &Templates) -> Result<Entry, String> {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(line).map_err(|_| "not a JSON object".to_owned())?;
    let mut text = |name: &str| match fields.remove(name) {
        Some(serde_json::Value::String(text)) if !text.is_empty() => Ok(text),
        _ => Err(format!("{name} is missing, or no text")),
    };
    let (id, hash) = (text("id")?, text("hash")?);
    let hash = read_hash(&hash).ok_or_else(|| format!("hash is not {PREFIX} and 64 hexadecimal digits"))?;
    if let Some(name) = fields.keys().find(|name| !CLAIMS.contains(&name.as_str())) {
        return Err(format!("'{name}' is none of id, hash, {}", CLAIMS.join(", ")));
    }
    let mut claims: Claims = serde_json::from_value(fields.into()).map_err(|error| error.to_string())?;
    claims.sub.get_or_insert(id);
    // Hash of the whole line, so that a key with other rights counts as another key.
    let proof = proof(&[b"api key", line.as_bytes()]);
    let grant = Arc::new(Grant::new(&claims, claims.exp, proof, templates)?);
    Ok(Entry { hash, not_before: claims.nbf, grant })
}

impl From<Fault> for Denied {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, key: &str, rest: &str) -> String {
        format!(r#"{{"id":"{id}","hash":"{}"{rest}}}"#, hash_text(key))
    }

    #[test]
    fn a_key_is_found_by_itself_alone() {
        let text = format!(
            "# keys\n\n{}\n{}\n",
            line("ci", "key-one", r#","publish":true"#),
            line("old", "key-two", r#","exp":100,"nbf":10"#)
        );
        let keys = ApiKeys::read(&text, &Templates::default()).expect("a file");
        let grant = keys.find("key-one", 0).expect("known").expect("good");
        assert!(grant.publishes());
        assert_eq!(grant.subject(), "ci");
        assert!(keys.has(grant.proof()) && !keys.has(1));
        assert_eq!(keys.find("key-two", 5).expect("known").expect_err("early"), Denied::NotYet);
        assert!(keys.find("key-two", 50).expect("known").is_ok());
        assert_eq!(keys.find("key-two", 100).expect("known").expect_err("late"), Denied::Expired);
        for other in ["", "key-on", "key-one ", &hash_text("key-one")] {
            assert!(keys.find(other, 0).is_none(), "{other}");
        }
    }

    #[test]
    fn a_fault_in_the_file_is_reported_with_its_line() {
        for (rest, said) in [
            (r#","stream":["a"]"#, "'stream' is none of"),
            (r#","streams":[5]"#, "line 2"),
            (r#","hash":"sha256:00""#, "hash is not sha256:"),
            ("", "twice"),
        ] {
            let text = format!("{}\n{}", line("a", "k", ""), line("b", "k", rest));
            let error = ApiKeys::read(&text, &Templates::default()).expect_err(rest);
            assert!(error.contains(said) && error.starts_with("line 2"), "{error}");
        }
        assert!(ApiKeys::read("nonsense", &Templates::default()).expect_err("no JSON").starts_with("line 1"));
        assert!(
            ApiKeys::read(r#"{"id":"a"}"#, &Templates::default())
                .expect_err("no hash")
                .contains("hash is missing")
        );
    }
}
