//! Model folders that hosts lend to the sidecar, each for as long as it is attached.
//!
//! The twin of the host's side of `host_api/protocol/folders.py`, whose head tells how it works.

use crate::error::Error;
use crate::lock::FileLock;
use crate::state_dir::{explain, make_folder, open_beneath};
use serde::Serialize;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a host lends, absolute paths. Nothing in them is ever changed or deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// Folders with model folders.
    pub model_dirs: Vec<PathBuf>,
    /// Data directories of bundles: `models/starter` and others.
    pub data_dirs: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u8,
    pid: u32,
    model_dirs: Vec<std::borrow::Cow<'a, str>>,
    data_dirs: Vec<std::borrow::Cow<'a, str>>,
}

/// One host's file and the lock on it.
#[derive(Debug)]
pub struct Lease {
    root: PathBuf,
    folders: Folders,
    held: Option<(PathBuf, FileLock)>,
}

static COUNT: AtomicU64 = AtomicU64::new(0);

impl Lease {
    /// For one state directory; nothing is written yet.
    pub fn new(root: &Path, folders: Folders) -> Lease {
        Lease { root: root.to_owned(), folders, held: None }
    }

    /// Lend the folders, or take them back.
    pub fn bring(&mut self, wanted: bool) -> Result<(), Error> {
        if !wanted || (self.folders.model_dirs.is_empty() && self.folders.data_dirs.is_empty()) {
            self.close();
            return Ok(());
        }
        while !self.held.as_ref().is_some_and(|(_, lock)| lock.in_place()) {
            self.close();
            self.held = self.write()?;
        }
        Ok(())
    }

    /// `None`: the sidecar looked at it just then; it is to be written again.
    fn write(&self) -> Result<Option<(PathBuf, FileLock)>, Error> {
        let place = self.root.join("folders");
        make_folder(&place).map_err(|e| explain(&place, &e))?;
        // A name that is used once: this process, its clock, and a count.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = place.join(format!("{}-{nanos:x}-{count}.json", std::process::id()));
        let lock = FileLock::open(&path)?;
        if !lock.try_exclusive()? {
            return Ok(None);
        }
        let words = |paths: &'_ [PathBuf]| paths.iter().map(|p| p.to_string_lossy().into_owned().into()).collect();
        let document = Document {
            schema: 1,
            pid: std::process::id(),
            model_dirs: words(&self.folders.model_dirs),
            data_dirs: words(&self.folders.data_dirs),
        };
        let text = serde_json::to_vec(&document).unwrap_or_default();
        match open_beneath(&path, OpenOptions::new().write(true)).and_then(|mut file| file.write_all(&text)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => {
                let _ = fs::remove_file(&path);
                Err(explain(&path, &e))
            }
            Ok(()) => Ok(Some((path, lock))),
        }
    }

    /// Take the folders back.
    pub fn close(&mut self) {
        if let Some((path, lock)) = self.held.take() {
            if lock.in_place() {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.close();
    }
}
