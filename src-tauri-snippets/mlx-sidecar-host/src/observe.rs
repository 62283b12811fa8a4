//! A look at a state directory, and the words for what stands there. Looking changes nothing: no file, no mode.

use crate::build::{fingerprint, program_of};
use crate::config::HostConfig;
use crate::connection::{Connection, State, Status};
use crate::decision::{HealthAnswer, Identity, LockState};
use crate::error::Error;
use crate::identity::{cpu_and_memory, identify};
use crate::lock::held;
use crate::probe::{ask, port_holder};
use crate::record::{parse_record, satisfies, version_numbers, Record, RecordState};
use crate::restarts::Restarts;
use crate::state_dir::{self, Files};
use crate::states::{Build, Seen};
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a look found beside the [`Seen`] of the machine.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// For the machine.
    pub seen: Seen,
    /// The record, when VALID.
    pub record: Option<Record>,
    /// Its health document.
    pub health: Option<Value>,
    /// Who has the strict port.
    pub holder: Option<String>,
}

/// Looks at one state directory, and remembers what tells a slow sidecar from a hung one.
#[derive(Debug)]
pub struct Looker {
    config: HostConfig,
    files: Files,
    /// Instances that this host's own program gave and that didn't do.
    pub poor: HashSet<String>,
    cpu: (String, u64),
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Looker {
    /// For the configured directory.
    pub fn new(config: HostConfig, files: Files) -> Looker {
        Looker { config, files, poor: HashSet::new(), cpu: (String::new(), 0) }
    }

    /// The shared restart state.
    pub fn restarts(&self) -> Result<Restarts, Error> {
        Ok(Restarts::parse(state_dir::read_bytes(&self.files.restarts())?.as_deref()))
    }

    /// Look once. `known`: the instance attached to; `owner`: whether its owner matters.
    ///
    /// The lock is looked at last: a sidecar that publishes takes it first, one that leaves lets go of it last.
    pub fn look(&mut self, asked: bool, known: &str, owner: bool) -> Result<Look, Error> {
        let parsed = parse_record(state_dir::read_bytes(&self.files.record())?.as_deref());
        let mut look = Look { record: parsed.record, ..Look::default() };
        let mut seen = Seen { record: parsed.state, restarts: self.restarts()?, ..Seen::default() };
        if let Some(record) = look.record.clone() {
            seen.instance.clone_from(&record.instance_id);
            seen.managed = record.managed;
            if asked {
                let (answer, health) = ask(&record, self.config.probe_timeout)?;
                seen.answer = Some(answer);
                let status = health.as_ref().and_then(|h| h["status"].as_str());
                seen.loading = matches!(status, Some("loading" | "starting"));
                look.health = health;
                self.judge(&mut seen, &record, known);
                if let (true, Some(owner)) = (owner, &record.owner) {
                    let who = identify(owner.pid, &owner.start_token, owner.namespace.as_deref());
                    seen.owner_gone = matches!(who, Identity::Gone | Identity::Mismatch);
                }
            }
        }
        if !asked {
            seen.answer = None;
        }
        if held(&self.files.sidecar_lock())? {
            seen.lock = LockState::Held;
        }
        let launch = &self.config.launch;
        if seen.lock == LockState::Free && launch.strict_port && launch.port != 0 {
            look.holder = port_holder(&launch.host, launch.port);
            seen.port_blocked = look.holder.is_some();
        }
        look.seen = seen;
        Ok(look)
    }

    fn judge(&mut self, seen: &mut Seen, record: &Record, known: &str) {
        seen.identity = identify(record.pid, &record.start_token, record.namespace.as_deref());
        seen.fits = satisfies(record, &self.config.min_version, &self.config.capabilities);
        if !seen.fits || record.instance_id != known {
            seen.build = self.program(record, seen.fits);
        }
        let quiet = matches!(seen.answer, Some(HealthAnswer::Refused | HealthAnswer::Silent));
        if quiet && seen.identity == Identity::Match {
            let (ticks, pages) = cpu_and_memory(record.pid);
            seen.progress = pages;
            seen.busy = self.cpu.0 == record.instance_id && ticks > self.cpu.1;
            self.cpu = (record.instance_id.clone(), ticks);
        }
    }

    /// The running program against this host's own: the same when the own one is known to be no better.
    fn program(&self, record: &Record, fits: bool) -> Build {
        if !fits && self.poor.contains(&record.instance_id) {
            return Build::Same;
        }
        let launch = &self.config.launch;
        let mine = program_of(&launch.command, &launch.env).and_then(|path| fingerprint(&path));
        match (&record.build, mine) {
            (Some(there), Some(mine)) if *there == mine => Build::Same,
            (Some(_), Some(_)) => {
                let (have, need) = (version_numbers(&record.version), version_numbers(&self.config.min_version));
                // An older app doesn't undo a newer one's update.
                let newer = have.is_some() && need.is_some() && have > need;
                if fits && newer {
                    Build::Unknown
                } else {
                    Build::Other
                }
            }
            _ => Build::Unknown,
        }
    }
}

/// What there is in the configured state directory; changes nothing at all.
pub fn status(config: &HostConfig) -> Result<Status, Error> {
    let root = state_dir::absolute(&config.state_dir);
    state_dir::check(&root)?;
    let look = Looker::new(config.clone(), Files { root }).look(true, "", false)?;
    let seen = &look.seen;
    let state = match (seen.lock, seen.record, seen.answer) {
        (LockState::Free, _, _) => State::Stopped,
        (_, RecordState::UnknownSchema, _) => State::Foreign,
        (_, RecordState::Absent | RecordState::Invalid, _) => State::Starting,
        (_, _, Some(HealthAnswer::Echo)) => State::Running,
        (_, _, Some(HealthAnswer::Draining)) => State::Draining,
        (_, _, Some(HealthAnswer::Failed)) => State::Failed,
        (_, _, Some(HealthAnswer::Other)) => State::Foreign,
        _ => State::Hung,
    };
    let record = look.record.filter(|_| state != State::Stopped);
    let (build, program) = record.as_ref().map_or((None, None), |r| (r.build.clone(), r.program.clone()));
    let replaced = match (&build, &program) {
        (Some(build), Some(program)) => Some(fingerprint(Path::new(program)).as_ref() != Some(build)),
        _ => None,
    };
    Ok(Status {
        state,
        managed: record.as_ref().map(|r| r.managed),
        connection: record.map(|r| Connection::new(&r, "attached")),
        health: look.health,
        build,
        program,
        replaced,
        failures: seen.restarts.failures,
        history: seen.restarts.history.clone(),
    })
}

/// Say for people why a host can't go on, and what to do. `reason` is the machine's word.
pub fn explain(config: &HostConfig, reason: &str, look: &Look, tail: &str) -> String {
    let (seen, launch, dir) = (&look.seen, &config.launch, config.state_dir.display());
    let pid = look.record.as_ref().map_or_else(|| "pid unknown".to_owned(), |r| format!("pid {}", r.pid));
    let url = look.record.as_ref().map_or_else(|| "its address".to_owned(), Record::url);
    let have = look.record.as_ref().map_or_else(
        || "unknown".to_owned(),
        |r| {
            let can = r.capabilities.join(", ");
            format!("{} with {}", r.version, if can.is_empty() { "no capabilities" } else { &can })
        },
    );
    let version = if config.min_version.is_empty() { String::new() } else { format!("version {}", config.min_version) };
    let need = [version, config.capabilities.join(", ")].into_iter().filter(|t| !t.is_empty());
    let need = need.collect::<Vec<_>>().join(" and ");
    let program = launch.command.join(" ");
    let how = how_it_is(seen);
    let n = seen.restarts.failures;
    let code = match seen.child.parse::<i32>() {
        Ok(code) => format!("exit status {code}"),
        Err(_) => "it was ended".to_owned(),
    };
    match reason {
        "port" => {
            let (port, holder) = (launch.port, look.holder.as_deref().unwrap_or("another program"));
            format!("port {port} is taken by {holder}; free it, choose another, or allow another port")
        }
        "schema" => {
            format!("a sidecar of another protocol version runs in {dir}; update this program, or stop that sidecar")
        }
        "record" => format!(
            "a process holds {dir}/sidecar.lock and has published nothing usable (sidecar.pid is {}); wait for it, or \
             end that process by hand",
            word(seen.record)
        ),
        "stranger" => format!("another program answers at {url}, the sidecar's address; it is left alone"),
        "by_hand" => {
            format!("the sidecar ({pid}) was started by hand and {how}; stop it there, or stop with force")
        }
        "needs_by_hand" => format!(
            "the sidecar ({pid}, {have}) was started by hand and doesn't meet what is needed ({need}); stop it there, \
             or stop with force"
        ),
        "needs_shared" => format!(
            "the running sidecar ({pid}, {have}) doesn't meet what is needed ({need}) and others use it; close them \
             first"
        ),
        "needs" => {
            format!("{program} is {have}, which doesn't meet what this program needs ({need}); install a newer one")
        }
        "unproved" => format!(
            "the sidecar ({pid}) at {url} {how}, and that process can't be proved to be it ({}); stop it by hand",
            word(seen.identity)
        ),
        "quiet" => format!("the sidecar ({pid}) at {url} {how}; wait for it, or stop it with force"),
        "cannot_end" => format!("the sidecar ({pid}) can't be ended; end it by hand"),
        "lock_kept" => {
            format!("another program keeps {dir}/sidecar.lock from the sidecar (a shared hold); close that program")
        }
        "leaving" => "the last sidecar is taking too long to leave; try again, or stop it with force".to_owned(),
        "launch_busy" => "another program is starting or stopping the sidecar and takes too long; try again".to_owned(),
        "waiting" => format!("no sidecar was ready in time: {}; try again", what_there_is(look)),
        "starting" => "the sidecar is still starting; call again to wait on".to_owned(),
        "backing_off" => {
            let soon = seen.restarts.wait(now(), &config.backoff, 0.0);
            format!("the sidecar crashed {n} times in a row; next start in {soon:.0} s")
        }
        "elsewhere" => "another program's start of the sidecar failed just now".to_owned(),
        "exit" => format!("the sidecar didn't start ({code})"),
        "exit_again" => format!("the sidecar didn't start in {} attempts ({code})", config.attempts),
        "no_answer_again" => format!("the sidecar didn't start (no answer in {:?})", config.start_timeout),
        "program" => {
            let what = if tail.is_empty() { &program } else { tail };
            format!("the sidecar program can't be run: {what}; check the configured command")
        }
        "others" => "other programs use the sidecar; let them go first, or stop with force".to_owned(),
        "gave_up" => {
            let last = seen.restarts.history.last().map_or("crashed", |(_, why)| why.as_str());
            format!("the sidecar failed {n} times in a row, last: {last}; it isn't started again until it is asked for")
        }
        other => other.to_owned(),
    }
}

fn word<T: serde::Serialize>(value: T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn how_it_is(seen: &Seen) -> &'static str {
    match seen.answer {
        Some(HealthAnswer::Refused | HealthAnswer::Silent) => "doesn't answer",
        Some(HealthAnswer::Draining) => "is about to leave",
        Some(HealthAnswer::Failed) => "has failed",
        _ => "runs",
    }
}

fn what_there_is(look: &Look) -> String {
    match &look.record {
        _ if look.seen.lock == LockState::Free => "none runs".to_owned(),
        None => format!("one is starting (sidecar.pid is {})", word(look.seen.record)),
        Some(record) => format!("the one there is (pid {}) {}", record.pid, how_it_is(&look.seen)),
    }
}
