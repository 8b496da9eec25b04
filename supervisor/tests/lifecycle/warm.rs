//! Warm images: when they are made and used, and that nothing half-made ever is, whatever dies when.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::fixture::{Home, alive, kill, until};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the broker is asked from the start of the first disposable to its image: wait for its agent; of the hidden VM wait
/// for the agent and the session; of the trial wait for the agent, give an identity, wait for the session.
const ASKED_FOR_AN_IMAGE: usize = 6;

/// What it is asked for a warm start: wait for the agent, give an identity, and the driver's wait for the agent.
const ASKED_FOR_A_WARM_START: usize = 3;

fn warm_home() -> Home {
    let home = Home::without_supervisor();
    home.configure("[disposables]\nwarm = true\n");
    home
}

/// Folders of images, and whether each is finished.
fn images(home: &Home) -> Vec<(PathBuf, bool)> {
    fs::read_dir(home.path("data/casemate/warm"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|folder| (folder.clone(), folder.join("image.json").exists()))
        .collect()
}

async fn eventually(home: &Home, what: &str, mut is: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < PATIENCE, "{what}\n{}", home.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A disposable, and the image that is made after it.
async fn disposable_and_image(home: &Home) -> String {
    let client = home.client().await;
    let name = client.create_disposable("", "").await.unwrap();
    eventually(home, "no image", async || {
        matches!(images(home).as_slice(), [(_, true)]) && records(home).len() == 1
    })
    .await;
    name
}

/// Names and pids of all VMs that have a record.
fn records(home: &Home) -> Vec<(String, u32)> {
    fs::read_dir(home.path("state/casemate/run"))
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".toml")?;
            let text = fs::read_to_string(&path).ok()?;
            let pid = text.lines().find_map(|line| line.strip_prefix("pid = "))?;
            Some((name.to_owned(), pid.parse().ok()?))
        })
        .collect()
}

/// VMs that were told who they are.
fn told(home: &Home) -> Vec<String> {
    let errands = home.broker.errands.borrow();
    let identities = errands
        .iter()
        .filter(|(_, service, _)| service == "casemate.Identity");
    identities.map(|(vm, ..)| vm.clone()).collect()
}

async fn listed(home: &Home) -> Vec<String> {
    let list = home.client().await.list().await.unwrap();
    list.into_iter().map(|vm| vm.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_disposable_goes_on_from_an_image_under_its_own_name() {
    let home = warm_home();
    home.start_supervisor().await;
    let first = disposable_and_image(&home).await;
    let trial = told(&home);
    assert_eq!(trial.len(), 1, "only the trial is told who it is");
    assert!(!trial.contains(&first));
    assert_eq!(listed(&home).await, std::slice::from_ref(&first));
    let (folder, _) = images(&home).remove(0);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }

    let client = home.client().await;
    let second = client.create_disposable("", "").await.unwrap();
    assert_eq!(told(&home), [trial[0].clone(), second.clone()]);
    {
        let errands = home.broker.errands.borrow();
        let (_, _, input) = errands.last().unwrap();
        let text = String::from_utf8(input.clone()).unwrap();
        let keys: Vec<&str> = text.lines().map(|l| l.split_once('=').unwrap().0).collect();
        assert_eq!(keys, ["name", "machine-id", "date", "seed"]);
        assert!(text.starts_with(&format!("name={second}\n")), "{text}");
        let inputs: BTreeSet<&[u8]> = errands
            .iter()
            .filter(|(_, service, _)| service == "casemate.Identity")
            .flat_map(|(_, _, input)| input.split(|byte| *byte == b'\n'))
            .filter(|line| line.starts_with(b"machine-id=") || line.starts_with(b"seed="))
            .collect();
        assert_eq!(inputs.len(), 4, "no two VMs are given the same");
    }
    let vm = home.vm(&second).await.unwrap();
    assert_eq!(vm.state, "running");
    home.broker.echo(&second).await;
    home.compositor.echo(&second).await;

    // A supervisor that is started anew keeps both the VM and the image.
    home.kill_supervisor();
    home.start_supervisor().await;
    assert_eq!(home.vm(&second).await.unwrap(), vm);
    let client = home.client().await;
    let third = client.create_disposable("", "").await.unwrap();
    assert_eq!(told(&home).last(), Some(&third));
    for name in [first, second, third] {
        client.destroy_disposable(&name).await.unwrap();
    }
    home.assert_nothing_left(&vm);
    assert_eq!(records(&home), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_an_image_who_did_not_ask_for_it() {
    let home = Home::without_supervisor();
    home.configure("[disposables]\nwarm = true\n[template.debian-12]\nwarm = false\n");
    home.start_supervisor().await;
    let client = home.client().await;
    let name = client.create_disposable("", "").await.unwrap();
    home.create("work").await.unwrap();
    client.start("work").await.unwrap();
    client.kill("work").await.unwrap();
    client.destroy_disposable(&name).await.unwrap();
    assert_eq!(images(&home), []);
    assert!(home.broker.errands.borrow().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_an_image_a_disposable_boots_and_the_image_goes() {
    let home = warm_home();
    home.start_supervisor().await;
    let client = home.client().await;
    let first = disposable_and_image(&home).await;
    let (folder, _) = images(&home).remove(0);

    // The monitor refuses it, as it does with what another build has made.
    fs::set_permissions(folder.join("state"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(folder.join("state"), "forged").unwrap();
    let told_before = told(&home).len();
    home.broker.patience.send_replace(1);
    let second = client.create_disposable("", "").await.unwrap();
    assert_eq!(told(&home).len(), told_before, "it has booted");
    assert_eq!(home.vm(&second).await.unwrap().state, "running");
    assert!(!folder.exists());
    home.broker.patience.send_replace(usize::MAX);
    eventually(&home, "no new image", async || {
        matches!(images(&home).as_slice(), [(_, true)]) && records(&home).len() == 2
    })
    .await;

    // The agent does not take the identity.
    home.broker.identity_code.send_replace(1);
    let (folder, _) = images(&home).remove(0);
    let third = client.create_disposable("", "").await.unwrap();
    let vm = home.vm(&third).await.unwrap();
    assert_eq!(vm.state, "running");
    assert_eq!(told(&home).last(), Some(&third), "it was tried");
    home.broker.echo(&third).await;
    assert!(!folder.exists());
    let running: BTreeSet<String> = [first, second, third.clone()].into();
    assert_eq!(
        running,
        records(&home).into_iter().map(|(name, _)| name).collect()
    );
    // Two came to nothing: this shape is left alone.
    let fourth = client.create_disposable("", "").await.unwrap();
    assert_eq!(images(&home), []);
    for name in running.into_iter().chain([fourth]) {
        client.destroy_disposable(&name).await.unwrap();
    }
    home.assert_nothing_left(&vm);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_with_its_revision_and_with_the_monitor_that_made_it() {
    let home = warm_home();
    home.start_supervisor().await;
    let first = disposable_and_image(&home).await;
    let (old, _) = images(&home).remove(0);
    home.make_template();
    let client = home.client().await;
    let second = client.create_disposable("", "").await.unwrap();
    assert_eq!(told(&home).len(), 1, "an older revision's is not used");
    eventually(&home, "no new image", async || {
        matches!(images(&home).as_slice(), [(folder, true)] if *folder != old)
            && records(&home).len() == 2
    })
    .await;
    for name in [first, second] {
        client.destroy_disposable(&name).await.unwrap();
    }

    // Another file of the same program is another build, as far as we can tell.
    let program = home.path("programs/casemate-vmm");
    let copy = home.path("programs/copy");
    fs::copy(&program, &copy).unwrap();
    fs::rename(&copy, &program).unwrap();
    home.kill_supervisor();
    home.start_supervisor().await;
    assert_eq!(images(&home), []);

    // What is no image at all goes too.
    home.kill_supervisor();
    let planted = home.path("data/casemate/warm/planted");
    fs::create_dir(&planted).unwrap();
    fs::write(planted.join("image.json"), "{}").unwrap();
    home.start_supervisor().await;
    assert_eq!(images(&home), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_dies_while_an_image_is_made_leaves_nothing_half_made() {
    for stage in 1..ASKED_FOR_AN_IMAGE {
        let home = warm_home();
        home.broker.patience.send_replace(stage);
        home.start_supervisor().await;
        let client = home.client().await;
        let first = client.create_disposable("", "").await.unwrap();
        until(&home.broker.stuck, |stuck| *stuck == 1).await;
        assert_eq!(
            listed(&home).await,
            std::slice::from_ref(&first),
            "the other one is hidden"
        );
        assert!(matches!(images(&home).as_slice(), [(_, false)]));
        let hidden = records(&home)
            .into_iter()
            .find(|(name, _)| *name != first)
            .unwrap();
        assert!(alive(hidden.1), "stage {stage}");
        home.kill_supervisor();
        home.broker.patience.send_replace(usize::MAX);
        home.start_supervisor().await;
        assert_eq!(images(&home), [], "stage {stage}");
        home.until_gone(&hidden.0).await;
        assert!(!alive(hidden.1), "stage {stage}");
        assert_eq!(home.vm(&first).await.unwrap().state, "running");
        let second = disposable_and_two(&home, &first).await;
        let client = home.client().await;
        for name in [first, second] {
            client.destroy_disposable(&name).await.unwrap();
        }
        assert_eq!(records(&home), []);
    }
}

/// A second disposable, which boots, and the image that is made after it.
async fn disposable_and_two(home: &Home, first: &str) -> String {
    let before = told(home).len();
    let client = home.client().await;
    let name = client.create_disposable("", "").await.unwrap();
    assert_ne!(name, first);
    eventually(home, "no image", async || {
        matches!(images(home).as_slice(), [(_, true)]) && records(home).len() == 2
    })
    .await;
    assert_eq!(told(home).len(), before + 1, "only the trial");
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_dies_in_a_warm_start_leaves_no_vm_that_does_not_know_who_it_is() {
    let home = warm_home();
    home.start_supervisor().await;
    let first = disposable_and_image(&home).await;
    for stage in 0..ASKED_FOR_A_WARM_START {
        let stuck = *home.broker.stuck.borrow();
        home.broker.patience.send_replace(stage);
        let client = home.client().await;
        let waiting = tokio::spawn(async move { client.create_disposable("", "").await });
        until(&home.broker.stuck, |now| *now > stuck).await;
        let (name, pid) = records(&home)
            .into_iter()
            .find(|(name, _)| *name != first)
            .unwrap();
        home.kill_supervisor();
        assert!(waiting.await.unwrap().is_err());
        home.broker.patience.send_replace(usize::MAX);
        home.start_supervisor().await;
        let client = home.client().await;
        if stage < ASKED_FOR_A_WARM_START - 1 {
            home.until_gone(&name).await;
            assert!(!alive(pid), "stage {stage}");
        } else {
            // It knows, so it is a VM as any other.
            home.until(&name, "running").await;
            client.destroy_disposable(&name).await.unwrap();
        }
        assert!(matches!(images(&home).as_slice(), [(_, true)]));
        let next = client.create_disposable("", "").await.unwrap();
        assert_eq!(told(&home).last(), Some(&next), "stage {stage}");
        client.destroy_disposable(&next).await.unwrap();
    }
    home.client()
        .await
        .destroy_disposable(&first)
        .await
        .unwrap();
    assert_eq!(records(&home), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_that_dies_in_the_middle_costs_a_person_only_time() {
    let home = warm_home();
    home.broker.patience.send_replace(1);
    home.start_supervisor().await;
    let client = home.client().await;
    let first = client.create_disposable("", "").await.unwrap();
    until(&home.broker.stuck, |stuck| *stuck == 1).await;
    let other = |known: &[String]| {
        let found = records(&home)
            .into_iter()
            .find(|(name, _)| !known.contains(name));
        found.unwrap()
    };
    // The hidden one.
    kill(other(std::slice::from_ref(&first)).1);
    eventually(&home, "the hidden VM stays", async || {
        images(&home).is_empty() && records(&home).len() == 1
    })
    .await;
    home.broker.patience.send_replace(usize::MAX);
    let second = disposable_and_two(&home, &first).await;
    // One that goes on from the image.
    home.broker.patience.send_replace(0);
    let waiting = tokio::spawn(async move { client.create_disposable("", "").await });
    until(&home.broker.stuck, |stuck| *stuck == 2).await;
    kill(other(&[first.clone(), second.clone()]).1);
    eventually(&home, "the image stays", async || images(&home).is_empty()).await;
    home.broker.patience.send_replace(usize::MAX);
    let third = waiting.await.unwrap().unwrap();
    assert_eq!(home.vm(&third).await.unwrap().state, "running");
    assert!(!told(&home).contains(&third), "it has booted");
    let client = home.client().await;
    for name in [first, second, third] {
        client.destroy_disposable(&name).await.unwrap();
    }
    assert_eq!(records(&home), []);
}

/// What a person, chance and the machine do to each other.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Create,
    Destroy,
    /// The process of a disposable dies.
    KillVmm,
    /// Whatever is under way is cut.
    KillSupervisor,
    NewRevision,
    /// A file of an image is changed behind our back.
    Forge,
    /// The next identity is not taken.
    RefuseIdentity,
}

const DEEDS: [Deed; 9] = [
    Deed::Create,
    Deed::Create,
    Deed::Create,
    Deed::Destroy,
    Deed::KillVmm,
    Deed::KillSupervisor,
    Deed::NewRevision,
    Deed::Forge,
    Deed::RefuseIdentity,
];

/// Numbers that look like chance and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// What must be true at any time.
async fn verify_invariants(home: &Home, known: &[String]) {
    let list = home.client().await.list().await.unwrap();
    let shown: BTreeSet<&str> = list.iter().map(|vm| vm.name.as_str()).collect();
    for name in known {
        let vm = list.iter().find(|vm| vm.name == *name);
        let vm = vm.unwrap_or_else(|| panic!("{name} is gone\n{}", home.log()));
        assert_eq!(vm.state, "running", "{name}");
        assert!(alive(vm.pid), "{name}");
    }
    // Those that a killed supervisor has left may still be ending.
    let extra = shown.len() - known.len();
    assert!(extra <= 1, "{shown:?} instead of {known:?}");
    let names: Vec<String> = told(home);
    let different: BTreeSet<&String> = names.iter().collect();
    assert_eq!(different.len(), names.len(), "told twice: {names:?}");
    let drafts = images(home).iter().filter(|(_, whole)| !whole).count();
    assert!(drafts <= 1, "one is made at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_in_whatever_order_disposables_run_and_nothing_stays() {
    for seed in 1..=4 {
        let mut dice = Dice(seed);
        let home = warm_home();
        home.start_supervisor().await;
        let mut known: Vec<String> = Vec::new();
        for _ in 0..16 {
            let deed = DEEDS[dice.below(DEEDS.len())];
            match deed {
                Deed::Create => {
                    let client = home.client().await;
                    known.push(client.create_disposable("", "").await.unwrap());
                    home.broker.identity_code.send_replace(0);
                }
                Deed::Destroy | Deed::KillVmm if known.is_empty() => {}
                Deed::Destroy => {
                    let name = known.remove(dice.below(known.len()));
                    let client = home.client().await;
                    client.destroy_disposable(&name).await.unwrap();
                }
                Deed::KillVmm => {
                    let name = known.remove(dice.below(known.len()));
                    kill(home.vm(&name).await.unwrap().pid);
                    home.until_gone(&name).await;
                }
                Deed::KillSupervisor => {
                    home.kill_supervisor();
                    home.start_supervisor().await;
                }
                Deed::NewRevision => home.make_template(),
                Deed::Forge => {
                    if let Some((folder, _)) = images(&home).iter().find(|(_, whole)| *whole) {
                        // It may be going at this moment.
                        let _ = fs::remove_file(folder.join("state"))
                            .and_then(|()| fs::write(folder.join("state"), "forged"));
                    }
                }
                Deed::RefuseIdentity => {
                    home.broker.identity_code.send_replace(1);
                }
            }
            verify_invariants(&home, &known).await;
        }
        for name in &known {
            home.client().await.destroy_disposable(name).await.unwrap();
        }
        home.kill_supervisor();
        home.start_supervisor().await;
        eventually(&home, "something stays", async || {
            records(&home).is_empty() && listed(&home).await.is_empty()
        })
        .await;
        assert!(images(&home).iter().all(|(_, whole)| *whole));
    }
}
