//! Simulated connection: a kernel and a network that move bytes as the seed determines.
//!
//! Invariants:
//! - Bytes arrive in order, and only bytes that were sent.
//! - A short write is followed by readiness once there is room.
//! - Each read and write is recorded with the bus's position at that time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::rc::Rc;

use super::Dice;
use crate::bus::Bus;
use crate::server::reactor::socket::Socket;

/// Position of the bus when the server had read, or had written, `bytes` bytes.
#[derive(Clone, Debug)]
struct Mark<T> {
    bytes: u64,
    events: T,
}

/// Returns the position at the first mark after this byte.
fn events_at<T: Clone>(marks: &[Mark<T>], byte: u64) -> Option<T> {
    marks.get(marks.partition_point(|mark| mark.bytes <= byte)).map(|mark| mark.events.clone())
}

fn record<T>(marks: &mut Vec<Mark<T>>, taken: usize, events: T) {
    let bytes = marks.last().map_or(0, |mark| mark.bytes) + taken as u64;
    marks.push(Mark { bytes, events });
}

/// State that both ends share.
#[derive(Debug)]
pub(super) struct Wire {
    dice: Dice,
    bus: Bus,
    /// Bytes sent by the client that have not arrived.
    sent: VecDeque<u8>,
    /// Bytes that arrived, and that the server has not read.
    arrived: VecDeque<u8>,
    /// Whether the end of the client's bytes was sent, and whether it arrived.
    fin: (bool, bool),
    /// Bytes written by the server, and not read by the client.
    written: VecDeque<u8>,
    /// Maximum number of bytes that may be written and not read by the client.
    room: usize,
    /// Maximum number of bytes that one read or write moves.
    piece: usize,
    readable: bool,
    writable: bool,
    /// Whether the server's last write was short, so that it waits for readiness.
    is_waiting: bool,
    /// Whether the server has closed its writing side.
    ended: bool,
    /// Whether the server has dropped its end.
    closed: bool,
    /// Whether the connection is broken: reads and writes fail.
    broken: bool,
    /// Position of the loop's reader in each shard at its last wake-up.
    read_up_to: Rc<[u64]>,
    reads: Vec<Mark<Rc<[u64]>>>,
    /// Marks with the number of published events.
    writes: Vec<Mark<u64>>,
}

/// The server's end.
#[derive(Debug)]
pub(super) struct ServerEnd(Rc<RefCell<Wire>>);

/// The client's end, which also simulates the network.
#[derive(Clone, Debug)]
pub(super) struct ClientEnd(Rc<RefCell<Wire>>);

/// State of the connection after a client's read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// The server closed the connection in an orderly way.
    Ended,
    /// The connection broke.
    Broken,
}

pub(super) fn wire(bus: &Bus, dice: Dice, room: usize, piece: usize) -> (ServerEnd, ClientEnd) {
    let wire = Wire {
        dice,
        bus: bus.clone(),
        sent: VecDeque::new(),
        arrived: VecDeque::new(),
        fin: (false, false),
        written: VecDeque::new(),
        room,
        piece,
        readable: false,
        // A new socket is writable, and poll reports that first.
        writable: true,
        is_waiting: false,
        ended: false,
        closed: false,
        broken: false,
        read_up_to: Rc::default(),
        reads: Vec::new(),
        writes: Vec::new(),
    };
    let wire = Rc::new(RefCell::new(wire));
    (ServerEnd(Rc::clone(&wire)), ClientEnd(wire))
}

impl Read for ServerEnd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        if wire.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if wire.dice.one_in(40) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if wire.arrived.is_empty() {
            return if wire.fin.1 { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let piece = wire.piece;
        let most = wire.arrived.len().min(buffer.len()).min(wire.dice.up_to(piece));
        for (place, byte) in buffer.iter_mut().zip(wire.arrived.drain(..most)) {
            *place = byte;
        }
        let read_up_to = Rc::clone(&wire.read_up_to);
        record(&mut wire.reads, most, read_up_to);
        Ok(most)
    }
}

impl Write for ServerEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let most = self.takes(wanted)?;
        let written = &mut self.0.borrow_mut().written;
        let mut left = most;
        for slice in slices {
            let taken = slice.len().min(left);
            written.extend(&slice[..taken]);
            left -= taken;
        }
        Ok(most)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ServerEnd {
    /// Returns how many of `wanted` bytes the socket accepts now.
    fn takes(&mut self, wanted: usize) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        assert!(!wire.ended, "the server writes after it closed its writing side");
        if wire.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if wire.dice.one_in(40) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut most = wanted.min(wire.room.saturating_sub(wire.written.len()));
        if wire.dice.one_in(4) {
            let piece = wire.piece;
            most = most.min(wire.dice.up_to(piece));
        }
        wire.is_waiting |= most < wanted;
        let events = super::head(&wire.bus);
        record(&mut wire.writes, most, events);
        if most == 0 && wanted > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(most) }
    }
}

impl Socket for ServerEnd {
    fn is_drained(&self, _len: usize, _room: usize) -> bool {
        self.0.borrow().arrived.is_empty()
    }

    #[cfg(target_os = "linux")]
    fn shares_pages(&self) -> bool {
        true
    }

    #[cfg(target_os = "linux")]
    fn take_from(&mut self, pipe: std::os::fd::BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        let mut bytes = vec![0; self.takes(len)?];
        assert_eq!(rustix::io::read(pipe, &mut bytes), Ok(bytes.len()), "all of it is in the pipe");
        self.0.borrow_mut().written.extend(&bytes);
        Ok(bytes.len())
    }

    fn close_write(&mut self) {
        self.0.borrow_mut().ended = true;
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        let mut wire = self.0.borrow_mut();
        wire.closed = true;
        if !wire.arrived.is_empty() || !wire.sent.is_empty() {
            // A kernel resets a connection that is closed with unread bytes, and the reset may overtake written bytes.
            wire.broken = true;
            if wire.dice.one_in(2) {
                wire.written.clear();
            }
        }
    }
}

impl ClientEnd {
    /// Returns whether both are the end of one connection.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn send(&self, bytes: &[u8]) {
        let mut wire = self.0.borrow_mut();
        if !wire.fin.0 && !wire.broken && !wire.closed {
            wire.sent.extend(bytes);
        }
    }

    /// Returns the number of bytes sent so far, arrived or not.
    pub(super) fn sent_bytes(&self) -> u64 {
        let wire = self.0.borrow();
        let read = wire.reads.last().map_or(0, |mark| mark.bytes);
        read + (wire.arrived.len() + wire.sent.len()) as u64
    }

    /// Closes the writing side, and continues to read.
    pub(super) fn half_close(&self) {
        self.0.borrow_mut().fin.0 = true;
    }

    /// Breaks the connection.
    pub(super) fn abort(&self) {
        let mut wire = self.0.borrow_mut();
        wire.broken = true;
        (wire.readable, wire.writable) = (true, true);
    }

    /// Reads up to `most` bytes into `out`, and returns the state of the connection after them.
    pub(super) fn take(&self, most: usize, out: &mut Vec<u8>) -> End {
        let mut wire = self.0.borrow_mut();
        let taken = wire.written.len().min(most);
        out.extend(wire.written.drain(..taken));
        if !wire.written.is_empty() {
            End::Open
        } else if wire.broken {
            End::Broken
        } else if wire.ended || wire.closed {
            End::Ended
        } else {
            End::Open
        }
    }

    /// Returns the latest position of the bus at which the server wrote the byte at this offset.
    pub(super) fn events_when_written(&self, byte: u64) -> u64 {
        events_at(&self.0.borrow().writes, byte).expect("each write has a mark")
    }

    /// Returns the loop's position in each shard when it read the last of `bytes` bytes.
    pub(super) fn events_when_read(&self, bytes: u64) -> Rc<[u64]> {
        events_at(&self.0.borrow().reads, bytes - 1).expect("a request with a reply was read")
    }

    pub(super) fn record_reader(&self, events: &Rc<[u64]>) {
        self.0.borrow_mut().read_up_to = Rc::clone(events);
    }

    /// Moves bytes through the network, and reports readiness to the server. `all`: every sent byte arrives.
    pub(super) fn carry(&self, all: bool) {
        let mut wire = self.0.borrow_mut();
        let most = if all { usize::MAX } else { wire.dice.up_to(4000) };
        let moved = wire.sent.len().min(most);
        let arriving: Vec<u8> = wire.sent.drain(..moved).collect();
        wire.arrived.extend(arriving);
        let fin = wire.fin.0 && wire.sent.is_empty() && !wire.fin.1;
        wire.fin.1 |= fin;
        wire.readable |= moved > 0 || fin;
        if wire.is_waiting && wire.written.len() < wire.room && (all || wire.dice.one_in(2)) {
            wire.is_waiting = false;
            wire.writable = true;
        }
        // Poll may report readiness although the socket is not ready, or no longer ready.
        wire.readable |= wire.dice.one_in(60);
        wire.writable |= wire.dice.one_in(60) && wire.written.len() < wire.room;
    }

    /// Takes the readiness (readable, writable) that poll will report, so that it is reported only once.
    pub(super) fn take_readiness(&self) -> Option<(bool, bool)> {
        let mut wire = self.0.borrow_mut();
        let readiness = (std::mem::take(&mut wire.readable), std::mem::take(&mut wire.writable));
        (!wire.closed && (readiness.0 || readiness.1)).then_some(readiness)
    }

    /// Returns whether poll reports, with the readiness, that the client's input or the connection has ended.
    pub(super) fn is_over(&self) -> bool {
        let wire = self.0.borrow();
        wire.fin.1 || wire.broken
    }

    pub(super) fn is_ready(&self) -> bool {
        let wire = self.0.borrow();
        !wire.closed && (wire.readable || wire.writable)
    }

    /// Returns whether the network or the client has something left to do.
    pub(super) fn is_moving(&self) -> bool {
        let wire = self.0.borrow();
        let to_server = !wire.sent.is_empty() || wire.fin.0 != wire.fin.1;
        !wire.closed && (to_server || (wire.is_waiting && wire.written.len() < wire.room))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.borrow().closed
    }

    pub(super) fn set_room(&self, room: usize) {
        self.0.borrow_mut().room = room;
    }
}
