//! One window, one question: the plugin starts the sidecar or attaches to the one that runs, and lets go of it at the end.

use tauri_plugin_mlx_sidecar::Config;

fn main() {
    let built = tauri::Builder::default()
        .plugin(tauri_plugin_mlx_sidecar::init(Config::default().with_env()))
        .run(tauri::generate_context!());
    if let Err(error) = built {
        eprintln!("the app can't start: {error}");
        std::process::exit(1);
    }
}
