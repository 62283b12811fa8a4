//! What a host is told: where the sidecar is, how it stands, what happened to it.

use crate::record::Record;
use serde::Serialize;

/// A running sidecar.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// Where it listens.
    pub url: String,
    /// The bearer token to send.
    pub token: Option<String>,
    /// Its PID.
    pub pid: i32,
    /// Which process it is.
    pub instance_id: String,
    /// `spawned` or `attached`.
    pub how: String,
    /// Its version.
    pub version: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token must not reach a log.
        write!(f, "Connection({} pid {} {} {})", self.url, self.pid, self.instance_id, self.how)
    }
}

impl Connection {
    /// The connection that a record describes.
    pub fn new(record: &Record, how: &str) -> Connection {
        Connection {
            url: record.url(),
            token: record.token.clone(),
            pid: record.pid,
            instance_id: record.instance_id.clone(),
            how: how.to_owned(),
            version: record.version.clone(),
        }
    }

    /// Where OpenAI clients send their requests: the root with `/v1`.
    pub fn api_url(&self) -> String {
        format!("{}/v1", self.url)
    }
}

/// The state of a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// None runs.
    Stopped,
    /// One is starting.
    Starting,
    /// One runs.
    Running,
    /// One is about to end.
    Draining,
    /// One is broken.
    Failed,
    /// One doesn't answer.
    Hung,
    /// Something this version doesn't understand.
    Foreign,
}

/// A look at a state directory.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// In a word.
    pub state: State,
    /// The sidecar, if there is a readable record.
    pub connection: Option<Connection>,
    /// Its health document, if it answers.
    pub health: Option<serde_json::Value>,
    /// Whether it leaves when no host is left.
    pub managed: Option<bool>,
    /// The running program's fingerprint.
    pub build: Option<String>,
    /// Its path.
    pub program: Option<String>,
    /// Whether another build lies there now.
    pub replaced: Option<bool>,
    /// Failures in a row.
    pub failures: u64,
    /// The last five crashes, replacements and failed starts: when (seconds since 1970), and why.
    pub history: Vec<(f64, String)>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The first connection, or another sidecar's.
    Ready,
    /// It died, hung or was replaced.
    Crashed,
    /// It is there again.
    Restarted,
    /// It ended cleanly; it isn't restarted.
    Stopped,
    /// This host is now the owner in the record.
    Adopted,
    /// It couldn't be restarted.
    Failed,
}

/// Something that happened to the sidecar.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// What.
    #[serde(rename = "event")]
    pub kind: EventKind,
    /// The sidecar in question.
    pub connection: Option<Connection>,
    /// More, for people.
    pub detail: String,
}
