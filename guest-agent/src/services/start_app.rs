//! `qubes.StartApp`: runs the command of a desktop entry.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use super::{filecopy::home, session};

/// Becomes the application's program; the call lasts as long as it does.
pub(crate) fn run(name: &str) -> anyhow::Result<u8> {
    let name = name.trim_end_matches(".desktop");
    ensure!(
        !name.is_empty() && !name.contains('/'),
        "'{name}' cannot name an application"
    );
    let (path, text) = find(&directories(&home()?), name)
        .with_context(|| format!("there is no application '{name}' in this VM"))?;
    let words = command_of(&text).with_context(|| format!("{} has no command", path.display()))?;
    let (program, arguments) = words
        .split_first()
        .with_context(|| format!("{} has an empty command", path.display()))?;
    session::wait();
    Err(Command::new(program).args(arguments).exec())
        .with_context(|| format!("cannot run {program}"))
}

/// Where desktop entries lie, the account's own first.
pub(super) fn directories(home: &Path) -> [PathBuf; 3] {
    [
        home.join(".local/share/applications"),
        "/usr/local/share/applications".into(),
        "/usr/share/applications".into(),
    ]
}

/// The entry of that name and its text.
pub(super) fn find(dirs: &[PathBuf], name: &str) -> Option<(PathBuf, String)> {
    dirs.iter()
        .map(|dir| dir.join(format!("{name}.desktop")))
        .find_map(|path: PathBuf| {
            let text = fs::read_to_string(Path::new(&path)).ok()?;
            Some((path, text))
        })
}

/// The words of `Exec=` in the main group, without the placeholders for files.
fn command_of(text: &str) -> Option<Vec<String>> {
    let mut words = words_of(text)?;
    words.retain(|word| !(word.len() == 2 && word.starts_with('%') && word != "%%"));
    Some(words)
}

/// The words of `Exec=` in the main group.
pub(super) fn words_of(text: &str) -> Option<Vec<String>> {
    let main = text
        .lines()
        .skip_while(|line| line.trim() != "[Desktop Entry]")
        .skip(1);
    let exec = main
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix("Exec="))?;
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut any) = (false, false);
    let mut characters = exec.trim().chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => (quoted, any) = (!quoted, true),
            '\\' if quoted => word.extend(characters.next()),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            _ => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_entries() {
        let entry = |exec: &str| {
            format!("# c\n[Desktop Entry]\nName=X\nExec={exec}\n[Desktop Action new]\nExec=other\n")
        };
        for (exec, expected) in [
            ("foot", vec!["foot"]),
            ("zathura %U", vec!["zathura"]),
            (
                "sh -c \"echo \\\"a b\\\"\" %f x",
                vec!["sh", "-c", "echo \"a b\"", "x"],
            ),
            ("a \"\" b", vec!["a", "", "b"]),
        ] {
            assert_eq!(command_of(&entry(exec)).unwrap(), expected, "{exec}");
        }
        assert_eq!(command_of("[Desktop Action new]\nExec=other\n"), None);
    }
}
