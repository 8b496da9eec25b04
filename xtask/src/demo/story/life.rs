//! From nothing to two running VMs that carry out commands.

use anyhow::{Result, ensure};
use casemate_lab::wire::Exit;
use casemate_lab::{Access, Drive, Lab, Options};

use crate::demo::house::{self, House, LONG, SHORT};
use crate::demo::report::Report;
use crate::demo::{Story, native, prefix, store};
use crate::{lab, run};

/// The demo's two VMs and their labels.
pub(super) const VMS: [(&str, &str); 2] = [("work", "blue"), ("untrusted", "red")];
/// Where the user's Casemate keeps templates and volumes.
const DATA: &str = "/home/user/.local/share/casemate";
/// What is said of a guest whose kernel gave up.
const RESET: &str = "the guest asked for a reset";
/// A hundred megabytes.
const BULK: usize = 100_000_000;

pub(super) fn build(story: &mut Story, _report: &mut Report) -> Result<String> {
    prefix::lay_out(&story.prefix)?;
    Ok(story.prefix.display().to_string())
}

pub(super) fn template(story: &mut Story, _report: &mut Report) -> Result<String> {
    if story.stage.native() {
        let how = native::template(&story.prefix)?;
        return Ok(format!("{} {how}", store::TEMPLATE));
    }
    let (image, how) = store::image(&story.prefix)?;
    story.store = Some(image);
    Ok(format!("{} {how}", store::TEMPLATE))
}

pub(super) fn lab(story: &mut Story, _report: &mut Report) -> Result<String> {
    let image = lab::build()?;
    let drives = story.store.iter().map(|path| Drive {
        name: "store".to_owned(),
        path: path.clone(),
        access: Access::Layer,
    });
    let options = Options {
        memory_mib: 8192,
        graphics: Some((1280, 800)),
        share: Some(story.prefix.clone()),
        drives: drives.collect(),
        guest_program: Some(run::build_lab_guest()?),
        ..Options::default()
    };
    let how = options.accelerator;
    let lab = Lab::start_image(&image, &options)?;
    lab.mount("store", DATA, "rw,noatime")?;
    lab.text("root", &["chown", "-R", "user:user", "/home/user"])?;
    let settings = house::settings(story.stage);
    House { lab: &lab }.put(house::SETTINGS, settings.as_bytes())?;
    let kernel = lab.text("user", &["uname", "-r"])?;
    let boot = lab.boot_time().as_secs_f64();
    story.lab = Some(lab);
    Ok(format!(
        "Linux {} under {how:?}, up in {boot:.1} s",
        kernel.trim()
    ))
}

/// Takes this machine instead of a lab.
pub(super) fn here(story: &mut Story, _report: &mut Report) -> Result<String> {
    let lab = native::start(&story.prefix, story.stage)?;
    let kernel = lab.text("user", &["uname", "-r"])?;
    let place = format!(
        "Linux {} with its own KVM, home {}, compositor {}",
        kernel.trim(),
        lab.home(),
        story.stage.backend()
    );
    story.lab = Some(lab);
    Ok(place)
}

pub(super) fn create(story: &mut Story, _report: &mut Report) -> Result<String> {
    let house = story.house()?;
    for (name, label) in VMS {
        house.say(
            &[
                "create",
                name,
                "--template",
                store::TEMPLATE,
                "--label",
                label,
            ],
            SHORT,
        )?;
    }
    let again = house.casemate(
        &[
            "create",
            "work",
            "--template",
            store::TEMPLATE,
            "--label",
            "blue",
        ],
        SHORT,
    )?;
    ensure!(
        again.exit == Exit::Code(4),
        "a second `work` was not refused: {again:?}"
    );
    Ok(house.say(&["ls"], SHORT)?.trim().replace('\n', "; "))
}

pub(super) fn start(story: &mut Story, _report: &mut Report) -> Result<String> {
    let house = story.house()?;
    // Both at once: most of a boot is spent waiting for one processor.
    let starts = VMS.map(|(name, _)| house.start(&["start", name]));
    let mut again = Vec::new();
    for ((name, _), process) in VMS.into_iter().zip(starts) {
        let output = process?.wait(LONG)?;
        // In the lab a guest's kernel sometimes gives up before it has said a word, as the lab's own does: the
        // emulator shows it old code of its own. A person would start the VM again, and so do we, once, and tell.
        if !story.stage.native() && !output.success() && output.errors().contains(RESET) {
            house.say(&["start", name], LONG)?;
            again.push(name);
            continue;
        }
        output.check()?;
    }
    let mut pids = Vec::new();
    for (name, _) in VMS {
        let vm = house.vm(name)?;
        ensure!(vm.state == "running", "{name} is {}", vm.state);
        pids.push(vm.pid.to_string());
    }
    let told = if again.is_empty() {
        String::new()
    } else {
        format!(
            "; started twice, for the emulator's sake: {}",
            again.join(", ")
        )
    };
    Ok(format!(
        "two casemate-vmm processes: {}{told}",
        pids.join(", ")
    ))
}

pub(super) fn command(story: &mut Story, _report: &mut Report) -> Result<String> {
    let house = story.house()?;
    let kernel = house.say(&["run", "work", "--", "uname", "-a"], SHORT)?;
    ensure!(kernel.starts_with("Linux work "), "uname said {kernel:?}");
    let line = "echo out; echo err >&2; exit 7";
    let output = house.casemate(&["run", "work", "--", "sh", "-c", line], SHORT)?;
    let said = (output.exit.clone(), output.text(), output.errors());
    let expected = (Exit::Code(7), "out\n".to_owned(), "err\n".to_owned());
    ensure!(
        said == expected,
        "streams or exit code are wrong: {output:?}"
    );
    Ok(format!("{}; exit code 7 came back as 7", kernel.trim()))
}

pub(super) fn stream(story: &mut Story, _report: &mut Report) -> Result<String> {
    let house = story.house()?;
    let line = format!(
        "set -e; folder=$(mktemp -d); cd $folder; head -c {BULK} /dev/urandom > bulk; \
         casemate run work -- cat < bulk > back; cmp bulk back; sha256sum < back; rm -r $folder"
    );
    let began = std::time::Instant::now();
    let output = house
        .lab
        .command("user", &["sh", "-c", &line])
        .timeout(LONG)
        .run()?
        .check()?;
    let seconds = began.elapsed().as_secs_f64();
    let hash: String = output.text().chars().take(16).collect();
    Ok(format!(
        "to work and back in {seconds:.0} s, SHA-256 {hash}... on both sides"
    ))
}
