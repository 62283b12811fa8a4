//! The record: the contents of `sidecar.pid`, as pure functions over bytes (section 2 of the protocol).

use serde::{Deserialize, Serialize};
use serde_json::{json, Map, Value};

/// The version of the protocol.
pub const PROTOCOL: &str = "1.1";
/// The record schema this crate reads.
pub const SCHEMA: i64 = 1;
/// The environment variable by which a launcher names itself.
pub const OWNER_ENV: &str = "MLX_SIDECAR_OWNER";
/// The environment variable by which a launcher names the program: its fingerprint, a colon, its path.
pub const BUILD_ENV: &str = "MLX_SIDECAR_BUILD";
/// The longest record, bytes.
pub const MAX_RECORD: usize = 64 * 1024;
/// Levels of JSON that all implementations can read.
const MAX_DEPTH: usize = 100;

/// What `sidecar.pid` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// No file.
    Absent,
    /// Garbage.
    Invalid,
    /// Another version's record.
    UnknownSchema,
    /// A record.
    Valid,
}

/// Who launched the sidecar. For people: no decision rests on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// `python`, `tauri` or `standalone`.
    pub kind: String,
    /// Its PID.
    pub pid: i32,
    /// Its start token.
    pub start_token: String,
    /// The PID namespace in which `pid` means it, where the platform has such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Owner {
    fn from_json(value: &Value) -> Option<Owner> {
        let map = value.as_object()?;
        Some(Owner {
            kind: text(map, "kind")?,
            pid: pid(map)?,
            start_token: text(map, "start_token")?,
            namespace: optional(map, "namespace")?,
        })
    }
}

/// The contents of `sidecar.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The sidecar's PID.
    pub pid: i32,
    /// Its start token.
    pub start_token: String,
    /// 32 hex digits, new for each process.
    pub instance_id: String,
    /// The address it listens on.
    pub host: String,
    /// The port it listens on.
    pub port: u16,
    /// Its version.
    pub version: String,
    /// The bearer token clients send.
    pub token: Option<String>,
    /// Who launched it.
    pub owner: Option<Owner>,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Whether it leaves when no host is left.
    pub managed: bool,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// The program's fingerprint (since 1.1).
    pub build: Option<String>,
    /// The program's path (since 1.1).
    pub program: Option<String>,
    /// The PID namespace in which `pid` means it (since 1.1).
    pub namespace: Option<String>,
}

impl Record {
    /// The address clients connect to; a wildcard becomes loopback.
    pub fn address(&self) -> &str {
        match self.host.as_str() {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            other => other,
        }
    }

    /// Where clients reach the sidecar, without `/v1`.
    pub fn url(&self) -> String {
        let host = self.address();
        if host.contains(':') {
            format!("http://[{host}]:{}", self.port)
        } else {
            format!("http://{host}:{}", self.port)
        }
    }

    /// The bytes of `sidecar.pid`.
    pub fn encode(&self) -> Vec<u8> {
        let mut document = json!({
            "schema": SCHEMA, "pid": self.pid, "start_token": self.start_token, "instance_id": self.instance_id,
            "host": self.host, "port": self.port, "version": self.version, "token": self.token, "owner": self.owner,
            "started_at": self.started_at, "managed": self.managed, "capabilities": self.capabilities,
        });
        for (name, value) in [("build", &self.build), ("program", &self.program), ("namespace", &self.namespace)] {
            if let Some(value) = value {
                document[name] = value.as_str().into();
            }
        }
        format!("{}\n{document}\n", self.pid).into_bytes()
    }
}

/// What parsing gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Which kind of file it is.
    pub state: RecordState,
    /// The record, when VALID.
    pub record: Option<Record>,
}

/// The record in `data` (`None`: there is no file).
pub fn parse_record(data: Option<&[u8]>) -> Parsed {
    let Some(data) = data else { return Parsed { state: RecordState::Absent, record: None } };
    match parse(data) {
        Some(parsed) => parsed,
        None => Parsed { state: RecordState::Invalid, record: None },
    }
}

fn parse(data: &[u8]) -> Option<Parsed> {
    if data.len() > MAX_RECORD {
        return None;
    }
    let body = std::str::from_utf8(data).ok()?;
    let body = body.strip_suffix('\n').unwrap_or(body);
    let (first, second) = body.split_once('\n')?;
    if second.contains('\n') || first.starts_with('0') || first.is_empty() || first.len() > 10 {
        return None;
    }
    if !first.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let document: Value = serde_json::from_str(second).ok()?;
    let map = document.as_object()?;
    if depth(&document) > MAX_DEPTH {
        return None;
    }
    let schema = map.get("schema")?;
    if !(schema.is_i64() || schema.is_u64()) {
        return None;
    }
    if schema.as_i64() != Some(SCHEMA) {
        return Some(Parsed { state: RecordState::UnknownSchema, record: None });
    }
    let record = record(map)?;
    if first.parse::<i64>().ok()? != i64::from(record.pid) {
        return None;
    }
    Some(Parsed { state: RecordState::Valid, record: Some(record) })
}

fn record(map: &Map<String, Value>) -> Option<Record> {
    let instance_id = text(map, "instance_id")?;
    if instance_id.len() != 32 || !instance_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let port = map.get("port")?.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)?;
    let token = match map.get("token")? {
        Value::Null => None,
        _ => Some(text(map, "token")?),
    };
    let owner = match map.get("owner")? {
        Value::Null => None,
        value => Some(Owner::from_json(value)?),
    };
    let managed = match map.get("managed") {
        None => true,
        Some(value) => value.as_bool()?,
    };
    let capabilities = match map.get("capabilities") {
        None => Vec::new(),
        Some(value) => value.as_array()?.iter().map(|c| c.as_str().map(str::to_owned)).collect::<Option<_>>()?,
    };
    Some(Record {
        pid: pid(map)?,
        start_token: text(map, "start_token")?,
        instance_id,
        host: text(map, "host")?,
        port,
        version: text(map, "version")?,
        token,
        owner,
        started_at: text(map, "started_at")?,
        managed,
        capabilities,
        build: optional(map, "build")?,
        program: optional(map, "program")?,
        namespace: optional(map, "namespace")?,
    })
}

fn text(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key)?.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}

/// `None`: the key is there and isn't text; `Some(None)`: it isn't there.
fn optional(map: &Map<String, Value>, key: &str) -> Option<Option<String>> {
    match map.get(key) {
        None | Some(Value::Null) => Some(None),
        Some(_) => text(map, key).map(Some),
    }
}

/// How many levels of lists and objects there are.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn pid(map: &Map<String, Value>) -> Option<i32> {
    map.get("pid")?.as_i64().and_then(|p| i32::try_from(p).ok()).filter(|p| *p > 0)
}

/// `0.12.3` and `0.12.3rc1` as 0, 12, 3; `None` when it does not begin with numbers.
pub fn version_numbers(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    let mut rest = text;
    loop {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if digits.is_empty() {
            break;
        }
        // Nine digits count; a longer number ends there, as the pattern in the protocol's tests says.
        let kept = &digits[..digits.len().min(9)];
        numbers.push(kept.parse().ok()?);
        rest = &rest[digits.len()..];
        if digits.len() > 9 {
            break;
        }
        match rest.strip_prefix('.') {
            Some(next) => rest = next,
            None => break,
        }
    }
    if numbers.is_empty() {
        return None;
    }
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    Some(numbers)
}

/// Whether the record's sidecar is new enough (empty: any) and able enough.
pub fn satisfies(record: &Record, min_version: &str, capabilities: &[String]) -> bool {
    if !capabilities.iter().all(|c| record.capabilities.contains(c)) {
        return false;
    }
    if min_version.is_empty() {
        return true;
    }
    match (version_numbers(&record.version), version_numbers(min_version)) {
        (Some(have), Some(need)) => have >= need,
        _ => false,
    }
}
