//! A program with its own bus: a thread reads events, and browsers read the same ones.
//!
//! `cargo run --example embed`, then open the address it prints.

use std::time::Duration;

use fanwire::{Bus, Delivery, Event, Filter, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::new();

    // Browsers: every event of the bus, on /ws, /sse and the page.
    let server = Server::builder(&bus).listen("127.0.0.1:8765").spawn()?;
    println!("listening on http://{}", server.local_addr());

    // Threads of this program: a filter, then events in order, and a gap for each loss.
    let tasks = bus.subscribe("type=task.* source=core".parse::<Filter>()?);
    std::thread::spawn(move || {
        for delivery in tasks {
            match delivery {
                Delivery::Event(event) => println!("{} {}", event.event_type(), event.payload()),
                Delivery::Gap(gap) => eprintln!("missed {} events", gap.missed),
            }
        }
    });

    // Publishing never blocks and never locks, however slow the readers are.
    for progress in (0..=100).step_by(5).cycle() {
        let event = Event::builder("task.progress").source("core").entity("task", "t-1");
        bus.publish(event.json(format!(r#"{{"progress":{progress}}}"#)).build()?);
        std::thread::sleep(Duration::from_millis(250));
    }
    Ok(())
}
