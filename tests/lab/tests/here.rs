//! Programs on this machine in place of a lab: the same calls, a home of their own, nothing left behind.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use casemate_lab::wire::Exit;
use casemate_lab::{Here, Lab};

/// Stands in for `casemate`: tells what it was asked, and has a picture.
const CASEMATE: &str = r#"#!/bin/sh
if [ "$1" = screenshot ]; then exec cat "$HOME/screen.png"; fi
echo "$*" >> "$HOME/asked"
"#;

fn here(folder: &Path) -> Lab {
    let programs = folder.join("bin");
    fs::create_dir(&programs).unwrap();
    let casemate = programs.join("casemate");
    fs::write(&casemate, CASEMATE).unwrap();
    fs::set_permissions(&casemate, fs::Permissions::from_mode(0o755)).unwrap();
    let here = Here {
        home: folder.join("home"),
        programs,
        environment: vec![("CASEMATE_COLOUR".to_owned(), "blue".to_owned())],
        guest_program: Some(env!("CARGO_BIN_EXE_lab-guest").into()),
    };
    Lab::start_here(&here).unwrap()
}

#[test]
fn programs_run_in_a_home_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let lab = here(folder.path());
    let line = "pwd; echo $HOME $CASEMATE_COLOUR ${XDG_DATA_HOME-none}; stat -c %a $XDG_RUNTIME_DIR; exit 3";
    let output = lab.run("user", &["sh", "-c", line]).unwrap();
    let home = folder.path().join("home").display().to_string();
    assert_eq!(lab.home(), home);
    assert_eq!(
        (output.text(), output.exit),
        (format!("{home}\n{home} blue none\n700\n"), Exit::Code(3))
    );
    lab.put("user", &format!("{home}/a/b"), "0644", "text")
        .unwrap();
    assert_eq!(lab.get(&format!("{home}/a/b")).unwrap(), b"text");
}

#[test]
fn what_a_program_leaves_running_ends_with_the_lab() {
    let folder = tempfile::tempdir().unwrap();
    let lab = here(folder.path());
    // A daemon in a session of its own, and a child of it in another.
    let line = "setsid sh -c 'setsid sleep 1000 & echo $! >pid; exec sleep 1000' >/dev/null 2>&1 & \
                until [ -s pid ]; do sleep 0.05; done; cat pid";
    let pid = lab.text("user", &["sh", "-c", line]).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    assert!(process.exists());
    lab.shut_down().unwrap();
    assert!(!process.exists());
}

#[test]
fn the_screen_is_that_of_the_compositor() {
    let folder = tempfile::tempdir().unwrap();
    let lab = here(folder.path());
    let home = folder.path().join("home");
    let file = fs::File::create(home.join("screen.png")).unwrap();
    let mut encoder = png::Encoder::new(file, 2, 1);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[1, 2, 3, 4, 5, 6]).unwrap();
    writer.finish().unwrap();
    let screen = lab.screen();
    assert_eq!(screen.picture().unwrap().pixel(1, 0), Some([4, 5, 6]));
    screen.type_text("A").unwrap();
    screen.click(7, 9).unwrap();
    let asked = fs::read_to_string(home.join("asked")).unwrap();
    let expected = [
        "input key 42 down",
        "input key 30 down",
        "input key 30 up",
        "input key 42 up",
        "input motion 7 9",
        "input button 272 down",
        "input button 272 up",
    ];
    assert_eq!(asked.lines().collect::<Vec<_>>(), expected);
    assert!(screen.keys(&["hyper"]).is_err());
}
