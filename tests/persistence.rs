//! A node with its own log in files: accepted events are retained over a restart, however the process ended.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::ws::Ws;
use support::{Server, eventually, http};

/// A folder of the test. Removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("fanwire-persistence-{}-{number}", std::process::id())))
    }

    fn serve(&self, options: &[&str]) -> Server {
        let url = format!("file://{}", self.0.display());
        let server = Server::with(&[&["--engine", &url, "--max-lag-events", "1000000"], options].concat());
        eventually("the node has read its log", || http::get(server.addr, "/readyz").status == 200);
        server
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).expect("it is there");
        let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
        all.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        all.sort();
        all
    }

    /// Changes a bit of the last record, so that its checksum is wrong.
    fn damage_last_record(&self) {
        let path = self.segments().pop().expect("a segment");
        let mut bytes = std::fs::read(&path).expect("readable");
        let last = bytes.len() - 10;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("writable");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn kill(mut server: Server) {
    server.signal("KILL");
    server.wait();
}

fn event(stream: usize, n: usize) -> String {
    format!("{{\"type\":\"test\",\"stream_id\":\"s{stream}\",\"payload\":{{\"n\":{n}}}}}\n")
}

fn publish(addr: SocketAddr, body: &str) -> bool {
    let request = http::post_request("/publish", "application/x-ndjson", body.as_bytes());
    let Ok(stream) = std::net::TcpStream::connect(addr) else { return false };
    let mut wire = support::wire::Wire::new(stream);
    wire.send_if_taken(&request);
    http::read_response(&mut wire, support::wire::deadline()).is_ok_and(|answer| answer.status == 200)
}

fn number(event: &Value) -> u64 {
    event["payload"]["n"].as_u64().unwrap_or_else(|| panic!("not numbered: {event}"))
}

fn last_segment(folder: &Path) -> u64 {
    folder.metadata().expect("it is there").len()
}

#[test]
fn kill_9_in_the_middle_of_publishing_loses_nothing_that_was_accepted() {
    const PUBLISHERS: usize = 3;
    for (shards, interval) in [("1", "1s"), ("4", "0"), ("1", "10m")] {
        let folder = Folder::new();
        let options = ["--bus-shards", shards, "--engine-sync-interval", interval];
        let mut accepted = [0; PUBLISHERS];
        let mut epoch = None;
        let mut first = None;
        for _ in 0..3 {
            let server = folder.serve(&options);
            let addr = server.addr;
            let mut client = Ws::subscribed(addr, json!({}));
            let counts: Vec<AtomicUsize> = accepted.iter().map(|count| AtomicUsize::new(*count)).collect();
            std::thread::scope(|scope| {
                for (stream, count) in counts.iter().enumerate() {
                    scope.spawn(move || {
                        while publish(addr, &event(stream, count.load(Ordering::Relaxed))) {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                let message = client.message();
                first = first.take().or_else(|| {
                    message["position"]
                        .as_str()
                        .or(message["payload"]["event_id"].as_str())
                        .map(str::to_owned)
                });
                eventually("some are accepted", || {
                    counts.iter().all(|count| count.load(Ordering::Relaxed) > 30)
                });
                kill(server);
            });
            // An event that was sent but not confirmed may be in the log. The next one then follows it.
            let server = folder.serve(&options);
            let stats = http::get(server.addr, "/api/stats").json();
            assert_eq!(*epoch.get_or_insert_with(|| stats["epoch"].clone()), stats["epoch"], "one life");
            let mut reader = Ws::subscribed(server.addr, json!({"history": 100_000}));
            let pong = json!({"type": "ping"});
            reader.send(&pong);
            let mut found = [0; PUBLISHERS];
            loop {
                let message = reader.message();
                if message["type"] == "pong" {
                    break;
                }
                let event = &message["payload"];
                let stream: usize =
                    event["stream_id"].as_str().and_then(|s| s[1..].parse().ok()).expect("a stream");
                assert_eq!(number(event), found[stream] as u64, "{shards} shards, {interval}: {message}");
                found[stream] += 1;
            }
            for (stream, count) in counts.iter().enumerate() {
                let answered = count.load(Ordering::Relaxed);
                assert!(
                    (answered..=answered + 1).contains(&found[stream]),
                    "{answered} accepted, {} there",
                    found[stream]
                );
                accepted[stream] = found[stream];
            }
            kill(server);
        }
        // A client that resumes from before the first event gets everything it missed, over three ends of the server.
        let server = folder.serve(&options);
        let mut client = Ws::subscribed(server.addr, json!({"since": first}));
        for _ in 1..accepted.iter().sum() {
            assert_eq!(client.message()["type"], "event");
        }
        assert!(client.is_silent_for(Duration::from_millis(50)));
    }
}

#[test]
fn a_torn_end_is_cut_off_and_a_damaged_one_begins_another_life() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let accepted: Vec<String> = (0..5)
        .map(|n| server.publish(event(0, n))["last_event_id"].as_str().expect("an id").to_owned())
        .collect();
    kill(server);
    // Half a record, as left by a crash in the middle of a write.
    let path = folder.segments().pop().expect("a segment");
    let whole = std::fs::read(&path).expect("readable");
    std::fs::write(&path, [whole.as_slice(), &whole[8..60]].concat()).expect("writable");
    let server = folder.serve(&[]);
    let mut client = Ws::subscribed(server.addr, json!({"since": accepted[1]}));
    let got: Vec<u64> = (0..3).map(|_| number(&client.event())).collect();
    assert_eq!(got, [2, 3, 4]);
    server.publish(event(0, 5));
    assert_eq!(number(&client.event()), 5);
    kill(server);

    folder.damage_last_record();
    let server = folder.serve(&[]);
    let again = server.publish(event(0, 6))["last_event_id"].as_str().expect("an id").to_owned();
    assert_ne!(
        again.split_once('-').map(|(epoch, _)| epoch),
        accepted[0].split_once('-').map(|(epoch, _)| epoch)
    );
    let mut client = Ws::subscribed(server.addr, json!({"since": accepted[3]}));
    assert_eq!(number(&client.event()), 4, "what is whole is there");
    let gap = client.message();
    assert_eq!((&gap["type"], &gap["payload"]["missed"]), (&json!("gap"), &Value::Null), "{gap}");
    assert_eq!(number(&client.event()), 6);
}

#[test]
fn a_gap_between_two_epochs_keeps_its_place_within_a_page_of_history() {
    let folder = Folder::new();
    let server = folder.serve(&["--bus-shards", "1"]);
    let old: Vec<Value> = (0..5).map(|n| server.publish(event(0, n))["last_event_id"].clone()).collect();
    kill(server);
    folder.damage_last_record();
    // With 8 events in the ring, one page of the log contains the end of one epoch and the beginning of the next.
    for ring in ["8", "65536"] {
        let server = folder.serve(&["--bus-shards", "1", "--bus-capacity", ring]);
        if ring == "8" {
            (5..40).for_each(|n| drop(server.publish(event(0, n))));
        }
        let mut live = Ws::subscribed(server.addr, json!({"history": 1}));
        while number(&live.event()) != 39 {}
        let past = |payload: Value| {
            let mut client = Ws::connect(server.addr);
            client.send(&json!({"type": "subscribe", "payload": payload}));
            let (mut numbers, mut gaps) = (Vec::new(), Vec::new());
            loop {
                let message = client.any_message();
                match message["type"].as_str() {
                    Some("event") => numbers.push(Some(number(&message["payload"]))),
                    Some("gap") => {
                        numbers.push(None);
                        gaps.push(message["payload"]["missed"].clone());
                    }
                    Some("history_end") => return (numbers, gaps, message["payload"]["complete"].clone()),
                    _ => {}
                }
            }
        };
        // Event 4 is lost. Its number is unknown to the server, so the gap has none.
        for first in [1, 2, 4] {
            let want: Vec<Option<u64>> =
                (first..4).map(Some).chain([None]).chain((5..40).map(Some)).collect();
            let since = &old[first as usize - 1];
            let (numbers, gaps, complete) = past(json!({"since": since}));
            assert_eq!((numbers, gaps), (want, vec![Value::Null]), "ring of {ring}, since {since}");
            assert_eq!(complete, false, "ring of {ring}, since {since}");
        }
        let (numbers, gaps, complete) = past(json!({"history": 35}));
        assert_eq!(
            (numbers, gaps),
            ((5..40).map(Some).collect(), vec![]),
            "ring of {ring}, within one epoch"
        );
        assert_eq!(complete, true);
        let (numbers, gaps, complete) = past(json!({"history": 100}));
        // `history` goes back over an epoch only in the ring. Before that, the gap stands for everything older.
        let older = if ring == "8" { 0..0 } else { 0..4 };
        let want: Vec<Option<u64>> = older.map(Some).chain([None]).chain((5..40).map(Some)).collect();
        assert_eq!((numbers, gaps), (want, vec![Value::Null]), "ring of {ring}");
        assert_eq!(complete, false);
        // The gap is not recoverable: another request would deliver no more. With the small ring there is no event
        // before it.
        let mut client = Ws::connect(server.addr);
        client.send(&json!({"type": "subscribe", "payload": {"history": 100}}));
        let gap = std::iter::repeat_with(|| client.any_message()).find(|message| message["type"] == "gap");
        let gap = gap.expect("messages come until then")["payload"].clone();
        assert_eq!(gap["recoverable"], false, "{gap}");
        assert_eq!(gap["from"].is_null(), ring == "8", "{gap}");
        kill(server);
    }
}

#[test]
fn an_orderly_end_and_a_bound_on_size() {
    let folder = Folder::new();
    let options = ["--engine-max-bytes", "1MiB", "--bus-capacity", "64"];
    let mut server = folder.serve(&options);
    let pad = "p".repeat(10_000);
    for n in 0..300 {
        let body = format!("{{\"type\":\"test\",\"payload\":{{\"n\":{n},\"pad\":\"{pad}\"}}}}");
        server.publish(body);
    }
    server.signal("TERM");
    assert!(server.wait().success());
    let bytes: u64 = folder.segments().iter().map(|path| last_segment(path)).sum();
    assert!(bytes <= 1 << 20, "{bytes} bytes");
    let server = folder.serve(&options);
    let mut client = Ws::subscribed(server.addr, json!({"history": 10}));
    let got: Vec<u64> = (0..10).map(|_| number(&client.event())).collect();
    assert_eq!(got, (290..300).collect::<Vec<u64>>());
}

#[test]
fn events_of_a_demo_and_the_bridge_are_in_the_log_too() {
    let folder = Folder::new();
    let mut server = folder.serve(&["--demo", "--demo-rate", "200"]);
    let answer = http::post(server.addr, "/bridge/a2a", "application/json", br#"{"id":"t-1"}"#);
    assert_ne!(answer.status, 404, "{answer:?}");
    let mut client = Ws::subscribed(server.addr, json!({"history": 10_000}));
    let mut types = std::collections::HashSet::new();
    while !(types.iter().any(|kind: &String| kind.starts_with("protocol.")) && types.len() > 5) {
        types.insert(client.event()["event_type"].as_str().expect("a type").to_owned());
    }
    let appended = server.metric("fanwire_engine_events_appended_total").expect("it is counted");
    assert!(appended > 5.0, "{appended}");
    server.signal("TERM");
    assert!(server.wait().success());
    let server = folder.serve(&[]);
    let mut client = Ws::subscribed(server.addr, json!({"history": 10_000}));
    let mut again = std::collections::HashSet::new();
    while !types.is_subset(&again) {
        again.insert(client.event()["event_type"].as_str().expect("a type").to_owned());
    }
}

#[test]
fn an_unusable_folder_is_an_error_at_the_start() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let url = format!("file://{}", folder.0.display());
    for (options, what) in [
        (vec!["--engine", url.as_str()], "another process has"),
        (vec!["--engine", "file:///dev/null/x"], "making /dev/null/x"),
        (vec!["--engine", "file://"], "expected file://FOLDER"),
    ] {
        let mut command = support::fanwire();
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(&options);
        let output = support::run(&mut command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(what), "{options:?}: {text}");
    }
    drop(server);
}

/// A file system of 512 KiB at the folder. Removed on drop.
struct SmallDisk(Folder);

impl SmallDisk {
    /// # Panics
    /// If this process may not mount a file system: the test needs that right (root in CI's container).
    fn new() -> Self {
        let disk = Self(Folder::new());
        std::fs::create_dir_all(&disk.0.0).expect("a folder");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
            .arg(&disk.0.0)
            .status();
        assert!(mount.is_ok_and(|status| status.success()), "a tmpfs can't be mounted here");
        disk
    }

    /// Uses up the free space except for this many bytes.
    fn fill_but(&self, bytes: u64) {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(self.0.0.join("ballast")).expect("a file");
        while ballast.write_all(&[0; 4096]).is_ok() {}
        let length = ballast.metadata().expect("it is there").len();
        ballast.set_len(length.saturating_sub(bytes)).expect("it can be made shorter");
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.0.join("ballast")).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0.0).status();
    }
}

#[test]
fn a_full_disk_is_reported_and_needs_no_restart() {
    let disk = SmallDisk::new();
    // Segments of 64 KiB, the smallest size. Three rounds fill the disk within a record, at a segment's end,
    // and exactly.
    let options = ["--engine-max-bytes", "1MiB", "--engine-accept-timeout", "500ms"];
    let server = disk.0.serve(&options);
    let mut client = Ws::subscribed(server.addr, json!({}));
    let mut n = 0;
    let body = |n: usize, bytes: usize| {
        format!("{{\"type\":\"test\",\"payload\":{{\"n\":{n},\"pad\":\"{}\"}}}}", "p".repeat(bytes))
    };
    for (room, bytes) in [(8192, 3000), (0, 10), (40_960, 30_000), (4096, 100)] {
        disk.fill_but(room);
        let mut refused = None;
        for _ in 0..2000 {
            let answer = http::post(server.addr, "/publish", "application/json", body(n, bytes).as_bytes());
            if answer.status != 200 {
                refused = Some(answer);
                break;
            }
            assert_eq!(number(&client.event()), n as u64);
            n += 1;
        }
        let refused = refused.expect("the disk is full");
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.text().contains("nothing was accepted"), "{refused:?}");
        let ready = http::get(server.addr, "/readyz");
        assert_eq!((ready.status, ready.text().contains("the log takes nothing")), (503, true), "{ready:?}");
        disk.empty();
        eventually("it is ready", || http::get(server.addr, "/readyz").status == 200);
        server.publish(body(n, 10));
        assert_eq!(number(&client.event()), n as u64);
        n += 1;
    }
    // The server is killed in the middle, and started without free space: everything accepted is in the log.
    let stats = http::get(server.addr, "/api/stats").json();
    disk.fill_but(2000);
    while http::post(server.addr, "/publish", "application/json", body(n, 700).as_bytes()).status == 200 {
        n += 1;
    }
    kill(server);
    let url = format!("file://{}", disk.0.0.display());
    let server = Server::with(&[&["--engine", &url], options.as_slice()].concat());
    disk.empty();
    eventually("it is ready", || http::get(server.addr, "/readyz").status == 200);
    assert_eq!(http::get(server.addr, "/api/stats").json()["epoch"], stats["epoch"], "nothing was lost");
    // An answer may arrive before the node has read the event back. The event is then delivered live, after the 20.
    let mut live = Ws::subscribed(server.addr, json!({}));
    server.publish(body(n, 10));
    assert_eq!(number(&live.event()), n as u64);
    let mut client = Ws::subscribed(server.addr, json!({"history": 20}));
    let got: Vec<u64> = (0..20).map(|_| number(&client.event())).collect();
    assert_eq!(got, (n as u64 - 19..=n as u64).collect::<Vec<_>>());
}
