//! Debian's nginx, on a free port and in a folder of the test.
//!
//! Always: it ends with its test. If it is not installed, the test fails and says how to install it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::eventually;

/// A running nginx.
pub struct Nginx {
    child: Child,
    pub addr: SocketAddr,
    dir: PathBuf,
}

impl Nginx {
    /// Starts nginx. `http` returns the content of the `http` block for its address and its folder.
    pub fn start(http: impl FnOnce(SocketAddr, &Path) -> String) -> Self {
        let program = ["nginx", "/usr/sbin/nginx"].into_iter().find(|program| {
            let version = Command::new(program).arg("-v").stderr(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        });
        let program = program.unwrap_or_else(|| panic!("nginx is missing: run `cargo xtask setup`"));
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let dir = std::env::temp_dir().join(format!("fanwire-nginx-{}-{}", std::process::id(), addr.port()));
        std::fs::create_dir_all(&dir).expect("a directory of our own");
        let at = dir.display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log stderr warn;\n\
             events {{ worker_connections 1000; }}\n\
             http {{ access_log off;\n{temp}\n{}}}\n",
            http(addr, &dir)
        );
        let path = dir.join("nginx.conf");
        std::fs::write(&path, config).expect("a file of our own");
        let mut command = Command::new(program);
        command.args(["-e", "stderr", "-p"]).arg(&dir).arg("-c").arg(&path).stdin(Stdio::null());
        let child = command.spawn().expect("nginx starts");
        eventually("nginx listens", || TcpStream::connect(addr).is_ok());
        Self { child, addr, dir }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The worker ends after SIGTERM, but not if the master is killed.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
