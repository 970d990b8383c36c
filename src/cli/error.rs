//! Errors of the commands, as the user reads them.

use std::fmt;

use fanwire::config::{ConfigError, ConfigFault, SettingOrigin};

/// A failure as the user reads it: what happened, and what to do next.
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// Exit code of the program.
    pub(super) code: u8,
}

impl CliError {
    /// Creates an error with exit code 1 and no hint.
    pub(super) fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), hint: None, code: 1 }
    }

    /// Adds the next step.
    pub(super) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

/// Reports all faults of a configuration. The exit code is 2 if all of them are in flags.
pub(super) fn refused_config(error: ConfigError) -> CliError {
    let faults = error.faults().len();
    let faults = if faults == 1 { "a fault".to_owned() } else { format!("{faults} faults") };
    let is_flag = |fault: &ConfigFault| matches!(fault.origin(), SettingOrigin::Flag(_));
    let code = if error.faults().iter().all(is_flag) { 2 } else { 1 };
    CliError { code, ..CliError::new(format!("the configuration has {faults}:\n{error}")) }
}
