//! NATS client calls shared by several files, and the meaning of the server's errors.

use async_nats::Client;
use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, PublishAckFuture, PublishError, PublishErrorKind,
    RequestErrorKind,
};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Info, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use tokio::time::{Instant, timeout_at};

use super::super::error::EngineError;
use super::link::{TIMEOUT, unreachable};

/// Header of a mark, with the epoch that begins after it.
pub(super) const EPOCH: &str = "Fanwire-Epoch";

/// Returns a JetStream context. Call it within the runtime: it spawns a task.
pub(super) fn context(client: &Client) -> Context {
    let mut context = jetstream::new(client.clone());
    context.set_timeout(TIMEOUT);
    context
}

/// Returns the engine's error for an error of the server.
pub(super) fn answered(error: &jetstream::Error) -> EngineError {
    match error.error_code() {
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::STREAM_SEALED
        | ErrorCode::STREAM_OFFLINE
        | ErrorCode::STREAM_TOO_MANY_REQUESTS
        | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED
        | ErrorCode::CLUSTER_NO_PEERS
        | ErrorCode::CLUSTER_NOT_AVAILABLE => EngineError::TakesNothing(error.to_string()),
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
            EngineError::OtherKind("NATS has JetStream off".to_owned())
        }
        code if is_about_the_message(code) => EngineError::Unfit(error.to_string()),
        _ => unreachable(error),
    }
}

/// Returns the engine's error for a failure to create or inspect a stream.
pub(super) fn of_making(error: &CreateStreamError) -> EngineError {
    match error.kind() {
        CreateStreamErrorKind::JetStreamUnavailable => {
            EngineError::OtherKind("nothing in NATS answers for JetStream".to_owned())
        }
        CreateStreamErrorKind::JetStream(error) => answered(&error),
        _ => unreachable(error),
    }
}

/// Returns whether the server reports that it can never accept this message.
const fn is_about_the_message(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)
}

pub(super) async fn answer(ack: PublishAckFuture, until: Instant) -> Result<PublishAck, EngineError> {
    let answer = timeout_at(until, ack.into_future()).await;
    answer.map_err(|_| unreachable("no answer in time"))?.map_err(|error| refused(&error))
}

/// Returns the engine's error for a refused message.
pub(super) fn refused(error: &PublishError) -> EngineError {
    match error.kind() {
        // The stream is gone, or JetStream as a whole; attaching again shows which.
        PublishErrorKind::StreamNotFound => EngineError::OtherEpoch,
        _ => cause(error).map_or_else(|| unreachable(error), answered),
    }
}

/// Returns the creation time of a stream, in microseconds.
pub(super) fn micros(info: &Info) -> u64 {
    u64::try_from(info.created.unix_timestamp_nanos() / 1000).unwrap_or_default()
}

/// Returns a stream's info, or `None` if it no longer exists.
pub(super) async fn look<I>(stream: &Stream<I>) -> Result<Option<Info>, EngineError> {
    let error = match stream.get_info().await {
        Ok(info) => return Ok(Some(info)),
        Err(error) => error,
    };
    if error.kind() == RequestErrorKind::NoResponders {
        return Err(EngineError::OtherKind("nothing in NATS answers for JetStream".to_owned()));
    }
    match cause(&error) {
        Some(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
        Some(answer) => Err(answered(answer)),
        None => Err(unreachable(error)),
    }
}

/// Returns the server's answer inside an error of the client.
pub(super) fn cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e jetstream::Error> {
    error.source()?.downcast_ref()
}

/// Returns the epoch that a mark names, or `None` if the message is no mark.
pub(super) fn epoch_of(message: &jetstream::Message) -> Option<u64> {
    let headers = message.headers.as_ref().filter(|_| message.payload.is_empty())?;
    headers.get(EPOCH)?.as_str().parse().ok()
}
