//! Makes the permissions of the commands.

const COMMANDS: &[&str] = &["ensure", "status", "connection", "restart", "stop", "pull", "cancel_pull"];

fn main() {
    tauri_plugin::Builder::new(COMMANDS).build();
}
