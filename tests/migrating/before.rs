use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

#[derive(Clone, Debug)]
pub enum Quote {
    Trade { symbol: String, price: f64 },
    Halt,
}

#[tokio::main(flavor = "current_thread")]
pub async fn main() {
    let (quotes, _) = broadcast::channel(1024);
    let mut reader = quotes.subscribe();
    let reading = tokio::spawn(async move {
        let mut sum = 0.0;
        loop {
            match reader.recv().await {
                Ok(Quote::Trade { symbol, price }) if symbol == "ABC" => sum += price,
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => eprintln!("missed {missed}"),
                Err(RecvError::Closed) => return sum,
            }
        }
    });
    let _ = quotes.send(Quote::Halt);
    let _ = quotes.send(Quote::Trade { symbol: "ABC".to_owned(), price: 1.5 });
    drop(quotes);
    assert_eq!(reading.await.ok(), Some(1.5));
}
