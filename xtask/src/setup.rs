//! What the tests need besides Rust: a browser, Node's and Python's clients.
//!
//! Always: what is there already is left as it is; what can't be installed fails, with the command that did.

use std::path::Path;
use std::process::Command;

use crate::run::{Outcome, cargo, command};

fn answers(program: &str, arg: &str) -> bool {
    Command::new(program).arg(arg).output().is_ok_and(|output| output.status.success())
}

/// Debian packages, as root or by sudo.
fn apt(packages: &[&str]) -> Outcome {
    let env = [("DEBIAN_FRONTEND", "noninteractive")];
    let run = |args: &[&str]| {
        if answers("id", "-u") && is_root() {
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

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Installs what is missing.
pub(crate) fn install() -> Outcome {
    let mut packages = Vec::new();
    for (program, arg, package) in [
        ("/usr/bin/chromium", "--version", "chromium"),
        ("node", "--version", "nodejs"),
        ("npm", "--version", "npm"),
        ("python3", "--version", "python3"),
        ("curl", "--version", "curl"),
    ] {
        if !answers(program, arg) {
            packages.push(package);
        }
    }
    if !answers("python3", "-mvenv") && !Path::new("target/venv").exists() && is_debian_python() {
        packages.push("python3-venv");
    }
    if !packages.is_empty() {
        apt(&packages)?;
    }
    let clients = "tests/clients";
    if Path::new(clients).join("package-lock.json").exists() && !is_newer(clients) {
        command("npm", &["ci", "--no-audit", "--no-fund"], &[], clients)?;
    }
    let requirements = "tests/clients/requirements.txt";
    if Path::new(requirements).exists() {
        if !Path::new("target/venv/bin/pip").exists() {
            command("python3", &["-m", "venv", "target/venv"], &[], ".")?;
        }
        command("target/venv/bin/pip", &["install", "--quiet", "-r", requirements], &[], ".")?;
    }
    Ok(())
}

/// Whether the system's own python3 is the one that runs, whose venv module is a package of its own.
fn is_debian_python() -> bool {
    Command::new("python3")
        .args(["-c", "import sys, ensurepip; sys.exit(0)"])
        .output()
        .is_ok_and(|output| !output.status.success())
}

/// Whether the installed modules are as new as the lockfile.
fn is_newer(clients: &str) -> bool {
    let changed = |name: &str| Path::new(clients).join(name).metadata().and_then(|m| m.modified()).ok();
    match (changed("node_modules/.package-lock.json"), changed("package-lock.json")) {
        (Some(installed), Some(lock)) => installed >= lock,
        _ => false,
    }
}

/// The driver of the fuzzers.
pub(crate) fn cargo_fuzz() -> Outcome {
    if Command::new("cargo").args(["fuzz", "--version"]).output().is_ok_and(|output| output.status.success())
    {
        return Ok(());
    }
    cargo(&["install", "--locked", "cargo-fuzz"])
}
