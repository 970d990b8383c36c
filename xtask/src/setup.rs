//! What the tests need besides Rust: a browser, nginx, Caddy, Node's and Python's clients.
//!
//! Always: what is there already is left as it is; what can't be installed fails, with the command that did.

use std::process::Command;

use crate::run::{Outcome, cargo, command};

fn answers(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// Debian packages, as root or by sudo.
fn apt(packages: &[&str]) -> Outcome {
    let env = [("DEBIAN_FRONTEND", "noninteractive")];
    let run = |args: &[&str]| {
        if is_root() {
            command("apt-get", args, &env, ".")
        } else {
            let mut all = vec!["apt-get"];
            all.extend(args);
            command("sudo", &all, &env, ".")
        }
    };
    run(&["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(packages);
    run(&args)
}

/// A program of a Debian package, installed where it is missing.
pub(crate) fn program(program: &str, package: &str) -> Outcome {
    if answers(program, &["--version"]) { Ok(()) } else { apt(&[package]) }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Whether the tests will find a browser: the same names, in the same order, as in `tests/support/script.rs`.
fn has_chromium() -> bool {
    match std::env::var("FANWIRE_CHROMIUM") {
        Ok(named) => answers(&named, &["--version"]),
        Err(_) => ["/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"]
            .into_iter()
            .any(|name| answers(name, &["--version"])),
    }
}

/// Installs what is missing; quick where nothing is.
pub(crate) fn install() -> Outcome {
    let mut packages = Vec::new();
    if !has_chromium() {
        packages.push("chromium");
    }
    for (program, package) in [("node", "nodejs"), ("npm", "npm"), ("python3", "python3"), ("curl", "curl")] {
        if !answers(program, &["--version"]) {
            packages.push(package);
        }
    }
    for (program, args, package) in [
        ("redis-server", "--version", "redis-server"),
        ("nats-server", "--version", "nats-server"),
        ("caddy", "version", "caddy"),
    ] {
        if !answers(program, &[args]) {
            packages.push(package);
        }
    }
    // Tells Chromium of an authority to trust. Its help is no success.
    if Command::new("certutil").arg("-H").output().is_err() {
        packages.push("libnss3-tools");
    }
    // Debian's python3 has its venv module in a package of its own.
    if !answers("python3", &["-c", "import ensurepip, venv"]) {
        packages.push("python3-venv");
    }
    // Not on everybody's path.
    if !["nginx", "/usr/sbin/nginx"].into_iter().any(|program| answers(program, &["-v"])) {
        packages.push("nginx-light");
    }
    if !packages.is_empty() {
        apt(&packages)?;
        if !has_chromium() {
            return Err("chromium is installed and does not start: try `chromium --version`".into());
        }
    }
    node_modules("tests/clients")?;
    node_modules("clients/js")?;
    python_modules()
}

/// Node's packages of this folder, as its lockfile has them.
fn node_modules(folder: &str) -> Outcome {
    let (lock, installed) =
        (format!("{folder}/package-lock.json"), format!("{folder}/node_modules/.installed-lock.json"));
    if same(&lock, &installed) {
        return Ok(());
    }
    command("npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts"], &[], folder)?;
    copy(&lock, &installed)
}

/// Python's clients, in an environment of their own.
fn python_modules() -> Outcome {
    let (wanted, installed) = ("tests/clients/requirements.txt", "target/venv/requirements.txt");
    if same(wanted, installed) && answers("target/venv/bin/python", &["--version"]) {
        return Ok(());
    }
    command("python3", &["-m", "venv", "--clear", "target/venv"], &[], ".")?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted];
    command("target/venv/bin/python", &pip, &[], ".")?;
    copy(wanted, installed)
}

/// Whether what was installed is what is wanted: the list is kept beside what came of it.
fn same(wanted: &str, installed: &str) -> bool {
    match (std::fs::read(wanted), std::fs::read(installed)) {
        (Ok(wanted), Ok(installed)) => wanted == installed,
        _ => false,
    }
}

fn copy(from: &str, to: &str) -> Outcome {
    std::fs::copy(from, to).map(|_| ()).map_err(|error| format!("{from} to {to}: {error}"))
}

/// A program that cargo runs as its own command: installed where it is missing.
pub(crate) fn cargo_tool(package: &str, command: &str) -> Outcome {
    if answers("cargo", &[command, "--version"]) {
        return Ok(());
    }
    // What it does takes less time than making it fast.
    cargo(&["install", "--locked", "--debug", package])
}
