//! Socket.IO in axum, with socketioxide: clients join a room for each topic, and a publisher emits to rooms.

#[path = "../app.rs"]
mod app;

use std::time::Duration;

use axum::Router;
use serde_json::Value;
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};

async fn watch(socket: SocketRef, Data(topics): Data<Vec<u32>>, ack: AckSender) {
    socket.join(topics.iter().map(u32::to_string).collect::<Vec<_>>());
    let _ = ack.send(&());
}

async fn publish(io: SocketIo, Data((topic, payload)): Data<(String, Value)>) {
    let _ = io.to(topic).emit("event", &payload).await;
}

async fn connect(socket: SocketRef) {
    socket.on("watch", watch);
    socket.on("publish", publish);
}

fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(8080);
    // The load does not answer pings, and a burst is longer than the default buffer of 128 messages.
    let (layer, io) = SocketIo::builder()
        .ping_interval(Duration::from_secs(3600))
        .ping_timeout(Duration::from_secs(3600))
        .max_buffer_size(16_384)
        .build_layer();
    io.ns("/", connect);
    // By default, a worker for each available core, which is one.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { app::serve(port, Router::new().layer(layer)).await })
}
