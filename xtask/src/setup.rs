//! Installs the programs that the tests need in addition to Rust: a browser, nginx, Caddy, engines, and the clients for
//! Node and Python.
//!
//! Always: installed programs are not changed; a step that fails names its command.

use std::process::Command;

use crate::run::{Outcome, cargo, command};

fn answers(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// Installs Debian packages, as root or by sudo.
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

/// Installs a program from its Debian package if it is missing.
pub(crate) fn program(program: &str, package: &str) -> Outcome {
    if answers(program, &["--version"]) { Ok(()) } else { apt(&[package]) }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Returns true if the tests will find a browser: they try these names in this order (`tests/support/script.rs`).
fn has_chromium() -> bool {
    match std::env::var("FANWIRE_CHROMIUM") {
        Ok(named) => answers(&named, &["--version"]),
        Err(_) => ["/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"]
            .into_iter()
            .any(|name| answers(name, &["--version"])),
    }
}

/// Programs and packages that the tests need and this machine lacks.
struct Missing {
    debian: Vec<&'static str>,
    /// Folders with npm packages that differ from their lockfile.
    node: Vec<&'static str>,
    /// True if the Python environment differs from its requirements.
    python: bool,
}

impl Missing {
    fn find() -> Self {
        let node = ["tests/clients", "clients/js"];
        Self {
            debian: debian_packages(),
            node: node
                .into_iter()
                .filter(|folder| !same(&lock_of(folder), &installed_lock_of(folder)))
                .collect(),
            python: !(same(REQUIREMENTS, INSTALLED_REQUIREMENTS)
                && answers("target/venv/bin/python", &["--version"])),
        }
    }

    /// Lists what [`install`] will do, one step a line.
    fn steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        if !self.debian.is_empty() {
            let sudo = if is_root() { "" } else { "sudo " };
            steps.push(format!("{sudo}apt-get install {}", self.debian.join(" ")));
        }
        steps.extend(self.node.iter().map(|folder| format!("npm ci in {folder}")));
        if self.python {
            steps.push(format!("pip install -r {REQUIREMENTS} into target/venv"));
        }
        steps
    }
}

/// Installs what is missing, after listing it; quick if nothing is.
pub(crate) fn install() -> Outcome {
    let missing = Missing::find();
    let steps = missing.steps();
    if steps.is_empty() {
        println!("setup: everything that the tests need is installed");
        return Ok(());
    }
    println!("setup: the tests need more programs (`cargo xtask test --no-setup` installs none). Steps:");
    for step in steps {
        println!("  {step}");
    }
    if !missing.debian.is_empty() {
        apt(&missing.debian)?;
        if !has_chromium() {
            return Err("chromium is installed but does not start: try `chromium --version`".into());
        }
    }
    // The environments of Node and Python are checked again, because apt may just have installed their programs.
    let missing = Missing::find();
    for folder in missing.node {
        node_modules(folder)?;
    }
    if missing.python { python_modules() } else { Ok(()) }
}

/// Lists the Debian packages that are missing, by trying their programs.
fn debian_packages() -> Vec<&'static str> {
    let mut packages = Vec::new();
    if !has_chromium() {
        packages.push("chromium");
    }
    for (program, args, package) in [
        ("node", "--version", "nodejs"),
        ("npm", "--version", "npm"),
        ("python3", "--version", "python3"),
        ("curl", "--version", "curl"),
        ("redis-server", "--version", "redis-server"),
        ("nats-server", "--version", "nats-server"),
        ("caddy", "version", "caddy"),
        ("strace", "--version", "strace"),
    ] {
        if !answers(program, &[args]) {
            packages.push(package);
        }
    }
    // Adds an authority to Chromium's list. Its help exits with an error, so only its absence counts.
    if Command::new("certutil").arg("-H").output().is_err() {
        packages.push("libnss3-tools");
    }
    // Debian has python3's venv module in a package of its own.
    if !answers("python3", &["-c", "import ensurepip, venv"]) {
        packages.push("python3-venv");
    }
    // Debian installs nginx outside of a user's path.
    if !["nginx", "/usr/sbin/nginx"].into_iter().any(|program| answers(program, &["-v"])) {
        packages.push("nginx-light");
    }
    packages
}

fn lock_of(folder: &str) -> String {
    format!("{folder}/package-lock.json")
}

/// Copy of the lockfile from which the packages were installed.
fn installed_lock_of(folder: &str) -> String {
    format!("{folder}/node_modules/.installed-lock.json")
}

/// Installs a folder's npm packages as its lockfile lists them.
fn node_modules(folder: &str) -> Outcome {
    command("npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts"], &[], folder)?;
    copy(&lock_of(folder), &installed_lock_of(folder))
}

const REQUIREMENTS: &str = "tests/clients/requirements.txt";
/// Copy of the requirements that the environment was made from.
const INSTALLED_REQUIREMENTS: &str = "target/venv/requirements.txt";

/// Installs Python's clients in an environment of their own.
fn python_modules() -> Outcome {
    command("python3", &["-m", "venv", "--clear", "target/venv"], &[], ".")?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS];
    command("target/venv/bin/python", &pip, &[], ".")?;
    copy(REQUIREMENTS, INSTALLED_REQUIREMENTS)
}

/// Returns true if the installed list equals the wanted one.
fn same(wanted: &str, installed: &str) -> bool {
    match (std::fs::read(wanted), std::fs::read(installed)) {
        (Ok(wanted), Ok(installed)) => wanted == installed,
        _ => false,
    }
}

fn copy(from: &str, to: &str) -> Outcome {
    std::fs::copy(from, to).map(|_| ()).map_err(|error| format!("{from} to {to}: {error}"))
}

/// Installs a cargo subcommand if it is missing.
pub(crate) fn cargo_tool(package: &str, command: &str) -> Outcome {
    if answers("cargo", &[command, "--version"]) {
        return Ok(());
    }
    // An optimized build would cost more time than it saves.
    cargo(&["install", "--locked", "--debug", package])
}
