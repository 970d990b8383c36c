//! A tokio service: one task waits for orders of the program's own type, for a clock, and for its end.
//!
//! `cargo run --example tokio_service`; Ctrl-C ends it.

use std::time::Duration;

use fanwire::{Bus, Delivery, Predicate};

/// An order. Any type will do: the bus shares it among its readers.
#[derive(Debug)]
pub(crate) enum Order {
    Buy { symbol: String, amount: u32 },
    Cancel(u64),
}

/// Sums over the orders that the task has received.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Totals {
    pub(crate) bought: u32,
    pub(crate) cancelled: Vec<u64>,
    pub(crate) missed: u64,
}

/// Processes orders until the bus is closed.
pub(crate) async fn take_orders(orders: Bus<fanwire::bus::SharedValue<Order>>) -> Totals {
    let mut reader = orders.subscribe(Predicate::all());
    // A handle would keep the bus open.
    drop(orders);
    let mut totals = Totals::default();
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            order = reader.recv_async() => match order {
                Ok(Delivery::Event(order)) => match &*order {
                    Order::Buy { symbol, amount } => {
                        println!("{amount} of {symbol}");
                        totals.bought += amount;
                    }
                    Order::Cancel(id) => totals.cancelled.push(*id),
                },
                Ok(Delivery::Gap(gap)) => totals.missed += gap.missed,
                Err(_) => return totals,
            },
            _ = clock.tick() => println!("{totals:?}"),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let orders = Bus::of::<Order>();
    let mut service = tokio::spawn(take_orders(orders.clone()));
    let mut id = 0;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => orders.close(),
            totals = &mut service => return println!("{totals:?}"),
            () = tokio::time::sleep(Duration::from_millis(300)) => {
                id += 1;
                orders.publish(Order::Buy { symbol: "ACME".to_owned(), amount: 7 });
                orders.publish(Order::Cancel(id));
            }
        }
    }
}
