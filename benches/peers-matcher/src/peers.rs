//! The measured matchers, all with the same trait.

use std::collections::HashMap;

use fanwire::internals::{ClassId, Matcher, value_hash};
use fanwire::filter::FilterLimits;
use fanwire::{Event, Filter, Pattern};
use mqtt_topic_tree::{QoS, TopicFilter, TopicName, TopicTree};

use crate::mix::{Attributes, Subscription};

/// An event with the keys by which matchers look it up, created in advance for all matchers.
pub struct Sent {
    pub attributes: Attributes,
    pub event: Event,
    pub name: TopicName,
}

impl Sent {
    pub fn new(attributes: Attributes) -> Self {
        let event = Event::builder(&attributes.event_type).stream(&attributes.stream).build().expect("valid");
        let name = format!("{}/{}", attributes.stream, attributes.event_type.replace(['.', ':'], "/"));
        Self { attributes, event, name: TopicName::try_from(name).expect("valid") }
    }
}

pub trait Peer {
    fn name(&self) -> &'static str;
    fn add(&mut self, want: &Subscription, subscriber: u32);
    fn remove(&mut self, want: &Subscription, subscriber: u32);
    /// Appends the subscribers that want the event.
    fn find(&mut self, sent: &Sent, out: &mut Vec<u32>);
    /// Returns the number of classes, for a matcher that groups equal subscribers in classes.
    fn classes(&self) -> Option<usize> {
        None
    }
}

pub fn filter(want: &Subscription) -> Filter {
    Filter::new().types([&want.event_type]).streams(&want.stream)
}

/// Fanwire's matcher. `members` lists each class's subscribers, like the feed layer.
pub struct Ours {
    matcher: Matcher,
    members: Vec<Vec<u32>>,
    found: Vec<ClassId>,
    enumerate: bool,
}

impl Ours {
    pub fn new(enumerate: bool) -> Self {
        Self {
            matcher: Matcher::new(FilterLimits::default()),
            members: Vec::new(),
            found: Vec::new(),
            enumerate,
        }
    }
}

impl Peer for Ours {
    fn name(&self) -> &'static str {
        if self.enumerate { "fanwire, subscribers listed" } else { "fanwire, classes" }
    }

    fn add(&mut self, want: &Subscription, subscriber: u32) {
        let class = self.matcher.insert(&filter(want));
        if self.enumerate {
            if self.members.len() <= class.index() {
                self.members.resize_with(class.index() + 1, Vec::new);
            }
            self.members[class.index()].push(subscriber);
        }
    }

    fn remove(&mut self, want: &Subscription, subscriber: u32) {
        let class = self.matcher.insert(&filter(want));
        self.matcher.remove(class);
        self.matcher.remove(class);
        if self.enumerate {
            self.members[class.index()].retain(|&other| other != subscriber);
        }
    }

    fn find(&mut self, sent: &Sent, out: &mut Vec<u32>) {
        // The event was made with its values' hashes. Computing them from strings costs this much.
        std::hint::black_box((value_hash(&sent.attributes.event_type), value_hash(&sent.attributes.stream)));
        self.matcher.matches(&sent.event, &mut self.found);
        for class in &self.found {
            if self.enumerate {
                out.extend_from_slice(&self.members[class.index()]);
            } else {
                out.push(class.0);
            }
        }
    }

    fn classes(&self) -> Option<usize> {
        Some(self.matcher.len())
    }
}

/// Evaluates every filter.
#[derive(Default)]
pub struct Scan {
    wants: Vec<(Pattern, Option<String>, u32)>,
}

impl Peer for Scan {
    fn name(&self) -> &'static str {
        "scan of all"
    }

    fn add(&mut self, want: &Subscription, subscriber: u32) {
        self.wants.push((Pattern::new(want.event_type.as_str()), want.stream.clone(), subscriber));
    }

    fn remove(&mut self, _: &Subscription, subscriber: u32) {
        let at = self.wants.iter().position(|want| want.2 == subscriber).expect("added");
        self.wants.swap_remove(at);
    }

    fn find(&mut self, sent: &Sent, out: &mut Vec<u32>) {
        for (event_type, stream, subscriber) in &self.wants {
            if stream.as_ref().is_none_or(|stream| *stream == sent.attributes.stream)
                && event_type.matches(&sent.attributes.event_type)
            {
                out.push(*subscriber);
            }
        }
    }
}

/// Exact pairs in a hash map and patterns one by one: the obvious implementation.
#[derive(Default)]
pub struct HashThenScan {
    exact: HashMap<(String, String), Vec<u32>>,
    rest: Scan,
    key: (String, String),
}

impl Peer for HashThenScan {
    fn name(&self) -> &'static str {
        "hash of exact pairs, patterns scanned"
    }

    fn add(&mut self, want: &Subscription, subscriber: u32) {
        match &want.stream {
            Some(stream) if !want.event_type.contains('*') => {
                self.exact.entry((want.event_type.clone(), stream.clone())).or_default().push(subscriber);
            }
            _ => self.rest.add(want, subscriber),
        }
    }

    fn remove(&mut self, want: &Subscription, subscriber: u32) {
        match &want.stream {
            Some(stream) if !want.event_type.contains('*') => {
                let key = (want.event_type.clone(), stream.clone());
                let all = self.exact.get_mut(&key).expect("added");
                all.retain(|&other| other != subscriber);
                if all.is_empty() {
                    self.exact.remove(&key);
                }
            }
            _ => self.rest.remove(want, subscriber),
        }
    }

    fn find(&mut self, sent: &Sent, out: &mut Vec<u32>) {
        self.key.0.clone_from(&sent.attributes.event_type);
        self.key.1.clone_from(&sent.attributes.stream);
        if let Some(subscribers) = self.exact.get(&self.key) {
            out.extend_from_slice(subscribers);
        }
        self.rest.find(sent, out);
    }
}

/// The tree of the crate `mqtt_topic_tree`. Names are parsed in advance.
#[derive(Default)]
pub struct MqttTree {
    tree: TopicTree,
}

fn mqtt(want: &Subscription) -> TopicFilter {
    let event_type = want.event_type.replace(['.', ':'], "/").replace('*', "+");
    let stream = want.stream.as_deref().unwrap_or("+");
    TopicFilter::try_from(format!("{stream}/{event_type}")).expect("valid")
}

impl Peer for MqttTree {
    fn name(&self) -> &'static str {
        "mqtt_topic_tree 0.1.3"
    }

    fn add(&mut self, want: &Subscription, subscriber: u32) {
        self.tree.add_subscription(mqtt(want), u64::from(subscriber), QoS::Level0);
    }

    fn remove(&mut self, want: &Subscription, subscriber: u32) {
        self.tree.remove_subscription(mqtt(want), u64::from(subscriber));
    }

    fn find(&mut self, sent: &Sent, out: &mut Vec<u32>) {
        out.extend(self.tree.get_subscriptions(&sent.name).into_iter().map(|found| found.client_id as u32));
    }
}

/// A tree of words with wildcard branches, like NATS' subject list without its cache.
#[derive(Default)]
pub struct Tree {
    root: Branch,
}

#[derive(Default)]
struct Branch {
    words: HashMap<Box<str>, Branch>,
    any: Option<Box<Branch>>,
    subscribers: Vec<u32>,
}

fn words<'a>(stream: &'a str, event_type: &'a str) -> impl Iterator<Item = &'a str> + Clone {
    std::iter::once(stream).chain(event_type.split(['.', ':']))
}

impl Branch {
    fn find<'a>(&self, mut words: impl Iterator<Item = &'a str> + Clone, out: &mut Vec<u32>) {
        let Some(word) = words.next() else {
            out.extend_from_slice(&self.subscribers);
            return;
        };
        if let Some(branch) = self.words.get(word) {
            branch.find(words.clone(), out);
        }
        if let Some(branch) = &self.any {
            branch.find(words, out);
        }
    }

    fn at<'a>(&mut self, words: impl Iterator<Item = &'a str>) -> &mut Self {
        words.fold(self, |branch, word| match word {
            "*" => branch.any.get_or_insert_default(),
            word => branch.words.entry(word.into()).or_default(),
        })
    }
}

impl Peer for Tree {
    fn name(&self) -> &'static str {
        "tree of words, as NATS does it, no cache"
    }

    fn add(&mut self, want: &Subscription, subscriber: u32) {
        let stream = want.stream.as_deref().unwrap_or("*");
        self.root.at(words(stream, &want.event_type)).subscribers.push(subscriber);
    }

    fn remove(&mut self, want: &Subscription, subscriber: u32) {
        let stream = want.stream.as_deref().unwrap_or("*");
        let branch = self.root.at(words(stream, &want.event_type));
        branch.subscribers.retain(|&other| other != subscriber);
    }

    fn find(&mut self, sent: &Sent, out: &mut Vec<u32>) {
        self.root.find(words(&sent.attributes.stream, &sent.attributes.event_type), out);
    }
}
