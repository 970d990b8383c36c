//! Buffer of events as SSE text, for other HTTP servers.
//!
//! Invariants:
//! - The text is what the server itself would send.
//! - A full buffer drops its oldest event.

use std::collections::VecDeque;

use super::stream::{HEADERS, format_sse_event};
use crate::event::Event;
use crate::sync::{Arc, Mutex, lock};

/// A buffer of events as SSE text. Clones share the buffer.
///
/// ```
/// # use fanwire::{Bus, Event, Filter, sse::SseBridge};
/// let (bus, bridge) = (Bus::new(), SseBridge::new(1000));
/// let wired = bus.on_sync(Filter::new(), bridge.create_subscriber());
/// bus.publish(Event::builder("simulation.started").source("engine").build()?);
/// assert_eq!((bridge.buffer_size(), bridge.event_count()), (1, 1));
/// assert!(bridge.stream()[0].starts_with("event: simulation.started\ndata: {"));
/// bridge.clear();
/// assert_eq!((bridge.buffer_size(), bridge.event_count()), (0, 1));
/// # Ok::<(), fanwire::event::EventError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SseBridge {
    max: usize,
    state: Arc<Mutex<SseBuffer>>,
}

#[derive(Debug, Default)]
struct SseBuffer {
    buffer: VecDeque<String>,
    count: u64,
}

impl Default for SseBridge {
    /// Creates a bridge that keeps the newest 1000 events.
    fn default() -> Self {
        Self::new(1000)
    }
}

impl SseBridge {
    /// Creates a bridge that keeps the newest `max_buffer` events; at least one.
    #[must_use]
    pub fn new(max_buffer: usize) -> Self {
        Self { max: max_buffer.max(1), state: Arc::new(Mutex::new(SseBuffer::default())) }
    }

    /// Adds an event. A full buffer drops its oldest event. Takes a lock for a short time.
    pub fn add_event(&self, event: &Event) {
        let text = format_sse_event(event, None);
        let mut state = lock(&self.state);
        if state.buffer.len() == self.max {
            state.buffer.pop_front();
        }
        state.buffer.push_back(text);
        state.count += 1;
    }

    /// Returns the buffered texts, oldest first. They stay in the buffer.
    #[must_use]
    pub fn stream(&self) -> Vec<String> {
        lock(&self.state).buffer.iter().cloned().collect()
    }

    /// Empties the buffer.
    pub fn clear(&self) {
        lock(&self.state).buffer.clear();
    }

    /// Returns the number of events in the buffer.
    #[must_use]
    pub fn buffer_size(&self) -> usize {
        lock(&self.state).buffer.len()
    }

    /// Returns the number of events ever added.
    #[must_use]
    pub fn event_count(&self) -> u64 {
        lock(&self.state).count
    }

    /// Returns the headers of the HTTP response that carries the stream.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, &'static str); 4] {
        HEADERS
    }

    /// Returns a handler for [`Bus::on`](crate::Bus::on) or [`Bus::on_sync`](crate::Bus::on_sync) that adds each event.
    pub fn create_subscriber(&self) -> impl Fn(&Event) + Send + Sync + use<> {
        let bridge = self.clone();
        move |event| bridge.add_event(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventId, Timestamp};

    #[test]
    fn a_full_buffer_evicts_the_oldest_and_keeps_counting() {
        let bridge = SseBridge::new(2);
        for n in 0..3 {
            bridge.add_event(&Event::builder("x").json(n.to_string()).build().expect("valid"));
        }
        let texts = bridge.stream();
        assert_eq!((bridge.buffer_size(), bridge.event_count(), texts.len()), (2, 3, 2));
        assert!(texts[0].contains(r#""payload":1}"#) && texts[0].ends_with("\n\n"), "{}", texts[0]);
    }

    #[test]
    fn an_event_may_have_another_name() {
        let event = Event::builder("workflow.started").source("demo").build().expect("valid");
        let text = format_sse_event(&event, Some("custom.event.name"));
        assert!(
            text.starts_with("event: custom.event.name\ndata: {\"event_type\":\"workflow.started\""),
            "{text}"
        );
    }

    #[test]
    fn a_message_is_three_lines_and_an_empty_one() {
        let event = Event::builder("workflow.started")
            .source("demo")
            .timestamp(Timestamp(1_500_000))
            .build()
            .expect("valid");
        event.set_id(EventId { epoch: 10, shard: 0, sequence: 1 });
        assert_eq!(
            format_sse_event(&event, None),
            "event: workflow.started\n\
             data: {\"event_id\":\"a-1\",\"event_type\":\"workflow.started\",\"source\":\"demo\",\
             \"timestamp\":\"1970-01-01T00:00:01.500000Z\",\"correlation_id\":null,\"payload\":{}}\n\
             id: a-1\n\n"
        );
        assert_eq!(
            SseBridge::default().headers(),
            [
                ("Content-Type", "text/event-stream"),
                ("Cache-Control", "no-cache"),
                ("Connection", "keep-alive"),
                ("X-Accel-Buffering", "no"),
            ]
        );
    }

    #[test]
    fn a_bridge_keeps_a_thousand_events_by_default() {
        let bridge = SseBridge::default();
        let event = Event::builder("x").build().expect("valid");
        (0..1001).for_each(|_| bridge.add_event(&event));
        assert_eq!((bridge.buffer_size(), bridge.event_count()), (1000, 1001));
    }
}
