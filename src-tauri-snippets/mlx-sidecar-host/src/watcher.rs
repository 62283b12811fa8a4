//! `Watcher`: looks at the sidecar for as long as a host is attached, and has it restarted.
//!
//! The twin of `host_api/watcher.py`, whose head tells how it works, with a timeline. It sleeps until the sidecar's
//! process ends or a second has passed; nothing ends it but its host.

use crate::connection::{Connection, Event, EventKind};
use crate::lock::held;
use crate::manager::{Locks, Manager};
use crate::signal::Signal;
use crate::states::{Action, Phase, State, LOOK};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process that has ended may take to let go of its lock, before it is looked at anyway.
const DYING: Duration = Duration::from_secs(2);

/// Those who listen.
pub(crate) type Sinks = Arc<Mutex<Vec<Sender<Event>>>>;

/// From a first ensure to a release: one manager, and what its watcher does.
pub(crate) struct Session {
    pub closed: Signal,
    work: Mutex<Work>,
    connection: Mutex<Option<Connection>>,
    locks: Arc<Mutex<Locks>>,
    sinks: Sinks,
}

/// What one thread at a time has in hand.
pub(crate) struct Work {
    pub manager: Manager,
    state: Option<State>,
    told: String,
    watched: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub fn new(manager: Manager, sinks: Sinks) -> Session {
        Session {
            closed: Signal::default(),
            locks: manager.locks(),
            work: Mutex::new(Work { manager, state: None, told: String::new(), watched: false }),
            connection: Mutex::new(None),
            sinks,
        }
    }

    /// The work, within `time`; `None` while a restart takes longer.
    pub fn work(&self, time: Duration) -> Option<MutexGuard<'_, Work>> {
        let end = Instant::now() + time;
        loop {
            match self.work.try_lock() {
                Ok(work) => return Some(work),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() > end || self.closed.is_set() => return None,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// The sidecar it knows; `None` after an end or a failure. Never waits.
    pub fn connection(&self) -> Option<Connection> {
        lock(&self.connection).clone()
    }

    /// Take `connection` for the one to watch; `None`: there is nothing to watch.
    pub fn attached(&self, work: &mut Work, connection: Option<Connection>) {
        let resting = !work.state.as_ref().is_some_and(|state| state.phase == Phase::Attached);
        let known = std::mem::replace(&mut *lock(&self.connection), connection.clone());
        work.state = match &connection {
            None => None,
            Some(new) if known.as_ref() != Some(new) || resting => {
                let restarts = work.manager.last.seen.restarts.clone();
                let policy = work.manager.config.policy();
                Some(State::watch(policy, work.manager.clock(), &new.instance_id, &restarts))
            }
            _ => work.state.take(),
        };
    }

    pub fn emit(&self, kind: EventKind, connection: Option<Connection>, detail: &str) {
        let event = Event { kind, connection, detail: detail.to_owned() };
        lock(&self.sinks).retain(|sink| sink.send(event.clone()).is_ok());
    }

    /// Let go at once, whatever the watcher is doing; what it starts meanwhile leaves after its grace time.
    pub fn close(&self) {
        self.closed.set();
        lock(&self.locks).let_go();
    }

    /// Begin to look; nothing when it has begun.
    pub fn watch(self: &Arc<Self>, work: &mut Work) {
        if !work.watched {
            work.watched = true;
            let session = Arc::clone(self);
            thread::spawn(move || session.run());
        }
    }

    fn run(&self) {
        let mut late = 0.0;
        while !self.closed.is_set() {
            let pause = self.turns(late);
            let began = Instant::now();
            self.wait(pause);
            late = (began.elapsed().as_secs_f64() - pause).max(0.0);
        }
        lock(&self.locks).let_go();
    }

    /// Look, and go on for as long as there is something in hand; returns seconds until the next look.
    fn turns(&self, mut late: f64) -> f64 {
        let mut work = lock(&self.work);
        while let Some(state) = work.state.take() {
            let (state, actions) = work.manager.turn(state, late);
            let pause = state.pause;
            let busy = state.launch || matches!(state.phase, Phase::Starting | Phase::Ending | Phase::Killing);
            let attached = state.phase == Phase::Attached;
            work.state = Some(state).filter(|state| state.phase != Phase::Idle);
            for action in &actions {
                self.tell(&mut work, action, attached);
            }
            if std::mem::take(&mut work.manager.adopted) {
                self.emit(EventKind::Adopted, self.connection(), "");
            }
            if self.closed.is_set() || (!busy && pause > 0.0) {
                return pause;
            }
            let began = Instant::now();
            if pause > 0.0 {
                self.closed.wait(Duration::from_secs_f64(pause));
            }
            late = (began.elapsed().as_secs_f64() - pause).max(0.0);
        }
        LOOK
    }

    fn wait(&self, seconds: f64) {
        let time = Duration::from_secs_f64(seconds);
        let process = match self.work(Duration::from_millis(50)) {
            Some(work) if work.state.as_ref().is_some_and(|s| s.phase == Phase::Attached) => {
                work.manager.process().map(|pid| (pid, work.manager.files.sidecar_lock()))
            }
            _ => None,
        };
        let Some((pid, path)) = process else {
            self.closed.wait(time);
            return;
        };
        if self.closed.wait_for_end(pid, time) {
            let end = Instant::now() + DYING;
            while held(&path).unwrap_or(true) && Instant::now() < end {
                if self.closed.wait(Duration::from_millis(10)) {
                    return;
                }
            }
        }
    }

    fn tell(&self, work: &mut Work, action: &Action, attached: bool) {
        let Action::Event(kind, detail) = action else { return };
        match *kind {
            "restarted" => {
                let Some(record) = work.manager.last.record.clone() else { return };
                let fresh = Connection::new(&record, detail);
                *lock(&self.connection) = Some(fresh.clone());
                work.manager.remember_place();
                work.told.clear();
                self.emit(EventKind::Restarted, Some(fresh), "");
            }
            "crashed" => self.emit(EventKind::Crashed, self.connection(), detail),
            "stopped" => {
                *lock(&self.connection) = None;
                self.emit(EventKind::Stopped, None, "");
            }
            _ => {
                let (outcome, reason) = detail.split_once(':').unwrap_or((detail, ""));
                let text = work.manager.error_of(outcome, reason).to_string();
                if text != work.told {
                    work.told.clone_from(&text);
                    if !attached {
                        *lock(&self.connection) = None;
                    }
                    self.emit(EventKind::Failed, None, &text);
                }
            }
        }
    }
}
