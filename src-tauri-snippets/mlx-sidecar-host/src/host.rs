//! `SidecarHost`: what a program uses to have a sidecar for as long as it wants one.

use crate::config::HostConfig;
use crate::connection::{Connection, Event, EventKind, Status};
use crate::error::Error;
use crate::manager::Manager;
use crate::observe::status;
use crate::watcher::{Inner, Watcher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex, MutexGuard};

/// A host's hold on the sidecar. Dropping it only lets go.
pub struct SidecarHost {
    inner: Arc<Mutex<Inner>>,
    config: HostConfig,
    closed: Arc<AtomicBool>,
    watcher: Mutex<Option<Watcher>>,
    supervise: bool,
}

impl SidecarHost {
    /// A host that restarts the sidecar after a crash. Nothing is started yet.
    pub fn new(config: HostConfig) -> Result<SidecarHost, Error> {
        SidecarHost::with_supervision(config, true)
    }

    /// The same, with or without restarts.
    pub fn with_supervision(config: HostConfig, supervise: bool) -> Result<SidecarHost, Error> {
        let manager = Manager::new(config.clone())?;
        let inner = Inner { manager, connection: None, mark: (0, 0.0), sinks: Vec::new() };
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
        let (record, how) = inner.manager.ensure()?;
        let connection = match &inner.connection {
            Some(known) if known.instance_id == record.instance_id => known.clone(),
            _ => {
                let fresh = Connection::new(&record, how);
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
        if watcher.is_none() {
            *watcher = Some(Watcher::start(Arc::clone(&self.inner), Arc::clone(&self.closed)));
        }
    }

    /// What there is now; starts and changes nothing.
    pub fn status(&self) -> Result<Status, Error> {
        status(&self.config)
    }

    /// Stop the sidecar; false when none ran. An error when others use it and `force` is off.
    pub fn stop(&self, force: bool) -> Result<bool, Error> {
        let mut inner = self.lock();
        let was = inner.manager.stop(force)?;
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
        crate::client::Client::new(|| self.ensure_running())
    }

    /// Let go: the sidecar stays for its other hosts, or for its grace time. Idempotent.
    pub fn release(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.lock().unwrap_or_else(|e| e.into_inner()).take() {
            watcher.join();
        }
        let mut inner = self.lock();
        inner.manager.leave();
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
