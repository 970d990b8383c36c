//! Templates of channels that a grant adds to a token's own: texts with claims in braces, as `user:{sub}`.
//!
//! Invariants:
//! - A template becomes one channel. No character of a claim has a special meaning: `*`, `:` and `.` are literal.
//! - If a claim is absent or empty, or no event can have the channel, the template adds none, never a shorter one.

use std::sync::Arc;

use crate::event::may_be_attribute;

/// Template of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    text: Box<str>,
    parts: Box<[TemplatePart]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplatePart {
    Text(Box<str>),
    Claim(TemplateClaim),
}

/// Claim of a token that a template may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TemplateClaim {
    Subject,
    TokenId,
}

/// Claims by their names in templates.
const CLAIMS: [(&str, TemplateClaim); 2] = [("sub", TemplateClaim::Subject), ("jti", TemplateClaim::TokenId)];

/// Templates of the configuration.
pub(crate) type Templates = Arc<[Template]>;

impl Template {
    /// Reads a template's text. The error describes the fault.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) =
                after.split_once('}').ok_or_else(|| format!("`{text}` has a brace that is not closed"))?;
            let claim = CLAIMS.iter().find(|(known, _)| *known == name).map(|(_, claim)| *claim);
            let claim =
                claim.ok_or_else(|| format!("`{{{name}}}` in `{text}` is none of {{sub}} and {{jti}}"))?;
            parts.push(TemplatePart::Text(before.into()));
            parts.push(TemplatePart::Claim(claim));
            rest = after;
        }
        parts.push(TemplatePart::Text(rest.into()));
        let texts = parts
            .iter()
            .filter_map(|part| if let TemplatePart::Text(text) = part { Some(text) } else { None });
        if texts.clone().any(|text| text.contains(['*', '}'])) {
            return Err(format!("`{text}` has `*` or `}}`: a template is one channel, as user:{{sub}}"));
        }
        if text.is_empty() {
            return Err("a template is empty".to_owned());
        }
        Ok(Self { text: text.into(), parts: parts.into() })
    }

    /// Returns the template's own text, by which a subscription may name the channel.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the channel for a token of this subject and id; `None` if one that the template names is empty, or if no event
    /// can have the channel.
    pub(crate) fn channel(&self, subject: &str, token_id: &str) -> Option<String> {
        let mut channel = String::with_capacity(self.text.len() + subject.len());
        for part in &self.parts {
            let value = match part {
                TemplatePart::Text(text) => text,
                TemplatePart::Claim(TemplateClaim::Subject) => Some(subject).filter(|it| !it.is_empty())?,
                TemplatePart::Claim(TemplateClaim::TokenId) => Some(token_id).filter(|it| !it.is_empty())?,
            };
            channel.push_str(value);
        }
        Some(channel).filter(|channel| may_be_attribute(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_taken_as_it_is() {
        let template = Template::parse("user:{sub}").expect("a template");
        for subject in ["alice", "*", "**", "a:b", "a.b/c", "{sub}", "}", " ", "é\u{1f600}"] {
            assert_eq!(template.channel(subject, ""), Some(format!("user:{subject}")));
        }
        let both = Template::parse("{sub}/session-{jti}-x").expect("a template");
        assert_eq!(both.channel("a", "7").as_deref(), Some("a/session-7-x"));
        assert_eq!(Template::parse("lobby").expect("a template").channel("", "").as_deref(), Some("lobby"));
    }

    #[test]
    fn without_the_claim_there_is_no_channel() {
        let template = Template::parse("user:{sub}:{jti}").expect("a template");
        for (subject, id) in [("", ""), ("a", ""), ("", "7")] {
            assert_eq!(template.channel(subject, id), None);
        }
    }

    #[test]
    fn a_channel_that_no_event_can_have_is_none() {
        let template = Template::parse("user:{sub}").expect("a template");
        let long = "x".repeat(1020);
        assert_eq!(template.channel(&long[1..], "").map(|channel| channel.len()), Some(1024));
        for subject in [&*long, "a\nb", "\0", "\u{85}"] {
            assert_eq!(template.channel(subject, ""), None, "{subject:?}");
        }
    }

    #[test]
    fn an_invalid_template_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("user:{sub", "not closed"),
            ("user:{", "not closed"),
            ("user:{email}", "{email}"),
            ("user:{}", "{}"),
            ("user:{ sub }", "none of"),
            ("user:*", "one channel"),
            ("{sub}.**", "one channel"),
            ("user:sub}", "one channel"),
            ("user:{{sub}}", "none of"),
        ] {
            let error = Template::parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
