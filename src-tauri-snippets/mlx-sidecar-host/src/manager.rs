//! The driver of the machine: holds a host's locks, looks, performs. Decides nothing.
//!
//! The twin of `host_api/manager.py`, whose head tells how it works, with a timeline. Every attempt at a lock is one
//! `flock` that never blocks, every wait ends when the session's signal is set, and [`Locks::let_go`] may come from any
//! thread at any moment: nothing here outlasts a host's wish to let go.

use crate::config::HostConfig;
use crate::decision::{permanent, Identity};
use crate::error::Error;
use crate::folders::Lease;
use crate::identity::{own_namespace, own_token};
use crate::lock::{held, FileLock};
use crate::machine::step;
use crate::observe::{explain, now, Look, Looker};
use crate::process::{self, Child};
use crate::record::{parse_record, Owner, Record};
use crate::signal::Signal;
use crate::state_dir::{self, Files};
use crate::states::{Action, Goal, Hold, Launch, Seen, State};
use rustix::process::Signal as Number;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A number in [0, 1), different for each process and moment; enough to spread retries.
pub fn jitter() -> f64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let mut x = (u64::from(nanos) << 20) ^ (u64::from(std::process::id()) << 7) ^ 0x9E37_79B9_7F4A_7C15;
    for _ in 0..3 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    (x >> 11) as f64 / (1u64 << 53) as f64
}

/// A host's holds.
#[derive(Debug)]
pub struct Locks {
    files: Files,
    gone: bool,
    hosts: Option<FileLock>,
    hold: Hold,
    launch: Option<FileLock>,
    lease: Lease,
}

impl Locks {
    /// Close every lock; they may be taken again.
    pub fn drop_all(&mut self) {
        self.lease.close();
        self.hosts = None;
        self.hold = Hold::None;
        self.launch = None;
    }

    /// Close every lock at once and for good.
    pub fn let_go(&mut self) {
        self.gone = true;
        self.drop_all();
    }

    fn bring(&mut self, state: &State) -> Result<Launch, Error> {
        if self.gone {
            return Ok(Launch::Free);
        }
        self.bring_hosts(state.hosts)?;
        self.lease.bring(self.hold != Hold::None)?;
        self.bring_launch(state.launch, state.goal == Goal::Watch)
    }

    fn bring_hosts(&mut self, wanted: Hold) -> Result<(), Error> {
        if wanted == Hold::None || self.hosts.as_ref().is_some_and(|lock| !lock.in_place()) {
            self.hosts = None;
            self.hold = Hold::None;
        }
        if wanted == self.hold {
            return Ok(());
        }
        let fresh = self.hosts.is_none();
        let lock = match self.hosts.take() {
            Some(lock) => lock,
            None => {
                state_dir::prepare(&self.files.root)?;
                FileLock::open(&self.files.hosts_lock())?
            }
        };
        let got = if wanted == Hold::Exclusive { lock.try_exclusive()? } else { lock.try_shared()? };
        self.hold = if got && lock.in_place() { wanted } else { Hold::None };
        if fresh && self.hold == Hold::Shared {
            lock.touch();
        }
        self.hosts = Some(lock);
        Ok(())
    }

    fn bring_launch(&mut self, wanted: bool, ask: bool) -> Result<Launch, Error> {
        let path = self.files.launch_lock();
        if !wanted {
            self.launch = None;
            return Ok(if ask && held(&path)? { Launch::Other } else { Launch::Free });
        }
        if self.launch.as_ref().is_some_and(FileLock::in_place) {
            return Ok(Launch::Mine);
        }
        let lock = FileLock::open(&path)?;
        let got = lock.try_exclusive()?;
        self.launch = got.then_some(lock);
        Ok(if got { Launch::Mine } else { Launch::Other })
    }
}

/// Of the directory and of the sidecar's lock.
type Place = (Option<(u64, u64)>, Option<(u64, u64)>);

/// One host's locks, its child, and its eyes.
#[derive(Debug)]
pub struct Manager {
    /// The host's configuration.
    pub config: HostConfig,
    /// The files of the state directory.
    pub files: Files,
    /// The last look.
    pub last: Look,
    /// Whether this host was just written into the record.
    pub adopted: bool,
    looker: Looker,
    locks: Arc<Mutex<Locks>>,
    place: Option<Place>,
    child: Option<Child>,
    unrunnable: String,
    epoch: Instant,
}

fn guard(locks: &Mutex<Locks>) -> MutexGuard<'_, Locks> {
    locks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Manager {
    /// For the configured directory; nothing is made or taken yet.
    pub fn new(config: HostConfig) -> Manager {
        let files = Files { root: state_dir::absolute(&config.state_dir) };
        let config = HostConfig { state_dir: files.root.clone(), ..config };
        let lease = Lease::new(&files.root, config.launch.lends());
        let locks = Locks { files: files.clone(), gone: false, hosts: None, hold: Hold::None, launch: None, lease };
        Manager {
            looker: Looker::new(config.clone(), files.clone()),
            config,
            files,
            last: Look::default(),
            adopted: false,
            locks: Arc::new(Mutex::new(locks)),
            place: None,
            child: None,
            unrunnable: String::new(),
            epoch: Instant::now(),
        }
    }

    /// The holds, for a thread that wants them gone.
    pub fn locks(&self) -> Arc<Mutex<Locks>> {
        Arc::clone(&self.locks)
    }

    /// Close every lock; the manager may be used again.
    pub fn drop_locks(&self) {
        guard(&self.locks).drop_all();
    }

    /// The machine's clock, seconds.
    pub fn clock(&self) -> f64 {
        self.epoch.elapsed().as_secs_f64()
    }

    fn me(&self) -> Result<Owner, Error> {
        let start_token = own_token().map_err(|e| Error::Host(format!("can't identify this process: {e}")))?;
        let kind = self.config.kind.clone();
        Ok(Owner { kind, pid: std::process::id() as i32, start_token, namespace: own_namespace() })
    }

    /// The running sidecar's record, and `spawned` or `attached`. `known`: the instance attached to already.
    pub fn ensure(&mut self, cancel: &Signal, known: &str) -> Result<(Record, &'static str), Error> {
        let begun = State::ensure(self.config.policy(), self.clock(), known);
        let state = self.run(begun, cancel)?;
        match (state.outcome, self.last.record.clone()) {
            ("attached" | "spawned", Some(record)) => {
                self.remember_place();
                Ok((record, state.outcome))
            }
            _ => Err(self.error_of(state.outcome, &state.reason)),
        }
    }

    /// Take the state directory and the lock file of now for the sidecar's.
    pub fn remember_place(&mut self) {
        self.place = Some(self.places());
    }

    /// Lock files are never unlinked by anyone who keeps the protocol, so one that is gone was lost like a directory.
    fn places(&self) -> Place {
        (state_dir::place_of(&self.files.root), state_dir::place_of(&self.files.sidecar_lock()))
    }

    /// Stop the sidecar and leave; false when none ran.
    pub fn stop(&mut self, cancel: &Signal, force: bool) -> Result<bool, Error> {
        state_dir::check(&self.files.root)?;
        if state_dir::place_of(&self.files.root).is_none() {
            return Ok(false);
        }
        let joined = guard(&self.locks).hold == Hold::Shared;
        let begun = State::stop(self.config.policy(), self.clock(), force, joined);
        let state = self.run(begun, cancel)?;
        match state.outcome {
            "stopped" => Ok(true),
            "absent" => Ok(false),
            outcome => Err(self.error_of(outcome, &state.reason)),
        }
    }

    /// Turn the crank until there is an outcome, or it is cancelled.
    pub fn run(&mut self, mut state: State, cancel: &Signal) -> Result<State, Error> {
        let mut late = 0.0;
        loop {
            state = self.turn(state, late).0;
            if !state.outcome.is_empty() {
                let _ = guard(&self.locks).bring(&state);
                return Ok(state);
            }
            let began = self.clock();
            let pause = Duration::from_secs_f64(state.pause);
            if if pause.is_zero() { cancel.is_set() } else { cancel.wait(pause) } {
                guard(&self.locks).let_go();
                let text = "this host let go of the sidecar meanwhile; call ensure_running again";
                return Err(Error::Host(text.to_owned()));
            }
            late = (self.clock() - began - state.pause).max(0.0);
        }
    }

    /// Look once, step once, perform; an action that fails is the fault of one more step.
    pub fn turn(&mut self, state: State, late: f64) -> (State, Vec<Action>) {
        let seen = self.look(&state, late);
        let (mut state, mut actions) = step(state, &seen, self.clock());
        for at in 0..actions.len() {
            if let Err(error) = self.perform(&actions[at]) {
                let fault = Seen { fault: error.to_string(), ..seen };
                let (failed, more) = step(state, &fault, self.clock());
                state = failed;
                actions.retain(|action| matches!(action, Action::Event(..)));
                actions.extend(more);
                break;
            }
        }
        if !state.launch {
            // Others wait for it while this host pauses.
            guard(&self.locks).launch = None;
        }
        (state, actions)
    }

    /// Bring the locks to what `state` wants, one attempt each, and look.
    fn look(&mut self, state: &State, late: f64) -> Seen {
        let (wall, jitter) = (now(), jitter());
        // A statement of its own: a guard lives to the end of its statement, and `let_go` would wait for the look's answer.
        let brought = guard(&self.locks).bring(state);
        let looked = brought.and_then(|launch| {
            let look = self.looker.look(state.ask, &state.instance, state.goal == Goal::Watch)?;
            Ok((launch, look))
        });
        match looked {
            Err(error) => Seen { wall, jitter, lag: late, fault: error.to_string(), ..Seen::default() },
            Ok((launch, look)) => {
                self.last = look;
                let moved = self.place.is_some_and(|place| self.places() != place);
                let hosts = guard(&self.locks).hold;
                let code = self.child.as_ref().map(Child::exit_code);
                let child = match code {
                    _ if !self.unrunnable.is_empty() => "unrunnable".to_owned(),
                    None => "none".to_owned(),
                    Some(None) => "runs".to_owned(),
                    Some(Some(code)) => code.to_string(),
                };
                let tail = match (&self.child, code) {
                    (Some(child), Some(Some(_))) => child.tail(),
                    _ => String::new(),
                };
                let seen = self.last.seen.clone();
                let seen = Seen { wall, jitter, lag: late, hosts, launch, moved, child, tail, ..seen };
                self.last.seen = seen.clone();
                seen
            }
        }
    }

    fn perform(&mut self, action: &Action) -> Result<(), Error> {
        if guard(&self.locks).gone {
            return Ok(());
        }
        let signal = |record: &Option<Record>, instance: &str, number| {
            if let Some(record) = record.as_ref().filter(|r| r.instance_id == instance) {
                process::send(record, number);
            }
        };
        match action {
            Action::Save(restarts) => {
                state_dir::replace_file(&self.files.restarts(), &restarts.encode())?;
                self.last.seen.restarts = restarts.clone();
            }
            Action::Clear => {
                let lock = FileLock::open(&self.files.sidecar_lock())?;
                if lock.try_shared()? {
                    state_dir::remove(&self.files.record());
                }
            }
            Action::Spawn => {
                (self.child, self.unrunnable) = (None, String::new());
                match process::spawn(&self.config.launch, &self.files.root, &self.me()?) {
                    Ok(child) => self.child = Some(child),
                    Err(Error::Host(text)) => self.unrunnable = text,
                    Err(error) => return Err(error),
                }
            }
            Action::KillChild => {
                if let Some(child) = &self.child {
                    child.kill();
                }
            }
            Action::Terminate(instance) => signal(&self.last.record, instance, Number::TERM),
            Action::Kill(instance) => signal(&self.last.record, instance, Number::KILL),
            Action::Adopt => self.adopt()?,
            Action::Event(..) => {}
        }
        Ok(())
    }

    /// Write this host into the record as its owner, unless something has changed.
    fn adopt(&mut self) -> Result<(), Error> {
        let Some(record) = self.last.record.clone() else { return Ok(()) };
        let lock = FileLock::open(&self.files.launch_lock())?;
        if lock.try_exclusive()? && held(&self.files.sidecar_lock())? {
            let there = parse_record(state_dir::read_bytes(&self.files.record())?.as_deref()).record;
            if there.as_ref() == Some(&record) {
                let mine = Record { owner: Some(self.me()?), ..record };
                state_dir::replace_file(&self.files.record(), &mine.encode())?;
                self.adopted = true;
            }
        }
        Ok(())
    }

    /// The error that the machine's words mean.
    pub fn error_of(&mut self, outcome: &str, reason: &str) -> Error {
        let seen = &self.last.seen;
        let text = explain(&self.config, reason, &self.last, &self.unrunnable);
        match outcome {
            "fault" => Error::StateDir(reason.to_owned()),
            "conflict" => Error::Conflict(text),
            "timeout" => Error::TimedOut(text),
            "in_use" => Error::InUse(text),
            "launch_failed" | "dead" => {
                if let ("needs", Some(record)) = (reason, &self.last.record) {
                    self.looker.poor.insert(record.instance_id.clone());
                }
                let elsewhere = matches!(reason, "elsewhere" | "gave_up");
                let own = self.child.as_ref().and_then(Child::exit_code);
                let exit_code = if elsewhere { seen.restarts.exit_code } else { own };
                let permanent = matches!(reason, "needs" | "program" | "gave_up") || permanent(exit_code);
                let log_tail = match reason {
                    "elsewhere" | "gave_up" => seen.restarts.message.clone(),
                    "needs" | "program" => String::new(),
                    _ => seen.tail.clone(),
                };
                Error::LaunchFailed { message: text, exit_code, permanent, log_tail }
            }
            _ => Error::Host(text),
        }
    }

    /// Whether the record's process can be looked up here, so that its end can be waited for.
    pub fn process(&self) -> Option<i32> {
        let record = self.last.record.as_ref()?;
        let who = crate::identity::identify(record.pid, &record.start_token, record.namespace.as_deref());
        (who != Identity::Unknown).then_some(record.pid)
    }
}
