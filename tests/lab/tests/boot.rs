//! The lab itself: it boots, runs programs as a person would, has a KVM that its user may open, and a
//! screen. Everything else that is tested in a lab leans on this.

use std::time::Duration;

use casemate_lab::wire::Exit;
use casemate_lab::{Access, Drive, Lab, Options};

fn options() -> Options {
    Options {
        guest_program: Some(env!("CARGO_BIN_EXE_lab-guest").into()),
        ..Options::default()
    }
}

#[test]
fn a_lab_runs_programs_and_its_user_may_open_kvm() {
    let share = tempfile::tempdir().unwrap();
    std::fs::write(share.path().join("greeting"), "hello").unwrap();
    let lab = Lab::start(&Options {
        share: Some(share.path().to_owned()),
        ..options()
    })
    .unwrap();

    let kernel = lab.text("user", &["uname", "-rm"]).unwrap();
    assert!(
        kernel.starts_with("6.12.") && kernel.contains("x86_64"),
        "{kernel}"
    );
    let groups = lab.text("user", &["id", "-Gn"]).unwrap();
    assert_eq!(groups.split_whitespace().next(), Some("user"));
    assert!(
        groups.contains("kvm") && groups.contains("video"),
        "{groups}"
    );
    assert_eq!(
        lab.text("user", &["cat", "/payload/greeting"]).unwrap(),
        "hello"
    );

    let open = lab
        .run("user", &["sh", "-c", "exec 3<>/dev/kvm && echo opened"])
        .unwrap();
    assert_eq!(open.text(), "opened\n", "{open:?}");
    let namespaces = lab
        .text(
            "user",
            &["unshare", "--user", "--map-root-user", "id", "-u"],
        )
        .unwrap();
    assert_eq!(namespaces, "0\n");

    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 4])
        .collect();
    let copy = lab
        .command("user", &["cat"])
        .stdin(bytes.clone())
        .run()
        .unwrap();
    assert!(
        copy.stdout == bytes,
        "{} bytes came back",
        copy.stdout.len()
    );
    lab.put("user", "/home/user/a/file", "0640", "content")
        .unwrap();
    assert_eq!(lab.get("/home/user/a/file").unwrap(), b"content");
    assert_eq!(
        lab.text("root", &["stat", "-c", "%U %a", "/home/user/a/file"])
            .unwrap(),
        "user 640\n"
    );

    let failed = lab
        .run("user", &["sh", "-c", "echo out; echo err >&2; exit 7"])
        .unwrap();
    let said = (failed.exit.clone(), failed.text(), failed.errors());
    assert_eq!(
        said,
        (Exit::Code(7), "out\n".to_owned(), "err\n".to_owned())
    );
    let absent = lab.run("root", &["/no/such/program"]).unwrap();
    assert!(matches!(absent.exit, Exit::NotStarted(_)), "{absent:?}");

    let long = lab
        .command("user", &["sh", "-c", "echo up; exec cat"])
        .spawn()
        .unwrap();
    long.wait_for_text("up", Duration::from_secs(60)).unwrap();
    assert_eq!(lab.text("user", &["echo", "beside"]).unwrap(), "beside\n");
    long.signal(15).unwrap();
    assert_eq!(
        long.wait(Duration::from_secs(60)).unwrap().exit,
        Exit::Signal(15)
    );

    // A daemon whose parent has gone is collected: its number does not stay taken.
    let daemon = "sh -c 'exec true' & echo $!";
    let number = lab
        .text(
            "user",
            &[
                "sh",
                "-c",
                &format!("({daemon}) > /tmp/number; cat /tmp/number"),
            ],
        )
        .unwrap();
    let gone = |pid: &str| format!("[ -d /proc/{} ] || echo gone", pid.trim());
    let waited = lab.wait_for(
        "user",
        &["sh", "-c", &gone(&number)],
        Duration::from_secs(60),
        |output| output.text() == "gone\n",
    );
    waited.unwrap();
    lab.shut_down().unwrap();
}

#[test]
fn a_lab_writes_to_a_layer_and_leaves_the_image_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("greeting"), "hello").unwrap();
    let image = folder.path().join("disk.img");
    let mut make = std::process::Command::new("/usr/sbin/mke2fs");
    let made = make
        .args(["-q", "-t", "ext4", "-d"])
        .args([&tree, &image])
        .arg("16M")
        .status();
    assert!(made.unwrap().success());
    let before = std::fs::read(&image).unwrap();

    let drive = Drive {
        name: "data".to_owned(),
        path: image.clone(),
        access: Access::Layer,
    };
    let lab = Lab::start(&Options {
        drives: vec![drive],
        ..options()
    })
    .unwrap();
    lab.mount("data", "/mnt/data", "rw").unwrap();
    let text =
        "cat /mnt/data/greeting; echo changed > /mnt/data/greeting; sync; cat /mnt/data/greeting";
    assert_eq!(
        lab.text("root", &["sh", "-c", text]).unwrap(),
        "hellochanged\n"
    );
    drop(lab);
    assert!(
        std::fs::read(&image).unwrap() == before,
        "the image was written to"
    );
}

#[test]
fn a_lab_has_a_screen_a_keyboard_and_a_pointer() {
    let lab = Lab::start(&Options {
        graphics: Some((1280, 800)),
        ..options()
    })
    .unwrap();
    let nodes = lab
        .text("user", &["sh", "-c", "ls /dev/dri/card* /run/seatd.sock"])
        .unwrap();
    assert!(nodes.contains("card") && nodes.contains("seatd"), "{nodes}");

    // The kernel's own console: a text on it is a picture that is not blank.
    lab.run("root", &["sh", "-c", "echo 'this is the lab' > /dev/tty1"])
        .unwrap();
    let screen = lab.screen();
    let picture = screen
        .wait_for("text", Duration::from_secs(60), |picture| {
            !picture.is_blank()
        })
        .unwrap();
    assert_eq!((picture.width, picture.height), (1280, 800));

    // What the person does arrives at the devices that libinput reads, and the user may read them.
    // The shell opens them before it says so: an event is only kept for those who have it open.
    let readers = "for device in /dev/input/event*; do \
                   exec {input}<$device; cat <&$input & done; echo up; wait";
    let events = lab
        .command("user", &["bash", "-c", readers])
        .spawn()
        .unwrap();
    events.wait_for_text("up", Duration::from_secs(60)).unwrap();
    screen.type_text("a").unwrap();
    screen.click(640, 400).unwrap();
    let wanted = [(KEY, KEY_A), (KEY, BUTTON_LEFT), (ABSOLUTE, 0)];
    let mut bytes = Vec::new();
    loop {
        let seen = input_events(&bytes);
        if wanted.iter().all(|event| seen.contains(event)) {
            break;
        }
        let output = events.next_output(Duration::from_secs(60)).unwrap();
        let said = output.unwrap_or_else(|| panic!("only {seen:?} came"));
        let errors = String::from_utf8_lossy(&said.stderr);
        assert_eq!((errors.as_ref(), &said.exit), ("", &None));
        bytes.extend(said.stdout);
    }
}

/// Type and code of each `struct input_event` (two words of time, type, code, value) after "up".
fn input_events(bytes: &[u8]) -> Vec<(u16, u16)> {
    let events = bytes
        .strip_prefix(b"up\n")
        .unwrap_or_default()
        .chunks_exact(24);
    let number = |event: &[u8], at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
    events
        .map(|event| (number(event, 16), number(event, 18)))
        .collect()
}

/// Event types and codes of linux/input-event-codes.h.
const KEY: u16 = 1;
const ABSOLUTE: u16 = 3;
const KEY_A: u16 = 30;
const BUTTON_LEFT: u16 = 0x110;
