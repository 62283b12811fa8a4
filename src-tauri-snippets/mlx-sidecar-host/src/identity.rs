//! Who a PID is: a start token that no later process with the same PID has, whatever the clock does.

use crate::decision::Identity;
use std::io;

/// The start token of a live process; `None` when there is none (a zombie counts as none).
#[cfg(target_os = "linux")]
pub fn start_token(pid: i32) -> io::Result<Option<String>> {
    use std::sync::OnceLock;
    static BOOT: OnceLock<String> = OnceLock::new();
    let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                || e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            return Ok(None)
        }
        Err(e) => return Err(e),
    };
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "unreadable stat");
    let end = stat.iter().rposition(|b| *b == b')').ok_or_else(bad)?;
    let rest = String::from_utf8_lossy(&stat[end + 1..]).into_owned();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    if matches!(fields.first().copied(), Some("Z" | "X" | "x")) {
        return Ok(None);
    }
    let start: u64 = fields.get(19).and_then(|f| f.parse().ok()).ok_or_else(bad)?;
    let boot = match BOOT.get() {
        Some(boot) => boot,
        None => {
            let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
            BOOT.get_or_init(|| read.trim().to_owned())
        }
    };
    Ok(Some(format!("linux:{boot}:{start}")))
}

/// The start token of a live process; `None` when there is none (a zombie counts as none).
#[cfg(target_os = "macos")]
pub fn start_token(pid: i32) -> io::Result<Option<String>> {
    let mut info = std::mem::MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = std::mem::size_of::<libc::proc_bsdinfo>() as i32;
    // SAFETY: the buffer is as large as said, and any bit pattern is a proc_bsdinfo.
    let got = unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, info.as_mut_ptr().cast(), size) };
    if got != size {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
    }
    // SAFETY: filled in above.
    let info = unsafe { info.assume_init() };
    if info.pbi_status == libc::SZOMB {
        return Ok(None);
    }
    Ok(Some(format!("macos:{}.{:06}", info.pbi_start_tvsec, info.pbi_start_tvusec)))
}

/// The start token of this process.
pub fn own_token() -> io::Result<String> {
    start_token(std::process::id() as i32)?.ok_or_else(|| io::Error::other("this process has no start token"))
}

/// The PID namespace of this process, where the platform has such (Linux): a PID means nothing in another.
pub fn own_namespace() -> Option<String> {
    std::fs::read_link("/proc/self/ns/pid").ok().map(|link| link.to_string_lossy().into_owned())
}

#[cfg(target_os = "linux")]
fn of_this_boot(token: &str) -> bool {
    let mut parts = token.split(':');
    if parts.next() != Some("linux") {
        return true;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    parts.next() == Some(boot.trim())
}

#[cfg(not(target_os = "linux"))]
fn of_this_boot(_: &str) -> bool {
    true
}

/// The process `pid` of `namespace` against `token`. UNKNOWN for another PID namespace, and for another boot of this
/// machine or another machine (a home folder on a network disk): its PIDs can't be looked up here.
pub fn identify(pid: i32, token: &str, namespace: Option<&str>) -> Identity {
    if namespace.is_some_and(|there| own_namespace().is_some_and(|here| here != there)) {
        return Identity::Unknown;
    }
    match start_token(pid) {
        Err(_) => Identity::Unknown,
        Ok(Some(found)) if found == token => Identity::Match,
        Ok(_) if !of_this_boot(token) => Identity::Unknown,
        Ok(None) => Identity::Gone,
        Ok(Some(_)) => Identity::Mismatch,
    }
}

/// A process's CPU time in clock ticks and its resident pages; zeros where that can't be told.
pub fn cpu_and_memory(pid: i32) -> (u64, u64) {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some(end) = stat.iter().rposition(|b| *b == b')') else { return (0, 0) };
    let rest = String::from_utf8_lossy(&stat[end + 1..]).into_owned();
    let fields: Vec<u64> = rest.split_ascii_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    match fields.get(21) {
        Some(pages) => (fields[11] + fields[12], *pages),
        None => (0, 0),
    }
}
