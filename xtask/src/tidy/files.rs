//! Rules about single files.

use std::path::Path;

use super::Finding;

/// A file this long is split before it is committed.
const MAX_LINES: usize = 800;
/// A file this long is a question to its author.
const QUESTION_LINES: usize = 500;
/// A program's main file parses, starts and maps errors; the rest has its own file.
const MAX_MAIN_LINES: usize = 60;

/// What is wrong with a file.
pub(super) fn check(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |line, what: String| {
        let path = path.to_owned();
        findings.push(Finding { path, line, what });
    };
    if path.extension().is_some_and(|extension| extension == "rs") {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            add(
                None,
                format!("{lines} lines; split it, at most {MAX_LINES} are allowed"),
            );
        }
        if path.file_name().is_some_and(|name| name == "main.rs") && lines >= MAX_MAIN_LINES {
            add(
                None,
                format!("{lines} lines; a main.rs has fewer than {MAX_MAIN_LINES}"),
            );
        }
        if !text.starts_with("//!") {
            add(
                Some(1),
                "it must open with `//!`: what it is for, what it is not".to_owned(),
            );
        }
    }
    for (index, line) in text.lines().enumerate() {
        if let Some(found) = machine_path(line) {
            add(Some(index + 1), format!("{found} is a path of one machine"));
        }
    }
    findings
}

/// The number of lines of a source file that is long but allowed.
pub(super) fn questionable(path: &Path, text: &str) -> Option<usize> {
    let lines = text.lines().count();
    let source = path.extension().is_some_and(|extension| extension == "rs");
    (source && lines > QUESTION_LINES && lines <= MAX_LINES).then_some(lines)
}

/// A path that only exists where somebody works: homes (but for the accounts of our images), and
/// folders that some build machines keep their checkouts in.
fn machine_path(line: &str) -> Option<&str> {
    // In pieces, so that this file is in order too.
    let roots = [
        concat!("/", "work/"),
        concat!("/root/", "."),
        concat!("/home/", ""),
    ];
    for root in roots {
        for (start, _) in line.match_indices(root) {
            let before = line
                .get(..start)
                .and_then(|before| before.chars().next_back());
            // `$tree/root/.x` and `a/work/b` are other paths.
            if before.is_some_and(|before| before.is_alphanumeric() || "/_}$.-".contains(before)) {
                continue;
            }
            let path = line.get(start..).unwrap_or_default();
            let end =
                path.find(|letter: char| letter.is_whitespace() || "\"'`,;:)<>".contains(letter));
            let path = path.get(..end.unwrap_or(path.len())).unwrap_or_default();
            let home = path.strip_prefix("/home/");
            let account = home.map(|rest| rest.split('/').next().unwrap_or_default());
            let ours = ["", "user", "NAME", "USER", "$USER", "{user}", "{}"];
            if account
                .is_none_or(|account| !ours.contains(&account) && !account.starts_with(['$', '{']))
            {
                return Some(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(Path::new(path), text)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn files_out_of_order_are_found() {
        let long = format!("//! Doc.\n{}", "\n".repeat(800));
        let main = format!("//! Doc.\n{}", "\n".repeat(59));
        let table = [
            ("a.rs", "//! Doc.\n", ""),
            ("a.rs", "use x;\n", "open with"),
            ("a.rs", &long, "split it"),
            ("b/main.rs", &main, "fewer than"),
            ("notes.md", "no rule", ""),
        ];
        for (path, text, expected) in table {
            let found = findings(path, text);
            assert_eq!(found.is_empty(), expected.is_empty(), "{path}: {found:?}");
            assert!(
                found.iter().all(|what| what.contains(expected)),
                "{path}: {found:?}"
            );
        }
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let table = [
            (concat!("see /", "work/main"), true),
            (concat!("see /home/", "someone/x"), true),
            ("cd /home/user/Documents", false),
            ("the folder /home", false),
            ("format!(\"/home/{name}\")", false),
            (concat!("$tree/", "work/x"), false),
        ];
        for (line, wrong) in table {
            assert_eq!(machine_path(line).is_some(), wrong, "{line}");
        }
    }
}
