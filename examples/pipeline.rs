//! Threads of std: orders go through a journal and a copy, then through matching. No order is lost, and matching gets
//! an order after both have processed it.
//!
//! `cargo run --example pipeline`.

use std::error::Error;
use std::sync::mpsc::{Sender, channel};

use fanwire::bus::{BatchItem, HandlerThread, SharedValue};
use fanwire::{LosslessBus, Predicate};

#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) text: String,
}

/// Runs orders through the stages, and reports each matched order with the number of journal writes at that time.
pub(crate) fn run(
    orders: impl Iterator<Item = Order>,
    matched: Sender<(u64, usize)>,
) -> Result<(), Box<dyn Error>> {
    let bus = LosslessBus::builder().of::<Order>().capacity(256).build_lossless()?;
    // All stages join before the first one runs.
    let (journal, copy) = (bus.subscribe(Predicate::all()), bus.subscribe(Predicate::all()));
    let matching = bus.subscribe_after(|order: &Order| !order.text.is_empty(), &[&journal, &copy]);

    let written = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let file = std::sync::Arc::clone(&written);
    let mut unwritten = Vec::new();
    let journal = journal.handle(HandlerThread::new().named("journal"), move |next| match next {
        BatchItem::Item(order) => unwritten.push(format!("{} {}", order.id, order.text)),
        // One write for all orders of the batch.
        BatchItem::End => file.lock().expect("no panic").append(&mut unwritten),
    })?;
    let mut kept = Vec::<SharedValue<Order>>::new();
    let copy = copy.handle(HandlerThread::new().named("copy"), move |next| {
        if let BatchItem::Item(order) = next {
            kept.push(order.clone());
        }
    })?;
    let matching = matching.handle(HandlerThread::new().named("matching"), move |next| {
        if let BatchItem::Item(order) = next {
            let _ = matched.send((order.id, written.lock().expect("no panic").len()));
        }
    })?;

    bus.publish_batch_blocking(orders)?;
    bus.close();
    for stage in [journal, copy, matching] {
        assert_eq!(stage.join().expect("panics are caught"), 0);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let (matched, hears) = channel();
    let orders = (0..1000).map(|id| Order { id, text: format!("buy {id}") });
    run(orders, matched)?;
    for (id, written) in hears.iter().step_by(100) {
        println!("order {id} was matched after {written} were written");
    }
    Ok(())
}
