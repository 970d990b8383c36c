//! The examples do what their head comments say.

mod support;

#[path = "../examples/axum.rs"]
#[allow(dead_code, reason = "`main` is for running it by itself")]
mod axum;
#[path = "../examples/embed.rs"]
#[allow(dead_code, reason = "as above")]
mod embed;
#[path = "../examples/game_loop.rs"]
#[allow(dead_code, reason = "as above")]
mod game_loop;
#[path = "../examples/latency.rs"]
#[allow(dead_code, reason = "as above")]
mod latency;
#[path = "../examples/latency_server.rs"]
#[allow(dead_code, reason = "as above")]
mod latency_server;
#[path = "../examples/market_data.rs"]
#[allow(dead_code, reason = "as above")]
mod market_data;
#[path = "../examples/pipeline.rs"]
#[allow(dead_code, reason = "as above")]
mod pipeline;
#[path = "../examples/ticker.rs"]
#[allow(dead_code, reason = "as above")]
mod ticker;
#[path = "../examples/tokio_service.rs"]
#[allow(dead_code, reason = "as above")]
mod tokio_service;

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use support::script::{Script, in_project};
use support::sse::Sse;
use support::wire::Wire;
use support::ws::Ws;
use support::{Server, fanwire, http, run};

#[test]
fn axum_and_fanwire_share_a_port_a_login_and_a_shutdown() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let started = axum::start("127.0.0.1:0", async { drop(stopped.await) });
    let (addr, server, serving) = runtime.block_on(started).expect("it starts");
    assert!(http::get(addr, "/").text().contains("<h1>Agents</h1>"));
    assert_eq!(http::get(addr, "/live").status, 401);
    let cookie = "Cookie: user=ann\r\n";
    let mut socket = Ws::over(Wire::connect(addr), "/live", cookie);
    assert_eq!(
        socket.ask(&json!({"type": "subscribe", "payload": {"event_types": ["agent.*"]}}))["type"],
        "ack"
    );
    let post =
        format!("POST /agents/ann/ask HTTP/1.1\r\nHost: localhost\r\n{cookie}Content-Length: 0\r\n\r\n");
    assert_eq!(http::exchange(addr, post.as_bytes()).status, 202);
    assert_eq!(socket.event()["entity"], json!({"kind": "agent", "id": "ann"}));
    stop.send(()).expect("the app runs");
    server.drain(Duration::ZERO);
    assert_eq!(socket.closed().0, 1012);
    runtime.block_on(serving).expect("no panic").expect("the app ends");
    server.join().expect("no thread failed");
}

#[test]
fn the_agent_dashboard_works_in_a_browser() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let started = axum::start("127.0.0.1:0", std::future::pending());
    let (addr, _server, _serving) = runtime.block_on(started).expect("it starts");
    let mut script = Script::start("browser_dashboard.mjs", &[&format!("http://{addr}")]);
    let mut lines = Vec::new();
    while let Some(line) = script.line() {
        lines.push(line);
    }
    assert_eq!(lines.last().map(String::as_str), Some("passed 2"), "{lines:?}");
}

#[test]
fn the_tickers_newcomers_get_the_latest_of_each_symbol_first() {
    let (server, mut market) = ticker::start("127.0.0.1:0").expect("it starts");
    for _ in 0..1000 {
        market.quote().expect("a quote");
    }
    let mut screen = Sse::open(server.local_addr(), "?type=quote&snapshot=1&on_lag=conflate");
    let mut symbols: Vec<String> = (0..8)
        .map(|_| screen.event().json()["entity"]["id"].as_str().expect("a symbol").to_owned())
        .collect();
    symbols.sort();
    symbols.dedup();
    assert_eq!(symbols.len(), 8, "{symbols:?}");
    market.quote().expect("a quote");
    assert!(screen.event().json()["payload"]["price"].is_f64());
}

#[test]
fn a_shell_can_pipe_a_commands_output() {
    let server = Server::start();
    let url = format!("http://{}", server.addr);
    let programs = Path::new(env!("CARGO_BIN_EXE_fanwire")).parent().expect("a folder").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let mut pipe = std::process::Command::new("sh");
    pipe.arg(in_project("examples/pipe.sh")).args(["build.log", "printf", r#"one\n"two"\\\ttab\n"#]);
    let output = run(pipe.env("PATH", path).env("FANWIRE_URL", &url));
    assert!(output.status.success(), "{output:?}");
    let output = run(fanwire().args([
        "tail",
        "--url",
        &url,
        "--json",
        "--history",
        "2",
        "--count",
        "2",
        "--type",
        "build.log",
    ]));
    let lines: Vec<serde_json::Value> = (String::from_utf8(output.stdout).expect("text").lines())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines[0]["payload"], json!({"line": "one"}));
    assert_eq!(lines[1]["payload"], json!({"line": "\"two\"\\\ttab"}));
    assert_eq!(lines[0]["correlation_id"], lines[1]["correlation_id"]);
}

#[test]
fn a_thread_and_a_browser_read_one_bus() {
    let (said, hears) = std::sync::mpsc::channel();
    let (bus, server) = embed::start("127.0.0.1:0", move |line| _ = said.send(line)).expect("it starts");
    let mut browser = Sse::open(server.local_addr(), "?entity=task:t-1");
    embed::report(&bus, 5).expect("it is valid");
    assert_eq!(hears.recv_timeout(support::PATIENCE).expect("a line"), r#"task.progress {"progress":5}"#);
    assert_eq!(browser.event().json()["payload"], json!({"progress": 5}));
}

#[test]
fn bars_of_typed_ticks_reach_a_screen() {
    use market_data::Tick;
    let (server, ticks) = market_data::start("127.0.0.1:0").expect("it starts");
    let mut screen = Sse::open(server.local_addr(), "?type=bar&entity=symbol:BOLT&on_lag=conflate");
    let tick = |symbol, volume, price| _ = ticks.publish(Tick { symbol, volume, price });
    // A tick of another symbol, one without volume and one without a symbol are not part of this symbol's bars.
    tick(0, 1, 5.0);
    tick(1, 0, 6.0);
    tick(9, 1, 7.0);
    tick(1, 30, 8.5);
    let bar = screen.event().json();
    assert_eq!(bar["payload"], json!({"last": 8.5, "volume": 30, "trades": 1}));
    assert_eq!(bar["entity"]["id"], "BOLT");
    ticks.close();
}

#[test]
fn a_tokio_task_takes_orders_until_the_bus_is_closed() {
    use tokio_service::{Order, take_orders};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let orders = fanwire::Bus::of::<Order>();
        let service = tokio::spawn(take_orders(orders.clone()));
        while orders.subscriber_count() == 0 {
            tokio::task::yield_now().await;
        }
        orders.publish(Order::Buy { symbol: "ACME".to_owned(), amount: 7 });
        orders.publish_batch([Order::Cancel(3), Order::Buy { symbol: "BOLT".to_owned(), amount: 5 }]);
        orders.close();
        let totals = service.await.expect("no panic");
        assert_eq!((totals.bought, totals.cancelled, totals.missed), (12, vec![3], 0));
    });
}

#[test]
fn a_frame_takes_its_share_of_moves_and_waits_for_none() {
    use game_loop::{Move, World};
    let moves = fanwire::Bus::builder().carrying::<Move>().capacity(1024).build().expect("valid");
    let mut reader = moves.subscribe(fanwire::Predicate::all());
    let mut world = World::default();
    world.frame(&mut reader);
    moves.publish_batch((0..300_u16).map(|n| Move { player: 1, x: f32::from(n), y: 0.0 }));
    world.frame(&mut reader);
    assert_eq!((world.players[1].0 as u32, reader.lag()), (255, 44));
    world.frame(&mut reader);
    assert_eq!((world.players[1].0 as u32, world.frames, world.missed), (299, 3, 0));
}

#[test]
fn an_order_is_matched_after_it_was_journalled() {
    let (matched, hears) = std::sync::mpsc::channel();
    let text = |id: u64| if id.is_multiple_of(10) { String::new() } else { "buy".to_owned() };
    pipeline::run((0..1000).map(|id| pipeline::Order { id, text: text(id) }), matched).expect("it runs");
    let matched: Vec<(u64, usize)> = hears.iter().collect();
    assert!(matched.iter().map(|(id, _)| *id).eq((0..1000).filter(|id| id % 10 != 0)));
    assert!(matched.iter().all(|(id, written)| *written > *id as usize), "{matched:?}");
}

#[test]
fn the_latency_table_has_a_row_for_each_wait_and_core() {
    let table = latency::table(20);
    assert_eq!(table.lines().count(), 2 + 6, "{table}");
    assert!(table.lines().skip(2).all(|row| row.split('|').count() == 8), "{table}");
}

#[test]
fn the_latency_table_to_a_socket_has_a_row_for_each_client() {
    let table = latency_server::table(20).expect("it runs");
    assert_eq!(table.lines().count(), 2 + 3, "{table}");
    assert!(table.lines().skip(2).all(|row| row.split('|').count() == 8), "{table}");
}

/// Users start from an example, so each is short and is run by a test here.
#[test]
fn each_example_has_fewer_than_80_lines_and_is_run() {
    let tests = std::fs::read_to_string(in_project("tests/examples.rs")).expect("this file");
    let mut count = 0;
    for entry in std::fs::read_dir(in_project("examples")).expect("examples").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        // `echo` is the Autobahn suite's.
        let is_rust = name.strip_suffix(".rs").is_some_and(|stem| stem != "echo");
        if !is_rust {
            continue;
        }
        let lines = std::fs::read_to_string(entry.path()).expect("an example").lines().count();
        assert!(lines < 80, "{name} has {lines} lines");
        assert!(tests.contains(&format!("#[path = \"../examples/{name}\"]")), "no test runs {name}");
        count += 1;
    }
    assert!(count >= 7, "{count}");
}
