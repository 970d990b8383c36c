//! The `fanwire` program. Everything it does goes through the library's public items.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
