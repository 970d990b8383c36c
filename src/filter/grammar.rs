//! Parses a filter's text form.
//!
//! ```text
//! filter     = [ group { "&" group } ]              all groups hold; no text: everything
//! group      = { clause }                           all clauses hold; clauses on one attribute join their values
//! clause     = attribute ( "=" | "!=" ) value { "," value }       values may be patterns
//!            | attribute ( "==" | "!==" ) value { "," value }     literal values, asterisks too
//!            | "entity" operator entity { "," entity }
//!            | path ( "exists" | "!exists" )
//!            | path ( "==" | "=" | "!=" | "<" | "<=" | ">" | ">=" ) literal { "," literal }
//!            | "nothing"
//! entity     = value ":" value
//! path       = "payload" { "." ( key | quoted ) }
//! value      = quoted | bare
//! literal    = quoted | number | "true" | "false" | "null" | bare (a text)
//! bare       = characters but space, control characters and , " ' = ! < > & ( )
//! quoted     = "…" or '…' with JSON's escapes, and \'
//! ```

use std::str::{CharIndices, FromStr};

use super::comparison::Comparison;
use super::definition::Filter;
use super::encoding::{ENTITY, Parts, Set, attribute_name, join_work, joined_sets};
use super::error::{FilterError, FilterErrorKind as Kind};
use super::lexical::{is_bare, is_bare_key};
use super::limits::{FilterLimits, JOIN_STEPS_MAX};
use super::literal::{Literal, Number, Operator};
use super::pattern::Pattern;
use crate::event::Attribute;

impl FromStr for Filter {
    type Err = FilterError;

    /// Parses the text form, within the default [`FilterLimits`].
    ///
    /// # Errors
    ///
    /// As [`Filter::parse`].
    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text, &FilterLimits::default())
    }
}

impl Filter {
    /// Parses the text form, within these limits.
    ///
    /// # Errors
    ///
    /// A [`FilterError`] with the place in the text, or with the limit that the filter exceeds.
    ///
    /// ```
    /// # use fanwire::filter::FilterLimits;
    /// # use fanwire::Filter;
    /// let filter = Filter::parse("type=task.* source!=core payload.progress >= 50", &FilterLimits::default())?;
    /// assert_eq!(filter.to_string(), "type=task.* source!=core payload.progress >= 50");
    /// # Ok::<(), fanwire::filter::FilterError>(())
    /// ```
    pub fn parse(text: &str, limits: &FilterLimits) -> Result<Self, FilterError> {
        let mut parser = Parser { text, at: 0, limits, values: 0, comparisons: 0 };
        let mut all: Option<Parts> = None;
        let mut nothing = false;
        loop {
            let group = parser.group(&mut nothing)?;
            match &mut all {
                None => all = Some(group),
                Some(all) => {
                    all.sets.extend(group.sets);
                    all.comparisons.extend(group.comparisons);
                }
            }
            if !parser.take("&") {
                break;
            }
        }
        if let Some(all) = &all
            && join_work(joined_sets(&all.sets)) > JOIN_STEPS_MAX
        {
            return Err(FilterError::whole(Kind::TooMuchToJoin));
        }
        let filter = if nothing { Self::nothing() } else { Self::from_parts(all.unwrap_or_default()) };
        filter.check(limits)?;
        Ok(filter)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    limits: &'a FilterLimits,
    /// Number of values and comparisons read so far, repetitions included.
    values: usize,
    comparisons: usize,
}

/// Value, and whether it was quoted.
struct ValueToken {
    text: String,
    quoted: bool,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, offset: usize, kind: Kind) -> Result<T, FilterError> {
        Err(FilterError::at(self.text, offset, kind))
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Skips `token`, and the space before it, if it comes next.
    fn take(&mut self, token: &str) -> bool {
        let before = self.at;
        self.space();
        let found = self.rest().starts_with(token);
        self.at = if found { self.at + token.len() } else { before };
        found
    }

    fn run(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn group(&mut self, nothing: &mut bool) -> Result<Parts, FilterError> {
        let mut parts = Parts::default();
        loop {
            self.space();
            let start = self.at;
            if self.rest().is_empty() || self.rest().starts_with('&') {
                return Ok(parts);
            }
            let name = self.run(|c| c.is_ascii_alphanumeric() || c == '_');
            match name {
                "" => match self.rest().chars().next() {
                    Some(c) if !is_bare(c) => return self.fail(start, Kind::Unexpected(c)),
                    _ => return self.fail(start, Kind::ExpectedName),
                },
                "payload" => {
                    // Repetitions are dropped in the end, so the text may have more comparisons than the filter.
                    self.comparisons += 1;
                    if self.comparisons > self.limits.comparisons_max.max(self.limits.values_max) {
                        let kind = Kind::TooManyComparisons(self.comparisons, self.limits.comparisons_max);
                        return self.fail(start, kind);
                    }
                    let comparison = self.comparison()?;
                    parts.comparisons.push(comparison);
                }
                "nothing" => *nothing = true,
                _ => {
                    let Some(about) = about(name) else {
                        let name = name.chars().take(40).collect();
                        return self.fail(start, Kind::UnknownAttribute(name));
                    };
                    self.set(about, &mut parts)?;
                }
            }
            // Clauses are separated, so that `type="a"source=b` is an error and not two clauses.
            match self.rest().chars().next() {
                None | Some('&') => {}
                Some(c) if c.is_whitespace() => {}
                Some(c) => return self.fail(self.at, Kind::Unexpected(c)),
            }
        }
    }

    /// Counts one more value of the text. The limit applies before anything is built: joining sets takes time in the
    /// product of their sizes.
    fn count_value(&mut self, start: usize) -> Result<(), FilterError> {
        self.values += 1;
        if self.values > self.limits.values_max {
            return self.fail(start, Kind::TooManyValues(self.values, self.limits.values_max));
        }
        Ok(())
    }

    fn set(&mut self, about: u8, parts: &mut Parts) -> Result<(), FilterError> {
        self.space();
        let operator = self.at;
        let (negated, exact) = match self.run(|c| matches!(c, '=' | '!' | '<' | '>')) {
            "=" => (false, false),
            "==" => (false, true),
            "!=" => (true, false),
            "!==" => (true, true),
            other => {
                let known = Operator::ALL.into_iter().find(|operator| operator.symbol() == other);
                return match known {
                    Some(known) => self.fail(operator, Kind::OperatorOfPayload(known.symbol())),
                    None => self.fail(operator, Kind::ExpectedOperator),
                };
            }
        };
        let place = parts.sets.iter().position(|set| set.about == about && set.negated == negated);
        let place = place.unwrap_or_else(|| {
            parts.sets.push(Set { about, negated, members: Vec::new() });
            parts.sets.len() - 1
        });
        let make = |text: String| if exact { Pattern::exact(text) } else { Pattern::new(text) };
        loop {
            self.space();
            let start = self.at;
            let member = if about == ENTITY {
                let (kind, id) = self.entity()?;
                (make(kind), Some(make(id)))
            } else {
                (make(self.word(is_bare)?.text), None)
            };
            for pattern in [Some(&member.0), member.1.as_ref()].into_iter().flatten() {
                self.limits
                    .check_pattern(pattern.as_ref())
                    .map_err(|kind| FilterError::at(self.text, start, kind))?;
            }
            self.count_value(start)?;
            parts.sets[place].members.push(member);
            if !self.take(",") {
                return Ok(());
            }
        }
    }

    /// Parses an entity. A bare kind ends at the first colon. A quoted kind is complete if a colon follows it;
    /// otherwise the colon is inside the quotes.
    fn entity(&mut self) -> Result<(String, String), FilterError> {
        let start = self.at;
        let kind = self.word(|c| is_bare(c) && c != ':')?;
        if self.rest().starts_with(':') {
            self.at += 1;
            return Ok((kind.text, self.word(is_bare)?.text));
        }
        match kind.text.split_once(':') {
            Some((kind, id)) => Ok((kind.to_owned(), id.to_owned())),
            None => self.fail(start, Kind::ExpectedEntity),
        }
    }

    fn word(&mut self, bare: impl Fn(char) -> bool) -> Result<ValueToken, FilterError> {
        let start = self.at;
        if self.rest().starts_with(['"', '\'']) {
            return Ok(ValueToken { text: self.quoted()?, quoted: true });
        }
        let text = self.run(bare);
        if text.is_empty() {
            return self.fail(start, Kind::ExpectedValue);
        }
        Ok(ValueToken { text: text.to_owned(), quoted: false })
    }

    fn quoted(&mut self) -> Result<String, FilterError> {
        let start = self.at;
        let mut chars = self.rest().char_indices();
        let quote = chars.next().map(|(_, c)| c);
        let mut text = String::new();
        while let Some((offset, c)) = chars.next() {
            if Some(c) == quote {
                self.at = start + offset + 1;
                return Ok(text);
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let escape = chars.next().map(|(_, c)| c);
            let plain = match escape {
                Some(c @ ('"' | '\'' | '\\' | '/')) => Some(c),
                Some('b') => Some('\u{8}'),
                Some('f') => Some('\u{c}'),
                Some('n') => Some('\n'),
                Some('r') => Some('\r'),
                Some('t') => Some('\t'),
                Some('u') => unicode_escape(&mut chars),
                _ => None,
            };
            match plain {
                Some(plain) => text.push(plain),
                None => return self.fail(start + offset, Kind::BadEscape),
            }
        }
        self.fail(start, Kind::UnclosedQuote)
    }

    /// Parses a comparison, after `payload`.
    fn comparison(&mut self) -> Result<Comparison, FilterError> {
        let path_start = self.at;
        let mut path: Vec<Box<str>> = Vec::new();
        while self.rest().starts_with('.') {
            self.at += 1;
            let start = self.at;
            let key = if self.rest().starts_with(['"', '\'']) {
                self.quoted()?
            } else {
                let key = self.run(is_bare_key);
                if key.is_empty() {
                    return self.fail(start, Kind::ExpectedKey);
                }
                key.to_owned()
            };
            path.push(key.into());
        }
        self.limits.check_path(&path).map_err(|kind| FilterError::at(self.text, path_start, kind))?;
        self.space();
        let start = self.at;
        for operator in [Operator::Exists, Operator::Missing] {
            if self.rest().starts_with(operator.symbol()) {
                self.at += operator.symbol().len();
                return Ok(Comparison::new(path, operator, Vec::new()));
            }
        }
        let operator = match self.run(|c| matches!(c, '=' | '!' | '<' | '>')) {
            "=" => Operator::Equal,
            symbol => match Operator::ALL.into_iter().find(|operator| operator.symbol() == symbol) {
                Some(operator) => operator,
                None => return self.fail(start, Kind::ExpectedOperator),
            },
        };
        let mut values = Vec::new();
        loop {
            self.space();
            let start = self.at;
            let value = self.word(is_bare)?;
            self.limits
                .check_bytes(value.text.len())
                .map_err(|kind| FilterError::at(self.text, start, kind))?;
            self.count_value(start)?;
            values.push(literal(value));
            if !self.take(",") {
                return Ok(Comparison::new(path, operator, values));
            }
        }
    }
}

/// Parses the character of a JSON escape, after its `\u`. A character outside the basic plane is a pair of escapes.
fn unicode_escape(chars: &mut CharIndices<'_>) -> Option<char> {
    let unit = |chars: &mut CharIndices<'_>| {
        (0..4).try_fold(0, |code, _| Some(code * 16 + chars.next()?.1.to_digit(16)?))
    };
    let high = unit(chars)?;
    if !(0xd800..0xdc00).contains(&high) {
        return char::from_u32(high);
    }
    if chars.next()?.1 != '\\' || chars.next()?.1 != 'u' {
        return None;
    }
    let low = unit(chars)?;
    if !(0xdc00..0xe000).contains(&low) {
        return None;
    }
    char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
}

fn literal(word: ValueToken) -> Literal {
    match word.text.as_str() {
        _ if word.quoted => Literal::Text(word.text.into()),
        "null" => Literal::Null,
        "true" => Literal::Bool(true),
        "false" => Literal::Bool(false),
        text => match Number::from_json(text) {
            Some(number) => Literal::Number(number),
            None => Literal::Text(word.text.into()),
        },
    }
}

/// Returns the subject with this name. The field names of event objects are accepted too.
fn about(name: &str) -> Option<u8> {
    let name = match name {
        "entity" => return Some(ENTITY),
        "event_type" => "type",
        "stream_id" => "stream",
        "execution_id" => "execution",
        "correlation_id" => "correlation",
        name => name,
    };
    (0..Attribute::COUNT as u8).find(|&about| attribute_name(about) == name)
}
