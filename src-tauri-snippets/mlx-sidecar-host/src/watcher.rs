//! `Watcher`: looks at the sidecar while a host is attached, and has it restarted.

use crate::connection::{Connection, Event, EventKind};
use crate::decision::{decide, Decision, HealthAnswer};
use crate::error::Error;
use crate::lock::held;
use crate::manager::Manager;
use crate::observe::Patience;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(100);
const HEALTH: Duration = Duration::from_secs(5);

/// What the host and its watcher share, under one mutex.
pub(crate) struct Inner {
    pub manager: Manager,
    pub connection: Option<Connection>,
    pub mark: (u64, f64),
    pub sinks: Vec<Sender<Event>>,
}

impl Inner {
    pub fn emit(&mut self, kind: EventKind, connection: Option<Connection>, detail: &str) {
        let event = Event { kind, connection, detail: detail.to_owned() };
        self.sinks.retain(|sink| sink.send(event.clone()).is_ok());
    }

    pub fn restart_mark(&self) -> (u64, f64) {
        let state = self.manager.restarts();
        (state.failures, state.last_failure)
    }

    fn restart(&mut self, detail: &str) -> Result<(), Error> {
        self.emit(EventKind::Crashed, self.connection.clone(), detail);
        let (record, how) = self.manager.ensure()?;
        self.mark = self.restart_mark();
        self.connection = Some(Connection::new(&record, how));
        self.emit(EventKind::Restarted, self.connection.clone(), "");
        Ok(())
    }

    fn look(&mut self, patience: &mut Patience, next_health: &mut Instant) -> Result<(), Error> {
        let Some(mine) = self.connection.clone() else { return Ok(()) };
        self.manager.reap();
        if !held(&self.manager.files.sidecar_lock())? {
            let crashed = self.manager.has_record() || self.restart_mark() != self.mark;
            if crashed {
                return self.restart("crashed");
            }
            if held(&self.manager.files.launch_lock())? {
                return Ok(()); // someone is at it: look again
            }
            self.connection = None;
            self.manager.leave();
            self.emit(EventKind::Stopped, None, "");
            return Ok(());
        }
        if Instant::now() < *next_health {
            return Ok(());
        }
        let seen = self.manager.observe(patience, false)?;
        let quiet =
            matches!(seen.observation.answer, HealthAnswer::Refused | HealthAnswer::Silent | HealthAnswer::Failed);
        *next_health = Instant::now() + if quiet { HEALTH / 10 } else { HEALTH };
        if decide(&seen.observation) == Decision::Replace {
            return self.restart("hung");
        }
        if seen.record.is_some_and(|r| r.instance_id != mine.instance_id) {
            return self.restart("replaced");
        }
        if self.manager.adopt()? {
            self.emit(EventKind::Adopted, Some(mine), "");
        }
        Ok(())
    }
}

/// One thread that notices a crash, a hang and an owner's death; restarts or adopts.
pub(crate) struct Watcher {
    thread: JoinHandle<()>,
}

impl Watcher {
    /// Begin to look.
    pub fn start(inner: Arc<Mutex<Inner>>, closed: Arc<AtomicBool>) -> Watcher {
        let thread = thread::spawn(move || {
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
        });
        Watcher { thread }
    }

    /// Wait for its end, once it was told to close.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}
