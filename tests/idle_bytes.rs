//! Heap bytes of an idle client with its subscription: a counting allocator measures two numbers of clients, and the
//! difference gives the bytes of one.
#![cfg(feature = "server")]

#[path = "support/heap.rs"]
mod heap;

use fanwire::Event;
use fanwire::internals::OneClient;

/// Number of clients of the smaller measurement; the larger has twice as many. Tables that grow by doubling are filled
/// equally in both.
const CLIENTS: u64 = 500;

/// Returns the heap bytes of a loop with this many clients, whose subscriptions have these fields. Each client has
/// received an event.
fn held(clients: u64, fields: &dyn Fn(u64) -> String) -> isize {
    let before = heap::held();
    let mut client = OneClient::subscribed(clients, fields);
    for n in 0..200 {
        let event = Event::builder("t").channel(&format!("user-{n}")).entity("symbol", &format!("S{n:03}"));
        client.publishes(event.build().expect("valid"));
        client.quiet_turn();
    }
    let held = heap::held() - before;
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
    assert!(symbols - shared <= 685, "{symbols} and {shared}");
    assert!(channel - SOCKET <= 400, "{channel}");
    assert!(symbols - SOCKET <= 900, "{symbols}");
}
