//! Admission of connections that the embedding program accepted.
//!
//! Invariants:
//! - An adopted connection has the limits of every other connection.
//! - A client whose response was written by the program receives no second response: if it can't be served after all, its
//!   stream is closed.

use super::loop_state::{LoopState, READ_BYTES};
use super::socket::Socket;
use super::token::Token;
use crate::codec::http::Request;
use crate::codec::ws::close_frame;
use crate::dialect::CLOSE_TRY_LATER;
use crate::server::conn::is_upgrade;
use crate::server::limits::budget;
use crate::server::shared::adoption::AdoptedRequest;

impl<S: Socket> LoopState<S> {
    /// Takes in a connection with its request. Returns `None` if it is refused or broken.
    pub(crate) fn adopt(&mut self, socket: S, adopted: AdoptedRequest) -> Option<Token> {
        let AdoptedRequest { request, shown, read, is_answered } = adopted;
        let token = if is_answered { self.admit_answered(socket, &request)? } else { self.admit(socket)? };
        let slot = self.find(token)?;
        let conn = &mut self.clients.conns[slot];
        let before = conn.connection.transport();
        self.turn.work = self.turn.spending.share(budget::CLIENT);
        let view = self.delivery.view(&self.shared.bus, &conn.socket, Some(&conn.outbox));
        let mut cx = self.turn.context(&self.shared, &view, conn.blocked);
        conn.connection.begin(&request, shown, is_answered, &mut cx);
        self.note_transport(slot, before);
        let mut is_open = self.apply(slot);
        for piece in read.chunks(READ_BYTES) {
            if is_open {
                self.read_buffer[..piece.len()].copy_from_slice(piece);
                is_open = self.receive(slot, piece.len());
            }
        }
        self.turn.spending.settle(&self.turn.work);
        if is_open && self.clients.conns[slot].connection.holds_input() {
            self.queue(slot);
        }
        is_open.then_some(token)
    }

    /// Takes in a connection whose response is written. A refused WebSocket client gets a close frame.
    fn admit_answered(&mut self, mut socket: S, request: &Request) -> Option<Token> {
        match self.check_room(&socket) {
            Ok(counted) => Some(self.insert_new(socket, counted)),
            Err(refused) => {
                self.count_refused(refused);
                if is_upgrade(request) {
                    // The socket is new, so it takes a few bytes. If it does not, the client sees the end of the stream.
                    let _ =
                        socket.write(&close_frame(CLOSE_TRY_LATER, "server takes no more connections now"));
                }
                None
            }
        }
    }
}
