//! Saved form of a connection, for another process.
//!
//! Always: received bytes are processed once, by one of the two processes. A client that may no longer see its stream
//! is not taken over.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BodyDecoder, Connection, Grant, Http, Receiving, Request, Session, State, Tick, Ws, routes, ws};
use crate::codec::portable;
use crate::dialect::Observers;
use crate::server::auth::SavedGrant;
use crate::server::session::context::Context;
use crate::server::session::saved::SavedSession;

/// State of one connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedConnection {
    state: SavedState,
    /// Input that waits until the responses before it are written.
    held: Option<HeldInput>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeldInput(#[serde(with = "portable::bytes")] Vec<u8>);

#[derive(Debug, Serialize, Deserialize)]
enum SavedState {
    Http {
        #[serde(with = "portable::bytes")]
        buffer: Vec<u8>,
        receiving: Option<Box<SavedReceiving>>,
    },
    Ws {
        decoder: ws::Decoder,
        inflates: bool,
        session: Box<SavedSession>,
    },
    Sse {
        grant: Option<Box<SavedGrant>>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedReceiving {
    request: Request,
    grant: Option<SavedGrant>,
    decoder: BodyDecoder,
    #[serde(with = "portable::bytes")]
    body: Vec<u8>,
}

fn saved(grant: Option<&Arc<Grant>>) -> Option<SavedGrant> {
    grant.map(|grant| grant.save())
}

/// Returns the grant in this process, or `None` if it is no longer valid. `Some(None)`: there is no authentication.
#[expect(clippy::option_option, reason = "no valid grant differs from no authentication")]
fn restored(grant: Option<SavedGrant>, cx: &Context<'_>) -> Option<Option<Arc<Grant>>> {
    let auth = &cx.shared.auth;
    if auth.is_open() {
        return Some(None);
    }
    auth.restore(grant?, cx.now).map(Some)
}

impl Connection {
    /// Returns the connection's state, or `None` if it has nothing to continue with.
    pub(crate) fn save(&self, tick: Tick, observers: &Observers) -> Option<SavedConnection> {
        let state = match &self.state {
            // An adopted request has no saved form that the successor could read.
            State::Http(http) if http.adopted.is_some() => return None,
            State::Http(http) => {
                let receiving = match &http.receiving {
                    None => None,
                    Some(receiving) => {
                        let Receiving { request, shown, decoder, body, .. } = &**receiving;
                        let grant = saved(shown.as_ref().ok()?.as_ref());
                        let (request, decoder, body) = (request.clone(), decoder.clone(), body.clone());
                        Some(Box::new(SavedReceiving { request, grant, decoder, body }))
                    }
                };
                SavedState::Http { buffer: http.buffer.clone(), receiving }
            }
            // A client with an unfinished request gets its response from this process.
            State::Ws(ws, inflates) if !ws.session.is_echo() && !ws.session.is_busy() => SavedState::Ws {
                decoder: ws.decoder.clone(),
                inflates: *inflates,
                session: Box::new(ws.session.save(tick, observers)),
            },
            State::Sse(grant) => SavedState::Sse { grant: saved(grant.as_ref()).map(Box::new) },
            State::Ws(..) | State::Closing(..) => return None,
        };
        Some(SavedConnection { state, held: self.held.as_deref().map(|held| HeldInput(held.clone())) })
    }

    /// Returns the saved connection, or `None` if it may not continue here.
    pub(crate) fn restored(saved: SavedConnection, cx: &Context<'_>) -> Option<Self> {
        let state = match saved.state {
            SavedState::Http { buffer, receiving } => {
                let receiving = match receiving {
                    None => None,
                    Some(receiving) => {
                        let SavedReceiving { request, grant, decoder, body } = *receiving;
                        let shown = Ok(restored(grant, cx)?);
                        let client = routes::client_of_body(&request, &shown, cx);
                        let mut receiving = Receiving::new(
                            request,
                            shown,
                            decoder,
                            cx.shared.clients.bodies.begin(client),
                            false,
                        );
                        receiving.body = body;
                        // The predecessor admitted the body, so it is completed here without a limit.
                        let _ = receiving.counted.grow(receiving.held_bytes(), None);
                        Some(Box::new(receiving))
                    }
                };
                let is_begun = receiving.is_some() || !buffer.is_empty();
                let since = is_begun.then_some(cx.tick);
                // The idle time continues from the predecessor's clock, as after a response.
                let http = Http { adopted: None, buffer, receiving, since, is_answered: true, closes: false };
                State::Http(Box::new(http))
            }
            SavedState::Ws { decoder, inflates, session } => {
                let session = Session::restored(*session, cx);
                State::Ws(Box::new(Ws { decoder, session }), inflates)
            }
            SavedState::Sse { grant } => State::Sse(restored(grant.map(|grant| *grant), cx)?),
        };
        let tick = cx.tick as u32;
        let held = saved.held.map(|HeldInput(held)| Box::new(held));
        Some(Self { state, last_input: tick, last_heartbeat: tick, held })
    }

    /// Subscribes again to the client's events. The loop has the interest of an event stream.
    pub(crate) fn resume(&self, cx: &mut Context<'_>) {
        if let State::Ws(ws, _) = &self.state {
            ws.session.resume(cx);
        }
    }
}
