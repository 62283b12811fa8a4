//! The machine over a written-down schedule, and its steps as text: what two implementations are compared by.
//! See `host_api/protocol/trace.py` for the form.

use crate::machine::step;
use crate::restarts::Restarts;
use crate::states::{Action, Goal, Policy, Seen, State};
use serde::Deserialize;
use serde_json::{json, Value};
use std::fmt::Write;

/// A schedule.
#[derive(Debug, Deserialize)]
pub struct Schedule {
    goal: Goal,
    #[serde(default)]
    begin: f64,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    known: String,
    #[serde(default)]
    joined: bool,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    restarts: Restarts,
    steps: Vec<(f64, Seen)>,
    #[serde(default)]
    text: bool,
}

impl Schedule {
    /// Run it: the steps as text, one a line, and the CRC-32 of the whole.
    pub fn run(&self) -> Value {
        let mut state = match self.goal {
            Goal::Ensure => State::ensure(self.policy, self.begin, &self.known),
            Goal::Stop => State::stop(self.policy, self.begin, self.force, self.joined),
            Goal::Watch => State::watch(self.policy, self.begin, &self.known, &self.restarts),
        };
        let mut lines = Vec::new();
        for (now, seen) in &self.steps {
            let (next, actions) = step(state, seen, *now);
            lines.push(text_of(&next, &actions));
            state = next;
        }
        let crc = crc32(lines.join("\n").as_bytes());
        let mut answer = json!({"crc": crc, "steps": lines.len()});
        if self.text {
            answer["text"] = lines.into();
        }
        answer
    }
}

fn crc32(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

fn us(seconds: f64) -> i64 {
    (seconds * 1e6) as i64
}

fn word<T: serde::Serialize>(value: T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A step as one line; times in whole microseconds, cut off.
pub fn text_of(s: &State, actions: &[Action]) -> String {
    let yes = u8::from;
    let mut text = format!(
        "{}|{}|{}|{}|{}|{}|{}|{}|",
        word(s.phase),
        word(s.hosts),
        yes(s.launch),
        yes(s.ask),
        us(s.pause),
        us(s.deadline),
        us(s.until),
        s.instance
    );
    let _ = write!(
        text,
        "{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}",
        s.first_attempt,
        s.mark.0,
        us(s.mark.1),
        s.starts,
        s.races,
        yes(s.waited),
        us(s.alone_since),
        s.key,
        us(s.at),
        us(s.quiet_for),
        s.looks,
        yes(s.was_loading),
        s.progress,
        us(s.next_ask),
        s.told,
        s.outcome,
        s.reason
    );
    for action in actions {
        text.push(' ');
        text.push_str(&action_text(action));
    }
    text
}

fn action_text(action: &Action) -> String {
    match action {
        Action::Save(r) => {
            let code = r.exit_code.map_or_else(|| "-".to_owned(), |c| c.to_string());
            let last: Vec<String> = r.history.iter().map(|(at, why)| format!("{}:{why}", us(*at))).collect();
            let (start, failure) = (us(r.last_start), us(r.last_failure));
            let (n, attempt, message) = (r.failures, r.attempt, &r.message);
            format!("save,,,{n},{start},{failure},{attempt},{code},{message},{}", last.join(";"))
        }
        Action::Clear => "clear,,".to_owned(),
        Action::Spawn => "spawn,,".to_owned(),
        Action::KillChild => "kill_child,,".to_owned(),
        Action::Terminate(instance) => format!("terminate,{instance},"),
        Action::Kill(instance) => format!("kill,{instance},"),
        Action::Adopt => "adopt,,".to_owned(),
        Action::Event(kind, detail) => format!("event,{kind},{detail}"),
    }
}
