//! Which build of the program runs: a fingerprint that an update changes and a copy does not.
//! The twin of `host_api/protocol/build.py`.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const HEAD: u64 = 64 * 1024;
const TAIL: u64 = 1024 * 1024;
/// Tells the launcher of a Tauri bundle where the frozen folder lies.
pub const APP_DIR_ENV: &str = "MLX_SIDECAR_APP_DIR";

/// The file that `command` runs, links resolved; `None` for an interpreter with arguments of its own.
pub fn program_of(command: &[String], env: &[(String, String)]) -> Option<PathBuf> {
    let [program] = command else { return None };
    let found = which(program, env)?;
    let behind = env.iter().rev().find(|(k, _)| k == APP_DIR_ENV).map(|(_, v)| Path::new(v).join("mlx-sidecar"));
    behind.filter(|path| path.is_file()).unwrap_or(found).canonicalize().ok()
}

fn which(program: &str, env: &[(String, String)]) -> Option<PathBuf> {
    let runs = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| runs(path));
    }
    let own = env.iter().rev().find(|(k, _)| k == "PATH").map(|(_, v)| v.clone().into());
    let path = own.or_else(|| std::env::var_os("PATH"))?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| runs(path))
}

/// 32 hex digits of size, head and tail of a program; `None` when it can't be read.
pub fn fingerprint(path: &Path) -> Option<String> {
    read(path).ok()
}

fn read(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut digest = Sha256::new();
    digest.update(format!("{size}:"));
    let mut part = Vec::new();
    Read::by_ref(&mut file).take(HEAD).read_to_end(&mut part)?;
    digest.update(&part);
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    part.clear();
    file.take(TAIL).read_to_end(&mut part)?;
    digest.update(&part);
    Ok(digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}
