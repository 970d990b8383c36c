//! A wall clock that is set while tokens are in use.

use super::*;
use crate::auth::{Claims, SigningKey};
use crate::server::auth::{Auth, AuthConfig};

const SECRET: &str = "a secret that only this test knows, of some length";

/// The wall clock's second at tick 0.
const START: i64 = 1_800_000_000;

struct Clock {
    world: World,
    /// Seconds by which the wall clock was set.
    set: i64,
}

impl Clock {
    fn new() -> Self {
        let mut config = AuthConfig::default();
        config.jwt.hs256_secret = Some(SECRET.into());
        let mut shared = Shared::new(Bus::new(), ServerConfig::default(), 1);
        shared.auth = Arc::new(Auth::load(&config).expect("a configuration"));
        let shared = Arc::new(shared);
        let reader = shared.bus.reader(|| {});
        let core = LoopState::new(Arc::clone(&shared), reader, 1, 0);
        let mut clock = Self { world: World { core, shared, tick: 0 }, set: 0 };
        clock.turn();
        clock
    }

    fn now(&self) -> Timestamp {
        Timestamp((START + self.set) * 1_000_000 + self.world.tick as i64 * 100_000)
    }

    fn turn(&mut self) {
        loop {
            self.world.core.wake(self.world.tick, self.now());
            self.world.core.turn();
            if !self.world.core.has_work() {
                return;
            }
        }
    }

    /// Opens an event stream with a token that is valid until this many seconds after the start.
    fn stream(&mut self, until: i64) -> Wire {
        let claims =
            Claims { exp: Some(START + until), streams: Some(vec!["*".into()]), ..Claims::default() };
        let token = SigningKey::hs256(&SECRET.into()).sign(&claims).expect("it signs");
        let request = format!(
            "GET /sse?event_name=message HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let (wire, _) = self.world.connect(&request);
        self.turn();
        assert!(text(&wire).contains("200 OK"));
        wire
    }
}

#[test]
fn a_token_that_a_set_clock_ends_gets_no_event_more() {
    let mut clock = Clock::new();
    let (hour, day) = (clock.stream(3600), clock.stream(86_400));
    clock.world.publish(1);
    clock.turn();
    assert!(text(&hour).contains("data:") && text(&day).contains("data:"));
    // Sets the clock by two hours in one step, with an event in the same turn.
    clock.set = 7200;
    clock.world.publish(1);
    clock.turn();
    let output = text(&hour);
    assert!(output.contains("token_expired") && !output.contains("a.b"), "{output}");
    let output = text(&day);
    assert!(output.contains("a.b") && !output.contains("closed"), "{output}");
    // The other client's timer is rescheduled, and fires without an event or a heartbeat.
    clock.set = 86_399;
    clock.turn();
    assert!(!text(&day).contains("token_expired"));
    clock.world.tick += 11;
    clock.turn();
    let output = text(&day);
    assert!(output.contains("token_expired"), "{output}");
}

#[test]
fn a_loop_without_work_looks_at_the_clock_and_one_put_back_ends_nothing() {
    let mut clock = Clock::new();
    let stream = clock.stream(3600);
    assert!(clock.world.core.ticks_to_timer().is_some_and(|ticks| ticks <= 10));
    clock.set = -7200;
    clock.turn();
    clock.world.publish(1);
    clock.turn();
    let output = text(&stream);
    assert!(output.contains("a.b") && !output.contains("closed"), "{output}");
    // Small steps add up.
    clock.set = 3000;
    clock.turn();
    for _ in 0..700 {
        clock.set += 1;
        clock.turn();
    }
    let output = text(&stream);
    assert!(output.contains("token_expired"), "{output}");
}
