//! `SidecarHost`: what a program uses to have a sidecar for as long as it wants one.

use crate::config::HostConfig;
use crate::connection::{Connection, Event, EventKind, Status};
use crate::error::Error;
use crate::manager::Manager;
use crate::observe::status;
use crate::watcher::{Session, Sinks, Work};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A host's hold on the sidecar. Dropping it only lets go, within a fraction of a second.
pub struct SidecarHost {
    config: HostConfig,
    supervise: bool,
    session: Mutex<Option<Arc<Session>>>,
    sinks: Sinks,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SidecarHost {
    /// A host that restarts the sidecar after a crash. Nothing is started yet.
    pub fn new(config: HostConfig) -> Result<SidecarHost, Error> {
        SidecarHost::with_supervision(config, true)
    }

    /// The same, with or without restarts.
    pub fn with_supervision(config: HostConfig, supervise: bool) -> Result<SidecarHost, Error> {
        Ok(SidecarHost { config, supervise, session: Mutex::new(None), sinks: Sinks::default() })
    }

    fn session(&self) -> Arc<Session> {
        let mut slot = lock(&self.session);
        let fresh = || Arc::new(Session::new(Manager::new(self.config.clone()), Arc::clone(&self.sinks)));
        Arc::clone(slot.get_or_insert_with(fresh))
    }

    fn work<'a>(&self, session: &'a Session) -> Result<MutexGuard<'a, Work>, Error> {
        session.work(self.config.timeout).ok_or_else(|| {
            let text = "the sidecar is being restarted and that takes too long; try again";
            Error::TimedOut(text.to_owned())
        })
    }

    /// Attach to the sidecar, starting it where there is none. Blocking.
    pub fn ensure_running(&self) -> Result<Connection, Error> {
        let session = self.session();
        let mut work = self.work(&session)?;
        let known = session.connection();
        let instance = known.as_ref().map_or("", |k| k.instance_id.as_str());
        let (record, how) = match work.manager.ensure(&session.closed, instance) {
            Ok(found) => found,
            Err(error) => {
                if known.is_none() {
                    work.manager.drop_locks();
                }
                return Err(error);
            }
        };
        let connection = match known {
            Some(known) if known.instance_id == record.instance_id => known,
            _ => {
                let fresh = Connection::new(&record, how);
                session.emit(EventKind::Ready, Some(fresh.clone()), "");
                fresh
            }
        };
        session.attached(&mut work, Some(connection.clone()));
        if self.supervise {
            session.watch(&mut work);
        }
        Ok(connection)
    }

    /// What there is now; starts and changes nothing.
    pub fn status(&self) -> Result<Status, Error> {
        status(&self.config)
    }

    /// Stop the sidecar; false when none ran. An error when others use it and `force` is off.
    pub fn stop(&self, force: bool) -> Result<bool, Error> {
        let session = self.session();
        let mut work = self.work(&session)?;
        let was = work.manager.stop(&session.closed, force)?;
        session.attached(&mut work, None);
        session.emit(EventKind::Stopped, None, "");
        Ok(was)
    }

    /// Events from now on. The channel has no bound: nothing waits for a slow reader.
    pub fn events(&self) -> Receiver<Event> {
        let (sink, source) = channel();
        lock(&self.sinks).push(sink);
        source
    }

    /// The last connection; `None` before the first and after the end. Never waits.
    pub fn connection(&self) -> Option<Connection> {
        lock(&self.session).as_ref().and_then(|session| session.connection())
    }

    /// A client for its API that follows it through one restart between requests. Ensures that it runs.
    #[cfg(feature = "client")]
    pub fn client(&self) -> Result<crate::client::Client<'_>, Error> {
        crate::client::Client::new(|| self.ensure_running())
    }

    /// Let go: the sidecar stays for its other hosts, or for its grace time. Idempotent, never waits.
    pub fn release(&self) {
        if let Some(session) = lock(&self.session).take() {
            session.close();
        }
        lock(&self.sinks).clear();
    }
}

impl Drop for SidecarHost {
    fn drop(&mut self) {
        self.release();
    }
}
