//! Tauri's `externalBin` takes a single file; the frozen sidecar is a folder. This program finds that folder beside
//! itself or in the bundle's resources and becomes the program in it: the same process, the same PID.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Names the frozen folder when it lies elsewhere.
const VARIABLE: &str = "MLX_SIDECAR_APP_DIR";
/// The folder, and the program in it.
const NAME: &str = "mlx-sidecar";
/// `EX_CONFIG` of sysexits.h: there is nothing to start.
const EXIT_CONFIG: u8 = 78;

/// Places to look at, nearest first: beside this program (Linux, development), a macOS bundle's resources, and the
/// resource folder of a Debian package (`/usr/lib/<app>` for `/usr/bin/<app>`).
fn candidates(own: &Path, given: Option<OsString>) -> Vec<PathBuf> {
    if let Some(folder) = given {
        return vec![PathBuf::from(folder).join(NAME)];
    }
    let Some(here) = own.parent() else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> =
        ["", "../Resources", "resources"].iter().map(|place| here.join(place).join(NAME).join(NAME)).collect();
    if let Ok(entries) = here.join("../lib").read_dir() {
        let mut packaged: Vec<PathBuf> = entries.flatten().map(|entry| entry.path().join(NAME).join(NAME)).collect();
        packaged.sort();
        found.extend(packaged);
    }
    found
}

fn main() -> ExitCode {
    let own = match env::current_exe().and_then(|path| path.canonicalize()) {
        Ok(path) => path,
        Err(error) => return fail(&format!("can't find out where this program lies: {error}")),
    };
    let places = candidates(&own, env::var_os(VARIABLE));
    let Some(program) = places.iter().find(|path| path.is_file()) else {
        let looked: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        return fail(&format!(
            "the frozen sidecar is not in the bundle; looked at {}. Set {VARIABLE} to its folder.",
            looked.join(", ")
        ));
    };
    let error: io::Error = Command::new(program).args(env::args_os().skip(1)).exec();
    fail(&format!("{} can't be started: {error}", program.display()))
}

fn fail(message: &str) -> ExitCode {
    eprintln!("mlx-sidecar-launcher: {message}");
    ExitCode::from(EXIT_CONFIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_folder_is_the_only_place() {
        let places = candidates(Path::new("/app/bin/x"), Some("/elsewhere".into()));
        assert_eq!(places, [PathBuf::from("/elsewhere/mlx-sidecar")]);
    }

    #[test]
    fn beside_comes_before_resources() {
        let places = candidates(Path::new("/no/such/App.app/Contents/MacOS/x"), None);
        assert_eq!(places[0], Path::new("/no/such/App.app/Contents/MacOS/mlx-sidecar/mlx-sidecar"));
        assert_eq!(places[1], Path::new("/no/such/App.app/Contents/MacOS/../Resources/mlx-sidecar/mlx-sidecar"));
    }
}
