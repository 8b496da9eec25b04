//! Which program opens a file or an address in this VM: the one that the person chose for its type, where the desktop's
//! own tool (`xdg-mime`) knows one; else what a template has.

use std::{
    env,
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context;

use super::{
    filecopy::home,
    start_app::{directories, find, words_of},
};

/// The terminal of a template.
const TERMINAL: &str = "foot";

/// Editors in the order in which they are looked for, after `$VISUAL` and `$EDITOR`.
const EDITORS: [&str; 4] = ["sensible-editor", "nano", "vim", "vi"];

/// Browsers in the order in which they are looked for.
const BROWSERS: [&str; 5] = [
    "x-www-browser",
    "firefox",
    "firefox-esr",
    "chromium",
    "epiphany",
];

/// The command that opens `file`; one that is only to be looked at prefers a program that cannot change it.
pub(super) fn for_file(file: &Path, view_only: bool) -> anyhow::Result<Command> {
    let kind = answer(&["query", "filetype"], file.as_os_str());
    let chosen = kind.and_then(|kind| answer(&["query", "default"], OsStr::new(&kind)));
    if let Some(command) = chosen.and_then(|entry| of_entry(&entry, file.as_os_str())) {
        return Ok(command);
    }
    let extension = file.extension().and_then(OsStr::to_str);
    let mut command = match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("pdf" | "ps" | "djvu") => Command::new("zathura"),
        _ => {
            let mut command = Command::new(TERMINAL);
            match editor().filter(|_| !view_only) {
                Some(editor) => command.arg(editor),
                None => command.args(["less", "--"]),
            };
            command
        }
    };
    command.arg(file);
    Ok(command)
}

/// The command that opens an address that was checked.
pub(super) fn for_url(url: &str) -> anyhow::Result<Command> {
    let scheme = url.split(':').next().unwrap_or_default();
    let kind = format!("x-scheme-handler/{scheme}");
    let chosen = answer(&["query", "default"], OsStr::new(&kind));
    if let Some(command) = chosen.and_then(|entry| of_entry(&entry, OsStr::new(url))) {
        return Ok(command);
    }
    let browser = BROWSERS.into_iter().find(|name| is_installed(name));
    let mut command = Command::new(browser.context("this VM has no browser")?);
    command.arg(url);
    Ok(command)
}

fn editor() -> Option<String> {
    ["VISUAL", "EDITOR"]
        .iter()
        .filter_map(|name| env::var(name).ok())
        .filter(|editor| !editor.is_empty())
        .chain(EDITORS.map(str::to_owned))
        .find(|editor| is_installed(editor))
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// What `xdg-mime` says, where it is installed and says anything.
fn answer(question: &[&str], about: &OsStr) -> Option<String> {
    let output = Command::new("xdg-mime")
        .args(question)
        .arg(about)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// The command of a desktop entry with what it is to open.
fn of_entry(entry: &str, what: &OsStr) -> Option<Command> {
    let name = entry.strip_suffix(".desktop")?;
    if name.contains('/') {
        return None;
    }
    let (_, text) = find(&directories(&home().ok()?), name)?;
    let words = words_of(&text)?;
    let in_terminal = text.lines().any(|line| line.trim() == "Terminal=true");
    let mut words = words.iter().map(String::as_str);
    let mut command = match in_terminal {
        true => Command::new(TERMINAL),
        false => Command::new(words.next()?),
    };
    let mut given = false;
    for word in words {
        match word {
            "%f" | "%F" | "%u" | "%U" => {
                command.arg(what);
                given = true;
            }
            word if word.len() == 2 && word.starts_with('%') && word != "%%" => {}
            word => {
                command.arg(word);
            }
        }
    }
    if !given {
        command.arg(what);
    }
    Some(command)
}
