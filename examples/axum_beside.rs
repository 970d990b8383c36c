//! Fanwire next to an existing app: one port, axum's, with everything under `/events/` passed on to Fanwire's
//! own loop, which listens only on this machine. The app publishes by calling the bus.
//!
//! `cargo run --example axum_beside`, then open <http://127.0.0.1:3000>: a dashboard of agents
//! (`dashboard.html`).

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get, post};
use fanwire::{Bus, Event, Server};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// State that the app's handlers share.
#[derive(Clone)]
struct App {
    bus: Bus,
    /// Address of Fanwire.
    events: SocketAddr,
}

/// Starts both, and returns the app's address. Fanwire stops when the server is dropped.
pub(crate) async fn start(listen: &str) -> Result<(SocketAddr, fanwire::ServerHandle), Box<dyn Error>> {
    let bus = Bus::new();
    let server = Server::builder(&bus).listen("127.0.0.1:0").spawn()?;
    let app = Router::new()
        .route("/", get(|| async { Html(include_str!("dashboard.html")) }))
        .route("/agents/{name}/ask", post(ask))
        .route("/events/{*path}", any(pass_on))
        .with_state(App { bus, events: server.local_addr() });
    let listener = TcpListener::bind(listen).await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((addr, server))
}

/// A handler of the app. Every dashboard sees its effect.
async fn ask(State(app): State<App>, axum::extract::Path(name): axum::extract::Path<String>) -> Response {
    match Event::builder("agent.asked").source("app").entity("agent", &name).build() {
        Ok(event) => {
            app.bus.publish(event);
            StatusCode::ACCEPTED.into_response()
        }
        // A name that no attribute can have.
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

/// Passes a request on to Fanwire, and then the bytes of a WebSocket.
async fn pass_on(State(app): State<App>, request: Request) -> Response {
    tunnel(app.events, request)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.to_string()).into_response())
}

async fn tunnel(events: SocketAddr, mut request: Request) -> Result<Response, Box<dyn Error + Send + Sync>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.strip_prefix("/events").unwrap_or(path).parse::<Uri>()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(TcpStream::connect(events).await?))
            .await?;
    tokio::spawn(connection.with_upgrades());
    let client = hyper::upgrade::on(&mut request);
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let server = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
                let _ =
                    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
            }
        });
    }
    Ok(response.map(Body::new))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (addr, _server) = start("127.0.0.1:3000").await?;
    println!("listening on http://{addr}");
    println!("ask an agent: curl -X POST http://{addr}/agents/ann/ask");
    loop {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}
