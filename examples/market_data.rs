//! A market-data service: ticks of a plain type on a typed bus, bars on a bus of events, and screens that each get as
//! many bars as they can read.
//!
//! `cargo run --example market_data`, then `curl -N 'http://127.0.0.1:8765/sse?type=bar&entity=symbol:ACME&on_lag=conflate'`.

use std::error::Error;

use bytemuck::{Pod, Zeroable};
use fanwire::bus::DeliveryRef;
use fanwire::{Bus, Event, Predicate, Server, ServerHandle};
use serde::Serialize;

const SYMBOLS: [&str; 4] = ["ACME", "BOLT", "CROW", "DUNE"];

/// A trade, as the feed handler decodes it. It is copied into the ring without an allocation.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Tick {
    pub(crate) symbol: u32,
    pub(crate) volume: u32,
    pub(crate) price: f64,
}

/// Trades of one symbol since the last bar, as clients get them.
#[derive(Clone, Copy, Default, Serialize)]
struct Bar {
    last: f64,
    volume: u64,
    trades: u64,
}

/// Starts the server, and a thread that makes bars of ticks until the bus of ticks is closed.
pub(crate) fn start(listen: &str) -> Result<(ServerHandle, Bus<Tick>), Box<dyn Error>> {
    let (ticks, events) = (Bus::builder().carrying::<Tick>().build()?, Bus::new());
    let server = Server::builder(&events).listen(listen).spawn()?;
    let mut reader = ticks.subscribe(Predicate::from(|tick: &Tick| tick.volume > 0));
    std::thread::Builder::new().name("bars".to_owned()).spawn(move || {
        let mut missed = 0;
        loop {
            let mut bars = [Bar::default(); SYMBOLS.len()];
            // All available ticks make one bar for each symbol: the faster they arrive, the more ticks a bar contains.
            let count = reader.visit_batch(4096, |delivery| match delivery {
                DeliveryRef::Event(tick) => {
                    if let Some(bar) = bars.get_mut(tick.symbol as usize) {
                        *bar = Bar {
                            last: tick.price,
                            volume: bar.volume + u64::from(tick.volume),
                            trades: bar.trades + 1,
                        };
                    }
                }
                DeliveryRef::Gap(gap) => missed += gap.missed,
            });
            for (symbol, bar) in SYMBOLS.iter().zip(bars).filter(|(_, bar)| bar.trades > 0) {
                // Conflation keeps the newest bar of each entity for a screen that lags.
                let event = Event::builder("bar").source("market").entity("symbol", symbol).payload(&bar);
                events.publish(event.build().expect("valid parts"));
            }
            if count == 0 && reader.is_closed() && reader.lag() == 0 {
                return println!("closed; {missed} ticks missed");
            }
            reader.wait();
        }
    })?;
    Ok((server, ticks))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (server, ticks) = start("127.0.0.1:8765")?;
    println!("http://{}/sse?type=bar&on_lag=conflate", server.local_addr());
    for n in 0_u32.. {
        let price = 100.0 + f64::from(n % 997) / 100.0;
        ticks.publish(Tick { symbol: n % 4, volume: n % 7, price });
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
    Ok(())
}
