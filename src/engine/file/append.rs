//! The appending side of a log in files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::error::EngineError;
use super::super::log::{Append, AppendBatch, Record};
use super::folder;
use super::open_segment::describe;
use super::segment::{RECORD_BYTES_MAX, record_bytes, write_record};
use super::shared::{FileShared, FileState, UnreadEvents};
use crate::event::EventId;
use crate::sync::lock;

pub(super) struct FileAppender {
    pub(super) shared: Arc<FileShared>,
    pub(super) record: Vec<u8>,
}

impl Append for FileAppender {
    fn check(&self, records: &[Record]) -> Result<(), EngineError> {
        let bytes = record_bytes(records);
        let limit = RECORD_BYTES_MAX as u64;
        if bytes > limit { Err(EngineError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    fn append(&mut self, batch: &AppendBatch<'_>) -> Result<Vec<EventId>, EngineError> {
        self.check(batch.records)?;
        write_record(batch.records, &mut self.record);
        let shared = &*self.shared;
        let mut state = lock(&shared.state);
        if batch.records.is_empty() {
            return Ok(Vec::new());
        }
        while state.unread.as_ref().is_some_and(UnreadEvents::is_full) {
            let left = batch.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(EngineError::TakesNothing(
                    "the node has not read what was written before".to_owned(),
                ));
            }
            state = shared.wait(state, left.min(Duration::from_secs(1)));
        }
        shared.write(&mut state, &self.record)?;
        let FileState { next, epoch, unread, .. } = &mut *state;
        let mut ids = Vec::with_capacity(batch.records.len());
        for Record { shard, json } in batch.records {
            let Some(next) = next.get_mut(usize::from(*shard)) else { continue };
            let id = EventId { epoch: *epoch, shard: *shard, sequence: *next };
            *next += 1;
            ids.push(id);
            if let Some(unread) = unread {
                unread.bytes += json.len();
                unread.events.push_back((id, json.clone()));
            }
        }
        drop(state);
        shared.changed.notify_all();
        Ok(ids)
    }

    fn probe(&mut self) -> Result<(), EngineError> {
        let shared = &*self.shared;
        let trouble = lock(&shared.state).trouble.clone();
        if trouble.is_none() && folder::has_room(&shared.folder) {
            return Ok(());
        }
        // Without the lock, because a full disk may also be slow.
        folder::try_write(&shared.folder)
            .map_err(|error| EngineError::TakesNothing(describe(&shared.folder, "writing in", &error)))?;
        let mut state = lock(&shared.state);
        let rolled = shared.roll(&mut state);
        rolled.map_err(|error| EngineError::TakesNothing(describe(&shared.folder, "writing in", &error)))?;
        state.trouble = None;
        Ok(())
    }
}
