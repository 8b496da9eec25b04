//! `qubes.GetAppmenus`: the applications of this VM, for a menu outside.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::PathBuf,
};

use super::{filecopy::home, start_app};

/// Most entries and bytes of each that are listed: the menu's owner need not read more than a person can.
const MAX_ENTRIES: usize = 1000;
const MAX_ENTRY: u64 = 64 * 1024;

/// What a menu shows. `Exec` stays: it is compared, never run outside.
const KEYS: [&str; 9] = [
    "Type",
    "Name",
    "GenericName",
    "Comment",
    "Icon",
    "Categories",
    "Exec",
    "Terminal",
    "NoDisplay",
];

/// Lists `FILE:KEY=VALUE` lines; of two entries with one name, the account's own counts.
pub(crate) fn run() -> anyhow::Result<u8> {
    let mut entries = BTreeMap::new();
    for dir in start_app::directories(&home()?) {
        for (name, text) in read(&dir) {
            if entries.len() < MAX_ENTRIES {
                entries.entry(name).or_insert(text);
            }
        }
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (name, text) in &entries {
        for line in shown(text) {
            writeln!(out, "{name}:{line}")?;
        }
    }
    out.flush()?;
    Ok(0)
}

fn read(dir: &PathBuf) -> Vec<(String, String)> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let plain = name.ends_with(".desktop") && !name.contains([':', '\n']);
            let mut text = String::new();
            let opened = fs::File::open(file.path()).ok().filter(|_| plain)?;
            opened.take(MAX_ENTRY).read_to_string(&mut text).ok()?;
            Some((name, text))
        })
        .collect()
}

/// The lines of the main group that a menu shows.
fn shown(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .skip_while(|line| line.trim() != "[Desktop Entry]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| {
            let key = line.split_once('=').map(|(key, _)| key.trim_end());
            key.is_some_and(|key| KEYS.contains(&key))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_main_group_and_known_keys() {
        let text = "Name=before\n[Desktop Entry]\nName=Foot\nName[de]=Fuß\nExec=foot\nX-Evil=1\n[Desktop Action new]\nExec=other\n";
        assert_eq!(shown(text).collect::<Vec<_>>(), ["Name=Foot", "Exec=foot"]);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.desktop"), text).unwrap();
        fs::write(dir.path().join("b:c.desktop"), text).unwrap();
        fs::write(dir.path().join("notes.txt"), text).unwrap();
        let found = read(&dir.path().to_owned());
        assert_eq!(found, [("a.desktop".to_owned(), text.to_owned())]);
    }
}
