use fanwire::{Bus, Delivery, Predicate};

#[derive(Debug)]
pub enum Quote {
    Trade { symbol: String, price: f64 },
    Halt,
}

#[tokio::main(flavor = "current_thread")]
pub async fn main() {
    let quotes = Bus::of::<Quote>();
    let mut reader = quotes.subscribe(Predicate::all());
    let reading = tokio::spawn(async move {
        let mut sum = 0.0;
        loop {
            match reader.recv_async().await {
                Ok(Delivery::Event(quote)) => match &*quote {
                    Quote::Trade { symbol, price } if symbol == "ABC" => sum += price,
                    _ => {}
                },
                Ok(Delivery::Gap(gap)) => eprintln!("missed {}", gap.missed),
                Err(_) => return sum,
            }
        }
    });
    quotes.publish(Quote::Halt);
    quotes.publish(Quote::Trade { symbol: "ABC".to_owned(), price: 1.5 });
    quotes.close();
    assert_eq!(reading.await.ok(), Some(1.5));
}
