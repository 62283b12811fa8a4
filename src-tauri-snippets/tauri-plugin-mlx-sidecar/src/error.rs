//! What a command can answer instead. Every message says what to do.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// An error of the plugin. It reaches the webview as `{ code, message }`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The protocol's own errors.
    #[error(transparent)]
    Host(#[from] mlx_sidecar_host::Error),
    /// No program to start.
    #[error("the sidecar is not in this app's bundle; looked at {0}. Put it there, or set Config::program")]
    NotBundled(String),
    /// `connection` or `pull` before `ensure`.
    #[error("no sidecar is connected; call ensure first")]
    NotConnected,
    /// The app is on its way out.
    #[error("the app is quitting")]
    Quitting,
    /// The sidecar has no such route.
    #[error("this sidecar ({0}) can't fetch models; update it, or fetch the model with: hf download <name>")]
    PullUnsupported(String),
    /// The model can't be had.
    #[error("{0}")]
    Pull(String),
    /// The user stopped the download.
    #[error("the download was cancelled; start it again to go on where it stopped")]
    Cancelled,
    /// Tauri's own errors.
    #[error("{0}; please report this")]
    Internal(String),
}

impl Error {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Error::Host(error) => error.code(),
            Error::NotBundled(_) => "not_bundled",
            Error::NotConnected => "not_connected",
            Error::Quitting => "quitting",
            Error::PullUnsupported(_) => "pull_unsupported",
            Error::Pull(_) => "pull_failed",
            Error::Cancelled => "cancelled",
            Error::Internal(_) => "internal",
        }
    }
}

impl From<tauri::Error> for Error {
    fn from(error: tauri::Error) -> Self {
        Error::Internal(error.to_string())
    }
}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Error", 2)?;
        object.serialize_field("code", self.code())?;
        object.serialize_field("message", &self.to_string())?;
        object.end()
    }
}
