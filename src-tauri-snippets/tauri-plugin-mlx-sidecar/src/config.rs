//! What an app can set, and where the bundled program is found.

use crate::error::Error;
use mlx_sidecar_host::{HostConfig, LaunchSpec};
use serde::Deserialize;
use std::env::VarError;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder of the frozen sidecar, the program in it, and the launcher beside the app's own program.
const NAME: &str = "mlx-sidecar";
/// Tells the launcher where the folder lies.
const APP_DIR: &str = "MLX_SIDECAR_APP_DIR";

/// Settings of the plugin. `Config::default()` is right for an app that bundles the sidecar.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program to start; `None`: the bundled one.
    pub program: Option<PathBuf>,
    /// The state directory; `None`: the one all hosts of this user share.
    pub state_dir: Option<PathBuf>,
    /// The preferred port; 0: any.
    pub port: u16,
    /// Seconds the sidecar stays without a host.
    pub grace_time: f64,
    /// The model to load at start; empty: none.
    pub model: String,
    /// Folders with models, lent to the sidecar while the app runs. Relative ones lie in the app's resources.
    pub model_dirs: Vec<PathBuf>,
    /// The folder whose `models/starter` is the starter model, lent like `model_dirs` and never written to. A relative
    /// one lies in the app's resources.
    pub data_dir: Option<PathBuf>,
    /// The oldest sidecar that will do; empty: any.
    pub min_version: String,
    /// What the sidecar must be able to do.
    pub capabilities: Vec<String>,
    /// More arguments of `mlx-sidecar serve`.
    pub extra_args: Vec<String>,
    /// More environment of the sidecar.
    pub env: Vec<(String, String)>,
    /// Whether the sidecar is started with the app, or at the first `ensure`.
    pub ensure_at_start: bool,
    /// The longest that quitting waits for the sidecar; it leaves by itself afterwards.
    pub exit_wait: Duration,
    /// Set by [`with_env`](Self::with_env): the environment goes over `tauri.conf.json` too.
    #[doc(hidden)]
    pub environment_last: bool,
}

/// What `tauri.conf.json` has under `plugins › mlx-sidecar`: fields of [`Config`], each left out or set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    program: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    port: Option<u16>,
    grace_time: Option<f64>,
    model: Option<String>,
    model_dirs: Option<Vec<PathBuf>>,
    data_dir: Option<PathBuf>,
    min_version: Option<String>,
    capabilities: Option<Vec<String>>,
    extra_args: Option<Vec<String>>,
    env: Option<std::collections::BTreeMap<String, String>>,
    ensure_at_start: Option<bool>,
    /// Seconds.
    exit_wait: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        let launch = LaunchSpec::default();
        Config {
            program: None,
            state_dir: None,
            port: launch.port,
            grace_time: launch.grace_time,
            model: String::new(),
            model_dirs: Vec::new(),
            data_dir: None,
            min_version: String::new(),
            capabilities: Vec::new(),
            extra_args: Vec::new(),
            env: Vec::new(),
            ensure_at_start: false,
            exit_wait: Duration::from_secs(3),
            environment_last: false,
        }
    }
}

impl Config {
    /// Let the environment have the last word, for development and tests: `MLX_SIDECAR_PROGRAM`,
    /// `MLX_SIDECAR_STATE_DIR`, `MLX_SIDECAR_DATA_DIR`, `MLX_SIDECAR_PORT`, `MLX_SIDECAR_GRACE_TIME`.
    #[must_use]
    pub fn with_env(mut self) -> Self {
        self.environment_last = true;
        self.with_variables(&|name| std::env::var(name))
    }

    /// What the app's configuration file says goes over what its code says; the environment keeps the last word.
    pub(crate) fn with_settings(mut self, settings: Option<Settings>) -> Self {
        let given = settings.unwrap_or_default();
        fn put<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        put(&mut self.program, given.program.map(Some));
        put(&mut self.state_dir, given.state_dir.map(Some));
        put(&mut self.port, given.port);
        put(&mut self.grace_time, given.grace_time);
        put(&mut self.model, given.model);
        put(&mut self.model_dirs, given.model_dirs);
        put(&mut self.data_dir, given.data_dir.map(Some));
        put(&mut self.min_version, given.min_version);
        put(&mut self.capabilities, given.capabilities);
        put(&mut self.extra_args, given.extra_args);
        put(&mut self.env, given.env.map(|env| env.into_iter().collect()));
        put(&mut self.ensure_at_start, given.ensure_at_start);
        put(&mut self.exit_wait, given.exit_wait.and_then(|s| Duration::try_from_secs_f64(s).ok()));
        if self.environment_last {
            return self.with_env();
        }
        self
    }

    fn with_variables(mut self, variable: &dyn Fn(&str) -> Result<String, VarError>) -> Self {
        let get = |name: &str| variable(name).ok().filter(|value| !value.is_empty());
        if let Some(value) = get("MLX_SIDECAR_PROGRAM") {
            self.program = Some(value.into());
        }
        if let Some(value) = get("MLX_SIDECAR_STATE_DIR") {
            self.state_dir = Some(value.into());
        }
        if let Some(value) = get("MLX_SIDECAR_DATA_DIR") {
            self.data_dir = Some(value.into());
        }
        for (name, use_it) in [
            (
                "MLX_SIDECAR_PORT",
                &mut (|c: &mut Config, v: &str| v.parse().map(|n| c.port = n).is_ok())
                    as &mut dyn FnMut(&mut Config, &str) -> bool,
            ),
            ("MLX_SIDECAR_GRACE_TIME", &mut |c, v| v.parse().map(|n| c.grace_time = n).is_ok()),
        ] {
            if let Some(value) = get(name) {
                if !use_it(&mut self, &value) {
                    tracing::warn!("{name}={value}: not a number; it is left alone");
                }
            }
        }
        self
    }

    /// The host's configuration. `resources`: the app's resource folder; `beside`: the folder of its program.
    pub(crate) fn host(&self, resources: Option<&Path>, beside: Option<&Path>) -> Result<HostConfig, Error> {
        let (program, folder) = match &self.program {
            Some(program) => (program.clone(), None),
            None => locate(resources, beside)?,
        };
        let in_resources = |path: &Path| resources.map_or_else(|| path.to_owned(), |root| root.join(path));
        // Lent, not handed over: what users install goes into a folder of theirs, which no update replaces.
        let bundled = self.data_dir.as_deref().map(in_resources).filter(|path| path.is_dir());
        let mut env = self.env.clone();
        if let Some(folder) = folder {
            env.push((APP_DIR.to_owned(), folder.to_string_lossy().into_owned()));
        }
        let launch = LaunchSpec {
            command: vec![program.to_string_lossy().into_owned()],
            port: self.port,
            grace_time: self.grace_time,
            model: self.model.clone(),
            model_dirs: self.model_dirs.iter().map(|path| in_resources(path)).collect(),
            bundled_data_dirs: bundled.into_iter().collect(),
            extra_args: self.extra_args.clone(),
            env,
            ..LaunchSpec::default()
        };
        let mut config = HostConfig {
            launch,
            min_version: self.min_version.clone(),
            capabilities: self.capabilities.clone(),
            ..HostConfig::default()
        };
        if let Some(state_dir) = &self.state_dir {
            config.state_dir.clone_from(state_dir);
        }
        Ok(config)
    }
}

/// The program to start, and the frozen folder to tell the launcher of.
///
/// The launcher beside the app's program (`externalBin`) comes first: it is what the bundler signed with the app.
fn locate(resources: Option<&Path>, beside: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>), Error> {
    let mut folders: Vec<PathBuf> = resources.iter().map(|root| root.join(NAME)).collect();
    if tauri::is_dev() {
        // `tauri dev` runs in src-tauri.
        folders.push(Path::new("sidecar").join(NAME));
    }
    let folder = folders.iter().find(|path| path.join(NAME).is_file()).and_then(|path| path.canonicalize().ok());
    let launcher = beside.map(|place| place.join(NAME)).filter(|path| path.is_file());
    match (launcher, folder) {
        (Some(launcher), Some(folder)) => Ok((launcher, Some(folder))),
        (None, Some(folder)) => Ok((folder.join(NAME), None)),
        (_, None) => {
            let looked: Vec<String> = folders.iter().map(|path| path.join(NAME).display().to_string()).collect();
            Err(Error::NotBundled(looked.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("mlx-sidecar-plugin-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("bin")).expect("a folder");
        fs::create_dir_all(path.join("lib").join(NAME)).expect("a folder");
        path.canonicalize().expect("a folder")
    }

    #[test]
    fn the_launcher_comes_first_and_is_told_the_folder() {
        let root = folder("launcher");
        let (lib, bin) = (root.join("lib"), root.join("bin"));
        fs::write(lib.join(NAME).join(NAME), "").expect("a file");
        let only_folder = Config::default().host(Some(&lib), Some(&bin)).expect("found");
        assert_eq!(only_folder.launch.command, [lib.join(NAME).join(NAME).to_string_lossy()]);
        fs::write(bin.join(NAME), "").expect("a file");
        let both = Config::default().host(Some(&lib), Some(&bin)).expect("found");
        assert_eq!(both.launch.command, [bin.join(NAME).to_string_lossy()]);
        assert_eq!(both.launch.env, [(APP_DIR.to_owned(), lib.join(NAME).to_string_lossy().into_owned())]);
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn a_missing_sidecar_names_the_places() {
        let root = folder("missing");
        let error = Config::default().host(Some(&root.join("lib")), None).expect_err("nothing there");
        assert_eq!(error.code(), "not_bundled");
        assert!(error.to_string().contains("lib/mlx-sidecar/mlx-sidecar"), "{error}");
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn models_lie_in_the_resources() {
        let root = folder("models");
        let config = Config {
            program: Some("/opt/x".into()),
            model_dirs: vec!["models".into(), "/elsewhere".into()],
            data_dir: Some("lib".into()),
            ..Config::default()
        };
        let host = config.host(Some(&root), None).expect("found");
        assert_eq!(host.launch.model_dirs, [root.join("models"), PathBuf::from("/elsewhere")]);
        assert_eq!(host.launch.bundled_data_dirs, [root.join("lib")]);
        assert_eq!(host.launch.extra_args, [""; 0], "the sidecar's own data directory is never in a bundle");
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn the_configuration_file_goes_over_the_code() {
        let text = r#"{"modelDirs": ["m"], "exitWait": 0.5, "env": {"A": "b"}, "dataDir": "starter"}"#;
        let settings: Settings = serde_json::from_str(text).expect("settings");
        let config = Config { port: 5, ..Config::default() }.with_settings(Some(settings));
        assert_eq!((config.port, config.exit_wait), (5, Duration::from_millis(500)));
        assert_eq!(config.model_dirs, [PathBuf::from("m")]);
        assert_eq!(config.env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(config.data_dir, Some("starter".into()));
        assert_eq!(Config::default().with_settings(None).exit_wait, Duration::from_secs(3));
        let wrong = serde_json::from_str::<Settings>(r#"{"modelDir": ["m"]}"#).expect_err("a misspelt name");
        assert!(wrong.to_string().contains("modelDirs"), "{wrong}");
    }

    #[test]
    fn the_environment_has_the_last_word() {
        let set = |name: &str| match name {
            "MLX_SIDECAR_PORT" => Ok("0".to_owned()),
            "MLX_SIDECAR_GRACE_TIME" => Ok("soon".to_owned()),
            "MLX_SIDECAR_STATE_DIR" => Ok("/s".to_owned()),
            _ => Err(VarError::NotPresent),
        };
        let config = Config::default().with_variables(&set);
        assert_eq!((config.port, config.grace_time), (0, LaunchSpec::default().grace_time));
        assert_eq!(config.state_dir, Some(PathBuf::from("/s")));
    }
}
