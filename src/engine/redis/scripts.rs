//! The scripts that Redis runs for the log, and their answers.
//!
//! Each script is one atomic step. All decisions about the log are made in scripts: its epoch, whether it is still
//! the same log, and which ids are given.

use std::fmt::Write as _;

use redis::{Connection, RedisError, Script};

use super::super::error::EngineError;
use super::servers::fault;
use crate::event::Sequence;

const ENDS: &str = include_str!("ends.lua");
const JOIN: &str = include_str!("join.lua");
const APPEND: &str = include_str!("append.lua");
const OLDEST: &str = include_str!("oldest.lua");

/// Number of digits in the name of a life.
const LIFE_DIGITS: usize = 32;

/// Returns the script that appends in a life of the log; `None` for a name that no node gave.
///
/// The node that begins the life loads the script once, and never again. So a server that has the script is the process
/// on which the life began, and has lost nothing since.
pub(super) fn append(life: &str) -> Option<Script> {
    let is_ours = life.len() == LIFE_DIGITS && life.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then(|| Script::new(&format!("local LIFE = '{life}'\n{ENDS}{APPEND}")))
}

/// Returns the script that registers a node.
pub(super) fn join() -> Script {
    Script::new(&format!("{ENDS}{JOIN}"))
}

/// Returns the script that finds the entry a number of places before another.
pub(super) fn oldest() -> Script {
    Script::new(OLDEST)
}

/// Returns whether the server has this script.
pub(super) fn has(connection: &mut Connection, script: &Script) -> Result<bool, RedisError> {
    let has: Vec<bool> = redis::cmd("SCRIPT").arg("EXISTS").arg(script.get_hash()).query(connection)?;
    Ok(has.first().copied().unwrap_or(false))
}

/// State of the log, as a joining node receives it.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub(super) epoch: u64,
    pub(super) life: String,
    /// Number of nodes that have not reported their places. Until it is 0, nothing is appended.
    pub(super) waits: usize,
    /// Reason for a new epoch; empty if none began.
    pub(super) lost: String,
    /// Reason why the server accepts nothing; empty if it accepts events.
    pub(super) refused: String,
    /// Last id of the notices' stream.
    pub(super) notices: String,
    pub(super) next: Vec<Sequence>,
}

impl Joined {
    /// Reads the script's answer; `None` if the life of the log is not the one that the node knew.
    pub(super) fn read(answer: Vec<String>, shards: usize) -> Result<Option<Self>, EngineError> {
        if answer.first().is_some_and(|word| word == "CHANGED") {
            return Ok(None);
        }
        let mut words = answer.into_iter().skip(1);
        let mut word = || words.next().ok_or_else(unreadable);
        let mut joined = Self {
            epoch: number(&word()?)?,
            life: word()?,
            waits: number(&word()?)? as usize,
            lost: word()?,
            refused: word()?,
            notices: word()?,
            next: Vec::with_capacity(shards),
        };
        for word in words {
            joined.next.push(number(&word)?);
        }
        if joined.next.len() == shards { Ok(Some(joined)) } else { Err(unreadable()) }
    }
}

/// Epoch of an appended batch, and the first sequence in each of its shards.
pub(super) struct Appended {
    pub(super) epoch: u64,
    pub(super) first: Vec<(u16, Sequence)>,
}

impl Appended {
    /// Reads the script's answer.
    pub(super) fn read(answer: &str) -> Result<Self, EngineError> {
        let mut words = answer.split(' ').skip(1);
        let epoch = number(words.next().unwrap_or_default())?;
        let pair = |word: &str| {
            let (shard, first) = word.split_once(':').ok_or_else(unreadable)?;
            Ok((number(shard)? as u16, number(first)?))
        };
        Ok(Self { epoch, first: words.map(pair).collect::<Result<_, EngineError>>()? })
    }
}

/// Reads `EPOCH-SEQUENCE`.
pub(super) fn parse_id(id: &str) -> Option<(u64, Sequence)> {
    let (epoch, sequence) = id.split_once('-')?;
    Some((epoch.parse().ok()?, sequence.parse().ok()?))
}

fn number(word: &str) -> Result<u64, EngineError> {
    word.parse().map_err(|_| unreadable())
}

pub(super) fn unreadable() -> EngineError {
    EngineError::Unreachable("the log's answer can't be read".to_owned())
}

/// Returns the id of the entry `count` before the first of an epoch. Counts back in pages, each of which the server
/// holds in memory at a time.
pub(super) fn back(
    connection: &mut Connection,
    stream: &str,
    epoch: u64,
    mut count: u64,
) -> Result<Option<String>, EngineError> {
    const PAGE: u64 = 1000;
    let script = oldest();
    let mut id = String::new();
    write!(id, "{epoch}-0").map_err(|_| unreadable())?;
    let mut oldest = None;
    while count > 0 {
        let page = count.min(PAGE);
        let answer: Vec<String> =
            script.key(stream).arg(&id).arg(page).invoke(connection).map_err(|error| fault(&error))?;
        let [found, before] = answer.as_slice() else { return Err(unreadable()) };
        let found = number(found)?;
        if found == 0 {
            break;
        }
        id.clone_from(before);
        oldest = Some(id.clone());
        if found < page {
            break;
        }
        count -= found;
    }
    Ok(oldest)
}
