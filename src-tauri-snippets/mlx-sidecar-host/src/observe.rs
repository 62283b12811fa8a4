//! A look at a state directory: the left side of the protocol's table, and the words for what stands there.

use crate::config::HostConfig;
use crate::connection::{Connection, State, Status};
use crate::decision::*;
use crate::error::Error;
use crate::identity::identify;
use crate::lock::held;
use crate::probe::{health_of, port_holder, probe};
use crate::record::*;
use crate::state_dir::{self, Files};
use std::time::Instant;

/// An observation and what it rests on.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The table's left side.
    pub observation: Observation,
    /// The record, when VALID.
    pub record: Option<Record>,
    /// Who has the strict port.
    pub holder: Option<String>,
}

/// Knows for how long an observation hasn't changed.
#[derive(Debug)]
pub struct Patience {
    key: Option<(RecordState, String, HealthAnswer)>,
    since: Instant,
    looks: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { key: None, since: Instant::now(), looks: 0 }
    }
}

impl Patience {
    fn overdue(&mut self, config: &HostConfig, record: RecordState, instance: &str, answer: HealthAnswer) -> bool {
        let quiet = matches!(answer, HealthAnswer::Refused | HealthAnswer::Silent);
        let key = Some((record, instance.to_owned(), if quiet { HealthAnswer::Silent } else { answer }));
        if key != self.key {
            *self = Patience { key, since: Instant::now(), looks: 0 };
        }
        self.looks += 1;
        let limit = match (record, quiet) {
            (RecordState::Valid, true) => config.hung_after,
            (RecordState::Valid, false) => config.drain_after,
            _ => config.start_timeout,
        };
        self.looks >= 3 && self.since.elapsed() >= limit
    }
}

/// What there is now. `alone` is asked only about a sidecar that does not meet the needs.
pub fn observe(
    config: &HostConfig,
    files: &Files,
    patience: &mut Patience,
    alone: impl FnOnce() -> Result<bool, Error>,
) -> Result<Seen, Error> {
    let Parsed { state, record } = parse_record(state_dir::read_bytes(&files.record()).as_deref());
    let (mut answer, mut identity, mut compat) = (HealthAnswer::Refused, Identity::Gone, Compat::Ok);
    if let Some(record) = &record {
        answer = probe(record, config.probe_timeout);
        identity = identify(record.pid, &record.start_token);
        if !satisfies(record, &config.min_version, &config.capabilities) {
            compat = if alone()? { Compat::Alone } else { Compat::Shared };
        }
    }
    let lock = if held(&files.sidecar_lock())? { LockState::Held } else { LockState::Free };
    let launch = &config.launch;
    let strict = lock == LockState::Free && launch.strict_port && launch.port != 0;
    let holder = if strict { port_holder(&launch.host, launch.port) } else { None };
    let instance = record.as_ref().map_or("", |r| r.instance_id.as_str());
    let overdue = patience.overdue(config, state, instance, answer);
    let port_blocked = holder.is_some();
    let observation = Observation { lock, record: state, identity, answer, compat, overdue, port_blocked };
    Ok(Seen { observation, record, holder })
}

/// Why a host can't attach, and what to do.
pub fn why(config: &HostConfig, files: &Files, seen: &Seen) -> String {
    let (obs, root) = (seen.observation, files.root.display());
    if let Some(holder) = &seen.holder {
        let port = config.launch.port;
        return format!("port {port} is taken by {holder}; free it, choose another, or allow another port");
    }
    if obs.record == RecordState::UnknownSchema {
        return format!(
            "a sidecar of another protocol version runs in {root}; update this program, or stop that sidecar"
        );
    }
    let Some(record) = &seen.record else {
        return format!(
            "a sidecar holds {root} but its record is {:?}; it is starting, or stop it by hand",
            obs.record
        );
    };
    let (pid, url) = (record.pid, record.url());
    if obs.compat != Compat::Ok && obs.answer == HealthAnswer::Echo {
        let version = &record.version;
        let need =
            if config.min_version.is_empty() { config.capabilities.join(", ") } else { config.min_version.clone() };
        return format!(
                "the running sidecar {version} (pid {pid}) doesn't meet what is needed ({need}) and others use it; close them first"
            );
    }
    if obs.answer == HealthAnswer::Other {
        return format!("another program answers at {url}, the sidecar's address; it is left alone");
    }
    format!(
            "the sidecar (pid {pid}) at {url} is {:?} and its process can't be proved to be the sidecar ({:?}); stop it by hand",
            obs.answer, obs.identity
        )
}

/// What there is in the configured state directory.
pub fn status(config: &HostConfig) -> Result<Status, Error> {
    let files = state_dir::prepare(&config.state_dir)?;
    let seen = observe(config, &files, &mut Patience::default(), || Ok(true))?;
    let obs = seen.observation;
    let state = match (obs.lock, obs.record, obs.answer) {
        (LockState::Free, _, _) => State::Stopped,
        (_, RecordState::UnknownSchema, _) => State::Foreign,
        (_, RecordState::Absent | RecordState::Invalid, _) => State::Starting,
        (_, _, HealthAnswer::Echo) => State::Running,
        (_, _, HealthAnswer::Draining) => State::Draining,
        (_, _, HealthAnswer::Failed) => State::Failed,
        (_, _, HealthAnswer::Other) => State::Foreign,
        _ => State::Hung,
    };
    let record = seen.record.filter(|_| state != State::Stopped);
    let health = record.as_ref().and_then(|r| health_of(r, config.probe_timeout).ok());
    Ok(Status { state, connection: record.map(|r| Connection::new(&r, "attached")), health })
}
