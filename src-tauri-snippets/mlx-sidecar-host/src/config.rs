//! What a host wants of its sidecar.

use crate::process::LaunchSpec;
use crate::restarts::Backoff;
use crate::state_dir;
use crate::states::Policy;
use std::path::PathBuf;
use std::time::Duration;

/// What a host wants.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The state directory.
    pub state_dir: PathBuf,
    /// `tauri`, or another kind of owner.
    pub kind: String,
    /// What to run.
    pub launch: LaunchSpec,
    /// The oldest sidecar that will do; empty: any.
    pub min_version: String,
    /// What the sidecar must be able to do.
    pub capabilities: Vec<String>,
    /// Of a whole `ensure_running`.
    pub timeout: Duration,
    /// From spawn, or from a lock without a record, to an answer.
    pub start_timeout: Duration,
    /// Without an answer.
    pub hung_after: Duration,
    /// Draining or failed, and still there.
    pub drain_after: Duration,
    /// From SIGTERM to SIGKILL of a sidecar that hangs.
    pub term_wait: Duration,
    /// The same, of one that drains.
    pub stop_wait: Duration,
    /// Of one health check.
    pub probe_timeout: Duration,
    /// Starts in one `ensure_running`.
    pub attempts: u32,
    /// Failures in a row after which a watch restarts nothing until it is asked.
    pub give_up: u64,
    /// When to restart.
    pub backoff: Backoff,
}

impl Default for HostConfig {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        HostConfig {
            state_dir: state_dir::default_state_dir(),
            kind: "tauri".to_owned(),
            launch: LaunchSpec::default(),
            min_version: String::new(),
            capabilities: Vec::new(),
            timeout: seconds(90),
            start_timeout: seconds(60),
            hung_after: seconds(10),
            drain_after: seconds(30),
            term_wait: seconds(5),
            stop_wait: seconds(25),
            probe_timeout: seconds(1),
            attempts: 3,
            give_up: 8,
            backoff: Backoff::default(),
        }
    }
}

impl HostConfig {
    /// The numbers that the machine goes by.
    pub fn policy(&self) -> Policy {
        let seconds = |time: Duration| time.as_secs_f64();
        Policy {
            timeout: seconds(self.timeout),
            start_timeout: seconds(self.start_timeout),
            hung_after: seconds(self.hung_after),
            drain_after: seconds(self.drain_after),
            term_wait: seconds(self.term_wait),
            stop_wait: seconds(self.stop_wait),
            attempts: self.attempts,
            give_up: self.give_up,
            backoff: self.backoff,
        }
    }
}
