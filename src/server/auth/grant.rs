//! Rights of one token, in a form that is fast to check.
//!
//! Invariant: the visible events are a filter, which is joined with every filter that the holder requests, so an
//! invisible event is never matched.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::claims::{Claims, PublishRight};
use super::template::Templates;
use crate::dialect::{Complete, OwnChannel};
use crate::event::{Attribute, Event};
use crate::filter::{EditedList, Filter, FilterError, FilterLimits, Pattern};

/// Rights of a connection, from a token, an API key or the configuration.
#[derive(Debug)]
pub(crate) struct Grant {
    subject: Box<str>,
    sees: Filter,
    lists: Lists,
    /// Filter of the claim `filter`; matches everything if there is none.
    condition: Filter,
    publishes: Publishes,
    purges: bool,
    metrics: bool,
    admin: bool,
    /// Second from which the grant is invalid, leeway included.
    expires: Option<i64>,
    issued: Option<i64>,
    token_id: Option<Box<str>>,
    /// Key that the grant rests on. The grant ends with the key.
    proof: u64,
    /// Templates of channels that the grant adds. They come last in the list, as exact values.
    templates: Templates,
    /// Number of channels of the claim `channels`; `None` without the claim.
    own_channels: Option<usize>,
    /// The only channels that the holder may see, if the claims alone would let it see nothing. They do not bound what it may
    /// publish.
    only_channels: Option<Box<[Pattern]>>,
}

/// A grant in a form for another process: its rights, and the key that it rests on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedGrant {
    /// Claims for older versions. If there is a claim `filter`, they allow nothing, because those versions ignore it
    /// and would grant too much.
    claims: Claims,
    pub(super) expires: Option<i64>,
    pub(super) proof: u64,
    /// The real claims, if there is a claim `filter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filtered: Option<Claims>,
}

impl SavedGrant {
    /// Returns the claims that were saved.
    pub(super) fn claims(&self) -> &Claims {
        self.filtered.as_ref().unwrap_or(&self.claims)
    }
}

/// The four lists; `None` allows everything.
#[derive(Debug, Default)]
struct Lists {
    types: Option<Box<[Pattern]>>,
    streams: Option<Box<[Pattern]>>,
    channels: Option<Box<[Pattern]>>,
    entities: Option<Box<[(Pattern, Pattern)]>>,
}

#[derive(Debug)]
enum Publishes {
    Nothing,
    Everything,
    Types(Box<[Pattern]>),
}

/// Returns whether a list allows everything, also events without the attribute, because it holds `*`.
fn is_all(list: &[String]) -> bool {
    list.iter().any(|pattern| pattern == "*")
}

fn patterns(list: Option<&[String]>) -> Option<Box<[Pattern]>> {
    list.filter(|list| !is_all(list)).map(|list| list.iter().map(Pattern::from).collect())
}

fn allows(list: Option<&[Pattern]>, value: &str) -> bool {
    list.is_none_or(|list| list.iter().any(|pattern| pattern.matches(value)))
}

fn bytes_of(patterns: &[Pattern]) -> usize {
    patterns.iter().map(|pattern| size_of::<Pattern>() + pattern.as_str().len() + 16).sum()
}

impl Grant {
    /// Returns the grant of these claims, valid until `expires`, or the fault of a pattern. `templates` are channels that are
    /// added.
    pub(super) fn new(
        claims: &Claims,
        expires: Option<i64>,
        proof: u64,
        templates: &Templates,
    ) -> Result<Self, String> {
        let Claims { streams, types, channels, entities, .. } = claims;
        let mut lists = Lists {
            types: patterns(types.as_deref()),
            streams: patterns(streams.as_deref()),
            channels: patterns(channels.as_deref()),
            entities: entities
                .as_deref()
                .filter(|list| !is_all(list))
                .map(|list| list.iter().map(|text| entity_patterns(text)).collect()),
        };
        let condition: Filter = match claims.filter.as_deref() {
            Some(text) => text.parse().map_err(|error: FilterError| error.to_string())?,
            None => Filter::new(),
        };
        // A condition that matches everything counts as absent, so that it does not become the right to see everything.
        let is_unspecified = condition.is_everything()
            && [streams, types, channels, entities].iter().all(|list| list.is_none());
        let subject = claims.sub.as_deref().or(claims.user_id.as_deref()).unwrap_or_default();
        let token_id = claims.jti.as_deref().unwrap_or_default();
        let own_channels = lists.channels.as_ref().map(|list| list.len());
        let added = templates.iter().filter_map(|template| template.channel(subject, token_id));
        let added: Box<[Pattern]> = added.map(Pattern::exact).collect();
        if let Some(own) = lists.channels.take() {
            lists.channels = Some(own.into_iter().chain(added.iter().cloned()).collect());
        }
        let only_channels = (is_unspecified && !templates.is_empty()).then_some(added);
        let sees = match &only_channels {
            Some(only) if !only.is_empty() => {
                Filter::new().any_of(Attribute::Channel, only.iter().cloned()).and(&condition)
            }
            _ if is_unspecified => Filter::nothing(),
            _ => lists.filter().and(&condition),
        };
        let publishes = match &claims.publish {
            PublishRight::None => Publishes::Nothing,
            PublishRight::All => Publishes::Everything,
            PublishRight::Types(types) => {
                patterns(Some(types)).map_or(Publishes::Everything, Publishes::Types)
            }
        };
        let limits = FilterLimits::default();
        sees.check(&limits).map_err(|error| error.to_string())?;
        if let Publishes::Types(types) = &publishes {
            let filter = Filter::new().any_of(Attribute::Type, types.iter().cloned());
            filter.check(&limits).map_err(|error| error.to_string())?;
        }
        Ok(Self {
            subject: subject.into(),
            sees,
            lists,
            condition,
            publishes,
            purges: claims.purge,
            metrics: claims.metrics,
            admin: claims.admin,
            expires,
            issued: claims.iat,
            token_id: claims.jti.as_deref().map(Box::from),
            proof,
            templates: Arc::clone(templates),
            own_channels,
            only_channels,
        })
    }

    /// Returns the approximate memory of the grant, in bytes: each pattern is in a list and in the filter.
    pub(crate) fn held_bytes(&self) -> usize {
        let of = |list: &Option<Box<[Pattern]>>| list.as_deref().map_or(0, bytes_of);
        let Lists { types, streams, channels, entities } = &self.lists;
        let entities: usize = (entities.iter().flatten())
            .map(|(kind, id)| bytes_of(std::slice::from_ref(kind)) + bytes_of(std::slice::from_ref(id)))
            .sum();
        let publishes = if let Publishes::Types(types) = &self.publishes { bytes_of(types) } else { 0 };
        size_of::<Self>()
            + self.subject.len()
            + self.token_id.as_ref().map_or(0, |id| id.len())
            + self.sees.held_bytes()
            + self.condition.held_bytes()
            + of(types)
            + of(streams)
            + of(channels)
            + of(&self.only_channels)
            + entities
            + publishes
    }

    /// Returns the grant in a form for another process.
    pub(crate) fn save(&self) -> SavedGrant {
        let texts = |list: &Option<Box<[Pattern]>>| {
            list.as_ref().map(|list| list.iter().map(|pattern| pattern.as_str().to_owned()).collect())
        };
        let Lists { types, streams, channels, entities } = &self.lists;
        let pair = |(kind, id): &(Pattern, Pattern)| format!("{}:{}", kind.as_str(), id.as_str());
        let mut claims = Claims {
            sub: Some(self.subject.to_string()).filter(|subject| !subject.is_empty()),
            iat: self.issued,
            jti: self.token_id.as_deref().map(str::to_owned),
            types: texts(types),
            streams: texts(streams),
            // A channel of a template is an exact value, not a pattern. The successor adds it again.
            channels: self
                .own_channels
                .and_then(|own| Some(texts(channels)?.into_iter().take(own).collect())),
            entities: entities.as_ref().map(|list| list.iter().map(pair).collect()),
            purge: self.purges,
            metrics: self.metrics,
            admin: self.admin,
            publish: match &self.publishes {
                Publishes::Nothing => PublishRight::None,
                Publishes::Everything => PublishRight::All,
                Publishes::Types(types) => {
                    PublishRight::Types(types.iter().map(|pattern| pattern.as_str().to_owned()).collect())
                }
            },
            ..Claims::default()
        };
        // Lists that allow everything are stored as `None`. Without any list a token would see nothing, so one list is
        // saved as `*`.
        let is_unspecified = types.is_none() && streams.is_none() && channels.is_none() && entities.is_none();
        if is_unspecified && !self.sees.is_nothing() && self.only_channels.is_none() {
            claims.streams = Some(vec!["*".to_owned()]);
        }
        let (expires, proof) = (self.expires, self.proof);
        if self.condition.is_everything() {
            return SavedGrant { claims, expires, proof, filtered: None };
        }
        claims.filter = Some(self.condition.to_string());
        let closed = Claims {
            types: Some(Vec::new()),
            publish: PublishRight::None,
            purge: false,
            metrics: false,
            admin: false,
            filter: None,
            ..claims.clone()
        };
        SavedGrant { claims: closed, expires, proof, filtered: Some(claims) }
    }

    /// Returns the part of `filter` that the holder may see.
    pub(crate) fn narrow(&self, filter: &Filter) -> Filter {
        filter.and(&self.sees)
    }

    /// Returns the filter of visible events.
    pub(crate) fn filter(&self) -> &Filter {
        &self.sees
    }

    /// Returns whether the holder may see the event.
    pub(crate) fn sees(&self, event: &Event) -> bool {
        self.sees.matches(event)
    }

    /// Returns whether the holder may see no event at all.
    pub(crate) fn sees_nothing(&self) -> bool {
        self.sees.is_nothing()
    }

    /// Returns the values that a filter names and the holder may not see, as `stream 'x'`. Patterns are narrowed
    /// without an error. `spelled` is true if the filter's types are spellings of one type, as in AutoSDLC's
    /// subscriptions; then one visible spelling is enough.
    pub(crate) fn beyond(&self, filter: &Filter, spelled: bool) -> Vec<String> {
        let Lists { types, streams, channels, entities } = &self.lists;
        let mut beyond = Vec::new();
        for attribute in Attribute::ALL {
            let list = match attribute {
                Attribute::Type => types,
                Attribute::Stream => streams,
                Attribute::Channel if self.only_channels.is_some() => &self.only_channels,
                Attribute::Channel => channels,
                _ => &None,
            };
            let is_allowed =
                |value: &str| allows(list.as_deref(), value) && !self.condition.refuses(attribute, value);
            if spelled && attribute == Attribute::Type && filter.values(attribute).any(is_allowed) {
                continue;
            }
            for value in filter.named(attribute).filter(|value| !is_allowed(value)) {
                beyond.push(format!("{} '{value}'", attribute.name()));
            }
        }
        for (kind, id) in filter.entity_values() {
            let exact = Pattern::from(kind).is_exact() && Pattern::from(id).is_exact();
            let is_allowed =
                allows_entity(entities.as_deref(), kind, id) && !self.condition.refuses_entity(kind, id);
            if exact && !is_allowed {
                beyond.push(format!("entity '{kind}:{id}'"));
            }
        }
        beyond.extend(self.condition.refused_literals(filter));
        // AutoSDLC's subscriptions name kind and id separately.
        beyond.extend(
            filter
                .named(Attribute::EntityKind)
                .flat_map(|kind| filter.named(Attribute::EntityId).map(move |id| (kind, id)))
                .find(|(kind, id)| !allows_entity(entities.as_deref(), kind, id))
                .map(|(kind, id)| format!("entity '{kind}:{id}'")),
        );
        beyond
    }

    /// Returns whether the grant adds the channels of these templates.
    pub(super) fn rests_on(&self, templates: &Templates) -> bool {
        Arc::ptr_eq(&self.templates, templates) || self.templates == *templates
    }

    /// Returns the channel that a text stands for, if it is a template: `Err` if the token lacks a claim for it.
    pub(crate) fn channel_of(&self, text: &str) -> Option<Result<String, String>> {
        let template = self.templates.iter().find(|template| template.text() == text)?;
        let channel = template.channel(&self.subject, self.token_id().unwrap_or_default());
        Some(channel.ok_or_else(|| format!("channel '{text}': the token has no claim that makes one")))
    }

    /// Returns the templates that a filter names and that stand for a channel, with that channel.
    pub(crate) fn own_channels(&self, filter: &Filter) -> Vec<OwnChannel> {
        if self.templates.is_empty() {
            return Vec::new();
        }
        let own = |text: &str| {
            let channel = self.channel_of(text)?.ok()?;
            Some(OwnChannel { template: text.into(), channel: channel.into() })
        };
        filter.named(Attribute::Channel).filter_map(own).collect()
    }

    /// Returns whether a filter names a template.
    pub(crate) fn names_template(&self, filter: &Filter) -> bool {
        let is_template = |value: &str| self.templates.iter().any(|template| template.text() == value);
        !self.templates.is_empty() && filter.named(Attribute::Channel).any(is_template)
    }

    /// Returns the filter with channels instead of the templates that it names, or the template that the token lacks a claim
    /// for.
    pub(crate) fn with_own_channels(&self, filter: Filter) -> Result<Filter, String> {
        if !self.names_template(&filter) {
            return Ok(filter);
        }
        let about = Attribute::Channel.index() as u8;
        let Some(list) = filter.list(about) else {
            return Err("a template in several conditions on the channel".to_owned());
        };
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for text in filter.named(Attribute::Channel) {
            if let Some(channel) = self.channel_of(text) {
                add.push((Pattern::exact(channel?), None));
                remove.push((Pattern::exact(text), None));
            }
        }
        add.sort_unstable();
        add.dedup();
        // A subject may be equal to a template's text, so added values are not removed.
        remove.retain(|text| !add.contains(text));
        remove.sort_unstable();
        let edited = EditedList::of(list, &add, &remove);
        // A list may be too long for one filter. Its caller divides it.
        Ok(Filter::joined(&filter.with_edited(about, &edited)))
    }

    /// Returns whether there are events that the holder may not see.
    pub(crate) fn narrows(&self) -> bool {
        !self.sees.is_everything()
    }

    /// Returns whether the holder may publish at all.
    pub(crate) fn publishes(&self) -> bool {
        !matches!(self.publishes, Publishes::Nothing)
    }

    /// Returns the maximum number of patterns that a published event is compared with.
    pub(crate) fn patterns(&self) -> usize {
        let Lists { streams, channels, entities, .. } = &self.lists;
        let types = if let Publishes::Types(types) = &self.publishes { types.len() } else { 0 };
        let lists = [streams, channels].map(|list| list.as_ref().map_or(0, |list| list.len()));
        let condition = self.condition.weight() as usize;
        types + lists.into_iter().sum::<usize>() + entities.as_ref().map_or(0, |list| list.len()) + condition
    }

    /// Returns whether the holder may publish events of this type.
    pub(crate) fn may_publish_type(&self, kind: &str) -> bool {
        match &self.publishes {
            Publishes::Nothing => false,
            Publishes::Everything => true,
            Publishes::Types(types) => allows(Some(types), kind),
        }
    }

    /// Checks that the holder may publish the event: the type is granted, the event's stream, channel and entity, if any, are
    /// visible to the holder, and the conditions of the claim `filter` hold. The error names the attribute at fault.
    pub(crate) fn may_publish(&self, event: &Complete) -> Result<(), String> {
        let beyond = |what: &str, value: &str| Err(format!("{what} '{value}'"));
        match &self.publishes {
            Publishes::Nothing => return Err("publishing".to_owned()),
            _ if self.may_publish_type(event.event_type()) => {}
            _ => return beyond("type", event.event_type()),
        }
        let Lists { streams, channels, entities, .. } = &self.lists;
        for (attribute, list) in [(Attribute::Stream, streams), (Attribute::Channel, channels)] {
            if let Some(value) = event.attribute(attribute)
                && !allows(list.as_deref(), value)
            {
                return beyond(attribute.name(), value);
            }
        }
        let kind = event.attribute(Attribute::EntityKind).unwrap_or_default();
        let id = event.attribute(Attribute::EntityId).unwrap_or_default();
        if (kind, id) != ("", "") && !allows_entity(entities.as_deref(), kind, id) {
            return beyond("entity", &format!("{kind}:{id}"));
        }
        match self.condition.broken_by(event) {
            Some(condition) => Err(format!("an event for which {condition} does not hold")),
            None => Ok(()),
        }
    }

    /// Returns the subject; empty if the token has none.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns whether the holder may purge kept logs.
    pub(crate) fn purges(&self) -> bool {
        self.purges
    }

    pub(crate) fn sees_metrics(&self) -> bool {
        self.metrics
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.admin
    }

    /// Returns the second from which the grant is invalid.
    pub(crate) fn expires(&self) -> Option<i64> {
        self.expires
    }

    pub(super) fn issued(&self) -> Option<i64> {
        self.issued
    }

    pub(super) fn token_id(&self) -> Option<&str> {
        self.token_id.as_deref()
    }

    pub(super) fn proof(&self) -> u64 {
        self.proof
    }
}

fn allows_entity(list: Option<&[(Pattern, Pattern)]>, kind: &str, id: &str) -> bool {
    list.is_none_or(|list| list.iter().any(|(kinds, ids)| kinds.matches(kind) && ids.matches(id)))
}

/// Reads one entity of a claim: `kind:id`, a kind alone for every entity of that kind with an id, or an empty text for events
/// without an entity, as in the other lists.
fn entity_patterns(text: &str) -> (Pattern, Pattern) {
    let any_id = if text.is_empty() { "" } else { "**" };
    let (kind, id) = text.split_once(':').unwrap_or((text, any_id));
    (kind.into(), id.into())
}

impl Lists {
    fn filter(&self) -> Filter {
        let mut filter = Filter::new();
        let sets = [
            (Attribute::Type, &self.types),
            (Attribute::Stream, &self.streams),
            (Attribute::Channel, &self.channels),
        ];
        for (attribute, list) in sets {
            if let Some(list) = list {
                // A filter without values matches everything, but an empty list allows nothing.
                filter = if list.is_empty() {
                    Filter::nothing()
                } else {
                    filter.any_of(attribute, list.iter().cloned())
                };
            }
        }
        if let Some(entities) = &self.entities {
            filter = if entities.is_empty() {
                Filter::nothing()
            } else {
                filter.entities(entities.iter().map(|(kind, id)| (kind.as_str(), id.as_str())))
            };
        }
        filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::infer_attributes::complete;

    fn grant(claims: &str) -> Grant {
        let claims: Claims = serde_json::from_str(claims).expect("claims");
        Grant::new(&claims, None, 0, &Templates::default()).expect("a grant")
    }

    fn event(kind: &str) -> crate::event::EventBuilder {
        Event::builder(kind)
    }

    #[test]
    fn absent_lists_allow_all_but_a_token_without_any_sees_nothing() {
        let plain = event("a.b").build().expect("an event");
        let of_s = event("a.b").stream("s").build().expect("an event");
        for (claims, sees_plain, sees_s) in [
            ("{}", false, false),
            (r#"{"publish":true}"#, false, false),
            (r#"{"streams":["*"]}"#, true, true),
            (r#"{"streams":["s","*"]}"#, true, true),
            (r#"{"streams":[]}"#, false, false),
            (r#"{"streams":["s"]}"#, false, true),
            (r#"{"streams":["**"]}"#, false, true),
            (r#"{"streams":["s",""]}"#, true, true),
            (r#"{"types":["a.*"]}"#, true, true),
            (r#"{"types":["a.*"],"streams":["t"]}"#, false, false),
            (r#"{"types":["a.*"],"streams":["*"]}"#, true, true),
            (r#"{"types":["c"],"streams":[]}"#, false, false),
            (r#"{"streams":[],"types":["*"]}"#, false, false),
            (r#"{"types":[],"streams":["*"]}"#, false, false),
            (r#"{"entities":[],"streams":["*"]}"#, false, false),
        ] {
            let sees = grant(claims).narrow(&Filter::new());
            assert_eq!((sees.matches(&plain), sees.matches(&of_s)), (sees_plain, sees_s), "{claims}");
        }
    }

    /// The empty text has this meaning in each list, whatever else the list holds.
    #[test]
    fn an_empty_text_is_events_without_the_attribute_in_every_list() {
        let of = |kind: &str, id: &str| event("x").entity(kind, id).build().expect("an event");
        let plain = event("x").build().expect("an event");
        for (entities, sees_plain, sees_1, sees_2, sees_kind_alone) in [
            (r#"["agent:1"]"#, false, true, false, false),
            (r#"["agent:1",""]"#, true, true, false, false),
            (r#"["","agent:1"]"#, true, true, false, false),
            (r#"["agent:1","",""]"#, true, true, false, false),
            (r#"[""]"#, true, false, false, false),
            (r#"["agent"]"#, false, true, true, false),
            (r#"["agent:"]"#, false, false, false, true),
            (r#"["agent",""]"#, true, true, true, false),
            (r#"["**"]"#, false, true, true, false),
            (r#"["*"]"#, true, true, true, true),
            (r#"["*",""]"#, true, true, true, true),
        ] {
            let grant = grant(&format!(r#"{{"entities":{entities},"publish":true}}"#));
            let sees =
                [&plain, &of("agent", "1"), &of("agent", "2"), &of("agent", "")].map(|e| grant.sees(e));
            assert_eq!(sees, [sees_plain, sees_1, sees_2, sees_kind_alone], "{entities}");
            let publishes = |id: &str| {
                let event = complete(event("x").entity("agent", id)).expect("an event");
                grant.may_publish(&event).is_ok()
            };
            let may = [publishes("1"), publishes("2"), publishes("")];
            assert_eq!(may, [sees_1, sees_2, sees_kind_alone], "what it may see, it may publish: {entities}");
        }
    }

    #[test]
    fn a_grant_of_many_values_is_bounded() {
        let claims = |list: Vec<String>| Claims { entities: Some(list), ..Claims::default() };
        let repeated = vec!["agent:1".to_owned(); 200];
        assert!(Grant::new(&claims(repeated), None, 0, &Templates::default()).is_ok());
        let many: Vec<String> = (0..10_000).map(|n| format!("agent:{n}")).collect();
        let error = Grant::new(&claims(many.clone()), None, 0, &Templates::default()).expect_err("too many");
        assert!(error.contains("256"), "{error}");
        // A list that allows all counts as absent, whatever else it names.
        let all = |count| many[..count].iter().cloned().chain(["*".to_owned()]).collect();
        assert!(Grant::new(&claims(all(200)), None, 0, &Templates::default()).is_ok());
        let deep = format!("agent:{}", ["*"; 100].join("."));
        assert!(Grant::new(&claims(vec![deep]), None, 0, &Templates::default()).is_err());
        assert!(Grant::new(&claims(vec!["x".repeat(5_000)]), None, 0, &Templates::default()).is_err());
    }

    #[test]
    fn channels_of_templates_are_literal_in_the_next_process_too() {
        let templates: Templates =
            [crate::server::auth::template::Template::parse("user:{sub}").expect("a template")].into();
        for (claims, channels) in [
            (r#"{"sub":"*"}"#, &["user:*"][..]),
            (r#"{"sub":"a.b","channels":["news.*"]}"#, &["user:a.b", "news.x"]),
            (r#"{"sub":"a","channels":[]}"#, &["user:a"]),
            (r#"{"user_id":"u"}"#, &["user:u"]),
            ("{}", &[]),
            (r#"{"sub":""}"#, &[]),
        ] {
            let claims: Claims = serde_json::from_str(claims).expect("claims");
            let first = Grant::new(&claims, None, 0, &templates).expect("a grant");
            let saved = first.save();
            let again = Grant::new(saved.claims(), saved.expires, saved.proof, &templates).expect("a grant");
            // Without the templates the grant is narrower, never wider.
            let older = Grant::new(saved.claims(), saved.expires, saved.proof, &Templates::default());
            let older = older.expect("a grant");
            for channel in
                ["user:*", "user:a", "user:a.b", "user:u", "user:b", "news.x", "user:", "other", ""]
            {
                let event = event("note").channel(channel).build().expect("an event");
                let sees = channels.contains(&channel);
                assert_eq!((first.sees(&event), again.sees(&event)), (sees, sees), "{claims:?}: {channel}");
                assert!(sees || !older.sees(&event), "{claims:?}: {channel}");
            }
        }
    }

    #[test]
    fn patterns_select_existing_values_and_are_not_shown_beyond_the_grant() {
        let grant = grant(r#"{"types":["agent.*"],"entities":["agent:1"]}"#);
        let runs = Filter::new()
            .any_of(Attribute::Type, [Pattern::runs("co*-1")])
            .any_of(Attribute::EntityKind, [Pattern::exact("agent")])
            .any_of(Attribute::EntityId, [Pattern::runs("2*")]);
        assert!(grant.beyond(&runs, false).is_empty());
        let literal = Filter::new().any_of(Attribute::Type, [Pattern::exact("task.*")]);
        assert_eq!(grant.beyond(&literal, false), ["type 'task.*'"]);
    }

    #[test]
    fn values_beyond_the_grant_are_named() {
        let grant = grant(r#"{"streams":["a.*","b"],"entities":["task:t-1","agent"]}"#);
        let filter: Filter = "stream=a.x,b,c entity=task:t-1,task:t-2,agent:z".parse().expect("a filter");
        assert_eq!(grant.beyond(&filter, false), ["stream 'c'", "entity 'task:t-2'"]);
        let patterns: Filter = "stream=*.x type=q".parse().expect("a filter");
        assert!(grant.beyond(&patterns, false).is_empty());
        assert!(grant.beyond(&Filter::new(), false).is_empty());
    }

    #[test]
    fn publishing_is_a_right_of_its_own() {
        let a = |kind: &str| complete(event(kind)).expect("an event");
        assert_eq!(grant(r#"{"streams":["*"]}"#).may_publish(&a("x")), Err("publishing".into()));
        assert!(!grant(r#"{"streams":["*"],"publish":false}"#).publishes());
        assert_eq!(grant(r#"{"publish":true}"#).may_publish(&a("x")), Ok(()));
        assert_eq!(grant(r#"{"publish":["*"]}"#).may_publish(&a("x.y")), Ok(()));
        assert_eq!(grant(r#"{"publish":[]}"#).may_publish(&a("x")), Err("type 'x'".into()));
        let tasks = grant(r#"{"publish":["task.*"],"types":["alert.*"],"streams":["s"]}"#);
        assert_eq!(tasks.may_publish(&a("task.done")), Ok(()));
        assert_eq!(tasks.may_publish(&a("alert.on")), Err("type 'alert.on'".into()));
        let elsewhere = complete(event("task.done").stream("t")).expect("an event");
        assert_eq!(tasks.may_publish(&elsewhere), Err("stream 't'".into()));
        let of = grant(r#"{"publish":true,"entities":["task:t-1"]}"#);
        let other = complete(event("x").entity("task", "t-2")).expect("an event");
        assert_eq!(of.may_publish(&other), Err("entity 'task:t-2'".into()));
    }

    #[test]
    fn a_grant_is_the_same_in_another_process() {
        for claims in [
            "{}",
            r#"{"publish":true}"#,
            r#"{"streams":["*"],"purge":true,"metrics":true,"admin":true}"#,
            r#"{"sub":"ann","jti":"t-1","iat":5,"streams":["a.*","b",""],"types":[],"publish":["x.*"]}"#,
            r#"{"user_id":"bob","entities":["task:t-1","agent"],"channels":["c"],"publish":[]}"#,
            r#"{"entities":["task:t-1","",":x","agent:","*:a:b"],"types":["a","a","**"]}"#,
            r#"{"filter":"source!=audit payload.tenant == \"a\",\"b\"","publish":true,"metrics":true}"#,
            r#"{"filter":"payload.n >= 5","streams":["s"],"publish":["x"],"admin":true}"#,
        ] {
            let grant = grant(claims);
            let text = serde_json::to_string(&grant.save()).expect("texts and numbers");
            let saved: SavedGrant = serde_json::from_str(&text).expect("the same");
            let again = Grant::new(saved.claims(), saved.expires, saved.proof, &Templates::default())
                .expect("a grant");
            assert_eq!(format!("{grant:?}"), format!("{again:?}"), "{text}");
        }
    }

    #[test]
    fn a_filter_narrows_lists_and_alone_is_a_grant() {
        let of = |source: &str, n: i64| {
            let builder = event("a.b").stream("s").source(source).json(format!(r#"{{"n":{n}}}"#));
            builder.build().expect("an event")
        };
        for (claims, sees) in [
            (r#"{"filter":"payload.n >= 5"}"#, [true, false, true]),
            (r#"{"filter":"source!=x payload.n >= 5"}"#, [true, false, false]),
            (r#"{"filter":"source!=x","streams":["s"]}"#, [true, true, false]),
            (r#"{"filter":"source!=x","streams":["t"]}"#, [false; 3]),
            (r#"{"filter":"source!=x","streams":[]}"#, [false; 3]),
            (r#"{"filter":"nothing","streams":["*"]}"#, [false; 3]),
            // An empty filter text grants nothing.
            (r#"{"filter":""}"#, [false; 3]),
            (r#"{"filter":" & "}"#, [false; 3]),
            (r#"{"filter":null}"#, [false; 3]),
            (r#"{"filter":"","streams":["*"]}"#, [true; 3]),
        ] {
            let grant = grant(claims);
            let seen = [("c", 5), ("c", 4), ("x", 5)].map(|(source, n)| grant.sees(&of(source, n)));
            assert_eq!(seen, sees, "{claims}");
        }
        for filter in ["colour=red", "payload.a >"] {
            let claims = Claims { filter: Some(filter.to_owned()), ..Claims::default() };
            assert!(Grant::new(&claims, None, 0, &Templates::default()).is_err(), "{filter}");
        }
    }

    /// Older versions ignore the claim, so the saved form grants them nothing.
    #[test]
    fn a_grant_with_a_filter_is_nothing_to_an_older_version() {
        let text = r#"{"filter":"payload.n >= 5","streams":["*"],"publish":true,"purge":true,"metrics":true,"admin":true}"#;
        let mut saved = serde_json::to_value(grant(text).save()).expect("texts and numbers");
        saved.as_object_mut().expect("an object").remove("filtered");
        let older: SavedGrant = serde_json::from_value(saved).expect("the form of before");
        let older = Grant::new(older.claims(), None, 0, &Templates::default()).expect("a grant");
        assert!(older.sees_nothing() && !older.publishes() && !older.is_admin() && !older.sees_metrics());
        assert!(!older.purges());
    }

    #[test]
    fn a_holder_publishes_events_that_break_no_condition() {
        let grant = grant(
            r#"{"filter":"type=seen.* source=a,b entity=task:* payload.tenant == t payload.n < 5 payload.x !exists","publish":true}"#,
        );
        for (builder, breaks) in [
            (event("other"), None),
            (event("other").source("a").entity("task", "1").json(r#"{"tenant":"t","n":4}"#), None),
            (event("other").source("c"), Some("source=a,b")),
            (event("other").entity("agent", "1"), Some("entity=task:*")),
            (event("other").json(r#"{"tenant":"u"}"#), Some(r#"payload.tenant == "t""#)),
            (event("other").json(r#"{"tenant":["t"]}"#), Some(r#"payload.tenant == "t""#)),
            (event("other").json(r#"{"n":5}"#), Some("payload.n < 5")),
            (event("other").json(r#"{"x":null}"#), Some("payload.x !exists")),
            (event("other").json("[]"), None),
        ] {
            let allowed = grant.may_publish(&complete(builder).expect("an event"));
            match breaks {
                None => assert_eq!(allowed, Ok(())),
                Some(condition) => {
                    let what = format!("an event for which {condition} does not hold");
                    assert_eq!(allowed, Err(what));
                }
            }
        }
    }

    #[test]
    fn a_grant_keeps_within_the_limits_of_filters() {
        let many: Vec<String> = (0..300).map(|n| format!("s{n}")).collect();
        let claims = Claims { streams: Some(many), ..Claims::default() };
        assert!(Grant::new(&claims, None, 0, &Templates::default()).is_err());
    }
}
