//! Ingests messages of other systems from Redis channels and NATS subjects, as events.
//!
//! Invariants:
//! - Messages are published in the order of their arrival.
//! - A message that is not an event is counted and skipped.
//! - A lost connection is restored. Messages sent while it was down are lost, because these channels store nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::address::{Scheme, shown};
use super::backoff::Backoff;
use super::error::EngineError;
use super::listen::OnMessage;
use crate::dialect::{Complete, envelope};
use crate::event::Event;
use crate::metrics::Metrics;
use crate::threads::{self, Alarm};

/// Maximum pause before a server that can't be reached is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Channel of Redis or subject of NATS to publish on this bus: `redis://HOST:PORT#CHANNEL` or
/// `nats://HOST:PORT#SUBJECT`. A `*` in a channel matches any text; subjects have the wildcards of NATS.
///
/// A message is JSON: an event as `POST /publish` takes it, or any object, which becomes the payload of an event with
/// the channel's name as its type. Needs the feature `redis` or `nats`.
///
/// ```
/// # use fanwire::engine::Ingest;
/// let ingest: Ingest = "redis://127.0.0.1:6379#system:events".parse()?;
/// assert_eq!(ingest.channel(), "system:events");
/// # Ok::<(), fanwire::engine::EngineError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Ingest {
    url: String,
    channel: String,
    ca_file: String,
}

impl Ingest {
    /// Returns the channel or subject.
    #[must_use]
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Sets a PEM file with the certificates of authorities to trust for `rediss://` and `tls://`. Default: the
    /// system's authorities.
    #[must_use]
    pub fn tls_ca_file(mut self, path: impl Into<String>) -> Self {
        self.ca_file = path.into();
        self
    }
}

/// Shows the address without its credentials.
impl fmt::Display for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", shown(&self.url), self.channel)
    }
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ingest({self})")
    }
}

impl FromStr for Ingest {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let (url, channel) =
            text.split_once('#').filter(|(_, channel)| !channel.is_empty()).ok_or_else(|| {
                EngineError::Url("expected URL#CHANNEL, as redis://127.0.0.1:6379#system:events".to_owned())
            })?;
        listener(url)?;
        Ok(Self { url: url.to_owned(), channel: channel.to_owned(), ca_file: String::new() })
    }
}

/// Callback that takes an event; returns false to stop.
pub(crate) type Take = Box<dyn Fn(Event) -> bool + Send>;

/// Function that passes messages to `on_message` until that returns false, or the connection is lost.
type ListenFn =
    fn(url: &str, ca_file: &str, channel: &str, on_message: OnMessage<'_>) -> Result<(), EngineError>;

fn listener(url: &str) -> Result<ListenFn, EngineError> {
    match Scheme::of(url)? {
        #[cfg(feature = "redis")]
        Scheme::Redis => Ok(super::redis::listen),
        #[cfg(feature = "nats")]
        Scheme::Nats => Ok(super::nats::listen),
        Scheme::File => Err(EngineError::Url("there is nothing to listen to in a folder".to_owned())),
    }
}

impl Ingest {
    /// Starts a thread that publishes messages until `take` returns false.
    pub(crate) fn start(self, metrics: Arc<Metrics>, alarm: &Alarm, take: Take) -> std::io::Result<()> {
        let work = move || {
            let Ok(listen) = listener(&self.url) else { return };
            let mut backoff = Backoff::new(PAUSE_MAX);
            let mut continues = true;
            while continues {
                threads::fault_point();
                let outcome = listen(&self.url, &self.ca_file, &self.channel, &mut |message| {
                    threads::fault_point();
                    backoff.reset();
                    continues = match message.map(|(channel, json)| read(channel, json)) {
                        Some(Some(event)) => {
                            metrics.engine_ingested.inc();
                            take(event)
                        }
                        Some(None) => {
                            metrics.engine_ingest_unreadable.inc();
                            true
                        }
                        None => true,
                    };
                    continues
                });
                if let Err(error) = outcome {
                    tracing::warn!(ingest = %self, %error, "connection lost; messages may be lost until it is restored");
                    metrics.engine_losses.inc();
                    thread::sleep(backoff.pause());
                }
            }
        };
        threads::spawn("fanwire-ingest", alarm, work).map(drop)
    }
}

/// Returns the event of a message; `None` if it is neither an event nor a payload.
fn read(channel: &str, json: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(json).ok()?;
    envelope::read_event(text)
        .or_else(|_| envelope::read_event_as(channel, text))
        .map(Complete::into_event)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_named_after_its_servers_address() {
        let ingest: Ingest = "redis://user:secret@127.0.0.1:6379#system:*".parse().expect("valid");
        assert_eq!(ingest.to_string(), "redis://127.0.0.1:6379#system:*");
        for text in ["redis://127.0.0.1:6379", "redis://127.0.0.1:6379#", "ftp://127.0.0.1#x", ""] {
            assert!(text.parse::<Ingest>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_message_is_an_event_or_the_payload_of_one() {
        let event = read("ch", br#"{"type":"a.b","payload":{"n":1}}"#).expect("an event");
        assert_eq!((event.event_type(), event.payload()), ("a.b", r#"{"n":1}"#));
        let event =
            read("agent.message", br#"{"circle_name":"dev-team","content":"hi"}"#).expect("a payload");
        assert_eq!((event.event_type(), event.channel()), ("agent.message", Some("dev-team")));
        assert!(read("ch", b"hello").is_none());
        assert!(read("ch", b"\xff").is_none());
    }
}
