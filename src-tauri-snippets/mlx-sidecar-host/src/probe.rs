//! One look at a sidecar's `/health` over a plain socket.

use crate::decision::HealthAnswer;
use crate::error::Error;
use crate::record::Record;
use crate::state_dir::our_own;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

const MAX: usize = 256 * 1024;

/// What answers at the record's address within `timeout`, and the document if there is one. An error where this process
/// itself lacks what asking takes (descriptors, memory): that says nothing about the sidecar.
pub fn ask(record: &Record, timeout: Duration) -> Result<(HealthAnswer, Option<Value>), Error> {
    match health_of(record, timeout) {
        Err(Failure::Refused) => Ok((HealthAnswer::Refused, None)),
        Err(Failure::Silent) => Ok((HealthAnswer::Silent, None)),
        Err(Failure::Other) => Ok((HealthAnswer::Other, None)),
        Err(Failure::Own(text)) => Err(Error::StateDir(format!("the sidecar can't be asked: {text}"))),
        Ok(health) if health["instance_id"].as_str() != Some(&record.instance_id) => Ok((HealthAnswer::Other, None)),
        Ok(health) => {
            let answer = match health["status"].as_str() {
                Some("draining") => HealthAnswer::Draining,
                Some("failed") => HealthAnswer::Failed,
                _ => HealthAnswer::Echo,
            };
            Ok((answer, Some(health)))
        }
    }
}

/// Why there is no health document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing listens.
    Refused,
    /// No whole answer in time.
    Silent,
    /// Not a sidecar's answer.
    Other,
    /// This process is short of something.
    Own(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            _ if our_own(&error) => Failure::Own(error.to_string()),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable => Failure::Refused,
            _ => Failure::Silent,
        }
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, Failure> {
    (host, port).to_socket_addrs()?.next().ok_or(Failure::Silent)
}

/// The health document at the record's address.
pub fn health_of(record: &Record, timeout: Duration) -> Result<Value, Failure> {
    let end = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&resolve(record.address(), record.port)?, timeout)?;
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(Failure::Refused);
    }
    stream.set_write_timeout(Some(timeout))?;
    let port = record.port;
    stream
        .write_all(format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let (mut data, mut part) = (Vec::new(), [0u8; 16384]);
    while data.len() <= MAX {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Silent);
        }
        stream.set_read_timeout(Some(left))?;
        let got = stream.read(&mut part)?;
        data.extend_from_slice(&part[..got]);
        if got == 0 || whole(&data) {
            break;
        }
    }
    if data.is_empty() {
        return Err(Failure::Silent);
    }
    document(&data).ok_or(Failure::Other)
}

fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = data.windows(4).position(|w| w == b"\r\n\r\n")?;
    Some((&data[..at], &data[at + 4..]))
}

fn whole(data: &[u8]) -> bool {
    let Some((head, body)) = split(data) else { return false };
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == "content-length")
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .is_some_and(|length| body.len() >= length)
}

fn document(data: &[u8]) -> Option<Value> {
    let (head, body) = split(data)?;
    let head = std::str::from_utf8(head).ok()?;
    let mut status = head.split("\r\n").next()?.split(' ');
    if !status.next()?.starts_with("HTTP/1.") || status.next()? != "200" {
        return None;
    }
    serde_json::from_slice::<Value>(body).ok().filter(Value::is_object)
}

/// Whether something listens on the port. Its name isn't known here.
pub fn port_taken(host: &str, port: u16) -> bool {
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        other => other,
    };
    // std sets SO_REUSEADDR, with which BSD binds 127.0.0.1 beside another's 0.0.0.0: ask first.
    if cfg!(target_os = "macos") {
        let to = resolve(host, port).ok();
        if to.is_some_and(|to| TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok()) {
            return true;
        }
    }
    matches!(TcpListener::bind((host, port)), Err(e) if e.kind() == io::ErrorKind::AddrInUse)
}

/// The program that listens on the port, for people; `None` when nothing does.
pub fn port_holder(host: &str, port: u16) -> Option<String> {
    if !port_taken(host, port) {
        return None;
    }
    Some(name_of_listener(port).unwrap_or_else(|| "another program".to_owned()))
}

#[cfg(target_os = "linux")]
fn name_of_listener(port: u16) -> Option<String> {
    use std::fs;
    let suffix = format!(":{port:04X}");
    let mut wanted = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if fields.len() > 9 && fields[1].ends_with(&suffix) && fields[3] == "0A" {
                wanted.push(format!("socket:[{}]", fields[9]));
            }
        }
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        let hit = fds
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| wanted.iter().any(|w| link.as_os_str() == w.as_str()));
        if hit {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{}, pid {}", name.trim(), process.file_name().to_string_lossy()));
        }
    }
    None
}

#[cfg(not(target_os = "linux"))]
fn name_of_listener(port: u16) -> Option<String> {
    // Only before an error is shown, so that its cost doesn't matter.
    let find = format!("-iTCP:{port}");
    let out = std::process::Command::new("lsof").args(["-nP", &find, "-sTCP:LISTEN", "-Fpc"]).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let field = |tag: char| text.lines().find_map(|l| l.strip_prefix(tag)).map(str::to_owned);
    Some(format!("{}, pid {}", field('c')?, field('p')?))
}
