//! The state directory: where it is, its files, reading and replacing the record.

use crate::error::Error;
use crate::record::MAX_RECORD;
use rustix::fs::OFlags;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const TEMP_PREFIX: &str = ".sidecar.pid.";

/// The state directory of this user and platform; nothing is created.
pub fn default_state_dir() -> PathBuf {
    let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
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
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full; free some space".to_owned(),
        io::ErrorKind::QuotaExceeded => "the disk quota is used up; free some space".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only; choose another folder".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied; choose a folder of your own".to_owned(),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "a file is in the way; choose another folder".to_owned()
        }
        _ => error.to_string(),
    };
    Error::StateDir(format!("state directory: {}: {hint}", path.display()))
}

/// Create `root` with mode 0700 where it is missing.
pub fn prepare(root: &Path) -> Result<Files, Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|e| explain(root, &e))?;
    let info = fs::metadata(root).map_err(|e| explain(root, &e))?;
    if info.uid() != rustix::process::geteuid().as_raw() {
        let text = format!("state directory: {}: belongs to another user; choose one of your own", root.display());
        return Err(Error::StateDir(text));
    }
    if info.mode() & 0o077 != 0 {
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(|e| explain(root, &e))?;
    }
    Ok(Files { root: root.to_owned() })
}

fn flags(flags: OFlags) -> i32 {
    flags.bits() as i32
}

/// A small file's bytes, or `None` when it isn't there. What can't be read counts as there and empty.
pub fn read_bytes(path: &Path) -> Option<Vec<u8>> {
    let open = OpenOptions::new().read(true).custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path);
    let file = match open {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => return Some(Vec::new()),
    };
    let mut data = Vec::new();
    match file.take(MAX_RECORD as u64 + 1).read_to_end(&mut data) {
        Ok(_) => Some(data),
        Err(_) => Some(Vec::new()),
    }
}

/// Write `data` to `path`, whole or not at all, mode 0600.
pub fn replace_file(path: &Path, data: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = path.with_file_name(format!("{TEMP_PREFIX}{}.{name}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(flags(OFlags::NOFOLLOW));
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
