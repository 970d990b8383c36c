//! Round trips: a thread publishes a number, another answers with it. Both poll without sleeping, or use their default
//! wait. It also measures the effect of shards and readers on a publisher.

use std::hint::spin_loop;
use std::thread;
use std::time::{Duration, Instant};

use fanwire::bus::WaitStrategy;
use fanwire::{Bus, Delivery, Predicate};

use super::Item;
use super::line::{self, Range};

const TRIPS: u64 = 20_000;

type Send_ = Box<dyn FnMut(Item) + Send>;
type Receive = Box<dyn FnMut() -> Option<Item> + Send>;

/// The two ends of two channels.
struct Pair {
    there: Send_,
    arrives: Receive,
    back: Send_,
    returns: Receive,
}

fn fanwire(wait: WaitStrategy) -> Pair {
    let make = || Bus::builder().carrying::<Item>().capacity(1024).build().expect("valid");
    let end = |bus: &Bus<Item>| {
        let mut reader = bus.subscribe(Predicate::all()).with_wait(wait);
        let receive: Receive = Box::new(move || match reader.recv() {
            Ok(Delivery::Event(item)) => Some(item),
            _ => None,
        });
        receive
    };
    let (there, back) = (make(), make());
    let (arrives, returns) = (end(&there), end(&back));
    let send = |bus: Bus<Item>| -> Send_ { Box::new(move |item| {
        bus.publish(item);
    }) };
    Pair { arrives, returns, there: send(there), back: send(back) }
}

fn tokio(spin: bool) -> Pair {
    use tokio::sync::broadcast::{Sender, channel, error::TryRecvError};
    let (there, _) = channel::<Item>(1024);
    let (back, _) = channel::<Item>(1024);
    let end = |sender: &Sender<Item>| -> Receive {
        let mut reader = sender.subscribe();
        Box::new(move || {
            if !spin {
                return reader.blocking_recv().ok();
            }
            loop {
                match reader.try_recv() {
                    Ok(item) => return Some(item),
                    Err(TryRecvError::Empty) => spin_loop(),
                    Err(_) => return None,
                }
            }
        })
    };
    let (arrives, returns) = (end(&there), end(&back));
    let send = |sender: Sender<Item>| -> Send_ { Box::new(move |item| {
        let _ = sender.send(item);
    }) };
    Pair { arrives, returns, there: send(there), back: send(back) }
}

fn crossbeam() -> Pair {
    let (there, arrives) = crossbeam_channel::bounded::<Item>(1024);
    let (back, returns) = crossbeam_channel::bounded::<Item>(1024);
    let receive = |receiver: crossbeam_channel::Receiver<Item>| -> Receive { Box::new(move || receiver.recv().ok()) };
    let send = |sender: crossbeam_channel::Sender<Item>| -> Send_ { Box::new(move |item| {
        let _ = sender.send(item);
    }) };
    Pair { arrives: receive(arrives), returns: receive(returns), there: send(there), back: send(back) }
}

/// Returns the times of the round trips in nanoseconds, sorted.
fn trips(pair: Pair) -> Vec<u64> {
    let Pair { mut there, mut arrives, mut back, mut returns } = pair;
    let echo = thread::spawn(move || {
        while let Some(item) = arrives() {
            back(item);
        }
    });
    let mut times: Vec<u64> = (1..=TRIPS)
        .map(|n| {
            let begun = Instant::now();
            there(Item::new(n));
            let item = returns().expect("the echo is there");
            assert_eq!(item.check(), n);
            begun.elapsed().as_nanos() as u64
        })
        .collect();
    drop(there);
    echo.join().expect("the echo ends");
    times.sort_unstable();
    times
}

/// Prints the tables.
pub fn print(time: Duration, range: Option<Range>) {
    println!("\nRound trips, ns: the time for which a thread waits for another's answer.\n\n| | p50 | p99 | p99.9 |\n|---|---|---|---|");
    let contestants: [(&str, fn() -> Pair); 5] = [
        ("**fanwire, both spin**", || fanwire(WaitStrategy::Spin)),
        ("**fanwire, default wait**", || fanwire(WaitStrategy::default())),
        ("tokio broadcast, both spin", || tokio(true)),
        ("tokio broadcast, both park", || tokio(false)),
        ("crossbeam-channel", crossbeam),
    ];
    for (name, make) in contestants {
        // The second of two runs counts: the first one warms up.
        trips(make());
        let times = line::within(range, || trips(make()));
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("| {name} | {} | {} | {} |", at(0.5), at(0.99), at(0.999));
    }
    println!("\nOne publisher, with no other thread on its core: millions published a second.\n\n| | published |\n|---|---|");
    for (shards, readers) in [(1, 0), (8, 0), (64, 0), (1, 1), (1, 8)] {
        let bus = Bus::builder().carrying::<Item>().capacity(8192).shards(shards).ordering_key(|item| item.0[0]);
        let bus = bus.build().expect("valid");
        // The readers exist, but do not read, so the publisher pays only for its own writes.
        let _readers: Vec<_> = (0..readers).map(|_| bus.subscribe(Predicate::all())).collect();
        let mut publisher = bus.publisher();
        let (begun, mut n) = (Instant::now(), 0);
        while begun.elapsed() < time {
            for _ in 0..2048 {
                n += 1;
                publisher.publish(Item::new(n));
            }
        }
        let rate = n as f64 / begun.elapsed().as_secs_f64() / 1e6;
        println!("| {shards} shards, {readers} subscribers that do not read | {rate:.0} |");
    }
}
