//! Files and the files that they include.

use std::sync::Arc;

use crate::{
    files::{Files, PolicyFile, select},
    parse::{
        PolicyError, Problem, Reading,
        line::{self, Directive, Fields, Line, ServiceColumns},
    },
    rule::Place,
};

/// Deepest chain of includes: a file that includes itself ends there instead of in a stack overflow.
pub(super) const MAX_DEPTH: usize = 16;

/// Most files that are read for one policy: files that include each other twice would double with every level.
pub(super) const MAX_FILES: usize = 4096;

/// Where `!compat-4.0` finds the rules of Qubes 4.0.
const LEGACY: &str = "/etc/qubes-rpc/policy";

/// Reads a top-level file into `into`; `budget` is the number of files that may still be read.
pub(super) fn file(file: &PolicyFile, files: &impl Files, into: &mut Reading, budget: &mut usize) {
    let mut reader = Reader {
        files,
        directory: file.directory,
        into,
        budget,
    };
    reader.file(&file.name, None, 0, &|problem| PolicyError {
        file: files.display(file.directory, &file.name),
        line: 0,
        column: 0,
        problem,
    });
}

struct Reader<'a, F> {
    files: &'a F,
    /// The directory of the top-level file; every include is relative to it.
    directory: usize,
    into: &'a mut Reading,
    budget: &'a mut usize,
}

impl<F: Files> Reader<'_, F> {
    /// Reads one file. `old` says which service a file of the old format is about; `error` is for the file itself
    /// and so points to where it is included.
    fn file(
        &mut self,
        path: &str,
        old: Option<&ServiceColumns>,
        depth: usize,
        error: &dyn Fn(Problem) -> PolicyError,
    ) {
        if depth > MAX_DEPTH {
            return self.into.errors.push(error(Problem::TooDeep));
        }
        // Said once: every further include would only say the same.
        let Some(left) = self.budget.checked_sub(1) else {
            if self.into.errors.last().map(|last| &last.problem) != Some(&Problem::TooMany) {
                self.into.errors.push(error(Problem::TooMany));
            }
            return;
        };
        *self.budget = left;
        let text = match self.files.text(self.directory, path) {
            Ok(text) => text,
            Err(why) => return self.into.errors.push(error(Problem::Unreadable(why))),
        };
        let name: Arc<str> = self.files.display(self.directory, path).into();
        for (number, text) in (1u32..).zip(text.split('\n')) {
            let place = Place {
                file: Arc::clone(&name),
                line: number,
            };
            let converted = old.map(|_| line::convert(text));
            let fields = Fields::new(converted.as_deref().unwrap_or(text));
            let at = |(column, problem)| PolicyError {
                file: name.to_string(),
                line: number,
                // Conversion moves characters, so columns would point beside the place.
                column: if old.is_some() { 0 } else { column },
                problem,
            };
            match line::parse(&fields, old, place) {
                Ok(Line::Blank) => {}
                Ok(Line::Rule(rule)) => self.into.rules.push(*rule),
                Ok(Line::Directive(directive)) => {
                    self.directive(directive, old, depth, &|problem| at((0, problem)));
                }
                Err(located) => self.into.errors.push(at(located)),
            }
        }
    }

    fn directive(
        &mut self,
        directive: Directive,
        old: Option<&ServiceColumns>,
        depth: usize,
        error: &dyn Fn(Problem) -> PolicyError,
    ) {
        match directive {
            Directive::Include(path) => self.file(&path, old, depth + 1, error),
            Directive::IncludeService(columns, path) => {
                self.file(&path, Some(&columns), depth + 1, error);
            }
            Directive::IncludeDirectory(path) => {
                let chosen = self
                    .files
                    .names(self.directory, &path)
                    .and_then(|names| select(&[names]).map_err(|refused| refused.to_string()));
                match chosen {
                    Ok(chosen) => {
                        for PolicyFile { name, .. } in chosen {
                            self.file(&format!("{path}/{name}"), old, depth + 1, error);
                        }
                    }
                    Err(why) => self.into.errors.push(error(Problem::Unreadable(why))),
                }
            }
            Directive::Compatibility => self.legacy(depth, error),
        }
    }

    /// The rules of Qubes 4.0: a file for each service, and for each argument that has rules of its own.
    fn legacy(&mut self, depth: usize, error: &dyn Fn(Problem) -> PolicyError) {
        let names = match self.files.names(self.directory, LEGACY) {
            Ok(names) => names,
            Err(why) => return self.into.errors.push(error(Problem::Unreadable(why))),
        };
        let mut found: Vec<(ServiceColumns, String)> = names
            .into_iter()
            .filter_map(|name| Some((ServiceColumns::of_file(&name)?, name)))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.order().cmp(&b.order()));
        for (columns, name) in found {
            let path = format!("{LEGACY}/{name}");
            self.file(&path, Some(&columns), depth + 1, error);
            let place = Place {
                file: self.files.display(self.directory, &path).into(),
                line: 0,
            };
            for rule in columns.closing(&place) {
                self.into.rules.push(rule);
            }
        }
    }
}
