//! When a crashed sidecar may be started again: pure, and shared by all hosts through `restarts.json`.

use crate::decision::permanent;
use serde::Deserialize;
use serde_json::{json, Value};

/// 0, base, 2 base, 4 base … up to `cap` seconds; forgotten once a sidecar lived `stable` seconds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
pub struct Backoff {
    /// Seconds before the second restart.
    pub base: f64,
    /// The longest delay, seconds.
    pub cap: f64,
    /// The life that makes up for all crashes, seconds.
    pub stable: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { base: 1.0, cap: 30.0, stable: 60.0 }
    }
}

impl Backoff {
    /// Seconds before the start that follows `failures` failures; `jitter` in [0, 1) takes off up to 25%.
    pub fn delay(&self, failures: u64, jitter: f64) -> f64 {
        if failures <= 1 {
            return 0.0;
        }
        let full = if failures > 32 { self.cap } else { self.cap.min(self.base * 2f64.powi(failures as i32 - 2)) };
        full * (1.0 - 0.25 * jitter)
    }
}

/// Failures kept with their reasons.
const HISTORY: usize = 5;

/// The shared state. Times are wall-clock seconds since 1970.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Restarts {
    /// Crashes, replacements and failed starts in a row.
    pub failures: u64,
    /// When a sidecar was last started.
    pub last_start: f64,
    /// When a failure was last noticed.
    pub last_failure: f64,
    /// Starts ever made.
    pub attempt: u64,
    /// The exit status of a failed last start.
    pub exit_code: Option<i32>,
    /// The last lines of a failed last start.
    pub message: String,
    /// The last five failures: when, and why in a word or two.
    pub history: Vec<(f64, String)>,
}

impl Restarts {
    /// Count a start made at `now`. Failures are forgotten once a stable time has passed without one.
    pub fn started(self, now: f64, policy: &Backoff) -> Restarts {
        let quiet = self.last_failure > 0.0 && now - self.last_failure >= policy.stable;
        let failures = if quiet { 0 } else { self.failures };
        Restarts {
            failures,
            last_start: now,
            attempt: self.attempt + 1,
            exit_code: None,
            message: String::new(),
            ..self
        }
    }

    /// Count a crash or a replacement noticed at `now`; one that came after a stable life begins anew.
    pub fn crashed(self, now: f64, policy: &Backoff, why: &str) -> Restarts {
        let fresh = self.last_start > 0.0 && now - self.last_start >= policy.stable;
        let failures = if fresh { 1 } else { self.failures + 1 };
        Restarts { failures, last_failure: now, ..self }.because(now, why)
    }

    /// Count a start that failed at `now`.
    pub fn failed(self, now: f64, exit_code: Option<i32>, message: &str) -> Restarts {
        let skip = message.chars().count().saturating_sub(4000);
        let message = message.chars().skip(skip).collect();
        let why = exit_code.map_or_else(|| "no answer".to_owned(), |code| format!("exit status {code}"));
        let failures = self.failures + 1;
        Restarts { failures, last_failure: now, exit_code, message, ..self }.because(now, &why)
    }

    fn because(mut self, now: f64, why: &str) -> Restarts {
        self.history.push((now, why.to_owned()));
        let over = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..over);
        self
    }

    /// Seconds to wait at `now`: never more than the delay itself, whatever the clock did.
    pub fn wait(&self, now: f64, policy: &Backoff, jitter: f64) -> f64 {
        let delay = policy.delay(self.failures, jitter);
        delay.min((self.last_failure + delay - now).max(0.0))
    }

    /// Whether the last start failed in a way that trying again won't mend.
    pub fn permanent(&self) -> bool {
        permanent(self.exit_code)
    }

    /// The bytes of `restarts.json`.
    pub fn encode(&self) -> Vec<u8> {
        let document = json!({
            "schema": 1, "failures": self.failures, "last_start": self.last_start, "last_failure": self.last_failure,
            "attempt": self.attempt, "exit_code": self.exit_code, "message": self.message, "history": self.history,
        });
        format!("{document}\n").into_bytes()
    }

    /// The state in `data`; anything unreadable is a clean slate.
    pub fn parse(data: Option<&[u8]>) -> Restarts {
        data.and_then(Restarts::read).unwrap_or_default()
    }

    fn read(data: &[u8]) -> Option<Restarts> {
        let v: Value = serde_json::from_slice(data).ok()?;
        if v.get("schema")?.as_i64()? != 1 {
            return None;
        }
        Some(Restarts {
            failures: v.get("failures")?.as_u64()?,
            last_start: v.get("last_start")?.as_f64()?,
            last_failure: v.get("last_failure")?.as_f64()?,
            attempt: v.get("attempt")?.as_u64()?,
            exit_code: match v.get("exit_code")? {
                Value::Null => None,
                code => Some(i32::try_from(code.as_i64()?).ok()?),
            },
            message: v.get("message")?.as_str()?.to_owned(),
            history: v.get("history").map(history).unwrap_or_default(),
        })
    }
}

/// The last failures; what isn't in the form is left out (1.0 doesn't write the key).
fn history(value: &Value) -> Vec<(f64, String)> {
    let rows = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |r: &Value| match r.as_array()?.as_slice() {
        [at, why] => Some((at.as_f64()?, why.as_str()?.to_owned())),
        _ => None,
    };
    let good: Vec<_> = rows.iter().filter_map(row).collect();
    good[good.len().saturating_sub(HISTORY)..].to_vec()
}
