//! Echoes a WebSocket client's messages through the server's own connection code. The Autobahn suite tests it.
//! `cargo run --release --example echo -- 127.0.0.1:9100 [--deflate]`

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut listen = "127.0.0.1:9100".to_owned();
    let mut deflate = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--deflate" => deflate = true,
            address if !address.starts_with('-') => address.clone_into(&mut listen),
            other => return Err(format!("{other}: usage: echo [ADDRESS:PORT] [--deflate]").into()),
        }
    }
    let server = fanwire::internals::serve_echo(&listen, deflate)?;
    println!("listening on ws://{}", server.local_addr());
    Ok(server.join()?)
}
