//! The measured subscriptions and events.

/// A small random number generator, so that every run has the same mixes.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % bound as u64) as usize
    }
}

/// A subscription: a type, exact or a pattern, and optionally a stream.
#[derive(Clone)]
pub struct Subscription {
    pub event_type: String,
    pub stream: Option<String>,
}

impl Subscription {
    pub fn bytes(&self) -> usize {
        self.event_type.len() + self.stream.as_ref().map_or(0, String::len)
    }
}

/// Attributes of an event.
pub struct Attributes {
    pub event_type: String,
    pub stream: String,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Mix {
    /// Exact (type, stream) pairs, all different. Every event matches one. 100 types (10 at 100).
    Exact,
    /// Exact pairs where every subscription has its own stream.
    OwnStreams,
    /// 80% exact pairs, 10% `kindN.*` in a stream, 6% `agent:ID:*`, 4% `agent:*:status` in a stream.
    Patterns,
    /// All subscriptions have one broad filter.
    Dashboards,
}

pub struct Scale {
    mix: Mix,
    subscriptions: usize,
    types: usize,
    streams: usize,
    agents: usize,
}

fn kind(n: usize) -> String {
    format!("kind{}.step{}", n / 10, n % 10)
}

fn stream(n: usize) -> String {
    format!("stream-{n:07}")
}

const AGENT_WORDS: [&str; 4] = ["status", "progress", "output", "error"];

impl Scale {
    pub fn new(mix: Mix, subscriptions: usize) -> Self {
        let types = if subscriptions < 1000 { 10 } else { 100 };
        let streams = match mix {
            Mix::OwnStreams => subscriptions,
            _ => (subscriptions / types).max(1),
        };
        Self { mix, subscriptions, types, streams, agents: (subscriptions * 3 / 100).max(1) }
    }

    pub fn wants(&self) -> Vec<Subscription> {
        let mut random = Random::new(7);
        (0..self.subscriptions)
            .map(|n| match self.mix {
                Mix::Exact => {
                    Subscription { event_type: kind(n % self.types), stream: Some(stream(n / self.types)) }
                }
                Mix::OwnStreams => Subscription { event_type: kind(n % self.types), stream: Some(stream(n)) },
                Mix::Dashboards => Subscription { event_type: "kind1.*".to_owned(), stream: None },
                Mix::Patterns => {
                    let any_stream = stream(random.below(self.streams));
                    match random.below(100) {
                        0..80 => Subscription {
                            event_type: kind(random.below(self.types)),
                            stream: Some(any_stream),
                        },
                        80..90 => Subscription {
                            event_type: format!("kind{}.*", random.below(self.types / 10)),
                            stream: Some(any_stream),
                        },
                        90..96 => Subscription {
                            event_type: format!("agent:{}:*", random.below(self.agents)),
                            stream: None,
                        },
                        _ => {
                            Subscription { event_type: "agent:*:status".to_owned(), stream: Some(any_stream) }
                        }
                    }
                }
            })
            .collect()
    }

    pub fn attributes(&self, random: &mut Random) -> Attributes {
        match self.mix {
            Mix::OwnStreams => {
                let n = random.below(self.streams);
                Attributes { event_type: kind(n % self.types), stream: stream(n) }
            }
            Mix::Patterns if random.below(2) == 0 => Attributes {
                event_type: format!("agent:{}:{}", random.below(self.agents), AGENT_WORDS[random.below(4)]),
                stream: stream(random.below(self.streams)),
            },
            _ => Attributes {
                event_type: kind(random.below(self.types)),
                stream: stream(random.below(self.streams)),
            },
        }
    }
}
