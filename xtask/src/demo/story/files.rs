//! A file on its way between VMs: once with the person's leave, once against the policy.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use casemate_lab::wire::Exit;
use ring::digest::{SHA256, digest};

use crate::demo::Story;
use crate::demo::house::{House, SHORT};
use crate::demo::pdf;
use crate::demo::report::Report;

/// Ground colour of the compositor's own questions.
const PROMPT: [u8; 3] = [0xf4, 0xf5, 0xf7];
/// Fewer pixels of it than this are no question.
const PROMPT_PIXELS: usize = 20_000;
/// A question can be allowed after a second of focus; the lab's clock is the wall's.
const READING: Duration = Duration::from_secs(3);
/// A rule of the person's own, stronger than the shipped ones.
const RULE: &str = "qubes.Filecopy * untrusted work deny\n";
const RULE_FILE: &str = "10-demo.policy";

pub(super) fn asked(story: &mut Story, report: &mut Report) -> Result<String> {
    let house = story.house()?;
    let document = pdf::report();
    let hash = hex(digest(&SHA256, &document).as_ref());
    house.put("report.pdf", &document)?;
    let carry = "casemate run work -- sh -c 'cat > report.pdf' < report.pdf";
    house
        .lab
        .command("user", &["sh", "-c", carry])
        .run()?
        .check()?;

    let before = prompt_pixels(&house)?;
    let copy = house.start(&["run", "work", "--", "qvm-copy", "report.pdf"])?;
    let screen = house.lab.screen();
    let shown = screen.wait_for("the question", SHORT, |picture| {
        picture.count(PROMPT, 0) > before + PROMPT_PIXELS
    })?;
    shown.save(&report.picture("question"))?;
    // The first target of the list, then the button, and time to read.
    screen.keys(&["down"])?;
    screen.keys(&["right"])?;
    std::thread::sleep(READING);
    screen
        .picture()?
        .save(&report.picture("question-answered"))?;
    screen.keys(&["ret"])?;
    copy.wait(SHORT)?.check()?;
    let there = house.shell("untrusted", "sha256sum ~/QubesIncoming/work/report.pdf")?;
    ensure!(
        there.starts_with(&hash),
        "untrusted has {there:?} instead of {hash}"
    );
    let decision = house
        .decisions()?
        .into_iter()
        .rev()
        .find(|decision| decision.service.starts_with("qubes.Filecopy"));
    let rule = decision.map_or_else(
        || "no rule".to_owned(),
        |decision| format!("{} {}", decision.result, decision.rule),
    );
    Ok(format!(
        "report.pdf is in QubesIncoming/work, SHA-256 {}..., {rule}",
        &hash[..16]
    ))
}

pub(super) fn denied(story: &mut Story, _report: &mut Report) -> Result<String> {
    let house = story.house()?;
    house.put(
        &format!(".config/casemate/policy.d/{RULE_FILE}"),
        RULE.as_bytes(),
    )?;
    house.shell("untrusted", "echo secret > note")?;
    let began = Instant::now();
    let words = ["run", "untrusted", "--", "qvm-copy-to-vm", "work", "note"];
    let output = house.casemate(&words, SHORT)?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(
        output.exit == Exit::Code(126),
        "qvm-copy-to-vm ended with {output:?}"
    );
    let listing = house.shell("work", "ls ~/QubesIncoming/untrusted 2>/dev/null || true")?;
    ensure!(listing.is_empty(), "work has {listing:?}");
    let decision = house
        .decisions()?
        .into_iter()
        .rev()
        .find(|decision| decision.source == "untrusted");
    let told =
        decision.filter(|decision| decision.result == "deny" && decision.rule.contains(RULE_FILE));
    let told = told.ok_or_else(|| {
        anyhow::anyhow!(
            "the audit does not name {RULE_FILE}: {:?}",
            house.decisions()
        )
    })?;
    Ok(format!(
        "refused in {seconds:.1} s; casemate audit names {}",
        told.rule
    ))
}

fn prompt_pixels(house: &House<'_>) -> Result<usize> {
    Ok(house.lab.screen().picture()?.count(PROMPT, 0))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
