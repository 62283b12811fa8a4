//! flock(2) on files that are never unlinked. The kernel drops a lock when its last holder's process is gone.

use crate::error::Error;
use crate::state_dir::explain;
use rustix::fs::{flock, FlockOperation, OFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
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
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
        let file = options.open(path).map_err(|e| explain(path, &e))?;
        Ok(FileLock { path: path.to_owned(), file })
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
                Err(Errno::NOTSUP | Errno::NOLCK | Errno::NOSYS | Errno::INVAL) => Err(Error::StateDir(format!(
                    "state directory: {}: its file system has no file locks (flock); choose a local folder",
                    self.path.display()
                ))),
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
        match (std::fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(here)) => (there.ino(), there.dev()) == (here.ino(), here.dev()),
            _ => false,
        }
    }
}

/// Whether someone holds `path` exclusively. The test takes it shared for a moment.
pub fn held(path: &Path) -> Result<bool, Error> {
    Ok(!FileLock::open(path)?.try_shared()?)
}
