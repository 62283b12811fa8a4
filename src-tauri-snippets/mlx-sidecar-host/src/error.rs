//! What a host's caller can get. Every message says what to do.

use std::fmt;

/// An error of process control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The state directory can't be used.
    StateDir(String),
    /// Something is in the way that this host must not touch.
    Conflict(String),
    /// The sidecar didn't come up.
    LaunchFailed {
        /// What happened.
        message: String,
        /// Its exit status, if it ended by one.
        exit_code: Option<i32>,
        /// Whether trying again won't help.
        permanent: bool,
        /// The last lines it wrote.
        log_tail: String,
    },
    /// It took longer than the caller's time-out.
    TimedOut(String),
    /// `stop` without force while others use the sidecar.
    InUse(String),
    /// Anything else, such as a program that can't be run.
    Host(String),
}

impl Error {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Error::StateDir(_) => "state_dir",
            Error::Conflict(_) => "conflict",
            Error::LaunchFailed { .. } => "launch_failed",
            Error::TimedOut(_) => "timeout",
            Error::InUse(_) => "in_use",
            Error::Host(_) => "host_error",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::StateDir(m) | Error::Conflict(m) | Error::TimedOut(m) | Error::InUse(m) | Error::Host(m) => {
                f.write_str(m)
            }
            Error::LaunchFailed { message, log_tail, .. } => {
                write!(f, "{}", format!("{message}\n{log_tail}").trim_end())
            }
        }
    }
}

impl std::error::Error for Error {}
