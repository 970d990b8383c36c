//! Writes a filter's text form.
//!
//! Always: `grammar` parses it as the same filter.

use std::fmt;

use super::comparison::Comparison;
use super::definition::Filter;
use super::encoding::{Clause, ENTITY, NOTHING, SetRef, attribute_name};
use super::lexical::{is_bare, is_bare_key, write_quoted};
use super::pattern::{PatternKind, PatternRef, has_wildcard};

impl fmt::Display for Filter {
    /// Writes the canonical text: clauses in the order of the attributes, values sorted. Empty if the filter matches
    /// everything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes() == NOTHING {
            return f.write_str("nothing");
        }
        // Several sets on one attribute, which must all hold, are in different groups, separated by `&`: the nth set in
        // the nth group.
        let mut separator = "";
        for group in 0.. {
            let mut last = None;
            let mut nth = 0;
            let mut more = false;
            for clause in self.clauses() {
                match clause {
                    Clause::Set(set) => {
                        nth = if last == Some((set.about, set.negated)) { nth + 1 } else { 0 };
                        last = Some((set.about, set.negated));
                        more |= nth > group;
                        if nth == group {
                            write_set(set, &mut separator, f)?;
                        }
                    }
                    Clause::Comparison(comparison) if group == 0 => {
                        f.write_str(separator)?;
                        separator = " ";
                        write_comparison(&comparison.to_comparison(), f)?;
                    }
                    Clause::Comparison(_) => {}
                }
            }
            if !more {
                break;
            }
            separator = " & ";
        }
        Ok(())
    }
}

/// Values that would be parsed as patterns but are exact go into a clause of their own, with `==`.
fn write_set(set: SetRef<'_>, separator: &mut &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let literal = |pattern: PatternRef<'_>| pattern.kind == PatternKind::Exact && has_wildcard(pattern.text);
    for (exact, operator) in [(false, ["=", "!="]), (true, ["==", "!=="])] {
        let mut between = "";
        for (first, second) in set.members() {
            if (literal(first) || second.is_some_and(literal)) != exact {
                continue;
            }
            if between.is_empty() {
                let name = if set.about == ENTITY { "entity" } else { attribute_name(set.about) };
                write!(f, "{separator}{name}{}", operator[usize::from(set.negated)])?;
                *separator = " ";
                between = ",";
            } else {
                f.write_str(between)?;
            }
            let first = String::from_utf8_lossy(first.text);
            match second {
                None => write_value(&first, f)?,
                Some(second) => {
                    // A bare kind ends at the first colon.
                    if first.contains(':') {
                        write_quoted(&first, f)?;
                    } else if !first.is_empty() {
                        write_value(&first, f)?;
                    } else {
                        f.write_str("\"\"")?;
                    }
                    f.write_str(":")?;
                    write_value(&String::from_utf8_lossy(second.text), f)?;
                }
            }
        }
    }
    Ok(())
}

fn write_comparison(comparison: &Comparison, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("payload")?;
    for key in &comparison.path {
        f.write_str(".")?;
        if !key.is_empty() && key.chars().all(is_bare_key) {
            f.write_str(key)?;
        } else {
            write_quoted(key, f)?;
        }
    }
    write!(f, " {}", comparison.operator.symbol())?;
    for (nth, value) in comparison.values.iter().enumerate() {
        write!(f, "{}{value}", if nth == 0 { " " } else { "," })?;
    }
    Ok(())
}

fn write_value(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !text.is_empty() && text.chars().all(is_bare) { f.write_str(text) } else { write_quoted(text, f) }
}
