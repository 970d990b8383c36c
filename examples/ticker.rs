//! A trading ticker: many symbols, many quotes a second, and screens of any speed. A client that is too slow for every
//! quote gets the latest one of each symbol, which is enough for a screen. A client can also request a maximum rate.
//!
//! `cargo run --example ticker`, then `curl -N 'http://127.0.0.1:8765/sse?type=quote&snapshot=1&on_lag=conflate'`.

use std::error::Error;
use std::time::Duration;

use fanwire::{Bus, Event, Server, ServerHandle};

const SYMBOLS: [&str; 8] = ["ACME", "BOLT", "CROW", "DUNE", "ECHO", "FLUX", "GALE", "HIVE"];

/// Starts the server, and a market that publishes quotes until it is dropped.
pub(crate) fn start(listen: &str) -> Result<(ServerHandle, Market), Box<dyn Error>> {
    let bus = Bus::new();
    let server = Server::builder(&bus).listen(listen).spawn()?;
    Ok((server, Market { bus, prices: SYMBOLS.map(|_| 10_000), moves: 7 }))
}

/// Prices on a random walk.
pub(crate) struct Market {
    bus: Bus,
    prices: [i64; SYMBOLS.len()],
    moves: u64,
}

impl Market {
    /// Publishes a new quote of one symbol.
    pub(crate) fn quote(&mut self) -> Result<(), Box<dyn Error>> {
        self.moves =
            self.moves.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (self.moves >> 33) as usize % SYMBOLS.len();
        self.prices[at] = (self.prices[at] + (self.moves >> 40) as i64 % 21 - 10).max(1);
        let price = self.prices[at] as f64 / 100.0;
        // `conflate` and `snapshot` keep the latest event of each entity.
        let quote = Event::builder("quote").source("market").entity("symbol", SYMBOLS[at]);
        self.bus.publish(quote.json(format!(r#"{{"price":{price:.2}}}"#)).build()?);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (server, mut market) = start("127.0.0.1:8765")?;
    let addr = server.local_addr();
    println!("every quote, or the latest: http://{addr}/sse?type=quote&snapshot=1&on_lag=conflate");
    println!("two a second:               http://{addr}/sse?type=quote&on_lag=sample&max_per_second=2");
    loop {
        for _ in 0..20 {
            market.quote()?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
