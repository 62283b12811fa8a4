//! flock(2) on files that are never unlinked. The kernel drops a lock when its last holder's process is gone.

use crate::error::Error;
use crate::state_dir::{explain, open_beneath};
use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// One open lock file; dropping it lets go.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    file: File,
}

impl FileLock {
    /// Open `path`, creating it (0600), close-on-exec.
    pub fn open(path: &Path) -> Result<FileLock, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = open_beneath(path, &mut options).map_err(|e| explain(path, &e))?;
        Ok(FileLock { path: path.to_owned(), file })
    }

    /// Open `path` if it is there; a look leaves no trace.
    pub fn open_existing(path: &Path) -> Result<Option<FileLock>, Error> {
        match open_beneath(path, OpenOptions::new().read(true)) {
            Ok(file) => Ok(Some(FileLock { path: path.to_owned(), file })),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(explain(path, &e)),
        }
    }

    /// Take it exclusively, or return false. A shared hold is given up either way.
    pub fn try_exclusive(&self) -> Result<bool, Error> {
        self.attempt(FlockOperation::NonBlockingLockExclusive)
    }

    /// Take it shared, or return false.
    pub fn try_shared(&self) -> Result<bool, Error> {
        self.attempt(FlockOperation::NonBlockingLockShared)
    }

    fn attempt(&self, how: FlockOperation) -> Result<bool, Error> {
        loop {
            return match flock(&self.file, how) {
                Ok(()) => Ok(true),
                Err(Errno::WOULDBLOCK) => Ok(false),
                Err(Errno::INTR) => continue,
                // NOTSUP and OPNOTSUPP are one number on Linux and two on macOS.
                Err(e) if [Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOLCK, Errno::NOSYS, Errno::INVAL].contains(&e) => {
                    Err(Error::StateDir(format!(
                        "state directory: {}: its file system has no file locks (flock); choose a local folder",
                        self.path.display()
                    )))
                }
                Err(e) => Err(explain(&self.path, &e.into())),
            };
        }
    }

    /// Set the file's modification time to now; how a short visit of a host is noticed.
    pub fn touch(&self) {
        let _ = self.file.set_modified(SystemTime::now());
    }

    /// Whether the path still names this very file.
    pub fn in_place(&self) -> bool {
        match (std::fs::symlink_metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(here)) => (there.ino(), there.dev()) == (here.ino(), here.dev()),
            _ => false,
        }
    }
}

/// Whether someone holds `path` exclusively; a file that isn't there is held by nobody. The test takes it shared for a
/// moment, and creates nothing.
pub fn held(path: &Path) -> Result<bool, Error> {
    match FileLock::open_existing(path)? {
        Some(lock) => Ok(!lock.try_shared()?),
        None => Ok(false),
    }
}
