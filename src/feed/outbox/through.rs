//! Write-through: frames that were just appended to a feed go to its only member straight from the loop's log.
//!
//! Invariant: the feed retains a frame only if the write falls short, and then in the same state as if it had been
//! sealed before the write.

use super::tail::ByteSink;
use super::{Flushed, Outbox, OutboxContext, ResumeLookup};
use crate::feed::fanout::Fanout;
use crate::feed::keys::{FeedKey, Membership};

impl Outbox {
    /// Makes the frames that were appended to the feed visible, and writes pending bytes as [`flush`](Self::flush) does.
    pub(crate) fn flush_appended<W: ByteSink>(
        &mut self,
        fanout: &mut Fanout,
        out: &mut W,
        budget: usize,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> Flushed {
        if let Some(key) =
            self.membership.map(Membership::feed).filter(|key| fanout.feed(*key).unsealed() > 0)
        {
            if let Some(flushed) = self.write_through(key, fanout, out, budget, cx) {
                return flushed;
            }
            fanout.seal(key);
        }
        self.flush(fanout, out, budget, cx)
    }

    /// Writes the appended frames from the log, if the connection has nothing else pending and is the only member of
    /// its feed. Returns `None` otherwise, or if the write was interrupted.
    fn write_through<W: ByteSink>(
        &mut self,
        key: FeedKey,
        fanout: &mut Fanout,
        out: &mut W,
        budget: usize,
        cx: &mut OutboxContext<'_, impl ResumeLookup>,
    ) -> Option<Flushed> {
        if self.backlog.is_some() || self.replaying {
            return None;
        }
        let gathered = fanout.gather(key, self.next, budget)?;
        let bytes = fanout.gathered(key, &gathered);
        let wanted = bytes.len();
        let written = out.write(bytes);
        if let Ok(written) = written
            && written == wanted
        {
            let frames = fanout.pass(key);
            cx.tally.writes += 1;
            cx.tally.bytes += written as u64;
            cx.tally.events += frames;
            self.next += frames;
            return Some(Flushed::Done);
        }
        fanout.seal(key);
        self.count_write(Some(fanout.feed(key)), wanted, written, cx).err()
    }
}
