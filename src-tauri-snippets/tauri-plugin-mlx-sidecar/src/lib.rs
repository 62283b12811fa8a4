//! mlx-sidecar in a Tauri 2 app.
//!
//! ```no_run
//! fn with_sidecar<R: tauri::Runtime>(app: tauri::Builder<R>) -> tauri::Builder<R> {
//!     app.plugin(tauri_plugin_mlx_sidecar::init(tauri_plugin_mlx_sidecar::Config::default()))
//! }
//! ```
//!
//! The plugin starts the sidecar of the app's bundle, or attaches to the one that another program of this user
//! started; restarts it after a crash; and lets go of it when the app ends. The page asks for `ensure` and gets
//! address and token; events tell it how the sidecar is doing. `docs/guides/tauri.md` has the whole of it.

mod commands;
mod config;
mod error;
mod events;
mod pull;
mod sidecar;
mod tail;

pub use config::{Config, Settings};
pub use error::Error;
pub use events::{LogLines, Phase, SidecarInfo, Snapshot, DOWNLOAD, LOG, STATE};
pub use mlx_sidecar_host::Connection;
pub use pull::Download;
pub use sidecar::MlxSidecar;

use tauri::plugin::{Builder, TauriPlugin};
use tauri::{Manager, RunEvent, Runtime, RESTART_EXIT_CODE};

/// The app's hold on the sidecar, for Rust code.
pub trait MlxSidecarExt<R: Runtime> {
    /// The managed state.
    fn mlx_sidecar(&self) -> MlxSidecar<R>;
}

impl<R: Runtime, T: Manager<R>> MlxSidecarExt<R> for T {
    fn mlx_sidecar(&self) -> MlxSidecar<R> {
        self.state::<MlxSidecar<R>>().inner().clone()
    }
}

/// The plugin. What `tauri.conf.json` has under `plugins › mlx-sidecar` goes over `config`.
pub fn init<R: Runtime>(config: Config) -> TauriPlugin<R, Option<Settings>> {
    Builder::<R, Option<Settings>>::new("mlx-sidecar")
        .invoke_handler(tauri::generate_handler![
            commands::ensure,
            commands::status,
            commands::connection,
            commands::restart,
            commands::stop,
            commands::pull,
            commands::cancel_pull,
        ])
        .setup(move |app, api| {
            let config = config.with_settings(api.config().clone());
            let at_start = config.ensure_at_start;
            let sidecar = MlxSidecar::new(app.clone(), config);
            app.manage(sidecar.clone());
            if at_start {
                // The failure reaches the page as the state.
                tauri::async_runtime::spawn_blocking(move || drop(sidecar.ensure()));
            }
            Ok(())
        })
        .on_event(|app, event| match event {
            // An app may refuse to exit, so nothing is given up here. Cmd+Q on macOS skips this event altogether.
            RunEvent::ExitRequested { code: Some(RESTART_EXIT_CODE), .. } => app.mlx_sidecar().coming_back(),
            RunEvent::Exit => app.mlx_sidecar().quit(),
            _ => {}
        })
        .build()
}
