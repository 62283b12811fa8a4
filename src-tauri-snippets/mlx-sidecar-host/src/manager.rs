//! The host's side of the protocol: observe, decide, act. Blocking.

use crate::config::HostConfig;
use crate::decision::*;
use crate::error::Error;
use crate::identity::{identify, own_token};
use crate::lock::{held, FileLock};
use crate::observe::{observe, why, Patience, Seen};
use crate::probe::probe;
use crate::process::{self, Child};
use crate::record::*;
use crate::restarts::Restarts;
use crate::state_dir::{self, Files};
use rustix::process::Signal;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

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

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One host's locks and decisions.
#[derive(Debug)]
pub struct Manager {
    config: HostConfig,
    /// The files of the state directory.
    pub files: Files,
    me: Owner,
    hosts: Option<FileLock>,
    child: Option<Child>,
}

impl Manager {
    /// Prepare the state directory.
    pub fn new(config: HostConfig) -> Result<Manager, Error> {
        let files = state_dir::prepare(&config.state_dir)?;
        let start_token = own_token().map_err(|e| Error::Host(format!("can't identify this process: {e}")))?;
        let me = Owner { kind: config.kind.clone(), pid: std::process::id() as i32, start_token };
        Ok(Manager { config, files, me, hosts: None, child: None })
    }

    /// The record file.
    pub fn parsed(&self) -> Parsed {
        parse_record(state_dir::read_bytes(&self.files.record()).as_deref())
    }

    /// Whether a record file is there, whatever is in it.
    pub fn has_record(&self) -> bool {
        state_dir::read_bytes(&self.files.record()).is_some()
    }

    /// The shared restart state.
    pub fn restarts(&self) -> Restarts {
        Restarts::parse(state_dir::read_bytes(&self.files.restarts()).as_deref())
    }

    fn save(&self, state: &Restarts) {
        // Best effort: on a full disk the sidecar itself fails, with the clear message.
        let _ = state_dir::replace_file(&self.files.restarts(), &state.encode());
    }

    /// Collect a child of ours that ended.
    pub fn reap(&mut self) {
        if self.child.as_ref().is_some_and(|c| c.exit_code().is_some()) {
            self.child = None;
        }
    }

    /// What there is now. `launching`: the launch lock is ours, so that being alone can be told.
    pub fn observe(&mut self, patience: &mut Patience, launching: bool) -> Result<Seen, Error> {
        let (config, files) = (self.config.clone(), self.files.clone());
        observe(&config, &files, patience, || if launching { self.alone() } else { Ok(true) })
    }

    /// Take the hosts lock shared; a refusal means that a sidecar is leaving.
    pub fn join(&mut self, deadline: Instant) -> Result<(), Error> {
        if let Some(lock) = &self.hosts {
            if lock.in_place() && lock.try_shared()? {
                return Ok(());
            }
        }
        self.leave();
        state_dir::prepare(&self.config.state_dir)?;
        loop {
            let lock = FileLock::open(&self.files.hosts_lock())?;
            if lock.try_shared()? && lock.in_place() {
                lock.touch();
                self.hosts = Some(lock);
                return Ok(());
            }
            if Instant::now() > deadline {
                let text = "the last sidecar is taking too long to leave; try again, or stop it with force";
                return Err(Error::TimedOut(text.to_owned()));
            }
            sleep(ms(5));
        }
    }

    /// Let go of the hosts lock.
    pub fn leave(&mut self) {
        self.hosts = None;
    }

    fn alone(&mut self) -> Result<bool, Error> {
        let end = Instant::now() + ms(500);
        if self.hosts.is_none() {
            self.hosts = Some(FileLock::open(&self.files.hosts_lock())?);
        }
        while let Some(lock) = &self.hosts {
            if lock.try_exclusive()? {
                return Ok(true);
            }
            if Instant::now() > end {
                break;
            }
            sleep(ms(10));
        }
        Ok(false)
    }

    fn take_launch_lock(&self, deadline: Instant) -> Result<FileLock, Error> {
        let lock = FileLock::open(&self.files.launch_lock())?;
        while !lock.try_exclusive()? {
            if Instant::now() > deadline {
                let text = "another host is starting or stopping the sidecar and takes too long; try again";
                return Err(Error::TimedOut(text.to_owned()));
            }
            sleep(ms(10));
        }
        Ok(lock)
    }

    /// The running sidecar's record, and `spawned` or `attached`.
    pub fn ensure(&mut self) -> Result<(Record, &'static str), Error> {
        let result = self.try_ensure();
        if result.is_err() {
            self.leave();
        }
        result
    }

    fn try_ensure(&mut self) -> Result<(Record, &'static str), Error> {
        let deadline = Instant::now() + self.config.timeout;
        let first = self.restarts().attempt;
        let mut patience = Patience::default();
        let mut launch: Option<FileLock> = None;
        let (mut starts, mut pause) = (0, 0.005);
        loop {
            self.join(deadline)?;
            let seen = self.observe(&mut patience, launch.is_some())?;
            match (decide(&seen.observation), seen.record.clone()) {
                (Decision::Attach, Some(record)) => {
                    self.join(deadline)?;
                    return Ok((record, "attached"));
                }
                (Decision::Conflict, _) => return Err(Error::Conflict(why(&self.config, &self.files, &seen))),
                (Decision::Spawn | Decision::Replace, _) if launch.is_none() => {
                    if seen.observation.compat != Compat::Ok {
                        self.leave(); // or hosts that all want a newer sidecar would keep the old one in use
                    }
                    let lock = FileLock::open(&self.files.launch_lock())?;
                    if lock.try_exclusive()? {
                        launch = Some(lock);
                        continue;
                    }
                }
                (Decision::Replace, Some(record)) => {
                    self.end(&record, self.config.term_wait)?;
                    patience = Patience::default();
                    continue;
                }
                (Decision::Spawn, _) => {
                    let state = self.restarts();
                    if state.attempt != first && state.permanent() && starts == 0 {
                        return Err(Error::LaunchFailed {
                            message: "another host's start of the sidecar failed just now".to_owned(),
                            exit_code: state.exit_code,
                            permanent: true,
                            log_tail: state.message,
                        });
                    }
                    if self.backed_off(deadline)? {
                        continue;
                    }
                    starts += 1;
                    if let Some(record) = self.start(deadline, starts >= self.config.attempts)? {
                        return Ok((record, "spawned"));
                    }
                }
                _ => {}
            }
            if Instant::now() > deadline {
                let text =
                    format!("no sidecar within {:?}: {}", self.config.timeout, why(&self.config, &self.files, &seen));
                return Err(Error::TimedOut(text));
            }
            sleep(Duration::from_secs_f64(pause * (0.75 + jitter() / 2.0)));
            pause = f64::min(0.1, pause * 1.5);
        }
    }

    /// Count a crash that left its record behind, then wait out the back-off; true when things changed meanwhile.
    fn backed_off(&self, deadline: Instant) -> Result<bool, Error> {
        let mut state = self.restarts();
        if self.has_record() {
            state = state.crashed(now(), &self.config.backoff);
            self.save(&state);
            self.clear()?;
        }
        let wait = state.wait(now(), &self.config.backoff, jitter());
        if wait <= 0.001 {
            return Ok(false);
        }
        let wait = Duration::from_secs_f64(wait);
        if Instant::now() + wait > deadline {
            let text = format!("the sidecar crashed {} times in a row; next start in {wait:.0?}", state.failures);
            return Err(Error::TimedOut(text));
        }
        sleep(wait);
        held(&self.files.sidecar_lock())
    }

    /// Remove a dead sidecar's record; nothing while a sidecar lives.
    pub fn clear(&self) -> Result<(), Error> {
        let lock = FileLock::open(&self.files.sidecar_lock())?;
        if lock.try_shared()? {
            state_dir::remove(&self.files.record());
        }
        Ok(())
    }

    fn start(&mut self, deadline: Instant, last: bool) -> Result<Option<Record>, Error> {
        self.save(&self.restarts().started(now()));
        let child = process::spawn(&self.config.launch, &self.files.root, &self.me)?;
        self.child = Some(child.clone());
        let end = Instant::now() + self.config.start_timeout;
        let mut what = None;
        while child.exit_code().is_none() {
            if let Some(record) = self.parsed().record {
                if probe(&record, self.config.probe_timeout) == HealthAnswer::Echo && held(&self.files.sidecar_lock())?
                {
                    return Ok(Some(record));
                }
            }
            let time = Instant::now();
            if time > end {
                child.kill();
                what = Some(format!("no answer in {:?}", self.config.start_timeout));
                break;
            }
            if time > deadline {
                let text = "the sidecar is still starting; call again to wait on".to_owned();
                return Err(Error::TimedOut(text));
            }
            sleep(ms(10));
        }
        let exit_code = child.exit_code();
        if exit_code == Some(EXIT_LOCK_HELD) {
            return Ok(None);
        }
        let log_tail = child.tail();
        self.save(&self.restarts().failed(now(), exit_code, &log_tail));
        if permanent(exit_code) || last {
            let what = what.unwrap_or_else(|| format!("exit status {}", exit_code.unwrap_or(-1)));
            let message = format!("the sidecar didn't start ({what})");
            return Err(Error::LaunchFailed { message, exit_code, permanent: permanent(exit_code), log_tail });
        }
        Ok(None)
    }

    fn end(&self, record: &Record, patience: Duration) -> Result<(), Error> {
        let lock = self.files.sidecar_lock();
        for (signal, wait) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(10))] {
            if !held(&lock)? {
                break;
            }
            process::send(record, signal);
            let end = Instant::now() + wait;
            while held(&lock)? {
                if self.parsed().record.is_some_and(|r| r.instance_id != record.instance_id) {
                    return Ok(());
                }
                if Instant::now() > end {
                    break;
                }
                sleep(ms(10));
            }
        }
        if held(&lock)? {
            let text = format!("the sidecar (pid {}) can't be ended; end it by hand", record.pid);
            return Err(Error::Conflict(text));
        }
        self.clear()
    }

    /// Stop the sidecar and leave; false when none ran.
    pub fn stop(&mut self, force: bool) -> Result<bool, Error> {
        let deadline = Instant::now() + self.config.timeout;
        let _launch = self.take_launch_lock(deadline)?;
        let was_joined = self.hosts.is_some();
        let result = self.try_stop(force, deadline);
        if result.is_err() && was_joined {
            self.join(deadline)?;
        } else {
            self.leave();
        }
        result
    }

    fn try_stop(&mut self, force: bool, deadline: Instant) -> Result<bool, Error> {
        let mut patience = Patience::default();
        let record = loop {
            if !held(&self.files.sidecar_lock())? {
                self.clear()?;
                return Ok(false);
            }
            let seen = self.observe(&mut patience, false)?;
            let obs = seen.observation;
            if let Some(record) = seen.record.clone() {
                let quiet = matches!(obs.answer, HealthAnswer::Refused | HealthAnswer::Silent);
                let proved = obs.identity == Identity::Match && obs.answer != HealthAnswer::Other;
                if proved && (!quiet || force || obs.overdue) {
                    break record;
                }
            }
            if obs.overdue || obs.record == RecordState::UnknownSchema {
                return Err(Error::Conflict(why(&self.config, &self.files, &seen)));
            }
            if Instant::now() > deadline {
                return Err(Error::TimedOut(why(&self.config, &self.files, &seen)));
            }
            sleep(ms(20));
        };
        if !force && !record.managed {
            let pid = record.pid;
            let text = format!("the sidecar (pid {pid}) was started by hand; stop it there, or stop with force");
            return Err(Error::InUse(text));
        }
        if !self.alone()? && !force {
            let text = "other hosts use the sidecar; let them go first, or stop with force";
            return Err(Error::InUse(text.to_owned()));
        }
        self.end(&record, self.config.stop_wait)?;
        Ok(true)
    }

    /// Write this host into the record when its owner is gone; false when there was no need.
    pub fn adopt(&self) -> Result<bool, Error> {
        let Some(record) = self.parsed().record else { return Ok(false) };
        let Some(owner) = &record.owner else { return Ok(false) };
        if !matches!(identify(owner.pid, &owner.start_token), Identity::Gone | Identity::Mismatch) {
            return Ok(false);
        }
        let lock = FileLock::open(&self.files.launch_lock())?;
        if !lock.try_exclusive()?
            || !held(&self.files.sidecar_lock())?
            || self.parsed().record.as_ref() != Some(&record)
        {
            return Ok(false);
        }
        let mine = Record { owner: Some(self.me.clone()), ..record };
        Ok(state_dir::replace_file(&self.files.record(), &mine.encode()).is_ok())
    }
}
