//! Fanwire in an app: `embedded WAY PORT`. WAY is how clients connect at PORT: `own`, to a listener of the server;
//! `tower`, to a route of axum; `listener`, to a route of axum with a wrapped listener; `adopt`, over sockets that
//! the program accepts itself. Events are published at the next port, a listener of the server in each case, so that
//! only the clients' connections differ.

#[path = "../app.rs"]
mod app;

use std::error::Error;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};

use axum::Router;
use fanwire::server::{Acceptor, StreamRequest};
use fanwire::{Bus, Server, ServerHandle};

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port))
}

/// Serves clients with a route of an axum app, whose event streams take their sockets if its listener is `wrapped`.
fn serve_by_axum(server: &ServerHandle, port: u16, wrapped: bool) -> Result<(), Box<dyn Error>> {
    let live = fanwire::tower::live(server);
    let app = Router::new().route_service("/ws", live.clone()).route_service("/sse", live.clone());
    // By default, a worker for each available core, which is one.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if !wrapped {
        return Ok(runtime.block_on(app::serve(port, app))?);
    }
    let serving = async {
        let listener = live.listener(tokio::net::TcpListener::bind(("127.0.0.1", port)).await?);
        // The loop sets the options that the others' `tap_io` does.
        axum::serve(listener, app).await
    };
    Ok(runtime.block_on(serving)?)
}

/// Reads a request and gives its socket to the server.
fn adopt(acceptor: &Acceptor, mut socket: TcpStream) -> Result<(), Box<dyn Error>> {
    let (mut head, mut piece) = (Vec::new(), [0; 2048]);
    let end = loop {
        let read = socket.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&piece[..read]);
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = std::str::from_utf8(&head[..end])?;
    let mut lines = text.lines();
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let request =
        headers.fold(StreamRequest::get(target), |request, (name, value)| request.header(name, value));
    Ok(acceptor.adopt(request, socket, head[end..].to_vec())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, way, port] = args.as_slice() else { return Err("embedded own|tower|listener|adopt PORT".into()) };
    let port: u16 = port.parse()?;
    let mut sockets = vec![listen(port + 1)?];
    if way == "own" {
        sockets.push(listen(port)?);
    }
    let bus = Bus::new();
    let server = Server::builder(&bus).sockets(sockets).spawn()?;
    match way.as_str() {
        "own" => Ok(server.join()?),
        "tower" => serve_by_axum(&server, port, false),
        "listener" => serve_by_axum(&server, port, true),
        "adopt" => {
            let acceptor = server.acceptor();
            for socket in listen(port)?.incoming() {
                // One after the other, as a load connects its clients.
                adopt(&acceptor, socket?)?;
            }
            Ok(())
        }
        other => Err(format!("no such way: {other}").into()),
    }
}
