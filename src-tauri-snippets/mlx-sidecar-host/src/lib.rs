//! One mlx-sidecar for any number of hosts: `docs/concepts/ownership-protocol.md`, in Rust.
//!
//! ```no_run
//! use mlx_sidecar_host::{HostConfig, LaunchSpec, SidecarHost};
//! let launch = LaunchSpec { command: vec!["/opt/app/mlx-sidecar".into()], ..LaunchSpec::default() };
//! let host = SidecarHost::new(HostConfig { launch, ..HostConfig::default() })?;
//! let connection = host.ensure_running()?;
//! println!("{} {:?}", connection.base_url, connection.token);
//! # Ok::<(), mlx_sidecar_host::Error>(())
//! ```
//!
//! Dropping a [`SidecarHost`] only lets go: the sidecar stays for its other hosts, or for its grace time.
//! Don't `fork` without `exec` while a host lives: the child would keep its locks.
#![cfg_attr(not(target_os = "macos"), forbid(unsafe_code))]

pub mod backoff;
#[cfg(feature = "client")]
pub mod client;
pub mod config;
pub mod error;
pub mod host;
pub mod identity;
pub mod launcher;
pub mod lock;
pub mod observe;
pub mod ownership;
pub mod probe;
pub mod state_dir;
pub mod supervisor;

pub use backoff::Backoff;
#[cfg(feature = "client")]
pub use client::{Client, ClientError};
pub use config::HostConfig;
pub use error::Error;
pub use host::{Connection, Event, EventKind, SidecarHost, State, Status};
pub use launcher::LaunchSpec;
