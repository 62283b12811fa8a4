//! What a look means: for how long it has been so, what the table says, whether another sidecar is needed. Pure.

use crate::decision::{decide, Compat, Decision, HealthAnswer, Identity, LockState, Observation};
use crate::record::RecordState;
use crate::states::{Build, Goal, Hold, Launch, Seen, State};

/// Most seconds that an unasked-for gap between two looks counts.
const SLEPT: f64 = 2.0;
/// Seconds of trying to be the only host: others test the lock for moments.
pub const ALONE_TRY: f64 = 0.5;

/// Whether that is no answer.
pub fn quiet(answer: Option<HealthAnswer>) -> bool {
    matches!(answer, Some(HealthAnswer::Refused | HealthAnswer::Silent))
}

fn word<T: serde::Serialize>(value: T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Count for how long the same has been seen, as far as it may be held against the sidecar.
pub fn with_patience(s: State, seen: &Seen, now: f64) -> State {
    if seen.answer.is_none() {
        return s;
    }
    let quiet = quiet(seen.answer);
    let answer = if quiet { "quiet".to_owned() } else { word(seen.answer) };
    let key = format!("{}:{}:{answer}", word(seen.record), seen.instance);
    let was_loading = if quiet { s.was_loading } else { seen.loading };
    if key != s.key || (quiet && s.was_loading && seen.progress != s.progress) {
        let looks = if key == s.key { s.looks } else { 0 } + 1;
        return State { key, at: now, quiet_for: 0.0, looks, was_loading, progress: seen.progress, ..s };
    }
    let mut passed = ((now - s.at).min(s.pause + SLEPT) - seen.lag).max(0.0);
    if quiet && seen.busy {
        passed /= 4.0;
    }
    State { at: now, quiet_for: s.quiet_for + passed, looks: s.looks + 1, was_loading, ..s }
}

/// Whether what is seen has outlasted its limit, and was seen three times.
pub fn overdue(s: &State, seen: &Seen) -> bool {
    let quiet = quiet(seen.answer);
    let limit = if seen.record != RecordState::Valid || (quiet && s.was_loading) {
        s.policy.start_timeout
    } else if quiet {
        s.policy.hung_after
    } else {
        s.policy.drain_after
    };
    s.looks >= 3 && s.quiet_for >= limit
}

/// Ask the table.
pub fn decision_of(s: &State, seen: &Seen, compat: Compat) -> Decision {
    decide(&Observation {
        lock: seen.lock,
        record: seen.record,
        identity: seen.identity,
        answer: seen.answer.unwrap_or(HealthAnswer::Echo),
        compat,
        overdue: overdue(s, seen),
        port_blocked: seen.port_blocked,
        managed: seen.managed,
    })
}

/// How the running sidecar meets the needs; the last is false while that isn't settled yet.
///
/// A sidecar of another build than this host's own program is as good as none when no other host uses it (its files
/// may be gone: an updater swapped the bundle), and good enough when another does.
pub fn compat_of(s: State, seen: &Seen, now: f64) -> (State, Compat, bool) {
    let other_build =
        seen.build == Build::Other && seen.managed && seen.instance != s.instance && s.goal == Goal::Ensure;
    let runs =
        seen.lock == LockState::Held && seen.record == RecordState::Valid && seen.answer == Some(HealthAnswer::Echo);
    if !runs || (seen.fits && !other_build) {
        return (State { alone_since: -1.0, hosts: Hold::Shared, ..s }, Compat::Ok, true);
    }
    if !seen.fits && (s.goal == Goal::Watch || seen.build == Build::Same) {
        return (s, Compat::Shared, true); // nothing that this host could start is better
    }
    if seen.launch != Launch::Mine || seen.hosts == Hold::Exclusive {
        return (s, Compat::Alone, true); // without the launch lock: to be told once it is ours
    }
    let alone_since = if s.alone_since < 0.0 { now } else { s.alone_since };
    if now - alone_since < ALONE_TRY {
        return (State { alone_since, hosts: Hold::Exclusive, ..s }, Compat::Alone, false);
    }
    let shared = if seen.fits { Compat::Ok } else { Compat::Shared };
    (State { alone_since, hosts: Hold::Shared, ..s }, shared, true)
}

/// Name what stands in the way, in a word that `observe::explain` has a sentence for.
pub fn why(seen: &Seen, compat: Compat) -> &'static str {
    if seen.lock == LockState::Free {
        return if seen.port_blocked { "port" } else { "nothing" };
    }
    match seen.record {
        RecordState::UnknownSchema => return "schema",
        RecordState::Absent | RecordState::Invalid => return "record",
        RecordState::Valid => {}
    }
    if seen.answer == Some(HealthAnswer::Other) {
        return "stranger";
    }
    if !seen.managed {
        return if compat == Compat::Ok { "by_hand" } else { "needs_by_hand" };
    }
    if seen.answer == Some(HealthAnswer::Echo) && compat != Compat::Ok {
        return match (seen.build, compat) {
            (Build::Same, _) => "needs",
            (_, Compat::Shared) => "needs_shared",
            _ => "unproved",
        };
    }
    if seen.identity != Identity::Match {
        "unproved"
    } else {
        "quiet"
    }
}
