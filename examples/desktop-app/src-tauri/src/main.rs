//! The example app's Rust: the plugin, a tray, one instance. Everything else is the page's.

use serde::Deserialize;
use tauri::menu::{Menu, MenuItem, PredefinedMenuItem};
use tauri::tray::TrayIconBuilder;
use tauri::{App, AppHandle, Listener, Manager, Runtime};
use tauri_plugin_mlx_sidecar::{Config, MlxSidecarExt, STATE};

/// The part of a state event that the tray shows.
#[derive(Deserialize)]
struct State {
    phase: String,
}

#[tauri::command]
fn quit(app: AppHandle) {
    app.exit(0);
}

fn show<R: Runtime>(app: &AppHandle<R>) {
    if let Some(window) = app.get_webview_window("main") {
        for result in [window.show(), window.unminimize(), window.set_focus()] {
            if let Err(error) = result {
                tracing::warn!("the window can't be shown: {error}");
            }
        }
    }
}

fn tray(app: &App) -> tauri::Result<()> {
    let state = MenuItem::with_id(app, "state", "Sidecar: starting", false, None::<&str>)?;
    let show_item = MenuItem::with_id(app, "show", "Show", true, None::<&str>)?;
    let hide = MenuItem::with_id(app, "hide", "Hide", true, None::<&str>)?;
    let restart = MenuItem::with_id(app, "restart", "Restart the sidecar", true, None::<&str>)?;
    let quit = MenuItem::with_id(app, "quit", "Quit", true, None::<&str>)?;
    let line = PredefinedMenuItem::separator(app)?;
    let menu = Menu::with_items(app, &[&state, &show_item, &hide, &restart, &line, &quit])?;
    let mut tray = TrayIconBuilder::with_id("main").menu(&menu).tooltip("mlx-sidecar").on_menu_event(|app, event| {
        match event.id().as_ref() {
            "show" => show(app),
            "hide" => {
                if let Some(Err(error)) = app.get_webview_window("main").map(|window| window.hide()) {
                    tracing::warn!("the window can't be hidden: {error}");
                }
            }
            "restart" => {
                let sidecar = app.mlx_sidecar();
                // A failure reaches the page as the state.
                tauri::async_runtime::spawn_blocking(move || drop(sidecar.restart(false)));
            }
            "quit" => app.exit(0),
            _ => {}
        }
    });
    if let Some(icon) = app.default_window_icon() {
        tray = tray.icon(icon.clone());
    }
    tray.build(app)?;
    app.listen_any(STATE, move |event| {
        if let Ok(now) = serde_json::from_str::<State>(event.payload()) {
            if let Err(error) = state.set_text(format!("Sidecar: {}", now.phase)) {
                tracing::debug!("the tray keeps its text: {error}");
            }
        }
    });
    Ok(())
}

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = Config { data_dir: Some("starter".into()), ensure_at_start: true, ..Config::default() }.with_env();
    let built = tauri::Builder::default()
        .plugin(tauri_plugin_single_instance::init(|app, _, _| show(app)))
        .plugin(tauri_plugin_mlx_sidecar::init(config))
        .invoke_handler(tauri::generate_handler![quit])
        .setup(|app| Ok(tray(app)?))
        .run(tauri::generate_context!());
    if let Err(error) = built {
        tracing::error!("the app can't start: {error}");
        std::process::exit(1);
    }
}
