//! `SidecarHost`: what a program uses to have a sidecar for as long as it wants one.

use crate::config::HostConfig;
use crate::error::Error;
use crate::lock::held;
use crate::observe::Patience;
use crate::ownership::{decide, Decision, LockState, Probe, Record, RecordState};
use crate::probe::health_of;
use crate::supervisor::Supervisor;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(100);
const HEALTH: Duration = Duration::from_secs(5);

/// A running sidecar.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// Where it listens.
    pub base_url: String,
    /// The bearer token to send.
    pub token: Option<String>,
    /// Its PID.
    pub pid: i32,
    /// Which process it is.
    pub instance_id: String,
    /// `spawned` or `attached`.
    pub origin: String,
    /// Its version.
    pub version: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token must not reach a log.
        write!(f, "Connection({} pid {} {} {})", self.base_url, self.pid, self.instance_id, self.origin)
    }
}

impl Connection {
    fn new(record: &Record, origin: &str) -> Connection {
        Connection {
            base_url: record.base_url(),
            token: record.token.clone(),
            pid: record.pid,
            instance_id: record.instance_id.clone(),
            origin: origin.to_owned(),
            version: record.version.clone(),
        }
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

struct Inner {
    supervisor: Supervisor,
    connection: Option<Connection>,
    mark: (u64, f64),
    sinks: Vec<Sender<Event>>,
}

impl Inner {
    fn emit(&mut self, kind: EventKind, connection: Option<Connection>, detail: &str) {
        let event = Event { kind, connection, detail: detail.to_owned() };
        self.sinks.retain(|sink| sink.send(event.clone()).is_ok());
    }

    fn restart_mark(&self) -> (u64, f64) {
        let state = self.supervisor.restarts();
        (state.failures, state.last_failure)
    }

    fn restart(&mut self, detail: &str) -> Result<(), Error> {
        self.emit(EventKind::Crashed, self.connection.clone(), detail);
        let (record, origin) = self.supervisor.ensure()?;
        self.mark = self.restart_mark();
        self.connection = Some(Connection::new(&record, origin));
        self.emit(EventKind::Restarted, self.connection.clone(), "");
        Ok(())
    }

    fn look(&mut self, patience: &mut Patience, next_health: &mut Instant) -> Result<(), Error> {
        let Some(mine) = self.connection.clone() else { return Ok(()) };
        self.supervisor.reap();
        if !held(&self.supervisor.files.sidecar_lock())? {
            let crashed = self.supervisor.has_record() || self.restart_mark() != self.mark;
            if crashed {
                return self.restart("crashed");
            }
            if held(&self.supervisor.files.launch_lock())? {
                return Ok(()); // someone is at it: look again
            }
            self.connection = None;
            self.supervisor.leave();
            self.emit(EventKind::Stopped, None, "");
            return Ok(());
        }
        if Instant::now() < *next_health {
            return Ok(());
        }
        let seen = self.supervisor.observe(patience, false)?;
        let quiet = matches!(seen.observation.probe, Probe::Refused | Probe::Silent | Probe::Failed);
        *next_health = Instant::now() + if quiet { HEALTH / 10 } else { HEALTH };
        if decide(&seen.observation) == Decision::Replace {
            return self.restart("hung");
        }
        if seen.record.is_some_and(|r| r.instance_id != mine.instance_id) {
            return self.restart("replaced");
        }
        if self.supervisor.adopt()? {
            self.emit(EventKind::Adopted, Some(mine), "");
        }
        Ok(())
    }
}

/// A host's hold on the sidecar. Dropping it only lets go.
pub struct SidecarHost {
    inner: Arc<Mutex<Inner>>,
    config: HostConfig,
    closed: Arc<AtomicBool>,
    watcher: Mutex<Option<JoinHandle<()>>>,
    supervise: bool,
}

impl SidecarHost {
    /// A host that restarts the sidecar after a crash. Nothing is started yet.
    pub fn new(config: HostConfig) -> Result<SidecarHost, Error> {
        SidecarHost::with_supervision(config, true)
    }

    /// The same, with or without restarts.
    pub fn with_supervision(config: HostConfig, supervise: bool) -> Result<SidecarHost, Error> {
        let supervisor = Supervisor::new(config.clone())?;
        let inner = Inner { supervisor, connection: None, mark: (0, 0.0), sinks: Vec::new() };
        Ok(SidecarHost {
            inner: Arc::new(Mutex::new(inner)),
            config,
            closed: Arc::new(AtomicBool::new(false)),
            watcher: Mutex::new(None),
            supervise,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Attach to the sidecar, starting it where there is none. Blocking.
    pub fn ensure_running(&self) -> Result<Connection, Error> {
        let mut inner = self.lock();
        let (record, origin) = inner.supervisor.ensure()?;
        let connection = match &inner.connection {
            Some(known) if known.instance_id == record.instance_id => known.clone(),
            _ => {
                let fresh = Connection::new(&record, origin);
                inner.connection = Some(fresh.clone());
                inner.emit(EventKind::Ready, Some(fresh.clone()), "");
                fresh
            }
        };
        inner.mark = inner.restart_mark();
        drop(inner);
        if self.supervise {
            self.watch();
        }
        Ok(connection)
    }

    fn watch(&self) {
        let mut watcher = self.watcher.lock().unwrap_or_else(|e| e.into_inner());
        if watcher.is_some() {
            return;
        }
        let (inner, closed) = (Arc::clone(&self.inner), Arc::clone(&self.closed));
        *watcher = Some(thread::spawn(move || {
            let (mut patience, mut next_health) = (Patience::default(), Instant::now() + HEALTH);
            while !closed.load(Ordering::Relaxed) {
                thread::sleep(POLL);
                let mut inner = inner.lock().unwrap_or_else(|e| e.into_inner());
                if closed.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(error) = inner.look(&mut patience, &mut next_health) {
                    if !matches!(error, Error::LaunchFailed { permanent: false, .. }) {
                        inner.connection = None;
                    }
                    inner.emit(EventKind::Failed, None, &error.to_string());
                }
            }
        }));
    }

    /// What there is now; starts and changes nothing.
    pub fn status(&self) -> Result<Status, Error> {
        let mut supervisor = Supervisor::new(self.config.clone())?;
        let seen = supervisor.observe(&mut Patience::default(), false)?;
        let obs = seen.observation;
        let state = match (obs.lock, obs.record, obs.probe) {
            (LockState::Free, _, _) => State::Stopped,
            (_, RecordState::UnknownSchema, _) => State::Foreign,
            (_, RecordState::Absent | RecordState::Invalid, _) => State::Starting,
            (_, _, Probe::Echo) => State::Running,
            (_, _, Probe::Draining) => State::Draining,
            (_, _, Probe::Failed) => State::Failed,
            (_, _, Probe::Other) => State::Foreign,
            _ => State::Hung,
        };
        let record = seen.record.filter(|_| state != State::Stopped);
        let health = record.as_ref().and_then(|r| health_of(r, self.config.probe_timeout).ok());
        Ok(Status { state, connection: record.map(|r| Connection::new(&r, "attached")), health })
    }

    /// Stop the sidecar; false when none ran. An error when others use it and `force` is off.
    pub fn stop(&self, force: bool) -> Result<bool, Error> {
        let mut inner = self.lock();
        let was = inner.supervisor.stop(force)?;
        inner.connection = None;
        inner.emit(EventKind::Stopped, None, "");
        Ok(was)
    }

    /// Events from now on. The channel has no bound: nothing waits for a slow reader.
    pub fn events(&self) -> Receiver<Event> {
        let (sink, source) = channel();
        self.lock().sinks.push(sink);
        source
    }

    /// The last connection.
    pub fn connection(&self) -> Option<Connection> {
        self.lock().connection.clone()
    }

    /// A client for its API that follows it through one restart between requests. Ensures that it runs.
    #[cfg(feature = "client")]
    pub fn client(&self) -> Result<crate::client::Client<'_>, Error> {
        crate::client::Client::new(self)
    }

    /// Let go: the sidecar stays for its other hosts, or for its grace time. Idempotent.
    pub fn release(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(thread) = self.watcher.lock().unwrap_or_else(|e| e.into_inner()).take() {
            let _ = thread.join();
        }
        let mut inner = self.lock();
        inner.supervisor.leave();
        inner.connection = None;
        inner.sinks.clear();
        self.closed.store(false, Ordering::Relaxed);
    }
}

impl Drop for SidecarHost {
    fn drop(&mut self) {
        self.release();
    }
}
