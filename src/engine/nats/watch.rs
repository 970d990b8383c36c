//! Inspects the streams every second while they are followed, and reports this node to the others.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::Stream;

use super::super::error::EngineError;
use super::api::{look, micros};
use super::attach::Attached;
use super::link::{Faults, unreachable};
use super::shared::NatsShared;
use crate::sync::lock;

/// Interval at which the streams are inspected.
const LOOK: Duration = Duration::from_secs(1);

/// Minimum pause between two requests of an inspection.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Returns the time that one inspection of all streams takes.
pub(super) fn look_time(shards: usize) -> Duration {
    LOOK.max(LOOK_PAUSE * (shards as u32 + 2))
}

/// Inspects the streams every second, and reports the first fault.
pub(super) async fn watch(
    shared: Arc<NatsShared>,
    client: Client,
    faults: Arc<Faults>,
    attached: Attached,
    notices: Stream,
) {
    let Attached { streams, own, life, .. } = attached;
    let heard = micros(notices.cached_info());
    let server = client.server_info().server_id;
    while !faults.is_faulty() {
        lock(&shared.known).looked = Some(std::time::Instant::now());
        shared.announce_presence(&client, &server).await;
        let pause = look_time(streams.len()) / (streams.len() as u32 + 2);
        for (shard, stream) in streams.iter().enumerate() {
            tokio::time::sleep(pause).await;
            let seen = lock(&shared.known).followed.next.get(shard).copied().unwrap_or(0);
            match look(stream).await {
                Ok(Some(info))
                    if micros(&info) == life.created[shard] && info.state.last_sequence >= seen => {}
                Ok(_) => return faults.set(EngineError::OtherEpoch),
                Err(error) => return faults.set(error),
            }
        }
        tokio::time::sleep(pause).await;
        match look(&notices).await {
            Ok(Some(info)) if micros(&info) == heard => {}
            Ok(_) => return faults.set(unreachable("the notices began anew")),
            Err(error) => return faults.set(error),
        }
        tokio::time::sleep(pause).await;
        if let Ok(own) = &own {
            match shared.last_announcement(own).await {
                Ok((announced, _)) if announced == life.announced_by => {}
                Ok(_) => return faults.set(EngineError::OtherEpoch),
                Err(error) => return faults.set(error),
            }
        }
    }
}
