//! A file of one VM opened in another one, with both agents, the tools and the service as they are.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Child,
};

use support::{
    children,
    copies::{DIRECTORY, END, LINK, entry, file},
    pair::Pair,
    wait_until,
};

/// Two VMs, of which the called one has a session, a type of files, and an editor for it.
struct Desk {
    pair: Pair,
    document: PathBuf,
}

/// Says that everything is of one type, and which entry opens what.
const XDG_MIME: &str = r#"#!/bin/sh
case "$2 $3" in
    "filetype "*) echo text/plain ;;
    "default text/plain") echo editor.desktop ;;
    "default x-scheme-handler/https") echo browser.desktop ;;
esac
"#;

impl Desk {
    /// `editor` is a shell script that has the file in `$1`.
    fn new(editor: &str) -> Self {
        let pair = Pair::start();
        let there = pair.callee.dir.path();
        for name in ["run", "bin", "home/.local/share/applications"] {
            fs::create_dir_all(there.join(name)).unwrap();
        }
        fs::write(there.join("run/wayland-0"), "").unwrap();
        let script = |path: &Path, text: &str| {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        script(&there.join("bin/xdg-mime"), XDG_MIME);
        let log = there.join("log").display().to_string();
        script(
            &there.join("bin/editor"),
            &format!(
                "#!/bin/sh\necho \"$1 $(stat -c %a \"$1\" 2>/dev/null)\" >> {log}\n{editor}\n"
            ),
        );
        for name in ["editor", "browser"] {
            let program = there.join("bin/editor").display().to_string();
            let entry = format!("[Desktop Entry]\nExec={program} %u\n");
            let path = format!("home/.local/share/applications/{name}.desktop");
            fs::write(there.join(path), entry).unwrap();
        }
        for service in ["qubes.OpenInVM", "qubes.OpenURL"] {
            let text = format!(
                "#!/bin/sh\nexport HOME={0}/home XDG_RUNTIME_DIR={0}/run PATH={0}/bin:$PATH\nexec {1} service {service}\n",
                there.display(),
                env!("CARGO_BIN_EXE_casemate-agent"),
            );
            pair.callee.service(service, &text);
        }
        let document = pair.caller.dir.path().join("notes \u{202e}.txt");
        fs::write(&document, "first").unwrap();
        fs::set_permissions(&document, fs::Permissions::from_mode(0o640)).unwrap();
        Self { pair, document }
    }

    fn open(&mut self, arguments: &[&str]) -> Child {
        let document = self.document.to_str().unwrap().to_owned();
        self.pair.call(&[arguments, &[&document]].concat())
    }

    /// What the tool said and its exit code; both ends are over, and nothing is left in the called VM.
    fn over(&mut self, tool: Child) -> (String, Option<i32>) {
        let ended = tool.wait_with_output().unwrap();
        self.pair.over();
        self.is_clean();
        (
            String::from_utf8(ended.stderr).unwrap(),
            ended.status.code(),
        )
    }

    fn is_clean(&self) {
        let pid = self.pair.callee.pid();
        wait_until("no process is left", || children(pid).is_empty());
        let run = self.pair.callee.dir.path().join("run");
        let left = |entry: fs::DirEntry| entry.file_name().to_string_lossy().contains("open");
        let left = fs::read_dir(run)
            .unwrap()
            .flatten()
            .filter(|_| true)
            .any(left);
        assert!(!left, "the received file is left");
        let own = self.document.parent().unwrap();
        let beside = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
        assert!(!fs::read_dir(own).unwrap().flatten().any(beside));
    }

    fn content(&self) -> String {
        fs::read_to_string(&self.document).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.pair.callee.dir.path().join("log")).unwrap_or_default()
    }
}

#[test]
fn a_file_that_was_edited_comes_back() {
    let mut desk = Desk::new("echo second > \"$1\"");
    let tool = desk.open(&["qvm-open-in-vm", "vault"]);
    assert_eq!(desk.over(tool), (String::new(), Some(0)));
    assert_eq!(desk.content(), "second\n");
    let mode = fs::metadata(&desk.document).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o640);
    // What cannot be shown is not in the name there.
    assert!(desk.log().ends_with("/notes _.txt 600\n"), "{}", desk.log());
    let tool = desk.open(&["qvm-open-in-dvm"]);
    assert_eq!(desk.over(tool).1, Some(0));
}

#[test]
fn editors_that_save_by_renaming_are_understood() {
    let mut desk = Desk::new("echo third > \"$1~\"; mv \"$1~\" \"$1\"");
    let tool = desk.open(&["qvm-open-in-dvm"]);
    assert_eq!(desk.over(tool), (String::new(), Some(0)));
    assert_eq!(desk.content(), "third\n");
}

#[test]
fn a_file_that_was_not_changed_stays_as_it_is() {
    let mut desk = Desk::new("cat \"$1\" > /dev/null; exit 3");
    let before = fs::metadata(&desk.document).unwrap();
    let tool = desk.open(&["qvm-open-in-vm", "vault"]);
    assert_eq!(desk.over(tool), (String::new(), Some(3)));
    let after = fs::metadata(&desk.document).unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec(), before.ctime_nsec()),
        (after.ino(), after.mtime_nsec(), after.ctime_nsec())
    );
}

#[test]
fn what_is_only_looked_at_never_comes_back() {
    for arguments in [
        &["qvm-open-in-vm", "--view-only", "vault"][..],
        &["qvm-open-in-dvm", "--view-only"],
    ] {
        // Rights are no bar to root, so this editor does change it.
        let mut desk = Desk::new("chmod 600 \"$1\"; echo second > \"$1\"");
        let tool = desk.open(arguments);
        assert_eq!(desk.over(tool), (String::new(), Some(0)));
        assert_eq!(desk.content(), "first");
        assert!(desk.log().ends_with(" 400\n"), "{}", desk.log());
    }
}

#[test]
fn an_original_that_changed_meanwhile_is_kept() {
    let mut desk = Desk::new("echo theirs > \"$1\"; echo mine > \"$(cat \"$HOME/victim\")\"");
    let victim = desk.pair.callee.dir.path().join("home/victim");
    fs::write(victim, desk.document.to_str().unwrap()).unwrap();
    let tool = desk.open(&["qvm-open-in-vm", "vault"]);
    let (said, code) = desk.over(tool);
    assert_eq!(code, Some(1));
    assert!(said.contains("changed or removed meanwhile"), "{said}");
    assert_eq!(desk.content(), "mine\n");
    let mut returned = desk.document.clone().into_os_string();
    returned.push(".returned");
    assert_eq!(fs::read_to_string(returned).unwrap(), "theirs\n");
}

#[test]
fn a_hostile_vm_gives_back_nothing_but_the_file() {
    let agent = env!("CARGO_BIN_EXE_casemate-agent");
    let name = b"notes _.txt";
    for (what, answer) in [
        ("a link", entry(name, LINK, b"/etc/passwd")),
        ("a directory", entry(name, DIRECTORY, b"")),
        ("another file", file(".bashrc", b"echo")),
        ("a path", file("../notes _.txt", b"echo")),
        ("no end", file("notes _.txt", b"second")[..40].to_vec()),
        ("nonsense", vec![0xff; 4000]),
    ] {
        let mut desk = Desk::new("");
        let there = desk.pair.callee.dir.path();
        fs::write(there.join("answer"), [&answer[..], &END].concat()).unwrap();
        let text = format!(
            "#!/bin/sh\nunset QREXEC_SERVICE_ARGUMENT\n{agent} service qubes.Filecopy --incoming {0}/in\ncat {0}/answer\n",
            there.display()
        );
        desk.pair.callee.service("qubes.OpenInVM", &text);
        let tool = desk.open(&["qvm-open-in-vm", "vault"]);
        let (said, code) = desk.over(tool);
        assert_eq!(code, Some(1), "{what}: {said}");
        assert!(said.contains("it is as it was"), "{what}: {said}");
        assert_eq!(desk.content(), "first", "{what}");
        let beside = fs::read_dir(desk.document.parent().unwrap()).unwrap();
        let names: Vec<_> = beside.map(|entry| entry.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name == ".bashrc"), "{names:?}");
    }
}

#[test]
fn ends_that_are_lost_while_a_file_is_open() {
    // The tool is killed: the program there ends, the file there goes.
    let mut desk = Desk::new("echo half > \"$1\"; sleep 1000");
    let mut tool = desk.open(&["qvm-open-in-vm", "vault"]);
    let there = desk.pair.callee.dir.path().to_owned();
    wait_until("the editor runs", || there.join("log").exists());
    tool.kill().unwrap();
    tool.wait().unwrap();
    desk.pair.over();
    desk.is_clean();
    assert_eq!(desk.content(), "first");
    // The service is killed: the tool says so, the original stays.
    fs::remove_file(there.join("log")).unwrap();
    let tool = desk.open(&["qvm-open-in-vm", "vault"]);
    wait_until("the editor runs", || there.join("log").exists());
    let pid = desk.pair.callee.pid();
    for process in children(pid) {
        let number = process
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let group = nix::unistd::Pid::from_raw(number);
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let ended = tool.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(128 + 9));
    desk.pair.over();
    assert_eq!(desk.content(), "first");
    // What it left is removed by the next one.
    let tool = desk.open(&["qvm-open-in-vm", "--view-only", "vault"]);
    wait_until("the editor runs", || there.join("log").exists());
    let opened = fs::read_dir(there.join("run")).unwrap().flatten();
    let opened = opened.filter(|entry| entry.file_name().to_string_lossy().contains("open"));
    assert_eq!(opened.count(), 1);
    drop(tool);
}

#[test]
fn addresses_are_opened_if_they_name_a_page() {
    let mut desk = Desk::new("");
    let tool = desk
        .pair
        .call(&["qvm-open-in-vm", "vault", "https://example.org/a?b=c"]);
    assert_eq!(desk.over(tool), (String::new(), Some(0)));
    assert_eq!(desk.log(), "https://example.org/a?b=c \n");
    for bad in ["file:///etc/passwd", "https://exa mple.org/"] {
        let ended = desk
            .pair
            .caller
            .tool(&["qvm-open-in-dvm", bad])
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(1), "{bad}");
    }
    // A caller that checks nothing.
    let service = ["--prefix-data", "javascript:x\n", "vault", "qubes.OpenURL"];
    let mut tool = desk
        .pair
        .call(&[&["qrexec-client-vm"], &service[..]].concat());
    drop(tool.stdin.take());
    assert_eq!(desk.over(tool).1, Some(1));
    assert_eq!(desk.log().lines().count(), 1);
}
