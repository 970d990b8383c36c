//! The log as Redis Streams: one stream a shard, appended by a script, followed by `XREAD`.
//!
//! Imports its siblings. Needs Redis 7, whose streams number the entries of one id prefix from 0 without
//! holes. Always:
//! - an entry's id is `EPOCH-SEQUENCE`: the log's own order is the sequence, so every node gives an event the
//!   same id;
//! - a batch is appended by one script, all or nothing, and remembered by node and number, so one that is sent
//!   again is answered and not appended;
//! - notices stand in a stream of their own that is read together with the events, and first: so a node has heard
//!   every notice that was told before an event was appended;
//! - of several servers the one that is no replica counts, so that a node finds the new one when a replica was
//!   promoted;
//! - a log that has lost its tail (a crash without `appendfsync always`, a replica that was behind) is found by the first node that has
//!   seen further, and begins another epoch: no id is ever given twice.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use redis::streams::{StreamId, StreamMaxlen, StreamRangeReply, StreamReadOptions, StreamReadReply};
use redis::{Client, Commands, Connection, RedisError, Script, Value};

use super::ingest::OnMessage;
use super::{
    Append, Batch, EngineConfig, EngineError, Entry, Follow, Log, NOTICES_MAX, OnNotice, Places, addresses,
};
use crate::event::{EventId, Sequence, Timestamp};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, lock};

/// How long connecting and a command may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Entries read together, of each shard.
const READ_COUNT: usize = 1000;

/// The field of an entry that holds the event.
const FIELD: &str = "e";

/// KEYS: the meta hash, the node's last answer, a stream for each shard. ARGV: batch number, history, then
/// shard and event for each record. Answers the epoch and the sequences as text.
const APPEND: &str = r"
local last = redis.call('GET', KEYS[2])
if last then
  local number, answer = string.match(last, '^(%d+) (.*)$')
  if number == ARGV[1] then return answer end
end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return redis.error_reply('NOEPOCH the log has no epoch yet') end
local out = { epoch }
for i = 3, #ARGV, 2 do
  local id = redis.call('XADD', KEYS[3 + ARGV[i]], 'MAXLEN', '~', ARGV[2], epoch .. '-*', 'e', ARGV[i + 1])
  out[#out + 1] = string.match(id, '%-(%d+)$')
end
local answer = table.concat(out, ' ')
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. answer, 'EX', 3600)
return answer
";

/// KEYS: the meta hash. ARGV: the epoch that lost its tail, another one. Answers the epoch that holds now.
const RENEW: &str = r"
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('HSET', KEYS[1], 'epoch', ARGV[2]) end
return redis.call('HGET', KEYS[1], 'epoch')
";

/// A log in Redis.
pub(super) struct RedisLog {
    servers: Servers,
    keys: Keys,
    history: u64,
    /// How far this node has followed: what a log must reach for it to be appended to.
    seen: Arc<Mutex<Places>>,
    on_notice: OnNotice,
}

#[derive(Clone)]
struct Keys {
    meta: String,
    notices: String,
    node: String,
    streams: Vec<String>,
}

fn unreachable(error: &RedisError) -> EngineError {
    EngineError::Unreachable(error.to_string())
}

/// One server or several, tried from the one that was reached last.
struct Servers {
    clients: Vec<Client>,
    last: AtomicUsize,
}

impl Servers {
    fn new(urls: &str) -> Result<Self, EngineError> {
        // The error tells what is wrong with the address, not the address.
        let open = |url| Client::open(url).map_err(|error| EngineError::Url(error.to_string()));
        let clients = addresses(urls).map(open).collect::<Result<_, _>>()?;
        Ok(Self { clients, last: AtomicUsize::new(0) })
    }

    /// A connection to the first that can be reached and is as it should be.
    fn connect(
        &self,
        check: impl Fn(&mut Connection) -> Result<(), RedisError>,
    ) -> Result<Connection, EngineError> {
        let mut why: Vec<String> = Vec::new();
        for step in 0..self.clients.len() {
            // Relaxed, and below: where to begin, nothing else.
            let at = (self.last.load(Ordering::Relaxed) + step) % self.clients.len();
            let connection = self.clients[at].get_connection_with_timeout(TIMEOUT);
            match connection.and_then(|mut connection| check(&mut connection).map(|()| connection)) {
                Ok(connection) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => why.push(error.to_string()),
            }
        }
        Err(EngineError::Unreachable(why.join("; ")))
    }
}

impl RedisLog {
    pub(super) fn new(
        config: &EngineConfig,
        shards: usize,
        on_notice: OnNotice,
    ) -> Result<Self, EngineError> {
        let servers = Servers::new(&config.url)?;
        // Each process its own: random keys, so nothing but this process has it.
        let node = format!("{:016x}{:016x}", RandomState::new().hash_one(1), RandomState::new().hash_one(2));
        // Braces: in a cluster all keys of one log live on one machine, as the script needs it.
        let name = &config.name;
        let keys = Keys {
            meta: format!("{{{name}}}:log"),
            notices: format!("{{{name}}}:notices"),
            node: format!("{{{name}}}:node:{node}"),
            streams: (0..shards).map(|shard| format!("{{{name}}}:shard:{shard}")).collect(),
        };
        Ok(Self { servers, keys, history: config.history.max(1), seen: Arc::default(), on_notice })
    }

    /// A connection to the server that takes events: of several, the one that is no replica.
    fn connect(&self) -> Result<Connection, EngineError> {
        self.servers.connect(|connection| {
            connection.set_read_timeout(Some(TIMEOUT))?;
            connection.set_write_timeout(Some(TIMEOUT))?;
            let role: Vec<Value> = redis::cmd("ROLE").query(connection)?;
            match role.first() {
                Some(Value::BulkString(role)) if role != b"master" => {
                    Err((redis::ErrorKind::Client, "it is a replica").into())
                }
                _ => Ok(()),
            }
        })
    }

    /// The epoch of the log, which begins one where it has none.
    fn epoch(&self, connection: &mut Connection) -> Result<u64, EngineError> {
        let meta = &self.keys.meta;
        let shards = self.keys.streams.len();
        let begun: Result<(u64, usize), RedisError> = redis::pipe()
            .atomic()
            .hset_nx(meta, "epoch", Timestamp::now().0)
            .ignore()
            .hset_nx(meta, "shards", shards)
            .ignore()
            .cmd("HMGET")
            .arg(meta)
            .arg("epoch")
            .arg("shards")
            .query(connection)
            .map(|((epoch, shards),)| (epoch, shards));
        let (epoch, log) = begun.map_err(|e| unreachable(&e))?;
        if log == shards { Ok(epoch) } else { Err(EngineError::Shards { log, node: shards }) }
    }

    /// The epoch, and where each shard ends in it. A log that ends before what this node has seen lost its tail,
    /// and begins another epoch here.
    fn ends(&self, connection: &mut Connection) -> Result<Places, EngineError> {
        // Before the ends: it grows while they are asked for.
        let seen = lock(&self.seen).clone();
        let epoch = self.epoch(connection)?;
        let next: Vec<Sequence> = (0..self.keys.streams.len())
            .map(|shard| self.end(connection, shard, epoch))
            .collect::<Result<_, _>>()?;
        if seen.epoch != epoch || next.iter().zip(&seen.next).all(|(end, seen)| seen <= end) {
            return Ok(Places { epoch, next });
        }
        tracing::warn!(epoch, "the engine's log has lost events that this node saw: it begins anew");
        let another = (Timestamp::now().0 as u64).max(epoch + 1);
        let epoch = Script::new(RENEW)
            .key(&self.keys.meta)
            .arg(epoch)
            .arg(another)
            .invoke(connection)
            .map_err(|e| unreachable(&e))?;
        Ok(Places { epoch, next: vec![0; next.len()] })
    }

    /// The sequence behind the newest entry of a shard in this epoch.
    fn end(&self, connection: &mut Connection, shard: usize, epoch: u64) -> Result<Sequence, EngineError> {
        let newest: StreamRangeReply = connection
            .xrevrange_count(&self.keys.streams[shard], "+", "-", 1)
            .map_err(|e| unreachable(&e))?;
        let id = newest.ids.first().and_then(|entry| parse_id(&entry.id));
        Ok(id.filter(|(of, _)| *of == epoch).map_or(0, |(_, sequence)| sequence + 1))
    }
}

/// `EPOCH-SEQUENCE`.
fn parse_id(id: &str) -> Option<(u64, Sequence)> {
    let (epoch, sequence) = id.split_once('-')?;
    Some((epoch.parse().ok()?, sequence.parse().ok()?))
}

impl Log for RedisLog {
    fn tell(&self, notice: &str) -> Result<(), EngineError> {
        let mut connection = self.connect()?;
        let most = StreamMaxlen::Approx(NOTICES_MAX as usize);
        let told: Result<String, RedisError> =
            connection.xadd_maxlen(&self.keys.notices, most, "*", &[(FIELD, notice)]);
        told.map(|_| ()).map_err(|e| unreachable(&e))
    }

    fn appender(&self) -> Result<Box<dyn Append>, EngineError> {
        let mut connection = self.connect()?;
        self.ends(&mut connection)?;
        Ok(Box::new(Appender {
            connection,
            script: Script::new(APPEND),
            keys: self.keys.clone(),
            history: self.history,
        }))
    }

    fn follower(&self, known: Option<&Places>, past: u64) -> Result<(Box<dyn Follow>, Places), EngineError> {
        let mut connection = self.connect()?;
        let ends = self.ends(&mut connection)?;
        let places = match known {
            Some(known) if known.epoch == ends.epoch => known.clone(),
            _ => Places { next: ends.next.iter().map(|end| end.saturating_sub(past)).collect(), ..ends },
        };
        let seen = Arc::clone(&self.seen);
        lock(&seen).clone_from(&places);
        let mut follower = Follower {
            connection,
            keys: self.keys.clone(),
            seen,
            on_notice: Arc::clone(&self.on_notice),
            heard: "0-0".to_owned(),
        };
        follower.hear_all()?;
        Ok((Box::new(follower), places))
    }
}

struct Appender {
    connection: Connection,
    script: Script,
    keys: Keys,
    history: u64,
}

impl Append for Appender {
    fn append(&mut self, batch: &Batch<'_>) -> Result<(u64, Vec<Sequence>), EngineError> {
        let mut call = self.script.key(&self.keys.meta);
        call.key(&self.keys.node).key(&self.keys.streams).arg(batch.number).arg(self.history);
        for record in batch.records {
            call.arg(record.shard).arg(&record.json);
        }
        let answer: String = call.invoke(&mut self.connection).map_err(|e| unreachable(&e))?;
        let mut numbers = answer.split(' ').map(str::parse::<u64>);
        let unreadable = || EngineError::Unreachable("the log's answer can't be read".to_owned());
        let epoch = numbers.next().and_then(Result::ok).ok_or_else(unreadable)?;
        let sequences: Vec<Sequence> = numbers.collect::<Result<_, _>>().map_err(|_| unreadable())?;
        if sequences.len() == batch.records.len() { Ok((epoch, sequences)) } else { Err(unreadable()) }
    }
}

struct Follower {
    connection: Connection,
    keys: Keys,
    seen: Arc<Mutex<Places>>,
    on_notice: OnNotice,
    /// The last notice.
    heard: String,
}

/// What an entry holds; nothing where somebody else wrote it.
fn text_of(entry: &StreamId) -> &[u8] {
    match entry.map.get(FIELD) {
        Some(Value::BulkString(text)) => text,
        _ => b"",
    }
}

impl Follower {
    fn hear(&mut self, notices: &[StreamId]) {
        for notice in notices {
            (self.on_notice)(text_of(notice));
            self.heard.clone_from(&notice.id);
        }
    }

    /// Hears the notices that are there.
    fn hear_all(&mut self) -> Result<(), EngineError> {
        let options = StreamReadOptions::default().count(READ_COUNT);
        loop {
            let reply: Option<StreamReadReply> = self
                .connection
                .xread_options(&[&self.keys.notices], &[&self.heard], &options)
                .map_err(|e| unreachable(&e))?;
            let notices = reply.and_then(|mut reply| reply.keys.pop()).map_or_else(Vec::new, |key| key.ids);
            self.hear(&notices);
            if notices.len() < READ_COUNT {
                return Ok(());
            }
        }
    }
}

impl Follow for Follower {
    fn follow(
        &mut self,
        places: &Places,
        wait: Duration,
        take: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(), EngineError> {
        let keys: Vec<&String> = std::iter::once(&self.keys.notices).chain(&self.keys.streams).collect();
        let places_after = (places.next.iter()).map(|next| match next.checked_sub(1) {
            Some(last) => format!("{}-{last}", places.epoch),
            None => format!("{}-{}", places.epoch.saturating_sub(1), u64::MAX),
        });
        let after: Vec<String> = std::iter::once(self.heard.clone()).chain(places_after).collect();
        let options = StreamReadOptions::default().count(READ_COUNT).block(wait.as_millis() as usize);
        let reply: Option<StreamReadReply> =
            self.connection.xread_options(&keys, &after, &options).map_err(|e| unreachable(&e))?;
        let notices =
            reply.iter().flat_map(|reply| &reply.keys).find(|stream| stream.key == self.keys.notices);
        if let Some(notices) = notices {
            self.hear(&notices.ids);
            if notices.ids.len() == READ_COUNT {
                self.hear_all()?;
            }
        }
        let mut other_epoch = false;
        for stream in reply.iter().flat_map(|reply| &reply.keys) {
            let Some(shard) = self.keys.streams.iter().position(|key| *key == stream.key) else { continue };
            let mut last = None;
            for entry in &stream.ids {
                let Some((epoch, sequence)) = parse_id(&entry.id) else { continue };
                if epoch != places.epoch {
                    other_epoch = true;
                    break;
                }
                take(Entry { id: EventId { epoch, shard: shard as u16, sequence }, json: text_of(entry) });
                last = Some(sequence);
            }
            if let (Some(last), Some(seen)) = (last, lock(&self.seen).next.get_mut(shard)) {
                *seen = last + 1;
            }
        }
        if other_epoch { Err(EngineError::OtherEpoch) } else { Ok(()) }
    }
}

/// Hands over the messages of a channel, or of all that a pattern names. See [`super::ingest`].
pub(super) fn listen(url: &str, channel: &str, on_message: OnMessage<'_>) -> Result<(), EngineError> {
    let mut connection = Servers::new(url)?.connect(|_| Ok(()))?;
    let mut messages = connection.as_pubsub();
    if channel.contains('*') {
        messages.psubscribe(channel).map_err(|e| unreachable(&e))?;
    } else {
        messages.subscribe(channel).map_err(|e| unreachable(&e))?;
    }
    messages.set_read_timeout(Some(super::ingest::wait())).map_err(|e| unreachable(&e))?;
    loop {
        let goes_on = match messages.get_message() {
            Ok(message) => on_message(Some((message.get_channel_name(), message.get_payload_bytes()))),
            Err(error) if error.is_timeout() => on_message(None),
            Err(error) => return Err(unreachable(&error)),
        };
        if !goes_on {
            return Ok(());
        }
    }
}
