//! The state directory: where it is, its files, reading and replacing the record.

use crate::error::Error;
use crate::record::MAX_RECORD;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const TEMP_PREFIX: &str = ".sidecar.pid.";

/// The state directory of this user and platform; nothing is created.
pub fn default_state_dir() -> PathBuf {
    // Without a home, a place that no one can write to, so that the error names it.
    let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/nonexistent"));
    if cfg!(target_os = "macos") {
        return home.join("Library/Application Support/mlx-sidecar/state");
    }
    match std::env::var_os("XDG_STATE_HOME").map(PathBuf::from) {
        Some(base) if base.is_absolute() => base.join("mlx-sidecar"),
        _ => home.join(".local/state/mlx-sidecar"),
    }
}

/// The names in a state directory.
#[derive(Debug, Clone)]
pub struct Files {
    /// The directory.
    pub root: PathBuf,
}

impl Files {
    /// Held by the host that decides.
    pub fn launch_lock(&self) -> PathBuf {
        self.root.join("launch.lock")
    }
    /// Held by the sidecar for life.
    pub fn sidecar_lock(&self) -> PathBuf {
        self.root.join("sidecar.lock")
    }
    /// Held shared by every host.
    pub fn hosts_lock(&self) -> PathBuf {
        self.root.join("hosts.lock")
    }
    /// The record.
    pub fn record(&self) -> PathBuf {
        self.root.join("sidecar.pid")
    }
    /// The shared back-off.
    pub fn restarts(&self) -> PathBuf {
        self.root.join("restarts.json")
    }
}

/// An error about `path` that says what to do.
pub fn explain(path: &Path, error: &io::Error) -> Error {
    let special = "a link or a special file is in the way; remove it";
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full; free some space".to_owned(),
        io::ErrorKind::QuotaExceeded => "the disk quota is used up; free some space".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another folder".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied; choose a folder of your own".to_owned(),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "a file is in the way; choose another folder".to_owned()
        }
        io::ErrorKind::IsADirectory => "a folder is in the way; remove it".to_owned(),
        io::ErrorKind::NotFound => "the folder is gone; it is looked for again".to_owned(),
        io::ErrorKind::InvalidFilename => "the path is too long; choose another folder".to_owned(),
        _ => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP | Errno::NXIO) => special.to_owned(),
            Some(Errno::MFILE) => "too many open files; raise the limit (ulimit -n)".to_owned(),
            Some(Errno::NFILE) => "the machine has too many open files; close some programs".to_owned(),
            _ => error.to_string(),
        },
    };
    Error::StateDir(format!("state directory: {}: {hint}", path.display()))
}

/// Whether an error says something about this process, and nothing about what it looked at.
pub fn our_own(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

/// Create `root` with mode 0700 where it is missing; one that exists is checked, never changed.
pub fn prepare(root: &Path) -> Result<Files, Error> {
    if fs::symlink_metadata(root).is_err() {
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|e| explain(root, &e))?;
    }
    check(root)?;
    Ok(Files { root: root.to_owned() })
}

/// An error when `root` exists and can't be trusted: a link, another user's, one that others may write to, or below a
/// folder in which others may rename it. Changes nothing.
pub fn check(root: &Path) -> Result<(), Error> {
    let info = match fs::symlink_metadata(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| explain(root, &e))?,
    };
    let above = fs::metadata(root.parent().unwrap_or(root)).map_err(|e| explain(root, &e))?;
    let (kind, me) = (info.file_type(), rustix::process::geteuid().as_raw());
    let wrong = if kind.is_symlink() {
        "is a link; give the folder itself"
    } else if !kind.is_dir() {
        "a file is in the way; choose another folder"
    } else if info.uid() != me {
        "belongs to another user; choose one of your own"
    } else if info.mode() & 0o022 != 0 {
        "others may write to it; run chmod 700 on it, or choose another"
    } else if above.mode() & 0o002 != 0 && above.mode() & 0o1000 == 0 {
        "others may rename it, as its parent folder is open to all; choose another"
    } else {
        return Ok(());
    };
    Err(Error::StateDir(format!("state directory: {}: {wrong}", root.display())))
}

/// What tells this directory from one made later under its name; `None` when there is none.
pub fn place_of(root: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(root).ok().map(|info| (info.dev(), info.ino()))
}

/// Open a regular file of ours by its last component alone: no link is followed, no FIFO or device waited for.
pub fn open_beneath(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.mode(0o600).custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path)?;
    let info = file.metadata()?;
    let ours = info.uid() == rustix::process::geteuid().as_raw();
    if !info.is_file() || !ours || info.nlink() > 1 {
        return Err(io::Error::from_raw_os_error(Errno::LOOP.raw_os_error()));
    }
    Ok(file)
}

/// Make `path` (0700) below a trusted folder, or check that it is a folder of ours and no link.
pub fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let info = fs::symlink_metadata(path)?;
    if !info.is_dir() || info.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::from_raw_os_error(Errno::LOOP.raw_os_error()));
    }
    Ok(())
}

/// `path` as the caller means it, whatever folder the sidecar works in.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn flags(flags: OFlags) -> i32 {
    flags.bits() as i32
}

/// A small file's bytes, or `None` when it isn't there. What can't be read counts as there and empty, unless it is this
/// process that is short of descriptors or memory.
pub fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let open = OpenOptions::new().read(true).custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path);
    let file = match open {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if our_own(&e) => return Err(explain(path, &e)),
        Err(_) => return Ok(Some(Vec::new())),
    };
    let mut data = Vec::new();
    Ok(Some(file.take(MAX_RECORD as u64 + 1).read_to_end(&mut data).map_or_else(|_| Vec::new(), |_| data)))
}

/// Write `data` to `path`, whole or not at all, mode 0600.
pub fn replace_file(path: &Path, data: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = path.with_file_name(format!("{TEMP_PREFIX}{}.{name}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temp); // one that a killed process left, or a FIFO that would be waited for
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(flags(OFlags::NOFOLLOW));
        let mut file = options.open(&temp)?;
        file.write_all(data)?;
        file.sync_all()?;
        if fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
            let _ = fs::remove_dir(path);
        }
        fs::rename(&temp, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temp);
        explain(path, &e)
    })
}

/// Remove the record; nothing when it isn't there or can't go.
pub fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}
