//! The usual Rust solution: axum, a task for each client, and tokio's broadcast between them.

#[path = "../app.rs"]
mod app;

use std::convert::Infallible;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt};
use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};
use tokio_stream::wrappers::BroadcastStream;

type Lines = Sender<Utf8Bytes>;

async fn serve(mut socket: WebSocket, mut lines: Receiver<Utf8Bytes>) {
    loop {
        match lines.recv().await {
            Ok(line) => {
                if socket.send(Message::Text(line)).await.is_err() {
                    return;
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn ws(State(lines): State<Lines>, upgrade: WebSocketUpgrade) -> Response {
    let receiver = lines.subscribe();
    upgrade.on_upgrade(|socket| serve(socket, receiver))
}

async fn sse(State(lines): State<Lines>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let lines = BroadcastStream::new(lines.subscribe());
    Sse::new(lines.filter_map(|line| async { Some(Ok(Event::default().data(line.ok()?.as_str()))) }))
}

async fn publish(State(lines): State<Lines>, body: String) -> &'static str {
    for line in body.split('\n') {
        // An error means that there is no subscriber.
        let _ = lines.send(line.into());
    }
    "ok"
}

fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(8080);
    // By default, a worker for each available core, which is one.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_io().build()?;
    runtime.block_on(async {
        let (lines, _) = channel(16_384);
        let app = Router::new()
            .route("/ws", get(ws))
            .route("/sse", get(sse))
            .route("/publish", post(publish))
            .with_state(lines);
        app::serve(port, app).await
    })
}
