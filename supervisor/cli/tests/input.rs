//! `casemate input` with a compositor on a real bus that takes input, and with one that does not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use casemate_api::{Bus, Error};
use tokio::{net::UnixListener, runtime::Runtime};

#[derive(Clone, Default)]
struct Compositor {
    taken: Arc<Mutex<Vec<String>>>,
}

impl Compositor {
    fn take(&self, what: String) {
        self.taken.lock().unwrap().push(what);
    }
}

#[zbus::interface(name = "org.casemate.Compositor1")]
impl Compositor {
    async fn inject_key(&self, code: u32, pressed: bool) {
        self.take(format!("key {code} {pressed}"));
    }

    async fn inject_motion(&self, x: f64, y: f64) {
        self.take(format!("motion {x} {y}"));
    }

    async fn inject_button(&self, _code: u32, _pressed: bool) -> Result<(), Error> {
        Err(Error::WrongState("this one is not headless".to_owned()))
    }
}

fn serve(folder: &Path, compositor: Compositor) -> Runtime {
    let path = Bus::Compositor.socket(&folder.join("casemate"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(async { UnixListener::bind(&path).unwrap() });
    runtime.spawn(async move {
        let mut clients = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(connection) = Bus::Compositor.serve(stream, compositor.clone()).await {
                clients.push(connection);
            }
        }
    });
    runtime
}

fn input(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_casemate"))
        .arg("input")
        .args(words)
        .env("XDG_RUNTIME_DIR", folder)
        .output()
        .unwrap()
}

#[test]
fn keys_and_the_pointer_reach_the_compositor() {
    let folder = tempfile::tempdir().unwrap();
    let compositor = Compositor::default();
    let _runtime = serve(folder.path(), compositor.clone());
    let table: [(&[&str], i32); 6] = [
        (&["key", "30", "down"], 0),
        (&["key", "30", "up"], 0),
        (&["motion", "7.5", "9"], 0),
        (&["button", "272", "down"], 4),
        (&["key", "30", "sideways"], 2),
        (&["motion", "here", "9"], 2),
    ];
    for (words, code) in table {
        let output = input(folder.path(), words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    }
    assert_eq!(
        *compositor.taken.lock().unwrap(),
        ["key 30 true", "key 30 false", "motion 7.5 9"]
    );
}

#[test]
fn help_lists_what_people_use_only() {
    let output = Command::new(env!("CARGO_BIN_EXE_casemate"))
        .arg("--help")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\n  screenshot "), "{text}");
    assert!(!text.contains("\n  input "), "{text}");
}
