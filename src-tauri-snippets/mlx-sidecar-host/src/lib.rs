//! One mlx-sidecar for any number of hosts: `docs/concepts/ownership-protocol.md`, in Rust.
//!
//! ```no_run
//! use mlx_sidecar_host::{HostConfig, LaunchSpec, SidecarHost};
//! let launch = LaunchSpec { command: vec!["/opt/app/mlx-sidecar".into()], ..LaunchSpec::default() };
//! let host = SidecarHost::new(HostConfig { launch, ..HostConfig::default() })?;
//! let connection = host.ensure_running()?;
//! println!("{} {:?}", connection.url, connection.token);
//! # Ok::<(), mlx_sidecar_host::Error>(())
//! ```
//!
//! Dropping a [`SidecarHost`] only lets go: the sidecar stays for its other hosts, or for its grace time.
//! Don't `fork` without `exec` while a host lives: the child would keep its locks.
#![cfg_attr(not(target_os = "macos"), forbid(unsafe_code))]

pub mod build;
#[cfg(feature = "client")]
pub mod client;
pub mod config;
pub mod connection;
pub mod decision;
pub mod error;
pub mod folders;
pub mod host;
pub mod identity;
pub mod judgement;
pub mod lock;
pub mod machine;
pub mod manager;
pub mod observe;
pub mod probe;
pub mod process;
pub mod record;
pub mod restarts;
pub mod signal;
pub mod state_dir;
pub mod states;
pub mod trace;
mod watcher;

#[cfg(feature = "client")]
pub use client::{Client, ClientError};
pub use config::HostConfig;
pub use connection::{Connection, Event, EventKind, State, Status};
pub use error::Error;
pub use host::SidecarHost;
pub use process::LaunchSpec;
pub use restarts::Backoff;
