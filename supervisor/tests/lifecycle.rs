//! The lives of VMs, with a real supervisor and real sockets; only the vmm and the two services are fake.

mod fixture;
#[path = "lifecycle/sleep.rs"]
mod sleep;
#[path = "lifecycle/sound.rs"]
mod sound;
#[path = "lifecycle/warm.rs"]
mod warm;

use std::{fs, io::Read};

use casemate_api::Error;
use fixture::{Home, alive, kill, new_vm, stop, vm_name};

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_starts_is_joined_to_both_services_and_stops() {
    let home = Home::new().await;
    home.create("work").await.unwrap();
    let halted = home.vm("work").await.unwrap();
    assert_eq!(
        (halted.state.as_str(), halted.pid, halted.memory_mib),
        ("halted", 0, 512)
    );

    let client = home.client().await;
    client.start("work").await.unwrap();
    let running = home.vm("work").await.unwrap();
    assert_eq!((running.state.as_str(), running.revision), ("running", 1));
    assert!(running.id >= 3 && alive(running.pid));
    home.broker.echo("work").await;
    home.compositor.echo("work").await;
    client.start("work").await.unwrap();
    assert_eq!(
        home.vm("work").await.unwrap(),
        running,
        "a second start changes nothing"
    );

    let error = client.remove("work").await.unwrap_err();
    assert!(matches!(error, Error::WrongState(_)), "{error:?}");
    client.shutdown("work", 30).await.unwrap();
    assert_eq!(home.vm("work").await.unwrap(), halted);
    home.assert_nothing_left(&running);

    client.remove("work").await.unwrap();
    assert_eq!(home.vm("work").await, None);
    assert!(!home.definition("work").exists());
    assert!(!home.path("data/casemate/vms/work").exists());
    assert!(matches!(
        client.start("work").await,
        Err(Error::NotFound(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_vm_says_of_updates_is_kept_for_its_template() {
    let home = Home::new().await;
    home.create("work").await.unwrap();
    let client = home.client().await;
    let told = async || {
        let templates = home.client().await.templates().await.unwrap();
        (templates[0].updates, templates[0].updates_told > 0)
    };
    let early = client.note_updates("work", 3).await;
    assert!(matches!(early, Err(Error::WrongState(_))), "{early:?}");
    assert_eq!(told().await, (0, false));
    client.start("work").await.unwrap();
    client.note_updates("work", 3).await.unwrap();
    assert_eq!(told().await, (3, true));
    client.note_updates("work", 0).await.unwrap();
    assert_eq!(told().await, (0, true));
    client.note_updates("work", 7).await.unwrap();
    home.kill_supervisor();
    home.start_supervisor().await;
    assert_eq!(told().await, (7, true), "also after a restart");
    // A new revision has other updates, and a VM of the old one knows nothing of them.
    home.make_template();
    assert_eq!(told().await, (0, false));
    let client = home.client().await;
    client.note_updates("work", 7).await.unwrap();
    assert_eq!(told().await, (0, false));
    client.kill("work").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_starts_the_vm_and_gets_its_stream() {
    let home = Home::new().await;
    home.create("work").await.unwrap();
    let client = home.client().await;
    let stream = client.run_command("work", "", "uname -a").await.unwrap();
    let mut text = String::new();
    fs::File::from(std::os::fd::OwnedFd::from(stream))
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "work:uname -a");
    assert_eq!(home.vm("work").await.unwrap().state, "running");
    client.kill("work").await.unwrap();
    assert_eq!(home.vm("work").await.unwrap().state, "halted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_that_dies_is_a_crash_with_a_reason_and_the_vm_starts_again() {
    let home = Home::new().await;
    home.create("work").await.unwrap();
    let client = home.client().await;
    client.start("work").await.unwrap();
    let before = home.vm("work").await.unwrap();
    kill(before.pid);
    let crashed = home.until("work", "crashed").await;
    assert!(
        crashed.problem.contains("without a word"),
        "{}",
        crashed.problem
    );
    home.assert_nothing_left(&before);
    client.start("work").await.unwrap();
    let after = home.vm("work").await.unwrap();
    assert_eq!(
        (after.state.as_str(), after.problem.as_str()),
        ("running", "")
    );
    assert!(after.id > before.id, "ids are not used again");
    client.kill("work").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_names_make_nothing() {
    let home = Home::new().await;
    let before = home.everything();
    for name in [
        "",
        ".",
        "..",
        "../work",
        "a/b",
        "/etc",
        "a\nb",
        "a b",
        "-rf",
        "w\u{f6}rk",
        &"a".repeat(65),
    ] {
        let error = home.create(name).await.unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{name:?}: {error:?}");
        home.client().await.start(name).await.unwrap_err();
        home.client().await.remove(name).await.unwrap_err();
    }
    assert_eq!(home.everything(), before);
}

/// Whatever is planted at a path that a start uses, it fails, says which path it was, and touches nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_where_a_start_writes_is_refused() {
    let home = Home::new().await;
    home.create("work").await.unwrap();
    let outside = home.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "precious").unwrap();
    for below in [
        "state/casemate/logs/work.ring",
        "state/casemate/logs/work.vmm.log",
        "runtime/casemate/vms/work",
    ] {
        let path = home.path(below);
        for plant in PLANTS {
            plant(&outside, &path);
            let error = home.client().await.start("work").await.unwrap_err();
            let text = format!("{error:?}");
            assert!(!text.is_empty());
            assert_eq!(
                home.vm("work").await.unwrap().state,
                "halted",
                "{below}: {text}"
            );
            let victim = fs::read_to_string(outside.join("victim")).unwrap();
            assert_eq!(victim, "precious", "{below}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{below}");
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
        }
    }
    home.client().await.start("work").await.unwrap();
    home.client().await.kill("work").await.unwrap();
}

/// Puts something at a path that is not what belongs there.
type Plant = fn(&std::path::Path, &std::path::Path);

const PLANTS: [Plant; 4] = [
    |outside, path| std::os::unix::fs::symlink(outside.join("victim"), path).expect("planted"),
    |outside, path| std::os::unix::fs::symlink(outside, path).expect("planted"),
    |outside, path| std::os::unix::fs::symlink(outside.join("made"), path).expect("planted"),
    |_, path| {
        let mode = rustix::fs::Mode::from(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("planted");
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_inherits_neither_environment_nor_descriptors_of_whoever_starts_the_supervisor() {
    let home = Home::without_supervisor();
    let (left_open, _other) = std::io::pipe().unwrap();
    home.start_supervisor_with(&left_open, &[("LD_BIND_NOW", "1"), ("SECRET", "x")])
        .await;
    home.create("work").await.unwrap();
    home.client().await.start("work").await.unwrap();
    let vm = home.vm("work").await.unwrap();
    let environment = fs::read_to_string(format!("/proc/{}/environ", vm.pid)).unwrap();
    for variable in environment.split_terminator('\0') {
        assert!(variable.starts_with("RUST_"), "{variable}");
    }
    let pipe = fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&left_open)
    ))
    .unwrap();
    let open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", vm.pid))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(!open.is_empty() && !open.contains(&pipe), "{open:?}");
    home.client().await.kill("work").await.unwrap();
}

/// Where control groups of version 1 can be made; on version 2 tests have no group of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_is_in_a_group_of_its_own_that_goes_with_it() {
    let home = Home::new().await;
    for name in ["one", "two"] {
        home.create(name).await.unwrap();
        home.client().await.start(name).await.unwrap();
    }
    let one = home.vm("one").await.unwrap();
    for group in home.groups() {
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let is_of_one = group.to_string_lossy().ends_with("-one");
        let has_one = processes.lines().any(|line| line == one.pid.to_string());
        assert_eq!(is_of_one, has_one, "{}: {processes}", group.display());
    }
    for name in ["one", "two"] {
        home.client().await.kill(name).await.unwrap();
    }
    assert_eq!(home.groups(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_that_hangs_is_ended_and_nobody_else_notices() {
    let home = Home::without_supervisor();
    home.configure("[vmm]\nsilence-s = 10\n");
    home.start_supervisor().await;
    for name in ["hung", "work"] {
        home.create(name).await.unwrap();
        home.client().await.start(name).await.unwrap();
    }
    let hung = home.vm("hung").await.unwrap();
    let work = home.vm("work").await.unwrap();
    stop(hung.pid);
    let crashed = home.until("hung", "crashed").await;
    assert!(
        crashed.problem.contains("did not answer for 10 seconds"),
        "{}",
        crashed.problem
    );
    home.assert_nothing_left(&hung);
    assert_eq!(home.vm("work").await.unwrap(), work);
    home.broker.echo("work").await;
    home.compositor.echo("work").await;
    // What hung may be started again.
    home.client().await.start("hung").await.unwrap();
    assert_eq!(home.vm("hung").await.unwrap().state, "running");
    for name in ["hung", "work"] {
        home.client().await.kill(name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ignores_the_power_button_is_killed_in_time() {
    let home = Home::new().await;
    home.create("stubborn").await.unwrap();
    let client = home.client().await;
    client.start("stubborn").await.unwrap();
    let running = home.vm("stubborn").await.unwrap();
    client.shutdown("stubborn", 1).await.unwrap();
    assert_eq!(home.vm("stubborn").await.unwrap().state, "halted");
    home.assert_nothing_left(&running);
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_outlive_their_supervisor() {
    let home = Home::new().await;
    for name in ["work", "vault", "ended"] {
        home.create(name).await.unwrap();
        home.client().await.start(name).await.unwrap();
    }
    let disposable = home
        .client()
        .await
        .create_disposable("work", "")
        .await
        .unwrap();
    let before = home.client().await.list().await.unwrap();
    home.kill_supervisor();
    let ended = before.iter().find(|vm| vm.name == "ended").unwrap();
    kill(ended.pid);
    home.end_service("broker").await;
    home.start_broker();
    home.start_supervisor().await;
    home.until("ended", "crashed").await;

    for name in ["work", "vault", &disposable] {
        let vm = home.until(name, "running").await;
        assert!(alive(vm.pid));
        assert_eq!(Some(&vm), before.iter().find(|vm| vm.name == name));
        // The broker is another one: the link that it gets is new. The compositor kept its own.
        home.broker.echo(name).await;
        home.compositor.echo(name).await;
    }
    let client = home.client().await;
    client.shutdown("work", 30).await.unwrap();
    client.kill("vault").await.unwrap();
    client.destroy_disposable(&disposable).await.unwrap();
    for vm in &before {
        home.assert_nothing_left(vm);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_come_back_get_their_vms_again() {
    let home = Home::new().await;
    home.create("work").await.unwrap();
    home.client().await.start("work").await.unwrap();
    for name in ["broker", "compositor"] {
        home.end_service(name).await;
    }
    home.start_broker();
    home.start_compositor();
    home.broker.echo("work").await;
    home.compositor.echo("work").await;
    home.client().await.kill("work").await.unwrap();

    // Without its window memory, which went with the first supervisor, a VM cannot be shown again; it says so.
    home.client().await.start("work").await.unwrap();
    home.kill_supervisor();
    home.end_service("compositor").await;
    home.start_compositor();
    home.start_supervisor().await;
    let began = std::time::Instant::now();
    loop {
        let vm = home.vm("work").await.unwrap();
        assert_eq!(vm.state, "running");
        if vm.problem.contains("restart the VM") {
            break;
        }
        assert!(began.elapsed().as_secs() < 30, "{vm:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    home.client().await.kill("work").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_creators_one_wins() {
    let home = Home::new().await;
    let mut creators = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = home.client().await;
        creators.spawn(async move { client.create(new_vm("work")).await });
    }
    let results = creators.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(error, Error::WrongState(_)), "{error:?}");
    }
    assert_eq!(home.client().await.list().await.unwrap().len(), 1);
    assert!(!home.path("state/casemate/pending/work.pending").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_created_leaves_nothing() {
    let home = Home::new().await;
    let client = home.client().await;
    let with = |change: fn(&mut casemate_api::NewVm)| {
        let mut vm = new_vm("work");
        change(&mut vm);
        client.create(vm)
    };
    assert!(matches!(
        with(|vm| vm.name = "../x".to_owned()).await,
        Err(Error::Usage(_))
    ));
    assert!(matches!(
        with(|vm| vm.name = "dom0".to_owned()).await,
        Err(Error::Usage(_))
    ));
    assert!(matches!(
        with(|vm| vm.label = "pink".to_owned()).await,
        Err(Error::Usage(_))
    ));
    assert!(matches!(
        with(|vm| vm.vcpus = 200).await,
        Err(Error::Usage(_))
    ));
    assert!(matches!(
        with(|vm| vm.template = "none-such".to_owned()).await,
        Err(Error::NotFound(_))
    ));
    assert!(matches!(
        with(|vm| vm.name = "debian-12".to_owned()).await,
        Err(Error::WrongState(_))
    ));
    assert!(client.list().await.unwrap().is_empty());
    assert_eq!(
        fs::read_dir(home.path("data/casemate/vms"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_definition_is_shown_with_its_line_and_spoils_no_other() {
    let home = Home::new().await;
    home.create("good").await.unwrap();
    home.create("bad").await.unwrap();
    fs::write(
        home.definition("bad"),
        "template = \"debian-12\"\nlabel = \"blue\"\nvcpu = 2\n",
    )
    .unwrap();
    let bad = home.vm("bad").await.unwrap();
    let place = format!(
        "{}:3: unknown field `vcpu`",
        home.definition("bad").display()
    );
    assert!(bad.problem.contains(&place), "{}", bad.problem);
    let Err(Error::Failed(text)) = home.client().await.start("bad").await else {
        panic!("a VM with a broken definition started");
    };
    assert!(text.contains(&place), "{text}");
    home.client().await.start("good").await.unwrap();
    home.client().await.kill("good").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_that_cannot_start_says_why() {
    let home = Home::new().await;
    home.create("nokvm").await.unwrap();
    let Err(Error::NoResources(text)) = home.client().await.start("nokvm").await else {
        panic!("a VM started without KVM");
    };
    assert!(text.contains("/dev/kvm is missing"), "{text}");
    let vm = home.vm("nokvm").await.unwrap();
    assert_eq!((vm.state.as_str(), vm.problem), ("halted", text));
    assert!(!home.path("state/casemate/run/nokvm.toml").exists());
    assert!(!home.path("runtime/casemate/vms/nokvm").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_reports_ends_the_start() {
    let home = Home::without_supervisor();
    fs::create_dir_all(home.path("config/casemate")).unwrap();
    fs::write(
        home.path("config/casemate/casemate.toml"),
        "[start]\ntimeout-s = 3\n",
    )
    .unwrap();
    home.start_supervisor().await;
    home.create("silent").await.unwrap();
    let client = home.client().await;
    let (start, other) = tokio::join!(client.start("silent"), async {
        // A start that takes its time holds nothing else up, not even on the same connection.
        home.until("silent", "starting").await;
        client.label("silent").await
    });
    assert_eq!(other.unwrap(), "blue");
    let Err(Error::TimedOut(text)) = start else {
        panic!("a VM without an agent started");
    };
    assert!(text.contains("casemate logs silent"), "{text}");
    let vm = home.until("silent", "crashed").await;
    assert_eq!(vm.problem, text);
    assert_eq!((vm.pid, home.broker.attached().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disposable_leaves_nothing() {
    let home = Home::new().await;
    let client = home.client().await;
    let (name, stream) = client.call_disposable("", "qubes.OpenInVM").await.unwrap();
    let mut called = vec![0; name.len() + ":qubes.OpenInVM".len()];
    fs::File::from(std::os::fd::OwnedFd::from(stream))
        .read_exact(&mut called)
        .unwrap();
    assert_eq!(called, format!("{name}:qubes.OpenInVM").as_bytes());
    let vm = home.vm(&name).await.unwrap();
    assert_eq!(
        (vm.kind.as_str(), vm.label.as_str(), vm.state.as_str()),
        ("disposable", "red", "running")
    );
    assert!(!home.definition(&name).exists());
    assert!(matches!(
        client.remove(&name).await,
        Err(Error::WrongState(_))
    ));

    home.broker.end_call(7);
    home.until_gone(&name).await;
    home.assert_nothing_left(&vm);
    for log in [format!("{name}.ring"), format!("{name}.vmm.log")] {
        assert!(
            !home.path("state/casemate/logs").join(&log).exists(),
            "{log} is left"
        );
    }
    assert_eq!(
        fs::read_dir(home.path("data/casemate/volatile"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disposable_lives_until_its_last_bytes_are_out_or_nobody_wants_them() {
    let home = Home::new().await;
    let client = home.client().await;
    let (drained, _stream) = client.call_disposable("", "held").await.unwrap();
    let impatient = home.client().await;
    let (abandoned, stream) = impatient.call_disposable("", "held").await.unwrap();
    drop((impatient, stream));
    home.broker.end_call(7);
    // The second one's caller has gone; when it is destroyed, the supervisor knows of the end of the first call too.
    home.until_gone(&abandoned).await;
    assert_eq!(home.vm(&drained).await.unwrap().state, "running");
    home.broker.close_streams();
    home.until_gone(&drained).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_vm_cannot_fill_the_machine_with_disposables() {
    let home = Home::new().await;
    home.create("work").await.unwrap();
    let client = home.client().await;
    let mut names = Vec::new();
    for _ in 0..8 {
        names.push(client.create_disposable("work", "").await.unwrap());
    }
    let error = client.create_disposable("work", "").await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error:?}");
    let facts: serde_json::Value = serde_json::from_str(&client.facts().await.unwrap()).unwrap();
    assert_eq!(facts["domains"][&names[0]]["type"], "DispVM");
    assert_eq!(facts["domains"]["work"]["power_state"], "Halted");
    assert_eq!(facts["domains"]["work"]["default_dispvm"], "debian-12");
    assert_eq!(facts["domains"]["debian-12"]["template_for_dispvms"], true);
    for name in names {
        client.destroy_disposable(&name).await.unwrap();
        home.until_gone(&name).await;
    }
    assert!(matches!(
        client.destroy_disposable("work").await,
        Err(Error::Usage(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_was_cut_is_undone_and_damage_is_not_guessed_over() {
    let home = Home::without_supervisor();
    let state = home.path("state/casemate");
    for folder in ["pending", "run"] {
        fs::create_dir_all(state.join(folder)).unwrap();
    }
    let store = home.store_of_volumes();
    store
        .create_private(&vm_name("work"), casemate_vm::Mebibytes(16))
        .unwrap();
    fs::write(state.join("pending/work.pending"), "").unwrap();
    fs::write(state.join("run/odd.toml"), "id = \"?\"").unwrap();
    home.start_supervisor().await;
    home.create("work").await.unwrap();
    assert!(!state.join("run/odd.toml").exists());
    assert!(state.join("run/odd.broken").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_supervisor() {
    let home = Home::new().await;
    let output = home.command().output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("runs already"), "{text}");
    home.client().await.list().await.unwrap();

    let output = home
        .command()
        .env_remove("CASEMATE_ALLOW_ROOT")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = if rustix::process::geteuid().is_root() {
        "needs no root"
    } else {
        "runs already"
    };
    assert!(text.contains(expected), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_knows_tags_at_once_and_disposables_have_those_of_their_template() {
    let home = Home::without_supervisor();
    fs::create_dir_all(home.path("config/casemate")).unwrap();
    fs::write(
        home.path("config/casemate/casemate.toml"),
        "[template.debian-12]\ntags = [\"plain\"]\n",
    )
    .unwrap();
    home.start_supervisor().await;
    let client = home.client().await;
    let mut vm = new_vm("work");
    vm.tags = vec!["office".to_owned()];
    client.create(vm).await.unwrap();
    client.start("work").await.unwrap();
    let tags = async |name: &str| {
        let facts: serde_json::Value =
            serde_json::from_str(&client.facts().await.unwrap()).unwrap();
        facts["domains"][name]["tags"].to_string()
    };
    assert_eq!(tags("work").await, r#"["office"]"#);
    let now = client.tag("work", &["bank"], &["office"]).await.unwrap();
    assert_eq!(now, ["bank"]);
    assert_eq!(tags("work").await, r#"["bank"]"#);
    assert_eq!(home.vm("work").await.unwrap().tags, ["bank"]);
    // While a definition is broken nothing can be decided about its VM: tags that were taken off must not come back.
    fs::write(home.definition("work"), "template = 5\n").unwrap();
    assert_eq!(tags("work").await, "null");
    let vm = home.vm("work").await.unwrap();
    assert!(vm.pid != 0 && vm.problem.contains("work.toml:1"), "{vm:?}");
    client.tag("work", &["bank"], &[]).await.unwrap_err();
    let disposable = client.create_disposable("", "").await.unwrap();
    assert_eq!(tags(&disposable).await, r#"["plain"]"#);
    assert_eq!(tags("debian-12").await, r#"["plain"]"#);
    let wrong = client.tag(&disposable, &["office"], &[]).await;
    assert!(matches!(wrong, Err(Error::NotFound(_))), "{wrong:?}");
    client.kill("work").await.unwrap();
    client.destroy_disposable(&disposable).await.unwrap();
}
