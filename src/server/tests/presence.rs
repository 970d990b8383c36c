//! Tests presence over loops without sockets: joins, leaves and their times.

use super::*;
use crate::server::PresenceConfig;

/// Ticks of the grace time below.
const GRACE: u64 = 20;

/// Loops of one server, and a client that receives presence events.
struct Node {
    worlds: Vec<World>,
    watcher: Wire,
}

fn config() -> ServerConfig {
    let presence = PresenceConfig {
        channels: vec!["room.*".to_owned()],
        grace: Duration::from_secs(2),
        ..PresenceConfig::default()
    };
    ServerConfig { presence, ..ServerConfig::default() }
}

impl Node {
    fn new(config: ServerConfig, loops: usize) -> Self {
        let shared = Arc::new(Shared::new(Bus::new(), config, loops));
        shared.workers.work_inline();
        let mut worlds: Vec<World> = (0..loops)
            .map(|number| {
                let reader = shared.bus.reader(|| {});
                let core = LoopState::new(Arc::clone(&shared), reader, 1, number);
                World { core, shared: Arc::clone(&shared), tick: 0 }
            })
            .collect();
        // A pattern does not put the client itself into a channel.
        let request = "GET /sse?channel=room.*&event_name=message HTTP/1.1\r\nHost: t\r\n\r\n";
        let (watcher, _) = worlds[0].connect(request);
        let mut node = Self { worlds, watcher };
        node.turn();
        node.news();
        node
    }

    /// Runs turns until an event from one loop has reached the clients of another.
    fn turn(&mut self) {
        for _ in 0..3 {
            self.worlds.iter_mut().for_each(World::turn);
        }
    }

    fn after(&mut self, ticks: u64) {
        self.worlds.iter_mut().for_each(|world| world.tick += ticks);
        self.turn();
    }

    fn stream(&mut self, at: usize, query: &str) -> u64 {
        let (_, token) = self.worlds[at].connect(&format!("GET /sse?{query} HTTP/1.1\r\nHost: t\r\n\r\n"));
        self.turn();
        token
    }

    fn gone(&mut self, at: usize, token: u64) {
        self.worlds[at].core.forget(token);
        self.turn();
    }

    /// Users that joined (`+`) and left (`-`) since the last look.
    fn news(&self) -> Vec<String> {
        let one = |data: &str| {
            let event: serde_json::Value = serde_json::from_str(data).ok()?;
            let sign = if event["event_type"] == "presence.joined" { '+' } else { '-' };
            Some(format!("{sign}{}@{}", event["payload"]["user"].as_str()?, event["channel"].as_str()?))
        };
        text(&self.watcher).lines().filter_map(|line| one(line.strip_prefix("data: ")?)).collect()
    }

    fn ask(&mut self, channel: &str) -> (u16, serde_json::Value) {
        let request = format!("GET /api/presence/{channel} HTTP/1.1\r\nHost: t\r\n\r\n");
        let (wire, _) = self.worlds[0].connect(&request);
        let answer = text(&wire);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a response");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).expect("JSON"))
    }

    /// Users and their connections, and others.
    fn here(&mut self, channel: &str) -> (Vec<(String, u64)>, u64) {
        let (status, list) = self.ask(channel);
        assert_eq!(status, 200, "{list}");
        let users = list["users"].as_array().expect("a list").iter().map(|user| {
            (user["user"].as_str().unwrap_or_default().to_owned(), user["connections"].as_u64().unwrap_or(99))
        });
        (users.collect(), list["others"].as_u64().expect("a number"))
    }
}

#[test]
fn a_user_with_tabs_on_several_loops_joins_once_and_leaves_with_the_last() {
    let mut node = Node::new(config(), 2);
    let first = node.stream(0, "channel=room.1&user=ann");
    let second = node.stream(1, "channel=room.1&channel=room.2&user=ann");
    assert_eq!(node.news(), ["+ann@room.1", "+ann@room.2"]);
    assert_eq!(node.here("room.1"), (vec![("ann".to_owned(), 2)], 0));
    node.gone(0, first);
    node.after(10 * GRACE);
    assert_eq!(node.news(), Vec::<String>::new());
    node.gone(1, second);
    node.after(GRACE - 1);
    assert_eq!(node.news(), Vec::<String>::new(), "the grace time is not over");
    assert_eq!(node.here("room.1"), (vec![("ann".to_owned(), 0)], 0));
    node.after(1);
    assert_eq!(node.news(), ["-ann@room.1", "-ann@room.2"]);
    assert_eq!(node.here("room.1"), (vec![], 0));
    let metrics = &node.worlds[0].shared.metrics;
    assert_eq!((metrics.presence_joins.get(), metrics.presence_leaves.get()), (2, 2));
    assert_eq!((metrics.presence_users.get(), metrics.presence_channels.get()), (0, 0));
}

#[test]
fn a_reload_causes_no_presence_event() {
    let mut node = Node::new(config(), 2);
    let before = node.stream(0, "channel=room.1&user=ann");
    node.news();
    node.gone(0, before);
    node.after(GRACE / 2);
    let after = node.stream(1, "channel=room.1&user=ann");
    node.after(10 * GRACE);
    assert_eq!(node.news(), Vec::<String>::new());
    // The first absence does not end the second one early either.
    node.gone(1, after);
    node.after(GRACE - 1);
    assert_eq!(node.news(), Vec::<String>::new());
    node.after(1);
    assert_eq!(node.news(), ["-ann@room.1"]);
}

#[test]
fn a_loop_wakes_for_a_user_that_has_left_and_for_nothing_else() {
    let mut node = Node::new(config(), 1);
    let token = node.stream(0, "channel=room.1&user=ann");
    node.after(20);
    let quiet = node.worlds[0].core.ticks_to_timer().expect("a heartbeat");
    assert!(quiet > GRACE, "{quiet}");
    node.gone(0, token);
    node.after(1);
    node.after(15);
    let timer = node.worlds[0].core.ticks_to_timer();
    assert!(timer.is_some_and(|ticks| ticks <= GRACE - 16), "{timer:?}");
}

#[test]
fn a_client_without_a_name_is_counted_and_a_pattern_gives_no_presence() {
    let mut node = Node::new(config(), 1);
    node.stream(0, "channel=room.1");
    node.stream(0, "channel=room.*&user=eve");
    node.stream(0, "user=eve");
    assert_eq!(node.here("room.1"), (vec![], 1));
    node.stream(0, "channel=hall&user=ann");
    assert_eq!(node.news(), Vec::<String>::new());
    let (status, answer) = node.ask("hall");
    assert_eq!(status, 404);
    assert_eq!(answer["error"], "no presence is kept of 'hall': see presence.channels");
}

#[test]
fn a_websocket_client_is_where_its_subscriptions_are_and_finds_itself_there() {
    let mut node = Node::new(config(), 1);
    let (wire, token) =
        node.worlds[0].connect(&String::from_utf8_lossy(UPGRADE).replace("/ws", "/ws?user=ann"));
    let texts = [
        r#"{"type":"subscribe","payload":{"subscription_id":"a","channels":["room.1","room.2","room.*"]}}"#,
        r#"{"type":"request","payload":{"action":"presence","channel":"room.1"},"message_id":"asked"}"#,
        r#"{"type":"subscribe","payload":{"subscription_id":"b","channels":["room.2"]}}"#,
        r#"{"type":"unsubscribe","payload":{"subscription_id":"a"}}"#,
        r#"{"type":"request","payload":{"action":"presence","channel":"hall"},"message_id":"off"}"#,
        r#"{"type":"request","payload":{"action":"presence"},"message_id":"none"}"#,
        r#"{"type":"publish","payload":{"type":"presence.left","channel":"room.2"},"message_id":"forged"}"#,
        r#"{"type":"publish","payload":{"type":"presence.left","channel":"hall"},"message_id":"theirs"}"#,
    ];
    // All in one piece, so that each message finds the state left by the previous one.
    let all: Vec<u8> = texts.iter().flat_map(|text| masked(1, text.as_bytes())).collect();
    wire.with(|ends| ends.to_server.extend(all));
    node.worlds[0].core.ready(token, true, false);
    node.turn();
    let heard = text(&wire);
    let answer = |id: &str| {
        let messages = heard.split("{\"type\":").filter(|message| message.contains(&format!("\"{id}\"")));
        messages.collect::<String>()
    };
    assert!(answer("asked").contains(r#""users":[{"connections":1"#), "{heard}");
    assert!(answer("off").contains("no_presence"), "{heard}");
    assert!(answer("none").contains("channel is missing"), "{heard}");
    assert!(answer("forged").contains("the server's own to say"), "{heard}");
    assert!(answer("theirs").contains("event_id"), "{heard}");
    assert_eq!(node.news(), ["+ann@room.1", "+ann@room.2"]);
    node.after(GRACE);
    assert_eq!(node.news(), ["-ann@room.1"], "its second subscription keeps it in the other");
    node.gone(0, token);
}

#[test]
fn without_presence_channels_nothing_is_kept() {
    let mut node = Node::new(ServerConfig::default(), 1);
    node.stream(0, "channel=room.1&user=ann");
    assert_eq!(node.ask("room.1").0, 404);
    assert_eq!(node.news(), Vec::<String>::new());
    assert_eq!(node.worlds[0].shared.metrics.presence_channels.get(), 0);
}

#[test]
fn a_loop_that_ends_reports_the_users_that_leave_with_it() {
    let mut node = Node::new(config(), 2);
    node.stream(1, "channel=room.1&user=ann");
    let away = node.stream(1, "channel=room.1&user=bob");
    node.gone(1, away);
    node.news();
    node.worlds[1].core.end_presence();
    node.worlds[0].turn();
    let mut news = node.news();
    news.sort();
    assert_eq!(news, ["-ann@room.1", "-bob@room.1"]);
}
