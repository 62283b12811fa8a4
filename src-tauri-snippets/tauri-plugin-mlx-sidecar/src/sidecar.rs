//! The managed state: one hold on the sidecar for the whole app.

use crate::config::Config;
use crate::error::Error;
use crate::events::{LogLines, Phase, Snapshot, LOG, STATE};
use crate::pull::{self, Download};
use crate::tail::{newest_service_log, Tail};
use mlx_sidecar_host::{Connection, Event, HostConfig, SidecarHost, Status};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tauri::{AppHandle, Emitter, Manager, Runtime};

const TAIL_EVERY: Duration = Duration::from_millis(300);

struct Inner<R: Runtime> {
    app: AppHandle<R>,
    config: Config,
    host: Mutex<Option<Arc<SidecarHost>>>,
    now: Mutex<Snapshot>,
    pulls: Mutex<HashSet<String>>,
    quitting: AtomicBool,
    coming_back: AtomicBool,
}

/// The app's hold on the sidecar; clones share it. Its methods block: call them off the main thread.
pub struct MlxSidecar<R: Runtime>(Arc<Inner<R>>);

impl<R: Runtime> Clone for MlxSidecar<R> {
    fn clone(&self) -> Self {
        MlxSidecar(Arc::clone(&self.0))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: Runtime> MlxSidecar<R> {
    pub(crate) fn new(app: AppHandle<R>, config: Config) -> Self {
        MlxSidecar(Arc::new(Inner {
            app,
            config,
            host: Mutex::new(None),
            now: Mutex::new(Snapshot::new(Phase::Stopped, "")),
            pulls: Mutex::new(HashSet::new()),
            quitting: AtomicBool::new(false),
            coming_back: AtomicBool::new(false),
        }))
    }

    /// Attach to the sidecar, starting it where there is none.
    ///
    /// # Errors
    /// When there is none to be had; the message says why.
    pub fn ensure(&self) -> Result<Connection, Error> {
        if self.0.quitting.load(Ordering::SeqCst) {
            return Err(Error::Quitting);
        }
        if self.snapshot().phase != Phase::Running {
            self.tell(Snapshot::new(Phase::Starting, ""));
        }
        let result = self.host().and_then(|host| Ok(host.ensure_running()?));
        match &result {
            // The host's own event says the same, unless it knew this sidecar already.
            Ok(connection) if self.snapshot().phase == Phase::Starting => self.tell(Snapshot::running(connection)),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(code = error.code(), "no sidecar: {error}");
                self.tell(Snapshot::failed(error.code(), error.to_string()));
            }
        }
        result
    }

    /// Stop the sidecar; false when none ran.
    ///
    /// # Errors
    /// When other programs use it and `force` is off.
    pub fn stop(&self, force: bool) -> Result<bool, Error> {
        Ok(self.host()?.stop(force)?)
    }

    /// Stop it and start it anew.
    ///
    /// # Errors
    /// Those of [`stop`](Self::stop) and [`ensure`](Self::ensure).
    pub fn restart(&self, force: bool) -> Result<Connection, Error> {
        self.stop(force)?;
        self.ensure()
    }

    /// The sidecar's own state, and how this app stands with it.
    ///
    /// # Errors
    /// When the state directory can't be read.
    pub fn status(&self) -> Result<(Snapshot, Status), Error> {
        Ok((self.snapshot(), self.host()?.status()?))
    }

    /// Address and token, without waiting for a start.
    ///
    /// # Errors
    /// `NotConnected` when there is no sidecar now.
    pub fn connection(&self) -> Result<Connection, Error> {
        if self.snapshot().phase != Phase::Running {
            return Err(Error::NotConnected);
        }
        self.host()?.connection().ok_or(Error::NotConnected)
    }

    /// How this app stands with the sidecar. Doesn't block.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.0.now).clone()
    }

    /// Fetch a model; each step is an event. Returns at its end.
    ///
    /// # Errors
    /// When it can't be fetched, is being fetched already, or was cancelled.
    pub fn pull(&self, model: &str) -> Result<(), Error> {
        let connection = self.connection()?;
        if !lock(&self.0.pulls).insert(model.to_owned()) {
            return Err(Error::Pull(format!("the model {model} is being fetched already; wait for it or cancel it")));
        }
        let tell = |download: Download| self.emit(crate::events::DOWNLOAD, &download);
        let left = || self.0.quitting.load(Ordering::SeqCst) || !lock(&self.0.pulls).contains(model);
        let result = pull::pull(&connection, model, &tell, &left);
        lock(&self.0.pulls).remove(model);
        tell(match &result {
            Ok(()) => Download::word(model, "done", None),
            Err(Error::Cancelled) => Download::word(model, "cancelled", None),
            Err(error) => Download::word(model, "failed", Some(error.to_string())),
        });
        result
    }

    /// End a download at its next step; false when there is none of that name.
    #[must_use]
    pub fn cancel_pull(&self, model: &str) -> bool {
        lock(&self.0.pulls).remove(model)
    }

    /// The app comes back at once (`AppHandle::restart`): the sidecar is left to it.
    pub(crate) fn coming_back(&self) {
        self.0.coming_back.store(true, Ordering::SeqCst);
    }

    /// Let go at the app's end: the last host stops the sidecar, others leave it be. Waits a limited time: whatever
    /// is left undone, the kernel drops this process's lock and the sidecar leaves after its grace time.
    pub(crate) fn quit(&self) {
        self.0.quitting.store(true, Ordering::SeqCst);
        let Some(host) = lock(&self.0.host).take() else { return };
        let stop = !self.0.coming_back.load(Ordering::SeqCst);
        let (done, wait) = channel();
        thread::spawn(move || {
            if stop {
                if let Err(error) = host.stop(false) {
                    tracing::info!("the sidecar is left running: {error}");
                }
            }
            host.release();
            let _ = done.send(());
        });
        if wait.recv_timeout(self.0.config.exit_wait).is_err() {
            tracing::warn!("the sidecar takes its time to leave; it will go by itself");
        }
    }

    fn host(&self) -> Result<Arc<SidecarHost>, Error> {
        let mut slot = lock(&self.0.host);
        if self.0.quitting.load(Ordering::SeqCst) {
            return Err(Error::Quitting);
        }
        if let Some(host) = &*slot {
            return Ok(Arc::clone(host));
        }
        let resources = self.0.app.path().resource_dir().ok();
        let own = std::env::current_exe().ok();
        let beside = own.as_deref().and_then(std::path::Path::parent);
        let config = self.0.config.host(resources.as_deref(), beside)?;
        let host = Arc::new(SidecarHost::new(config.clone())?);
        self.follow(host.events(), &config);
        *slot = Some(Arc::clone(&host));
        Ok(host)
    }

    fn follow(&self, events: Receiver<Event>, config: &HostConfig) {
        let me = self.clone();
        thread::spawn(move || {
            for event in events {
                tracing::info!(event = ?event.kind, detail = %event.detail, "sidecar");
                if let Some(snapshot) = Snapshot::after(&event) {
                    me.tell(snapshot);
                }
            }
        });
        let (me, logs) = (self.clone(), config.launch.logs(&config.state_dir));
        thread::spawn(move || me.follow_logs(&logs));
    }

    fn follow_logs(&self, folder: &Path) {
        let mut launch = Tail::new(&folder.join("launch.log"));
        let mut service = newest_service_log(folder).map(|path| Tail::new(&path)).unwrap_or_default();
        while !self.0.quitting.load(Ordering::SeqCst) {
            thread::sleep(TAIL_EVERY);
            if let Some(path) = newest_service_log(folder) {
                service.switch(&path);
            }
            for (source, tail) in [("launch", &mut launch), ("service", &mut service)] {
                let lines = tail.lines();
                if !lines.is_empty() {
                    self.emit(LOG, &LogLines { source, lines });
                }
            }
        }
    }

    fn tell(&self, snapshot: Snapshot) {
        *lock(&self.0.now) = snapshot.clone();
        self.emit(STATE, &snapshot);
    }

    fn emit<T: serde::Serialize + Clone>(&self, event: &str, payload: &T) {
        if let Err(error) = self.0.app.emit(event, payload.clone()) {
            tracing::debug!("{event} was not delivered: {error}");
        }
    }
}
