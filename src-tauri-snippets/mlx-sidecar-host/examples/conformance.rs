//! `mlx-sidecar-conformance`: this implementation behind the command line that all of them have.
//! `ensure|hold|inspect|stop --state-dir DIR …` and `decide`; JSON on lines of their own.

use mlx_sidecar_host::decision::{decide, Compat, Observation};
use mlx_sidecar_host::judgement::decision_of;
use mlx_sidecar_host::lock::{held, FileLock};
use mlx_sidecar_host::observe::Looker;
use mlx_sidecar_host::state_dir::Files;
use mlx_sidecar_host::states::State;
use mlx_sidecar_host::trace::Schedule;
use mlx_sidecar_host::{Backoff, Error, EventKind, HostConfig, LaunchSpec, SidecarHost};
use serde_json::{json, Value};
use std::io::{BufRead, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

struct Args {
    config: HostConfig,
    supervise: bool,
    force: bool,
    timed: bool,
    rounds: usize,
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let command = words.next().unwrap_or_default();
    let result = match command.as_str() {
        "decide" => decide_lines(),
        "machine" => machine_lines(),
        "ensure" | "hold" | "inspect" | "stop" | "bench" | "client" => {
            parse(words).and_then(|args| match command.as_str() {
                "ensure" => ensure(args),
                "hold" => hold(args),
                "inspect" => inspect(args),
                "bench" => bench(args),
                "client" => client(args),
                _ => stop(args),
            })
        }
        _ => Err(Error::Host("say ensure, hold, inspect, decide or stop".to_owned())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&json!({"ok": false, "error": {"code": error.code(), "message": error.to_string()}}));
            ExitCode::FAILURE
        }
    }
}

fn print(document: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{document}");
    let _ = out.flush();
}

fn usage(error: impl std::fmt::Display) -> Error {
    Error::Host(error.to_string())
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, Error> {
    let mut launch = LaunchSpec { port: 0, ..LaunchSpec::default() };
    let mut config = HostConfig::default();
    let (mut supervise, mut force, mut timed, mut placed, mut rounds) = (false, false, false, false, 300);
    while let Some(flag) = words.next() {
        match flag.as_str() {
            "--strict-port" => launch.strict_port = true,
            "--supervise" => supervise = true,
            "--force" => force = true,
            "--timed" => timed = true,
            _ => {
                let value = words.next().ok_or_else(|| usage(format!("{flag}: a value is missing")))?;
                let seconds = || value.parse::<f64>().map_err(usage);
                let time = || seconds().map(Duration::from_secs_f64);
                match flag.as_str() {
                    "--state-dir" => {
                        config.state_dir = value.clone().into();
                        placed = true;
                    }
                    "--command-json" => launch.command = serde_json::from_str(&value).map_err(usage)?,
                    "--rounds" => rounds = value.parse().map_err(usage)?,
                    "--port" => launch.port = value.parse().map_err(usage)?,
                    "--model-dir" => launch.model_dirs.push(value.clone().into()),
                    "--bundled-data-dir" => launch.bundled_data_dirs.push(value.clone().into()),
                    "--grace-time" => launch.grace_time = seconds()?,
                    "--min-version" => config.min_version = value.clone(),
                    "--capability" => config.capabilities.push(value.clone()),
                    "--timeout" => config.timeout = time()?,
                    "--hung-after" => config.hung_after = time()?,
                    "--start-timeout" => config.start_timeout = time()?,
                    "--give-up" => config.give_up = value.parse().map_err(usage)?,
                    "--term-wait" => config.term_wait = time()?,
                    "--backoff-base" => config.backoff = Backoff { base: seconds()?, ..Backoff::default() },
                    _ => return Err(usage(format!("{flag}: unknown"))),
                }
            }
        }
    }
    if !placed {
        return Err(usage("--state-dir is missing"));
    }
    // The test's sidecars are modules of a tree; an environment of their own leaves that out.
    launch.env.push(("PYTHONPATH".to_owned(), std::env::var("PYTHONPATH").unwrap_or_default()));
    config.launch = launch;
    Ok(Args { config, supervise, force, timed, rounds })
}

fn ensure(args: Args) -> Result<(), Error> {
    let host = SidecarHost::with_supervision(args.config, false)?;
    print(&json!({"ok": true, "connection": host.ensure_running()?}));
    Ok(())
}

/// Ensure, then hold until the end of input; with --supervise, events follow, with --timed how long letting go took.
fn hold(args: Args) -> Result<(), Error> {
    let host = SidecarHost::with_supervision(args.config, args.supervise)?;
    let events = host.events();
    print(&json!({"ok": true, "connection": host.ensure_running()?}));
    std::thread::spawn(move || {
        for event in events {
            if event.kind != EventKind::Ready {
                print(&serde_json::to_value(&event).unwrap_or_default());
            }
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let began = Instant::now();
    host.release();
    if args.timed {
        print(&json!({"event": "released", "seconds": began.elapsed().as_secs_f64()}));
    }
    Ok(())
}

/// Ensure, then answer for each path on standard input with the status and body of its GET.
#[cfg(feature = "client")]
fn client(args: Args) -> Result<(), Error> {
    let host = SidecarHost::with_supervision(args.config, false)?;
    print(&json!({"ok": true, "connection": host.ensure_running()?}));
    let client = host.client()?;
    for line in std::io::stdin().lock().lines() {
        let mut answer = client.get(line.map_err(usage)?.trim()).map_err(usage)?;
        let text = answer.body_mut().read_to_string().map_err(usage)?;
        let body: Value = serde_json::from_str(&text).map_err(usage)?;
        print(&json!({"status": answer.status().as_u16(), "body": body}));
    }
    Ok(())
}

#[cfg(not(feature = "client"))]
fn client(_: Args) -> Result<(), Error> {
    Err(usage("built without the feature `client`"))
}

fn inspect(args: Args) -> Result<(), Error> {
    let files = Files { root: args.config.state_dir.clone() };
    let seen = Looker::new(args.config.clone(), files.clone()).look(true, "", false)?.seen;
    let compat = if seen.fits { Compat::Ok } else { Compat::Alone };
    let decision = decision_of(&State::ensure(args.config.policy(), 0.0, ""), &seen, compat);
    let hosts = match FileLock::open_existing(&files.hosts_lock())? {
        _ if held(&files.hosts_lock())? => "leaving",
        Some(lock) if !lock.try_exclusive()? => "held",
        _ => "none",
    };
    let launch = if held(&files.launch_lock())? { "held" } else { "free" };
    print(&json!({
        "ok": true, "lock": seen.lock, "record": seen.record, "identity": seen.identity, "answer": seen.answer,
        "compat": compat, "decision": decision, "hosts": hosts, "launch": launch,
    }));
    Ok(())
}

/// The median time of `ensure_running` on a running sidecar.
fn bench(args: Args) -> Result<(), Error> {
    let host = SidecarHost::with_supervision(args.config, false)?;
    host.ensure_running()?;
    let mut times = Vec::new();
    for _ in 0..args.rounds.max(1) {
        let began = Instant::now();
        host.ensure_running()?;
        times.push(began.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    print(&json!({"ok": true, "median_s": times[times.len() / 2]}));
    Ok(())
}

fn stop(args: Args) -> Result<(), Error> {
    let stopped = SidecarHost::with_supervision(args.config, false)?.stop(args.force)?;
    print(&json!({"ok": true, "stopped": stopped}));
    Ok(())
}

fn decide_lines() -> Result<(), Error> {
    for line in std::io::stdin().lock().lines() {
        let seen: Observation = serde_json::from_str(&line.map_err(usage)?).map_err(usage)?;
        print(&json!({"decision": decide(&seen)}));
    }
    Ok(())
}

/// One schedule a line on standard input, what the machine made of it a line on standard output.
fn machine_lines() -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let schedule: Schedule = serde_json::from_str(&line.map_err(usage)?).map_err(usage)?;
        writeln!(out, "{}", schedule.run()).map_err(usage)?;
        out.flush().map_err(usage)?;
    }
    Ok(())
}
