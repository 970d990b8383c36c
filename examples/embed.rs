//! A program with its own bus: a thread reads events, and browsers read the same ones.
//!
//! `cargo run --example embed`, then open the address it prints.

use std::error::Error;
use std::time::Duration;

use fanwire::{Bus, Delivery, Event, Filter, Server, ServerHandle};

/// Starts the server, and a thread that passes each event and gap to `show`.
pub(crate) fn start(
    listen: &str,
    mut show: impl FnMut(String) + Send + 'static,
) -> Result<(Bus, ServerHandle), Box<dyn Error>> {
    let bus = Bus::new();

    // Browsers: every event of the bus, on /ws, /sse and the page.
    let server = Server::builder(&bus).listen(listen).spawn()?;

    // Threads of this program: a filter, then events in order, and a gap for each loss.
    let tasks = bus.subscribe("type=task.* source=core".parse::<Filter>()?);
    std::thread::spawn(move || {
        for delivery in tasks {
            show(match delivery {
                Delivery::Event(event) => format!("{} {}", event.event_type(), event.payload()),
                Delivery::Gap(gap) => format!("missed {} events", gap.missed),
            });
        }
    });
    Ok((bus, server))
}

/// Publishes the progress of a task. Never blocks and never locks, however slow the readers are.
pub(crate) fn report(bus: &Bus, progress: u32) -> Result<(), Box<dyn Error>> {
    let event = Event::builder("task.progress").source("core").entity("task", "t-1");
    bus.publish(event.json(format!(r#"{{"progress":{progress}}}"#)).build()?);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let (bus, server) = start("127.0.0.1:8765", |line| println!("{line}"))?;
    println!("listening on http://{}", server.local_addr());
    for progress in (0..=100).step_by(5).cycle() {
        report(&bus, progress)?;
        std::thread::sleep(Duration::from_millis(250));
    }
    Ok(())
}
