//! A panic of a thread ends the program, with an exit code, a line in the log and a message to the service
//! manager.

mod support;

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use support::sse::Sse;
use support::{PATIENCE, Server, eventually, fanwire};

/// A unique name in the folder of temporary files.
fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("fanwire-failures-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn a_panic_in_a_loop_ends_the_process_and_reports_the_place() {
    let (fault, notify) = (path("fault"), path("notify"));
    let manager = UnixDatagram::bind(&notify).expect("a socket of our own");
    manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut command = fanwire();
    command.args(["serve", "--listen", "127.0.0.1:0", "--loops", "2", "--log-level", "warn"]);
    let mut server =
        Server::spawn(command.env("TEST_THREAD_TO_PANIC_FILE", &fault).env("NOTIFY_SOCKET", &notify));
    let mut clients: Vec<Sse> = (0..6).map(|_| Sse::open(server.addr, "")).collect();
    std::fs::write(&fault, "fanwire-loop-1").expect("a file of our own");
    // A loop without work does not check, so it needs requests.
    eventually("the loop panics", || {
        let _ = std::net::TcpStream::connect(server.addr);
        server.try_wait().is_some()
    });
    assert_eq!(server.wait().code(), Some(70));
    let log = server.log();
    let line = log.lines().find(|line| line.contains("a thread panicked")).expect("it is logged");
    assert!(line.contains("fanwire-loop-1") && line.contains("src/threads.rs:"), "{line}");
    assert!(log.contains("error: the server stopped: thread fanwire-loop-1 panicked at"), "{log}");
    let mut notice = String::new();
    let mut buffer = [0; 4096];
    while !notice.contains("ERRNO=") {
        let len = manager.recv(&mut buffer).expect("word of the failure");
        notice.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    assert!(notice.contains("STATUS=thread fanwire-loop-1 panicked at"), "{notice}");
    for client in &mut clients {
        // A reset is an end, too.
        let _ = client.wire.take_rest(support::wire::deadline());
    }
    let _ = (std::fs::remove_file(fault), std::fs::remove_file(notify));
}
