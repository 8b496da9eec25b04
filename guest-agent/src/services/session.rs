//! The person's session in this VM: whether windows can be shown yet.

use std::{
    env,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// A session that is not there by now will not come; the program is started all the same and says so itself.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Waits until the Wayland socket exists.
pub(crate) fn wait() {
    let socket = socket();
    let deadline = Instant::now() + LONGEST_WAIT;
    while !socket.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
}

fn socket() -> PathBuf {
    let runtime = env::var_os("XDG_RUNTIME_DIR")
        .map_or_else(|| PathBuf::from("/run/user/1000"), PathBuf::from);
    runtime.join(env::var_os("WAYLAND_DISPLAY").unwrap_or_else(|| "wayland-0".into()))
}
