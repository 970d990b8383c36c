//! JSON Schemas that the payloads of published events must satisfy.
//!
//! Invariants:
//! - Schemas are compiled once, when the configuration is read. A wrong schema refuses the configuration, never an event.
//! - An event must satisfy every schema with a name that matches its type.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jsonschema::Validator;

use crate::dialect::DocumentSchemas;
use crate::event::Event;
use crate::filter::Pattern;

/// Schemas that payloads must satisfy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaConfig {
    /// Folder of JSON Schemas: `task.progress.json` is for that event type, `task.*.json` for all types that match the
    /// pattern. Default: none, payloads are not checked.
    pub dir: Option<PathBuf>,
    /// Whether events with a type that has no schema are refused. Default: false.
    pub refuse_unknown: bool,
    /// Whether messages of AutoSDLC's clients and events of its types must fit the schemas of its document. Default: false.
    #[cfg(feature = "dialects")]
    pub autosdlc: bool,
}

/// Maximum size of a fault's text, in bytes. It may contain a value of the payload.
const FAULT_BYTES_MAX: usize = 300;

/// The compiled schemas of one folder.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    exact: HashMap<String, Validator>,
    patterns: Vec<(Pattern, Validator)>,
    refuse_unknown: bool,
    documents: DocumentSchemas,
}

impl Schemas {
    /// Reads and compiles a folder. Blocks for its files.
    pub(crate) fn load(config: &SchemaConfig) -> io::Result<Self> {
        let documents = DocumentSchemas {
            #[cfg(feature = "dialects")]
            autosdlc: config.autosdlc.then(Box::default),
        };
        let Some(dir) = &config.dir else { return Ok(Self { documents, ..Self::default() }) };
        let mut schemas = Self { refuse_unknown: config.refuse_unknown, documents, ..Self::default() };
        let at = |path: &Path, error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {error}", path.display()))
        };
        for entry in fs::read_dir(dir).map_err(|error| at(dir, &error))? {
            let path = entry.map_err(|error| at(dir, &error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(name) =
                name.strip_suffix(".json").filter(|name| !name.is_empty() && !name.starts_with('.'))
            else {
                continue;
            };
            let text = fs::read(&path).map_err(|error| at(&path, &error))?;
            let schema = serde_json::from_slice(&text).map_err(|error| at(&path, &error))?;
            let validator = jsonschema::validator_for(&schema)
                .map_err(|error| at(&path, &format!("no schema: {}: {error}", error.instance_path())))?;
            let pattern = Pattern::new(name);
            if pattern.is_exact() {
                schemas.exact.insert(name.to_owned(), validator);
            } else {
                schemas.patterns.push((pattern, validator));
            }
        }
        tracing::info!(schemas = schemas.exact.len() + schemas.patterns.len(), dir = %dir.display(), "schemas compiled");
        Ok(schemas)
    }

    /// Returns the schemas of the dialects' documents.
    pub(crate) fn of_documents(&self) -> &DocumentSchemas {
        &self.documents
    }

    /// Checks whether an event may be published; the error names the place in its payload.
    pub(crate) fn check(&self, event: &Event) -> Result<(), String> {
        let event_type = event.event_type();
        let exact = self.exact.get(event_type);
        let by_pattern = self.patterns.iter().filter(|(pattern, _)| pattern.matches(event_type));
        let is_of_document = self.documents.knows(event_type);
        let mut validators = exact.into_iter().chain(by_pattern.map(|(_, validator)| validator)).peekable();
        if validators.peek().is_none() && !is_of_document {
            return if self.refuse_unknown {
                Err(format!("there is no schema for the type {}", cut(event_type)))
            } else {
                Ok(())
            };
        }
        let payload = serde_json::from_str(event.payload()).map_err(|error| format!("payload: {error}"))?;
        if is_of_document {
            let describe = |faults: Vec<String>| format!("payload{}", faults.join("; payload"));
            self.documents.check_event(event_type, &payload).map_err(describe)?;
        }
        for validator in validators {
            if let Err(error) = validator.validate(&payload) {
                return Err(format!(
                    "payload{}: {}",
                    cut(error.instance_path().as_str()),
                    cut(&error.to_string())
                ));
            }
        }
        Ok(())
    }
}

fn cut(text: &str) -> String {
    if text.len() <= FAULT_BYTES_MAX {
        return text.to_owned();
    }
    let mut end = FAULT_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let dir = std::env::temp_dir().join(format!("fanwire-schemas-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).expect("a temporary folder");
            for (name, text) in files {
                fs::write(dir.join(name), text).expect("a file in it");
            }
            Self(dir)
        }

        fn load(&self, refuse_unknown: bool) -> io::Result<Schemas> {
            Schemas::load(&SchemaConfig {
                dir: Some(self.0.clone()),
                refuse_unknown,
                ..SchemaConfig::default()
            })
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn event(event_type: &str, payload: &str) -> Event {
        Event::builder(event_type).json(payload).build().expect("an event")
    }

    const PROGRESS: &str = r#"{"type":"object","required":["progress"],
        "properties":{"progress":{"type":"integer","maximum":100},"steps":{"items":{"type":"string"}}}}"#;
    const HAS_ID: &str = r#"{"required":["id"]}"#;

    #[test]
    fn a_fault_is_reported_with_its_place_in_the_payload() {
        let folder = Folder::new("place", &[("task.progress.json", PROGRESS), ("notes.txt", "no schema")]);
        let schemas = folder.load(false).expect("compiled");
        let check = |payload| schemas.check(&event("task.progress", payload));
        assert_eq!(check(r#"{"progress":42}"#), Ok(()));
        assert_eq!(
            check(r#"{"progress":142}"#),
            Err("payload/progress: 142 is greater than the maximum of 100".into())
        );
        assert_eq!(check("{}"), Err("payload: \"progress\" is a required property".into()));
        let error = check(r#"{"progress":1,"steps":["a",2]}"#).expect_err("a number");
        assert!(error.starts_with("payload/steps/1: "), "{error}");
        let long = format!(r#"{{"progress":"{}"}}"#, "é".repeat(10_000));
        assert!(check(&long).expect_err("a text").len() < 400);
        assert_eq!(schemas.check(&event("task.started", "5")), Ok(()), "unknown types are free");
    }

    #[test]
    fn every_schema_that_matches_the_type_has_to_hold() {
        let folder = Folder::new("patterns", &[("task.*.json", HAS_ID), ("task.progress.json", PROGRESS)]);
        let schemas = folder.load(true).expect("compiled");
        let check = |kind: &str, payload: &str| schemas.check(&event(kind, payload)).is_ok();
        assert!(check("task.progress", r#"{"id":1,"progress":1}"#));
        assert!(!check("task.progress", r#"{"progress":1}"#), "the pattern's");
        assert!(!check("task.progress", r#"{"id":1}"#), "its own");
        assert!(check("task.started", r#"{"id":1}"#));
        let error = schemas.check(&event("other", "{}"));
        assert_eq!(error, Err("there is no schema for the type other".into()));
    }

    #[test]
    fn an_invalid_schema_is_reported_with_its_file() {
        for (name, text) in
            [("a.json", "nope"), ("b.json", r#"{"type":5}"#), ("c.json", r#"{"$ref":"http://x.example/s"}"#)]
        {
            let folder = Folder::new("bad", &[(name, text)]);
            let error = folder.load(false).expect_err(name).to_string();
            assert!(error.contains(&format!("/{name}: ")), "{error}");
        }
        let missing = SchemaConfig { dir: Some("/nonexistent/schemas".into()), ..SchemaConfig::default() };
        assert!(
            Schemas::load(&missing).expect_err("missing").to_string().starts_with("/nonexistent/schemas: ")
        );
    }
}
