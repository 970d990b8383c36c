//! Heap bytes of an idle client with its subscription: a counting allocator measures two numbers of clients, and the
//! difference gives the bytes of one.
#![cfg(feature = "server")]
#![allow(unsafe_code, reason = "an allocator of the test's own, which counts and calls the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use fanwire::Event;
use fanwire::internals::OneClient;

struct Counting;

thread_local!(static HELD: Cell<isize> = const { Cell::new(0) });

/// Returns the bytes that glibc's allocator uses for a small block: with its header, in steps of 16, and at least 32.
fn block(layout: Layout) -> isize {
    (layout.size() + 8).next_multiple_of(16).max(32) as isize
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.with(|held| held.set(held.get() + block(layout)));
        // SAFETY: the caller upholds the requirements.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.with(|held| held.set(held.get() - block(layout)));
        // SAFETY: the caller upholds the requirements.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Number of clients of the smaller measurement; the larger has twice as many. Tables that grow by doubling are filled
/// equally in both.
const CLIENTS: u64 = 500;

/// Returns the heap bytes of a loop with this many clients, whose subscriptions have these fields. Each client has
/// received an event.
fn held(clients: u64, fields: &dyn Fn(u64) -> String) -> isize {
    let before = HELD.with(Cell::get);
    let mut client = OneClient::subscribed(clients, fields);
    for n in 0..200 {
        let event = Event::builder("t").channel(&format!("user-{n}")).entity("symbol", &format!("S{n:03}"));
        client.publishes(event.build().expect("valid"));
        client.quiet_turn();
    }
    let held = HELD.with(Cell::get) - before;
    drop(client);
    held
}

/// Bytes of the in-memory socket: a block of 112, and its places in lists.
const SOCKET: isize = 120;

/// Returns the heap bytes of one more client, including [`SOCKET`].
fn slope(fields: &dyn Fn(u64) -> String) -> isize {
    (held(2 * CLIENTS, fields) - held(CLIENTS, fields)) / CLIENTS as isize
}

/// A personal channel costs few bytes more than an interest that all clients share. A watch list costs as much as its
/// values.
#[test]
fn an_idle_client_takes_few_bytes_whatever_its_interest() {
    // A first measurement allocates the tables of the thread and of the process.
    held(10, &|n| format!(r#""channels":["user-{n}"]"#));
    let shared = slope(&|_| r#""event_types":["t"]"#.to_owned());
    let channel = slope(&|n| format!(r#""channels":["user-{n}"]"#));
    let symbols = slope(&|client| {
        let all = (0..100).map(|n| format!(r#""symbol:S{:03}""#, (client * 37 + n * 10 + n % 7) % 1000));
        format!(r#""entities":[{}]"#, all.collect::<Vec<_>>().join(","))
    });
    println!("shared {shared}, own channel {channel}, 100 symbols {symbols} bytes");
    assert!(shared - SOCKET <= 230, "{shared}");
    assert!(channel - shared <= 185, "{channel} and {shared}");
    assert!(symbols - shared <= 780, "{symbols} and {shared}");
    assert!(channel - SOCKET <= 400, "{channel}");
    assert!(symbols - SOCKET <= 1_000, "{symbols}");
}
