//! A server under a service manager: the sockets that the manager holds, and the messages that it gets.

mod support;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use support::http::read_response;
use support::service::free_port;
use support::wire::{Wire, deadline};
use support::{PATIENCE, Server, fanwire, http};

/// Binds the given ports, like systemd, and executes the program.
const ACTIVATE: &str = "
import fcntl, os, socket, sys
ports, program = sys.argv[1].split(','), sys.argv[2:]
held = [socket.create_server(('127.0.0.1', int(port))) for port in ports]
# Out of the way first: they may stand where others belong.
for number, fd in enumerate([fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 100) for one in held]):
    os.dup2(fd, 3 + number)
os.environ.update(LISTEN_FDS=str(len(ports)), LISTEN_PID=str(os.getpid()))
sys.stdin.read(1)
os.execv(program[0], program)
";

#[test]
fn sockets_that_systemd_holds_are_served_and_early_clients_wait() {
    let ports = [free_port(), free_port(), free_port()];
    let text = ports.map(|port| port.to_string()).join(",");
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATE, &text, env!("CARGO_BIN_EXE_fanwire"), "serve", "--loops", "2"]);
    // The server continues when its stdin ends, which is immediately here.
    let server = Server::spawn(command.args(["--log-level", "warn"]));
    assert_eq!(server.addr.port(), ports[0]);
    for port in ports {
        for _ in 0..10 {
            let answer = http::get(([127, 0, 0, 1], port).into(), "/readyz");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
}

#[test]
fn a_client_that_came_before_the_server_is_served_by_it() {
    let port = free_port();
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATE, &port.to_string(), env!("CARGO_BIN_EXE_fanwire"), "serve"]);
    command.args(["--log-level", "warn"]);
    let early = std::thread::spawn(move || {
        let end = Instant::now() + PATIENCE;
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < end => {}
                Err(error) => panic!("{error}"),
            }
        };
        let mut wire = Wire::new(stream);
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        read_response(&mut wire, deadline()).expect("an answer").status
    });
    let _server = Server::spawn(&mut command);
    assert_eq!(early.join().expect("no panic"), 200);
}

#[test]
fn a_descriptor_that_is_no_listening_socket_is_refused_with_the_reason() {
    let mut command = Command::new("python3");
    let activate = "import os, sys; os.dup2(os.open('/dev/null', os.O_RDONLY), 3); \
                    os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[1], sys.argv[1:])";
    command.args(["-c", activate, env!("CARGO_BIN_EXE_fanwire"), "serve"]);
    let output = support::run(&mut command);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("socket 0 of LISTEN_FDS"), "{stderr}");
}

/// Messages to a service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("fanwire-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket of our own");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, path }
    }

    /// Returns the next message that is not the watchdog's.
    fn receive(&self) -> String {
        loop {
            let message = self.hear_any();
            if message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }

    fn hear_any(&self) -> String {
        let mut buffer = [0; 4096];
        let len = self.socket.recv(&mut buffer).expect("a message");
        String::from_utf8(buffer[..len].to_vec()).expect("text")
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn a_service_manager_is_notified_of_readiness_reloads_life_and_stops() {
    let manager = Manager::new();
    let mut command = fanwire();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--drain-window", "2s"]);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    let mut server = Server::spawn(&mut command);
    let ready = manager.receive();
    assert_eq!(ready, format!("READY=1\nSTATUS=listening on {}\n", server.addr));
    server.signal("HUP");
    let reloading = manager.receive();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(manager.receive(), "READY=1\n");
    while manager.hear_any() != "WATCHDOG=1\n" {}
    server.signal("TERM");
    let stopping = manager.receive();
    // The window and the timeout.
    assert!(
        stopping.starts_with("STOPPING=1\n") && stopping.contains("EXTEND_TIMEOUT_USEC=12000000"),
        "{stopping}"
    );
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

/// Returns a free port below 1024, if this test may bind one.
fn privileged_port() -> Option<u16> {
    (1..1024).rev().find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

/// As in the shipped unit, systemd binds a port below 1024, and the server serves it without any capability.
#[test]
#[cfg(target_os = "linux")]
fn a_port_below_1024_is_served_without_any_right_where_systemd_holds_it() {
    let Some(port) = privileged_port() else {
        eprintln!("this user may not take a port below 1024: nothing to hand over");
        return;
    };
    let without_rights = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let path = std::env::var_os("PATH").expect("a path");
    let setpriv = std::env::split_paths(&path).map(|dir| dir.join("setpriv")).find(|path| path.exists());
    let setpriv = setpriv.expect("util-linux is installed");
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATE, &port.to_string()]).arg(&setpriv).args(&without_rights[1..]);
    command.args([env!("CARGO_BIN_EXE_fanwire"), "serve", "--log-level", "warn"]);
    let server = Server::spawn(&mut command);
    assert_eq!(server.addr.port(), port);
    assert_eq!(http::get(server.addr, "/readyz").status, 200);
    drop(server);

    // Without systemd the server may not bind the port, and the error names the ways to allow it.
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first.trim().parse::<u16>().is_ok_and(|first| port >= first) {
        return;
    }
    let mut command = Command::new(&setpriv);
    command.args(&without_rights[1..]).args([env!("CARGO_BIN_EXE_fanwire"), "serve", "--listen"]);
    let output = support::run(command.arg(format!("127.0.0.1:{port}")));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("Ports below 1024") && stderr.contains("fanwire.socket"), "{stderr}");
}
