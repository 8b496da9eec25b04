//! VMs with sound: a mixer that is another process, and vmms that say what came over their sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    time::{Duration, Instant},
};

use casemate_api::{Error, NewVm};

use crate::fixture::{Home, alive, kill, new_vm};

const PATIENCE: Duration = Duration::from_secs(60);

async fn create_with_sound(home: &Home, name: &str) {
    let vm = NewVm {
        audio: true,
        ..new_vm(name)
    };
    home.client().await.create(vm).await.unwrap();
}

fn log(home: &Home, file: &str) -> String {
    fs::read_to_string(home.path("state/casemate/logs").join(file)).unwrap_or_default()
}

/// Waits until a log has a text this often.
async fn logged(home: &Home, file: &str, text: &str, times: usize) {
    let began = Instant::now();
    while log(home, file).matches(text).count() < times {
        assert!(
            began.elapsed() < PATIENCE,
            "{text} not {times} times in {file}:\n{}\n{}",
            log(home, file),
            home.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A house in which `work` runs and has recorded something.
async fn with_a_vm_that_records() -> Home {
    let home = Home::new().await;
    let client = home.client().await;
    create_with_sound(&home, "work").await;
    client.start("work").await.unwrap();
    client.grant_recording("work").await.unwrap();
    logged(&home, "work.vmm.log", "microphone 8 bytes", 1).await;
    home
}

fn mixers(home: &Home) -> Vec<u32> {
    let log = log(home, "casemate-sound.log");
    let pids = log.lines().filter_map(|line| line.strip_prefix("pid "));
    pids.map(|pid| pid.parse().unwrap()).collect()
}

async fn until_problem(home: &Home, text: &str) {
    let began = Instant::now();
    loop {
        let sound = home.client().await.sound().await.unwrap();
        if sound.problem.contains(text) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{sound:?}\n{}", home.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_with_sound_plays_and_one_without_needs_no_mixer() {
    let home = Home::new().await;
    let client = home.client().await;
    home.create("quiet").await.unwrap();
    client.start("quiet").await.unwrap();
    assert!(!client.sound().await.unwrap().mixer);
    assert!(mixers(&home).is_empty(), "a mixer that nobody needs");

    create_with_sound(&home, "work").await;
    client.start("work").await.unwrap();
    logged(&home, "work.vmm.log", "speaker heard", 1).await;
    let sound = client.sound().await.unwrap();
    assert!(sound.mixer && sound.problem.is_empty(), "{sound:?}");
    let definition = fs::read_to_string(home.definition("work")).unwrap();
    assert!(definition.contains("audio = true"), "{definition}");
    assert!(home.vm("work").await.unwrap().audio);
    assert!(!home.vm("quiet").await.unwrap().audio);
    assert_eq!(log(&home, "quiet.vmm.log"), "");

    // A second run is joined as the first was.
    client.kill("work").await.unwrap();
    client.start("work").await.unwrap();
    logged(&home, "casemate-sound.log", "Speaker(\"work\")", 2).await;
    logged(&home, "work.vmm.log", "speaker heard", 1).await;
    assert_eq!(mixers(&home).len(), 1);
    client.kill("work").await.unwrap();
    client.kill("quiet").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_to_record_lasts_until_it_is_taken_back_whatever_the_mixer_does() {
    let home = Home::new().await;
    let client = home.client().await;
    home.create("quiet").await.unwrap();
    create_with_sound(&home, "work").await;
    client.start("quiet").await.unwrap();
    for (name, kind) in [
        ("nobody", "NotFound"),
        ("quiet", "WrongState"),
        ("work", "WrongState"),
    ] {
        let error = client.grant_recording(name).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{name}: {error:?}");
    }
    assert!(mixers(&home).is_empty(), "a mixer that nobody needs");
    client.start("work").await.unwrap();
    client.revoke_recording("work").await.unwrap();
    for round in 1..3 {
        for _ in 0..2 {
            client.grant_recording("work").await.unwrap();
        }
        assert!(home.vm("work").await.unwrap().recording);
        logged(&home, "work.vmm.log", "microphone 8 bytes", round).await;
        client.revoke_recording("work").await.unwrap();
        assert!(!home.vm("work").await.unwrap().recording);
        // The mixer has kept its end open.
        logged(&home, "work.vmm.log", "microphone closed", round).await;
        logged(&home, "casemate-sound.log", "Revoke(\"work\")", round).await;
    }
    assert_eq!(
        log(&home, "casemate-sound.log").matches("Recorder").count(),
        2
    );

    // The end of the VM is the end of its grant.
    client.grant_recording("work").await.unwrap();
    client.kill("work").await.unwrap();
    client.start("work").await.unwrap();
    assert!(!home.vm("work").await.unwrap().recording);
    client.kill("work").await.unwrap();
    client.kill("quiet").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixer_that_dies_is_started_again_without_its_grants() {
    let home = with_a_vm_that_records().await;
    let client = home.client().await;
    kill(*mixers(&home).last().unwrap());
    logged(&home, "work.vmm.log", "microphone closed", 1).await;
    logged(&home, "work.vmm.log", "speaker heard", 2).await;
    assert!(!home.vm("work").await.unwrap().recording);
    assert_eq!(home.vm("work").await.unwrap().state, "running");
    assert_eq!(mixers(&home).len(), 2);
    client.grant_recording("work").await.unwrap();
    logged(&home, "work.vmm.log", "microphone 8 bytes", 2).await;
    client.kill("work").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mixer_and_grants_end_with_the_supervisor_and_the_next_one_has_its_own() {
    let home = with_a_vm_that_records().await;
    let mixer = *mixers(&home).last().unwrap();
    home.kill_supervisor();
    logged(&home, "work.vmm.log", "microphone closed", 1).await;
    let began = Instant::now();
    while alive(mixer) {
        assert!(
            began.elapsed() < PATIENCE,
            "the mixer outlives its supervisor"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    home.start_supervisor().await;
    home.until("work", "running").await;
    logged(&home, "work.vmm.log", "speaker heard", 2).await;
    assert!(!home.vm("work").await.unwrap().recording);
    home.client().await.grant_recording("work").await.unwrap();
    logged(&home, "work.vmm.log", "microphone 8 bytes", 2).await;
    home.client().await.kill("work").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mixer_or_a_sound_server_vms_run_silent_and_it_is_said_why() {
    for (manners, why, granted) in [
        ("broken", "cannot open its library", false),
        ("no-server", "PipeWire", true),
    ] {
        let home = Home::without_supervisor();
        let (unused, _other) = rustix::pipe::pipe().unwrap();
        home.start_supervisor_with(&unused, &[("CASEMATE_FAKE_MIXER", manners)])
            .await;
        let client = home.client().await;
        create_with_sound(&home, "work").await;
        client.start("work").await.unwrap();
        until_problem(&home, why).await;
        let result = client.grant_recording("work").await;
        match granted {
            true => result.unwrap(),
            false => assert!(matches!(result, Err(Error::Failed(what)) if what.contains(why))),
        }
        assert_eq!(home.vm("work").await.unwrap().state, "running");
        client.kill("work").await.unwrap();
    }
}
