//! What the webview can ask for. Whatever may wait does so on a thread of the blocking pool.

use crate::error::Error;
use crate::events::Snapshot;
use crate::sidecar::MlxSidecar;
use crate::MlxSidecarExt;
use mlx_sidecar_host::Connection;
use serde::Serialize;
use tauri::async_runtime::spawn_blocking;
use tauri::{command, AppHandle, Runtime};

/// Address and token. The only way by which the webview gets them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionAnswer {
    url: String,
    token: Option<String>,
    pid: i32,
    instance_id: String,
    how: String,
    version: String,
}

impl From<Connection> for ConnectionAnswer {
    fn from(c: Connection) -> Self {
        ConnectionAnswer {
            url: c.url,
            token: c.token,
            pid: c.pid,
            instance_id: c.instance_id,
            how: c.how,
            version: c.version,
        }
    }
}

/// How the app stands with the sidecar, and what the sidecar says.
#[derive(Serialize)]
pub struct StatusAnswer {
    #[serde(flatten)]
    snapshot: Snapshot,
    state: mlx_sidecar_host::State,
    health: Option<serde_json::Value>,
}

async fn off_main<R, T, F>(app: AppHandle<R>, work: F) -> Result<T, Error>
where
    R: Runtime,
    T: Send + 'static,
    F: FnOnce(MlxSidecar<R>) -> Result<T, Error> + Send + 'static,
{
    let sidecar = app.mlx_sidecar();
    spawn_blocking(move || work(sidecar)).await?
}

#[command]
pub async fn ensure<R: Runtime>(app: AppHandle<R>) -> Result<ConnectionAnswer, Error> {
    off_main(app, |s| Ok(s.ensure()?.into())).await
}

#[command]
pub async fn status<R: Runtime>(app: AppHandle<R>) -> Result<StatusAnswer, Error> {
    off_main(app, |s| {
        let (snapshot, seen) = s.status()?;
        Ok(StatusAnswer { snapshot, state: seen.state, health: seen.health })
    })
    .await
}

#[command]
pub async fn connection<R: Runtime>(app: AppHandle<R>) -> Result<ConnectionAnswer, Error> {
    off_main(app, |s| Ok(s.connection()?.into())).await
}

#[command]
pub async fn restart<R: Runtime>(app: AppHandle<R>, force: Option<bool>) -> Result<ConnectionAnswer, Error> {
    off_main(app, move |s| Ok(s.restart(force.unwrap_or(false))?.into())).await
}

#[command]
pub async fn stop<R: Runtime>(app: AppHandle<R>, force: Option<bool>) -> Result<bool, Error> {
    off_main(app, move |s| s.stop(force.unwrap_or(false))).await
}

#[command]
pub async fn pull<R: Runtime>(app: AppHandle<R>, model: String) -> Result<(), Error> {
    off_main(app, move |s| s.pull(&model)).await
}

#[command]
pub async fn cancel_pull<R: Runtime>(app: AppHandle<R>, model: String) -> Result<bool, Error> {
    off_main(app, move |s| Ok(s.cancel_pull(&model))).await
}
