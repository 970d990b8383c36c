//! Keys of a load: which keys each client subscribes to, and how each protocol names them.
//!
//! Always: equal options give equal lists, independent of the server under load.

use super::super::dice::Dice;

/// Attribute that a client filters by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mix {
    /// Types of events
    Types,
    /// Patterns over types
    Patterns,
    /// Entities
    Entities,
    /// Channels
    Channels,
    /// Everything
    All,
}

/// Options for the keys of events and clients.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct KeyOptions {
    /// Number of event keys, and so of filters of each kind, spread over the clients: one for each client
    #[arg(long, default_value_t = 1, conflicts_with = "watch")]
    pub(super) filters: usize,
    /// Kinds of filters, for one client after the other: types, patterns, entities, channels, all
    #[arg(long, value_delimiter = ',', default_value = "types")]
    pub(super) mix: Vec<Mix>,
    /// Watch lists: each client subscribes to this many of --topics, chosen at random. Each delivery is checked against
    /// the client's list
    #[arg(long, value_name = "K")]
    pub(super) watch: Option<usize>,
    /// Number of topics for --watch. Events are spread evenly over them
    #[arg(long = "topics", value_name = "T", default_value_t = 1000, requires = "watch")]
    pub(super) keys: usize,
    /// Popularity of the topics for --watch: clients choose the n-th with a weight of 1/n^S. It changes how their lists
    /// overlap, not the number of deliveries
    #[arg(long, value_name = "S", default_value_t = 0.0, requires = "watch")]
    pub(super) zipf: f64,
}

/// Maximum number of keys. A mark has room for seven digits.
const KEYS_MAX: usize = 10_000_000;

impl KeyOptions {
    /// Returns the options with each number limited to its range.
    pub(super) fn clamped(self) -> Self {
        let keys = self.keys.clamp(1, KEYS_MAX);
        Self {
            filters: self.filters.clamp(1, KEYS_MAX),
            watch: self.watch.map(|watch| watch.clamp(1, keys)),
            keys,
            zipf: if self.zipf.is_finite() { self.zipf.clamp(0.0, 10.0) } else { 0.0 },
            ..self
        }
    }

    /// Returns the number of keys that events have.
    pub(super) fn count(&self) -> usize {
        if self.watch.is_some() { self.keys } else { self.filters }
    }

    /// Returns whether clients get different events, so that each delivery has to be checked.
    pub(super) fn differ(&self) -> bool {
        self.count() > 1
    }
}

/// Filter of a client: the events of these keys, selected by one attribute, or all events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selection<'a> {
    pub(super) mix: Mix,
    /// Keys in ascending order.
    pub(super) keys: &'a [u32],
    /// Whether events have different keys, so that a client must tell the server its own.
    pub(super) differ: bool,
}

impl Selection<'_> {
    /// Returns whether the client wants events of a key.
    pub(super) fn wants(&self, key: u32) -> bool {
        self.mix == Mix::All || self.keys.binary_search(&key).is_ok()
    }

    /// Returns each key's name in protocols that give an event one name.
    pub(super) fn kinds(&self) -> impl Iterator<Item = String> {
        let last = if self.mix == Mix::Patterns { "*" } else { "event" };
        self.keys.iter().map(move |key| format!("bench.{key}.{last}"))
    }

    /// Returns the keys' numbers with commas between them.
    pub(super) fn numbers(&self) -> String {
        let numbers: Vec<String> = self.keys.iter().map(u32::to_string).collect();
        numbers.join(",")
    }

    fn values(&self) -> (&'static str, &'static str, Vec<String>) {
        match self.mix {
            Mix::Types | Mix::Patterns => ("type", "event_types", self.kinds().collect()),
            Mix::Entities => {
                ("entity", "entities", self.keys.iter().map(|key| format!("bench:{key}")).collect())
            }
            Mix::Channels => {
                ("channel", "channels", self.keys.iter().map(|key| format!("bench-{key}")).collect())
            }
            Mix::All => ("", "", Vec::new()),
        }
    }

    /// Returns the query of an event stream.
    pub(super) fn query(&self) -> String {
        let (name, _, values) = self.values();
        let pairs: Vec<String> = values.iter().map(|value| format!("{name}={value}")).collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }

    /// Returns the fields of a `subscribe`.
    pub(super) fn payload(&self) -> String {
        let (_, name, values) = self.values();
        if values.is_empty() { String::new() } else { format!(r#""{name}":["{}"]"#, values.join(r#"",""#)) }
    }
}

/// Keys of all clients of a load.
#[derive(Debug)]
pub(super) struct KeyLists {
    mix: Vec<Mix>,
    lists: Vec<Box<[u32]>>,
    differ: bool,
}

impl KeyLists {
    /// Chooses the keys of `clients` clients.
    pub(super) fn new(options: &KeyOptions, clients: usize) -> Self {
        let kinds = options.mix.len();
        let lists = match options.watch {
            None => (0..clients.max(1))
                .map(|number| Box::from([(number / kinds % options.filters) as u32]))
                .collect(),
            Some(watch) => {
                let popularity = Popularity::new(options.keys, options.zipf);
                let mut dice = Dice(1);
                (0..clients.max(1)).map(|_| popularity.choose(watch, &mut dice)).collect()
            }
        };
        Self { mix: options.mix.clone(), lists, differ: options.differ() }
    }

    /// Returns a client's filter.
    pub(super) fn of(&self, number: usize) -> Selection<'_> {
        Selection {
            mix: self.mix[number % self.mix.len()],
            keys: &self.lists[number % self.lists.len()],
            differ: self.differ,
        }
    }
}

/// Probability that each key is chosen.
struct Popularity {
    /// Sum of the weights of each key and of all keys before it.
    sums: Vec<f64>,
}

impl Popularity {
    fn new(keys: usize, zipf: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=keys).map(|n| {
            sum += (n as f64).powf(-zipf);
            sum
        });
        Self { sums: sums.collect() }
    }

    fn draw(&self, dice: &mut Dice) -> u32 {
        let total = self.sums.last().copied().unwrap_or_default();
        let at = (dice.roll() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len() - 1) as u32
    }

    /// Returns `count` different keys in ascending order.
    fn choose(&self, count: usize, dice: &mut Dice) -> Box<[u32]> {
        let mut is_chosen = vec![false; self.sums.len()];
        let mut chosen = Vec::with_capacity(count);
        // A draw of a key that is already in the list is repeated. If few are left, the most popular of them fill the
        // rest.
        for _ in 0..count * 64 {
            if chosen.len() == count {
                break;
            }
            let key = self.draw(dice);
            if !std::mem::replace(&mut is_chosen[key as usize], true) {
                chosen.push(key);
            }
        }
        let rest = (0..self.sums.len()).filter(|key| !is_chosen[*key]).map(|key| key as u32);
        let missing = count - chosen.len();
        chosen.extend(rest.take(missing));
        chosen.sort_unstable();
        chosen.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(watch: Option<usize>, keys: usize, zipf: f64) -> KeyOptions {
        KeyOptions { filters: 3, mix: vec![Mix::Entities, Mix::Types], watch, keys, zipf }.clamped()
    }

    #[test]
    fn each_list_has_as_many_different_keys_as_asked_for() {
        for (watch, keys, zipf) in
            [(20, 1000, 0.0), (20, 1000, 1.0), (50, 50, 1.0), (90, 100, 3.0), (7, 5, 0.0)]
        {
            let lists = KeyLists::new(&options(Some(watch), keys, zipf), 40);
            for number in 0..40 {
                let list = lists.of(number).keys;
                assert_eq!(list.len(), watch.min(keys));
                assert!(list.windows(2).all(|pair| pair[0] < pair[1]), "{list:?}");
                assert!(list.iter().all(|key| (*key as usize) < keys), "{list:?}");
            }
            assert_eq!(lists.of(0).keys, lists.of(40).keys, "a later client begins again");
        }
    }

    #[test]
    fn popular_keys_are_in_more_lists() {
        let members = |zipf, key| {
            let lists = KeyLists::new(&options(Some(20), 1000, zipf), 1000);
            (0..1000).filter(|number| lists.of(*number).wants(key)).count()
        };
        assert!(members(1.0, 0) > 800, "{}", members(1.0, 0));
        assert!(members(1.0, 900) < 20, "{}", members(1.0, 900));
        // The expected value is 20, the standard deviation 4.4.
        assert!((2..=42).contains(&members(0.0, 0)), "{}", members(0.0, 0));
    }

    #[test]
    fn filters_are_spread_over_the_clients_one_each() {
        let lists = KeyLists::new(&options(None, 1, 0.0), 12);
        let queries: Vec<String> = (0..4).map(|number| lists.of(number).query()).collect();
        assert_eq!(
            queries,
            ["?entity=bench:0", "?type=bench.0.event", "?entity=bench:1", "?type=bench.1.event"]
        );
        assert_eq!(lists.of(6).payload(), r#""entities":["bench:0"]"#);
    }
}
