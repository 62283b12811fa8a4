//! What a host sees and what follows from it: the protocol's decision table (section 6), total and pure.

use crate::record::RecordState;
use serde::{Deserialize, Serialize};

/// Exit status: start-up failure.
pub const EXIT_STARTUP_FAILURE: i32 = 3;
/// Exit status: another sidecar holds the lock.
pub const EXIT_LOCK_HELD: i32 = 75;
/// Exit status: configuration.
pub const EXIT_CONFIG: i32 = 78;

/// Whether trying again after this exit status can't help.
pub fn permanent(code: Option<i32>) -> bool {
    matches!(code, Some(EXIT_STARTUP_FAILURE | EXIT_CONFIG))
}

/// The sidecar's own lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockState {
    /// Nobody has it.
    Free,
    /// A sidecar lives.
    Held,
}

/// The process with the record's PID against the record's start token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The same process.
    Match,
    /// Another process with the same PID.
    Mismatch,
    /// No process, or a zombie.
    Gone,
    /// Can't be told.
    Unknown,
}

/// What `GET /health` on the record's address gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthAnswer {
    /// This instance, at work.
    Echo,
    /// This instance, draining.
    Draining,
    /// This instance, failed.
    Failed,
    /// Something else.
    Other,
    /// Nothing listens.
    Refused,
    /// No whole answer in time.
    Silent,
}

/// The record's version and capabilities against what the host needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compat {
    /// Good enough.
    #[serde(rename = "ok")]
    Ok,
    /// Not good enough, and no other host uses it.
    #[serde(rename = "incompatible_alone")]
    Alone,
    /// Not good enough, and other hosts use it.
    #[serde(rename = "incompatible_shared")]
    Shared,
}

/// What a host does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Decision {
    /// Start a sidecar.
    Spawn,
    /// Use the one there is.
    Attach,
    /// Look again.
    Wait,
    /// End the one there is.
    Replace,
    /// Give up and say why.
    Conflict,
}

/// The left side of the table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The sidecar's lock.
    pub lock: LockState,
    /// The record.
    pub record: RecordState,
    /// The record's process.
    pub identity: Identity,
    /// The record's address.
    pub answer: HealthAnswer,
    /// Good enough?
    pub compat: Compat,
    /// Unchanged for longer than its deadline.
    pub overdue: bool,
    /// The port is strict and taken.
    pub port_blocked: bool,
    /// It leaves when no host is left, as the record says; true without one.
    pub managed: bool,
}

/// The protocol's decision table; total.
pub fn decide(seen: &Observation) -> Decision {
    use Decision::*;
    match (seen.lock, seen.record, seen.answer) {
        (LockState::Free, _, _) if seen.port_blocked => Conflict,
        (LockState::Free, _, _) => Spawn,
        (_, RecordState::UnknownSchema, _) => Conflict,
        (_, RecordState::Absent | RecordState::Invalid, _) | (_, _, HealthAnswer::Other) => {
            if seen.overdue {
                Conflict
            } else {
                Wait
            }
        }
        (_, _, HealthAnswer::Echo) if seen.compat == Compat::Ok => Attach,
        (_, _, HealthAnswer::Echo) if seen.compat == Compat::Shared => Conflict,
        (_, _, answer) if answer != HealthAnswer::Echo && !seen.overdue => Wait,
        // What was started by hand is ended by hand: a host that does it unasked takes a person's program away.
        _ if seen.managed && seen.identity == Identity::Match => Replace,
        _ => Conflict,
    }
}
