//! What the machine remembers, sees and asks for: plain data, see [`crate::machine`].

use crate::decision::{HealthAnswer, Identity, LockState};
use crate::record::RecordState;
use crate::restarts::{Backoff, Restarts};
use serde::{Deserialize, Serialize};

/// A deadline that doesn't come, seconds.
pub const NEVER: f64 = 1e9;
/// Seconds between looks while all is well.
pub const LOOK: f64 = 1.0;
/// Seconds between health checks while all is well.
pub const HEALTH: f64 = 5.0;

/// What the machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// A running sidecar.
    Ensure,
    /// One that is kept running.
    Watch,
    /// None.
    Stop,
}

/// Where in it the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Deciding by the table.
    Looking,
    /// Waiting before a start.
    BackingOff,
    /// A child doesn't answer yet.
    Starting,
    /// SIGTERM is sent.
    Ending,
    /// SIGKILL is sent.
    Killing,
    /// In use.
    Attached,
    /// Given up until asked.
    Dead,
    /// It ended cleanly.
    Idle,
}

/// A hold on `hosts.lock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// No hold.
    None,
    /// As a host.
    Shared,
    /// As the only host.
    Exclusive,
}

/// Who holds `launch.lock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Launch {
    /// This host.
    Mine,
    /// Nobody, or nobody looked.
    Free,
    /// Another host.
    Other,
}

/// The running program against this host's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Build {
    /// As good as any this host could start.
    Same,
    /// Another one.
    Other,
    /// Can't be told.
    Unknown,
}

/// The numbers of a host, seconds where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Of a whole ensure or stop.
    pub timeout: f64,
    /// Without a change, from the spawn.
    pub start_timeout: f64,
    /// Without an answer.
    pub hung_after: f64,
    /// Draining or failed, and still there.
    pub drain_after: f64,
    /// From SIGTERM to SIGKILL of a sidecar that hangs.
    pub term_wait: f64,
    /// The same, of one that drains.
    pub stop_wait: f64,
    /// Starts in one ensure.
    pub attempts: u32,
    /// Failures until a watch is dead.
    pub give_up: u64,
    /// Between restarts.
    pub backoff: Backoff,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            timeout: 90.0,
            start_timeout: 60.0,
            hung_after: 10.0,
            drain_after: 30.0,
            term_wait: 5.0,
            stop_wait: 25.0,
            attempts: 3,
            give_up: 8,
            backoff: Backoff::default(),
        }
    }
}

/// One look.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// The wall clock, seconds since 1970.
    pub wall: f64,
    /// In [0, 1).
    pub jitter: f64,
    /// The hold this host has.
    pub hosts: Hold,
    /// The launch lock.
    pub launch: Launch,
    /// The sidecar's lock.
    pub lock: LockState,
    /// The record.
    pub record: RecordState,
    /// Its instance id, empty without a valid one.
    pub instance: String,
    /// Its process.
    pub identity: Identity,
    /// Its address; `None`: it wasn't asked.
    pub answer: Option<HealthAnswer>,
    /// It says that it loads.
    pub loading: bool,
    /// Anything that changes while it loads.
    pub progress: u64,
    /// Its process has used the CPU since the last look.
    pub busy: bool,
    /// Seconds by which this look came later than it was asked for.
    pub lag: f64,
    /// It leaves when no host is left.
    pub managed: bool,
    /// Its version and capabilities meet the needs.
    pub fits: bool,
    /// Its program.
    pub build: Build,
    /// The port is strict and taken.
    pub port_blocked: bool,
    /// The process this host started: none, runs, unrunnable, or the text of its exit status.
    pub child: String,
    /// The state directory isn't the one that was attached in.
    pub moved: bool,
    /// The owner in the record has ended.
    pub owner_gone: bool,
    /// Why the look failed.
    pub fault: String,
    /// The child's last lines.
    pub tail: String,
    /// The shared restart state.
    pub restarts: Restarts,
}

impl Default for Seen {
    fn default() -> Self {
        Seen {
            wall: 0.0,
            jitter: 0.0,
            hosts: Hold::None,
            launch: Launch::Free,
            lock: LockState::Free,
            record: RecordState::Absent,
            instance: String::new(),
            identity: Identity::Gone,
            answer: Some(HealthAnswer::Refused),
            loading: false,
            progress: 0,
            busy: false,
            lag: 0.0,
            managed: true,
            fits: true,
            build: Build::Unknown,
            port_blocked: false,
            child: "none".to_owned(),
            moved: false,
            owner_gone: false,
            fault: String::new(),
            tail: String::new(),
            restarts: Restarts::default(),
        }
    }
}

/// What the driver does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write `restarts.json`.
    Save(Restarts),
    /// Remove a dead sidecar's record.
    Clear,
    /// Start a sidecar.
    Spawn,
    /// End the child by force.
    KillChild,
    /// SIGTERM to the process of an instance.
    Terminate(String),
    /// SIGKILL to the process of an instance.
    Kill(String),
    /// Become the owner in the record.
    Adopt,
    /// Tell those who listen: the kind, and more.
    Event(&'static str, String),
}

/// Everything a host remembers between two looks.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The host's numbers.
    pub policy: Policy,
    /// What for.
    pub goal: Goal,
    /// Where in it.
    pub phase: Phase,
    /// The hold it wants.
    pub hosts: Hold,
    /// Whether it wants the launch lock.
    pub launch: bool,
    /// Whether the next look asks the address for its health.
    pub ask: bool,
    /// Seconds until the next look.
    pub pause: f64,
    /// When an ensure or a stop ends in any case.
    pub deadline: f64,
    /// Of BACKING_OFF, ENDING and KILLING.
    pub until: f64,
    /// Of a stop.
    pub force: bool,
    /// Held `hosts.lock` before a stop.
    pub joined: bool,
    /// Attached to, or being ended.
    pub instance: String,
    /// Starts ever made when it began.
    pub first_attempt: i64,
    /// Failures and last failure when it attached.
    pub mark: (u64, f64),
    /// Starts made.
    pub starts: u32,
    /// Starts that another was quicker than.
    pub races: u32,
    /// The back-off before the next start was waited out.
    pub waited: bool,
    /// Since when it tries to be the only host.
    pub alone_since: f64,
    /// Patience: what hasn't changed.
    pub key: String,
    /// Patience: the last look.
    pub at: f64,
    /// Patience: for how long.
    pub quiet_for: f64,
    /// Patience: in how many looks.
    pub looks: u64,
    /// The last answer said that it loads.
    pub was_loading: bool,
    /// The progress that was last seen.
    pub progress: u64,
    /// When to ask again.
    pub next_ask: f64,
    /// The failure that was last told.
    pub told: String,
    /// In a word, once it has ended.
    pub outcome: &'static str,
    /// Why, in a word (of a fault: in many).
    pub reason: String,
}

impl State {
    fn new(policy: Policy, goal: Goal) -> State {
        State {
            policy,
            goal,
            phase: Phase::Looking,
            hosts: Hold::Shared,
            launch: false,
            ask: true,
            pause: 0.0,
            deadline: NEVER,
            until: 0.0,
            force: false,
            joined: false,
            instance: String::new(),
            first_attempt: -1,
            mark: (0, 0.0),
            starts: 0,
            races: 0,
            waited: false,
            alone_since: -1.0,
            key: String::new(),
            at: 0.0,
            quiet_for: 0.0,
            looks: 0,
            was_loading: false,
            progress: 0,
            next_ask: 0.0,
            told: String::new(),
            outcome: "",
            reason: String::new(),
        }
    }

    /// Begin to ensure; `known`: the instance this host is attached to already.
    pub fn ensure(policy: Policy, now: f64, known: &str) -> State {
        State { deadline: now + policy.timeout, instance: known.to_owned(), ..State::new(policy, Goal::Ensure) }
    }

    /// Begin to stop; `joined`: this host holds the hosts lock.
    pub fn stop(policy: Policy, now: f64, force: bool, joined: bool) -> State {
        let hosts = if joined { Hold::Shared } else { Hold::None };
        let deadline = now + policy.timeout;
        State { deadline, force, joined, hosts, launch: true, ..State::new(policy, Goal::Stop) }
    }

    /// Begin to watch the sidecar that was just attached to.
    pub fn watch(policy: Policy, now: f64, instance: &str, restarts: &Restarts) -> State {
        State {
            phase: Phase::Attached,
            instance: instance.to_owned(),
            mark: (restarts.failures, restarts.last_failure),
            pause: LOOK,
            ask: false,
            next_ask: now + HEALTH,
            ..State::new(policy, Goal::Watch)
        }
    }
}
