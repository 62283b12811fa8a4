//! Starting a sidecar process, and signalling one that is provably the sidecar.

use crate::build::{fingerprint, program_of};
use crate::decision::Identity;
use crate::error::Error;
use crate::folders::Folders;
use crate::identity::identify;
use crate::record::{Owner, Record, BUILD_ENV, OWNER_ENV};
use crate::state_dir::{absolute, explain, make_folder, open_beneath};
use rustix::process::{Pid, Signal};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::sync::{Arc, Mutex};

/// What a host was started with and a sidecar must not inherit: an AppImage's libraries, another Python's modules, the
/// marks by which one frozen program knows another as its child.
const FOREIGN: [&str; 9] =
    ["PYTHON", "_PYI_", "_MEIPASS", "DYLD_", "LD_LIBRARY_PATH", "APPDIR", "APPIMAGE", "ARGV0", "OWD"];
/// Settings that are paths: relative ones mean the host's working folder, and the sidecar has another.
const PATHS: [&str; 5] = ["DATA_DIR", "CACHE_DIR", "LOG_DIR", "API_KEY_FILE", "ALLOW_IMAGE_DIR"];
const MODEL_DIR: &str = "MLX_SIDECAR_MODEL_DIR";
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "::1"];

/// What to run.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// The address to listen on.
    pub host: String,
    /// The preferred port; 0: any.
    pub port: u16,
    /// Fail rather than take another port.
    pub strict_port: bool,
    /// Seconds the sidecar stays without a host.
    pub grace_time: f64,
    /// The model to load at start; empty: none.
    pub model: String,
    /// Folders with models; lent while this host is attached, never changed.
    pub model_dirs: Vec<PathBuf>,
    /// Data directories of an app's bundle: the same.
    pub bundled_data_dirs: Vec<PathBuf>,
    /// The folder for log files; default: `logs` in the state directory.
    pub log_dir: Option<PathBuf>,
    /// More arguments.
    pub extra_args: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
}

impl Default for LaunchSpec {
    fn default() -> Self {
        LaunchSpec {
            command: vec!["mlx-sidecar".to_owned()],
            host: "127.0.0.1".to_owned(),
            port: 60316,
            strict_port: false,
            grace_time: 10.0,
            model: String::new(),
            model_dirs: Vec::new(),
            bundled_data_dirs: Vec::new(),
            log_dir: None,
            extra_args: Vec::new(),
            env: Vec::new(),
        }
    }
}

impl LaunchSpec {
    /// The folder for log files.
    pub fn logs(&self, state_dir: &Path) -> PathBuf {
        self.log_dir.as_deref().map_or_else(|| state_dir.join("logs"), absolute)
    }

    /// The folders that this host lends: those named here, and those of the environment.
    pub fn lends(&self) -> Folders {
        let of = |name: &str, own: &[PathBuf]| {
            let own_env = self.env.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.into());
            let value = own_env.or_else(|| std::env::var_os(name)).unwrap_or_default();
            let parts = std::env::split_paths(&value).filter(|part| !part.as_os_str().is_empty());
            own.iter().cloned().chain(parts).map(|path| absolute(&path)).collect()
        };
        Folders {
            model_dirs: of(MODEL_DIR, &self.model_dirs),
            data_dirs: of("MLX_SIDECAR_DATA_DIR", &self.bundled_data_dirs),
        }
    }

    fn command(&self, state_dir: &Path) -> Result<Command, Error> {
        let Some((program, first)) = self.command.split_first() else {
            return Err(Error::Host("no sidecar program is configured; set LaunchSpec::command".to_owned()));
        };
        let mut command = Command::new(program);
        command.args(first).args(["serve", "--managed", "--host", &self.host]);
        command.arg("--state-dir").arg(state_dir).arg("--log-dir").arg(self.logs(state_dir));
        command.args(["--port", &self.port.to_string(), "--grace-time", &self.grace_time.to_string()]);
        if self.strict_port {
            command.arg("--strict-port");
        }
        if !self.model.is_empty() {
            command.args(["--model", &self.model]);
        }
        command.args(&self.extra_args);
        self.environment(&mut command);
        // No folder of an app or a disk image may be pinned down.
        command.current_dir(state_dir);
        Ok(command)
    }

    /// The host's environment without what is the host's alone, and with what the sidecar needs.
    fn environment(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if FOREIGN.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&name);
                // What an AppImage or a frozen host put aside.
                if let Some(original) = std::env::var_os(format!("{name}_ORIG")).filter(|v| !v.is_empty()) {
                    command.env(&name, original);
                }
            }
        }
        command.env_remove(MODEL_DIR); // lent, see `lends`
        for name in PATHS.map(|name| format!("MLX_SIDECAR_{name}")) {
            if let Some(value) = std::env::var_os(&name).filter(|v| !v.is_empty()) {
                let parts = std::env::split_paths(&value).map(|part| absolute(&part));
                if let Ok(joined) = std::env::join_paths(parts) {
                    command.env(&name, joined);
                }
            }
        }
        for name in ["NO_PROXY", "no_proxy"] {
            let old = std::env::var(name).unwrap_or_default();
            let mut words: Vec<&str> = old.split(',').filter(|word| !word.is_empty()).collect();
            words.extend(LOOPBACK.iter().filter(|word| !old.split(',').any(|w| w == **word)));
            command.env(name, words.join(","));
        }
        command.env("PYINSTALLER_RESET_ENVIRONMENT", "1").envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(program) = program_of(&self.command, &self.env) {
            if let Some(print) = fingerprint(&program) {
                command.env(BUILD_ENV, format!("{print}:{}", program.display()));
            }
        }
    }
}

/// A sidecar process this host started, reaped when it ends.
#[derive(Debug, Clone)]
pub struct Child {
    process: Arc<Mutex<Process>>,
    output: PathBuf,
}

impl Child {
    /// Its exit status once it ended: a code, or minus the signal's number.
    pub fn exit_code(&self) -> Option<i32> {
        let mut process = self.process.lock().unwrap_or_else(|e| e.into_inner());
        let status = process.try_wait().ok().flatten()?;
        status.code().or_else(|| status.signal().map(|s| -s))
    }

    /// End it by force: it is our own unreaped child, so its PID can't be someone else's.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap_or_else(|e| e.into_inner());
        let _ = process.kill();
        let _ = process.wait();
    }

    /// The last lines it wrote.
    pub fn tail(&self) -> String {
        let mut data = Vec::new();
        if let Ok(mut file) = open_beneath(&self.output, OpenOptions::new().read(true)) {
            let _ = file.read_to_end(&mut data);
        }
        let text = String::from_utf8_lossy(&data[data.len().saturating_sub(16384)..]).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Start a sidecar in a process group of its own.
pub fn spawn(spec: &LaunchSpec, state_dir: &Path, owner: &Owner) -> Result<Child, Error> {
    let logs = spec.logs(state_dir);
    let output = logs.join("launch.log");
    let fail = |e: std::io::Error| explain(&output, &e);
    match spec.log_dir {
        None => make_folder(&logs).map_err(fail)?,
        Some(_) => DirBuilder::new().recursive(true).mode(0o700).create(&logs).map_err(fail)?,
    }
    let sink = open_beneath(&output, OpenOptions::new().append(true).create(true)).map_err(fail)?;
    sink.set_len(0).map_err(fail)?;
    let copy = sink.try_clone().map_err(fail)?;
    let mut command = spec.command(state_dir)?;
    command.env(OWNER_ENV, serde_json::to_string(owner).unwrap_or_default());
    command.stdin(Stdio::null()).stdout(sink).stderr(copy).process_group(0);
    let process = command.spawn().map_err(|e| Error::Host(format!("{}: {e}", spec.command[0])))?;
    Ok(Child { process: Arc::new(Mutex::new(process)), output })
}

/// Signal the record's process if its identity still matches; false when it isn't that process any more.
pub fn send(record: &Record, signal: Signal) -> bool {
    let Some(pid) = Pid::from_raw(record.pid) else { return false };
    let proved = || identify(record.pid, &record.start_token, record.namespace.as_deref()) == Identity::Match;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{pidfd_open, pidfd_send_signal, PidfdFlags};
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Checked after opening: from here on the handle can't come to mean another process.
            Ok(handle) => return proved() && pidfd_send_signal(&handle, signal).is_ok(),
            Err(rustix::io::Errno::SRCH) => return false,
            // An old kernel, or one that forbids it: the check before the signal has to do.
            Err(_) => {}
        }
    }
    proved() && rustix::process::kill_process(pid, signal).is_ok()
}
