//! Fanwire on the port of an axum app: the app's login decides who sees what, and one shutdown ends both.
//!
//! `cargo run --example axum --features axum`, then open <http://127.0.0.1:3000>: a dashboard of agents (`dashboard.html`).

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use fanwire::auth::Claims;
use fanwire::{Bus, Event, Server, ServerConfig, ServerHandle};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const PAGE: &str = include_str!("dashboard.html");

/// Starts the app, which runs until `stop`. Returns its address, Fanwire's handle and the app's task.
pub(crate) async fn start(
    listen: &str,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(SocketAddr, ServerHandle, JoinHandle<std::io::Result<()>>), Box<dyn Error>> {
    let bus = Bus::new();
    let mut config = ServerConfig::default();
    config.auth.by_program = true;
    // No `listen`: the app's port is the only one.
    let server = Server::builder(&bus).config(config).spawn()?;
    let live = fanwire::tower::live(&server);
    let listener = live.listener(TcpListener::bind(listen).await?);
    let addr = listener.local_addr()?;
    let app = Router::new()
        .route_service("/live", live)
        .route("/agents/{name}/ask", post(ask))
        .layer(from_fn(give_rights))
        .route("/", get(|| async { ([(SET_COOKIE, "user=ann; HttpOnly")], Html(PAGE)) }))
        .with_state(bus);
    let serving = axum::serve(listener, app).with_graceful_shutdown(stop);
    Ok((addr, server, tokio::spawn(async { serving.await })))
}

/// Accepts users with the app's cookie, and gives them the right to see agents only.
async fn give_rights(mut request: Request, next: Next) -> Response {
    let cookie = request.headers().get(COOKIE).and_then(|cookie| cookie.to_str().ok());
    let Some(user) = cookie.and_then(|cookie| cookie.strip_prefix("user=")) else {
        return (StatusCode::UNAUTHORIZED, "open / first").into_response();
    };
    let mut claims = Claims::default();
    claims.sub = Some(user.to_owned());
    claims.types = Some(vec!["agent.**".to_owned()]);
    request.extensions_mut().insert(claims);
    next.run(request).await
}

/// A handler of the app, which publishes an event to every dashboard.
async fn ask(State(bus): State<Bus>, Path(name): Path<String>) -> Response {
    let Ok(event) = Event::builder("agent.asked").source("app").entity("agent", &name).build() else {
        return (StatusCode::BAD_REQUEST, "no attribute can have this name").into_response();
    };
    bus.publish(event);
    StatusCode::ACCEPTED.into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (addr, server, serving) =
        start("127.0.0.1:3000", async { drop(tokio::signal::ctrl_c().await) }).await?;
    println!("listening on http://{addr}; Ctrl-C ends it");
    tokio::signal::ctrl_c().await?;
    // This ends the event streams. axum ends when its requests have ended.
    server.drain(Duration::from_secs(5));
    serving.await??;
    Ok(server.join()?)
}
