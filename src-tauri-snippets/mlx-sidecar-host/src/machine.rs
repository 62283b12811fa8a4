//! The one machine of a host: what it does next, given what it sees. Pure; the twin of `host_api/protocol/machine.py`,
//! whose head tells how it works, with a timeline. The two are compared step by step, over vectors and by a simulator.

use crate::decision::{permanent, Compat, Decision, HealthAnswer, Identity, LockState, EXIT_LOCK_HELD};
use crate::judgement::{compat_of, decision_of, overdue, quiet, why, with_patience, ALONE_TRY};
use crate::record::RecordState;
use crate::states::{Action, Goal, Hold, Launch, Phase, Seen, State, HEALTH, LOOK, NEVER};

/// Seconds between looks after giving up.
const DEAD_LOOK: f64 = 5.0;
/// From SIGKILL to a free lock.
const KILL_WAIT: f64 = 10.0;
/// Lost starts after which something is known to keep the lock.
const RACES: u32 = 5;

type Step = (State, Vec<Action>);

/// Take one step. Total: any state with any `seen` gives a next state; an outcome is final.
pub fn step(state: State, seen: &Seen, now: f64) -> Step {
    if !state.outcome.is_empty() {
        return (state, vec![]);
    }
    if !seen.fault.is_empty() {
        return failed(state, "fault", &seen.fault);
    }
    let mut state = with_patience(state, seen, now);
    if state.first_attempt < 0 {
        state.first_attempt = seen.restarts.attempt as i64;
    }
    match state.phase {
        Phase::Starting => starting(state, seen, now),
        Phase::Ending | Phase::Killing => ending(state, seen, now),
        Phase::Attached => attached(state, seen, now),
        Phase::Dead => dead(state, seen, now),
        Phase::Idle => (State { pause: LOOK, ..state }, vec![]),
        _ if state.goal == Goal::Stop => stopping(state, seen, now),
        _ => looking(state, seen, now),
    }
}

fn looking(s: State, seen: &Seen, now: f64) -> Step {
    let refused = seen.hosts == Hold::None && s.hosts == Hold::Shared;
    // The sidecar that refuses is leaving; one that hangs while it leaves is replaced all the same.
    if refused && decision_of(&s, seen, Compat::Ok) != Decision::Replace {
        return again(s, now, "leaving", None);
    }
    let (s, compat, settled) = compat_of(s, seen, now);
    if !settled {
        return again(s, now, "launch_busy", Some(0.01));
    }
    let decision = decision_of(&s, seen, compat);
    match decision {
        Decision::Attach if seen.hosts != Hold::Shared => {
            return (State { hosts: Hold::Shared, pause: 0.0, ..s }, vec![]);
        }
        Decision::Attach => return attach(s, seen, now, "attached"),
        Decision::Conflict => {
            let reason = why(seen, compat);
            return failed(s, if reason == "needs" { "launch_failed" } else { "conflict" }, reason);
        }
        Decision::Wait => return again(s, now, "waiting", None),
        Decision::Spawn | Decision::Replace => {}
    }
    if seen.launch != Launch::Mine {
        // A host that holds on while it waits would keep others that need another sidecar from being alone.
        let hosts = if compat == Compat::Ok { s.hosts } else { Hold::None };
        let pause = if seen.launch == Launch::Free { Some(0.0) } else { None };
        return again(State { launch: true, hosts, ..s }, now, "launch_busy", pause);
    }
    if decision == Decision::Replace {
        let word = if compat == Compat::Ok { "hung" } else { "replaced" };
        let saved = seen.restarts.clone().crashed(seen.wall, &s.policy.backoff, word);
        let wait = s.policy.term_wait;
        return end(s, seen, now, wait, vec![Action::Save(saved)]);
    }
    spawn(s, seen, now)
}

/// Look again, a little later each time, until the deadline.
fn again(s: State, now: f64, reason: &str, pause: Option<f64>) -> Step {
    if now > s.deadline {
        return failed(s, "timeout", reason);
    }
    let pause = pause.unwrap_or_else(|| (s.pause * 1.5).clamp(0.005, 0.1));
    (State { pause, ..s }, vec![])
}

fn after(mut actions: Vec<Action>, (state, more): Step) -> Step {
    actions.extend(more);
    (state, actions)
}

fn spawn(mut s: State, seen: &Seen, now: f64) -> Step {
    let mut shared = seen.restarts.clone();
    if s.starts == 0 && shared.attempt as i64 != s.first_attempt && permanent(shared.exit_code) {
        return failed(s, "launch_failed", "elsewhere");
    }
    let mut actions = vec![];
    if seen.record != RecordState::Absent {
        shared = shared.crashed(seen.wall, &s.policy.backoff, "crashed");
        actions = vec![Action::Save(shared.clone()), Action::Clear];
    }
    if s.goal == Goal::Watch && shared.failures >= s.policy.give_up {
        return after(actions, failed(s, "dead", "gave_up"));
    }
    let wait = if s.waited { 0.0 } else { shared.wait(seen.wall, &s.policy.backoff, seen.jitter) };
    if wait > 0.001 {
        if now + wait > s.deadline {
            return after(actions, failed(s, "timeout", "backing_off"));
        }
        if s.phase != Phase::BackingOff {
            s = State { phase: Phase::BackingOff, until: now + wait, ..s };
        }
        if now < s.until {
            let pause = f64::min(LOOK, s.until - now);
            return (State { pause, ..s }, actions);
        }
    }
    let started = shared.started(seen.wall, &s.policy.backoff);
    actions.extend([Action::Save(started), Action::Spawn]);
    let fresh = State {
        phase: Phase::Starting,
        starts: s.starts + 1,
        waited: false,
        pause: 0.01,
        key: String::new(),
        quiet_for: 0.0,
        at: now,
        looks: 0,
        was_loading: false,
        ..s
    };
    (fresh, actions)
}

/// A child of ours starts: ready, gone, or too late.
fn starting(s: State, seen: &Seen, now: f64) -> Step {
    let up =
        seen.lock == LockState::Held && seen.record == RecordState::Valid && seen.answer == Some(HealthAnswer::Echo);
    if up {
        if !seen.fits {
            return failed(s, "launch_failed", "needs"); // its own host's needs: trying again can't help
        }
        if seen.hosts != Hold::Shared {
            return (State { hosts: Hold::Shared, pause: 0.0, ..s }, vec![]);
        }
        return attach(s, seen, now, "spawned");
    }
    if seen.child == "runs" {
        if s.quiet_for >= s.policy.start_timeout {
            let saved = seen.restarts.clone().failed(seen.wall, None, &seen.tail);
            return lost(s, now, "no_answer", vec![Action::KillChild, Action::Save(saved)]);
        }
        if now > s.deadline {
            return failed(s, "timeout", "starting");
        }
        let pause = (s.pause * 1.1).clamp(0.01, 0.05);
        return (State { pause, ..s }, vec![]);
    }
    let code = seen.child.parse::<i32>().ok();
    if code == Some(EXIT_LOCK_HELD) {
        let s = State { phase: Phase::Looking, races: s.races + 1, waited: true, ..s };
        if s.races >= RACES && seen.lock == LockState::Free {
            return failed(s, "conflict", "lock_kept");
        }
        let pause = 0.05 * f64::from(1u32 << s.races.min(4));
        return again(s, now, "waiting", Some(pause));
    }
    let actions = vec![Action::Save(seen.restarts.clone().failed(seen.wall, code, &seen.tail))];
    if seen.child == "unrunnable" && s.goal == Goal::Ensure {
        return failed(s, "launch_failed", "program"); // a watch tries again: an updater may be at work
    }
    if permanent(code) {
        return after(actions, failed(s, "launch_failed", "exit"));
    }
    lost(s, now, "exit", actions)
}

/// A start failed in a way that another may mend.
fn lost(s: State, now: f64, reason: &str, actions: Vec<Action>) -> Step {
    if s.goal == Goal::Ensure && s.starts >= s.policy.attempts {
        return after(actions, failed(s, "launch_failed", &format!("{reason}_again")));
    }
    let s = State { phase: Phase::Looking, pause: 0.0, key: String::new(), looks: 0, quiet_for: 0.0, at: now, ..s };
    (s, actions)
}

fn end(s: State, seen: &Seen, now: f64, wait: f64, mut actions: Vec<Action>) -> Step {
    // Keeps newcomers waiting, where it is to be had.
    let hosts = if s.goal == Goal::Stop { Hold::Exclusive } else { s.hosts };
    actions.push(Action::Terminate(seen.instance.clone()));
    let ending =
        State { phase: Phase::Ending, until: now + wait, instance: seen.instance.clone(), pause: 0.01, hosts, ..s };
    (ending, actions)
}

fn ending(s: State, seen: &Seen, now: f64) -> Step {
    let free = seen.lock == LockState::Free;
    if free || (seen.record == RecordState::Valid && seen.instance != s.instance) {
        let clear = if free { vec![Action::Clear] } else { vec![] };
        if s.goal == Goal::Stop {
            return (State { outcome: "stopped", launch: false, hosts: Hold::None, ..s }, clear);
        }
        let again = State {
            phase: Phase::Looking,
            hosts: Hold::Shared,
            instance: String::new(),
            key: String::new(),
            looks: 0,
            pause: 0.0,
            alone_since: -1.0,
            at: now,
            quiet_for: 0.0,
            ..s
        };
        return (again, clear);
    }
    if now < s.until {
        let pause = f64::min(0.05, s.pause * 1.2);
        return (State { pause, ..s }, vec![]);
    }
    if s.phase == Phase::Ending {
        let kill = vec![Action::Kill(s.instance.clone())];
        return (State { phase: Phase::Killing, until: now + KILL_WAIT, pause: 0.01, ..s }, kill);
    }
    failed(State { phase: Phase::Looking, ..s }, "conflict", "cannot_end")
}

fn stopping(s: State, seen: &Seen, now: f64) -> Step {
    if seen.launch != Launch::Mine {
        return again(s, now, "launch_busy", None);
    }
    if seen.lock == LockState::Free {
        return (State { outcome: "absent", launch: false, hosts: Hold::None, ..s }, vec![Action::Clear]);
    }
    let late = overdue(&s, seen);
    let proved = seen.record == RecordState::Valid && seen.identity == Identity::Match;
    if proved && seen.answer != Some(HealthAnswer::Other) {
        if seen.answer == Some(HealthAnswer::Draining) && seen.managed && !s.force {
            // It is leaving already, and a second signal would cut its last answers off.
            let (until, instance) = (now + s.policy.stop_wait, seen.instance.clone());
            return (State { phase: Phase::Ending, until, instance, pause: 0.01, ..s }, vec![]);
        }
        if !quiet(seen.answer) || s.force || late {
            return stop_proved(s, seen, now);
        }
    }
    let reason = why(seen, Compat::Ok);
    if late || seen.record == RecordState::UnknownSchema {
        return failed(s, "conflict", reason);
    }
    again(s, now, reason, Some(0.02))
}

fn stop_proved(s: State, seen: &Seen, now: f64) -> Step {
    let wait = s.policy.stop_wait;
    if s.force {
        return end(s, seen, now, wait, vec![]);
    }
    if !seen.managed {
        return failed(s, "in_use", "by_hand");
    }
    if seen.hosts == Hold::Exclusive {
        return end(s, seen, now, wait, vec![]);
    }
    let alone_since = if s.alone_since < 0.0 { now } else { s.alone_since };
    if now - alone_since >= ALONE_TRY {
        return failed(s, "in_use", "others");
    }
    (State { alone_since, hosts: Hold::Exclusive, pause: 0.01, ..s }, vec![])
}

fn attach(s: State, seen: &Seen, now: f64, how: &'static str) -> Step {
    if s.goal != Goal::Watch {
        let instance = seen.instance.clone();
        return (State { outcome: how, instance, launch: false, hosts: Hold::Shared, ..s }, vec![]);
    }
    let fresh = State::watch(s.policy, now, &seen.instance, &seen.restarts);
    (fresh, vec![Action::Event("restarted", how.to_owned())])
}

/// All is well, mostly. What isn't leads back to LOOKING, as if the program asked anew.
fn attached(s: State, seen: &Seen, now: f64) -> Step {
    if seen.moved {
        return restart(s, "moved");
    }
    if seen.lock == LockState::Free {
        if seen.record != RecordState::Absent || (seen.restarts.failures, seen.restarts.last_failure) != s.mark {
            return restart(s, "crashed");
        }
        if seen.launch == Launch::Other {
            // Someone is at it.
            let pause = if s.pause >= LOOK { 0.05 } else { f64::min(0.5, s.pause * 1.3) };
            return (State { pause, ..s }, vec![]);
        }
        let idle = State { phase: Phase::Idle, hosts: Hold::None, pause: LOOK, ..s };
        return (idle, vec![Action::Event("stopped", String::new())]);
    }
    if seen.record == RecordState::Valid && seen.instance != s.instance {
        return restart(s, "replaced");
    }
    if seen.answer.is_none() {
        return (State { ask: now + LOOK >= s.next_ask, pause: LOOK, told: String::new(), ..s }, vec![]);
    }
    match decision_of(&s, seen, Compat::Ok) {
        Decision::Replace => return restart(s, "hung"),
        Decision::Conflict => return failed(s, "conflict", why(seen, Compat::Ok)),
        _ => {}
    }
    let well = seen.answer == Some(HealthAnswer::Echo);
    let s = State { ask: !well, next_ask: now + HEALTH, pause: LOOK, told: String::new(), ..s };
    (s, if seen.owner_gone && well { vec![Action::Adopt] } else { vec![] })
}

/// Patience is kept: what was long enough for the watch is long enough for the replacement.
fn restart(s: State, word: &str) -> Step {
    let again = State {
        phase: Phase::Looking,
        pause: 0.0,
        ask: true,
        starts: 0,
        races: 0,
        first_attempt: -1,
        deadline: NEVER,
        told: String::new(),
        alone_since: -1.0,
        ..s
    };
    (again, vec![Action::Event("crashed", word.to_owned())])
}

fn dead(s: State, seen: &Seen, now: f64) -> Step {
    let up =
        seen.lock == LockState::Held && seen.answer == Some(HealthAnswer::Echo) && seen.record == RecordState::Valid;
    if up && seen.fits {
        if seen.hosts != Hold::Shared {
            return (State { hosts: Hold::Shared, pause: 0.0, ..s }, vec![]);
        }
        return attach(s, seen, now, "attached");
    }
    (State { pause: DEAD_LOOK, hosts: Hold::None, ..s }, vec![])
}

/// End with an outcome; a watch says it once, and looks again or is dead.
fn failed(s: State, outcome: &'static str, reason: &str) -> Step {
    if s.goal != Goal::Watch {
        let hosts = if s.joined { Hold::Shared } else { Hold::None };
        return (State { outcome, reason: reason.to_owned(), launch: false, hosts, ..s }, vec![]);
    }
    let told = format!("{outcome}:{reason}");
    let events = if s.told == told { vec![] } else { vec![Action::Event("failed", told.clone())] };
    // While a child starts launch.lock stays ours: what it leaves is written under it.
    let launch = s.launch && s.phase == Phase::Starting && outcome == "fault";
    let mut s = State { told, pause: LOOK, launch, ..s };
    if matches!(outcome, "dead" | "launch_failed") {
        return (State { phase: Phase::Dead, hosts: Hold::None, pause: DEAD_LOOK, ask: true, ..s }, events);
    }
    if !matches!(s.phase, Phase::Attached | Phase::Starting | Phase::Dead | Phase::Idle) {
        s = State { phase: Phase::Looking, hosts: Hold::Shared, alone_since: -1.0, ..s };
    }
    (s, events)
}
