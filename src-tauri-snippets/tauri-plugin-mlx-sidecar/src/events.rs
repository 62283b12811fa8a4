//! What the webview is told without asking. No event carries the token.

use mlx_sidecar_host::{Connection, Event, EventKind};
use serde::Serialize;

/// The event with a [`Snapshot`].
pub const STATE: &str = "mlx-sidecar://state";
/// The event with a [`Download`](crate::pull::Download).
pub const DOWNLOAD: &str = "mlx-sidecar://download";
/// The event with [`LogLines`].
pub const LOG: &str = "mlx-sidecar://log";

/// How this app stands with the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// None is wanted, or it ended cleanly.
    Stopped,
    /// Being started or attached to.
    Starting,
    /// Connected.
    Running,
    /// It died or hung; another is being started.
    Restarting,
    /// It can't be had; `ensure` tries anew.
    Failed,
}

/// A connection without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarInfo {
    /// Where it listens.
    pub url: String,
    /// Its PID.
    pub pid: i32,
    /// Which process it is.
    pub instance_id: String,
    /// `spawned` or `attached`.
    pub how: String,
    /// Its version.
    pub version: String,
}

impl From<&Connection> for SidecarInfo {
    fn from(c: &Connection) -> Self {
        SidecarInfo {
            url: c.url.clone(),
            pid: c.pid,
            instance_id: c.instance_id.clone(),
            how: c.how.clone(),
            version: c.version.clone(),
        }
    }
}

/// The payload of [`STATE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// In a word.
    pub phase: Phase,
    /// More, for people.
    pub detail: String,
    /// The error's code, when `phase` is `failed`.
    pub code: Option<&'static str>,
    /// The sidecar, when `phase` is `running`.
    pub sidecar: Option<SidecarInfo>,
}

impl Snapshot {
    /// A phase without a sidecar.
    #[must_use]
    pub fn new(phase: Phase, detail: impl Into<String>) -> Self {
        Snapshot { phase, detail: detail.into(), code: None, sidecar: None }
    }

    /// Connected.
    #[must_use]
    pub fn running(connection: &Connection) -> Self {
        let sidecar = Some(SidecarInfo::from(connection));
        Snapshot { phase: Phase::Running, detail: String::new(), code: None, sidecar }
    }

    /// Why there is none.
    #[must_use]
    pub fn failed(code: &'static str, detail: impl Into<String>) -> Self {
        Snapshot { phase: Phase::Failed, detail: detail.into(), code: Some(code), sidecar: None }
    }

    /// What follows from an event of the host; `None` when it changes nothing here.
    #[must_use]
    pub fn after(event: &Event) -> Option<Self> {
        match (event.kind, &event.connection) {
            (EventKind::Ready | EventKind::Restarted, Some(connection)) => Some(Snapshot::running(connection)),
            (EventKind::Crashed, _) => {
                let what = match event.detail.as_str() {
                    "replaced" => "was replaced by another program",
                    "hung" => "did not answer any more",
                    _ => "ended unexpectedly",
                };
                Some(Snapshot::new(Phase::Restarting, format!("The sidecar {what}. Getting it back…")))
            }
            (EventKind::Stopped, _) => Some(Snapshot::new(Phase::Stopped, "")),
            (EventKind::Failed, _) => Some(Snapshot::failed("restart_failed", &event.detail)),
            _ => None,
        }
    }
}

/// The payload of [`LOG`]: new lines of the sidecar's output and of its service log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLines {
    /// `launch` (what the process writes before its logs are set up) or `service`.
    pub source: &'static str,
    /// Without line ends.
    pub lines: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, detail: &str) -> Event {
        let connection = Some(Connection {
            url: "http://127.0.0.1:1".to_owned(),
            token: Some("secret".to_owned()),
            pid: 7,
            instance_id: "0".repeat(32),
            how: "spawned".to_owned(),
            version: "0.1.0".to_owned(),
        });
        Event { kind, connection, detail: detail.to_owned() }
    }

    #[test]
    fn events_become_phases() {
        let phase = |kind| Snapshot::after(&event(kind, "crashed")).map(|s| s.phase);
        assert_eq!(phase(EventKind::Ready), Some(Phase::Running));
        assert_eq!(phase(EventKind::Crashed), Some(Phase::Restarting));
        assert_eq!(phase(EventKind::Restarted), Some(Phase::Running));
        assert_eq!(phase(EventKind::Stopped), Some(Phase::Stopped));
        assert_eq!(phase(EventKind::Failed), Some(Phase::Failed));
        assert_eq!(phase(EventKind::Adopted), None);
    }

    #[test]
    fn no_snapshot_carries_the_token() {
        let snapshot = Snapshot::after(&event(EventKind::Ready, ""));
        let text = serde_json::to_string(&snapshot).unwrap_or_default();
        assert!(text.contains("http://127.0.0.1:1"));
        assert!(!text.contains("secret"));
    }
}
