//! Files and the files that they include.

use std::sync::Arc;

use crate::{
    files::{Files, PolicyFile, select},
    parse::{
        PolicyError, Problem,
        line::{self, Directive, Fields, Line, ServiceColumns},
    },
    rule::{Place, Rule},
};

/// Deepest chain of includes: a file that includes itself ends there instead of in a stack overflow.
pub(super) const MAX_DEPTH: usize = 16;

/// Reads a top-level file into `rules`.
pub(super) fn file(
    file: &PolicyFile,
    files: &impl Files,
    rules: &mut Vec<Rule>,
) -> Result<(), PolicyError> {
    let mut reader = Reader {
        files,
        directory: file.directory,
        rules,
    };
    reader.file(&file.name, None, 0, &|problem| PolicyError {
        file: files.display(file.directory, &file.name),
        line: 0,
        column: 0,
        problem,
    })
}

struct Reader<'a, F> {
    files: &'a F,
    /// The directory of the top-level file; every include is relative to it.
    directory: usize,
    rules: &'a mut Vec<Rule>,
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
    ) -> Result<(), PolicyError> {
        if depth > MAX_DEPTH {
            return Err(error(Problem::TooDeep));
        }
        let text = self
            .files
            .text(self.directory, path)
            .map_err(|why| error(Problem::Unreadable(why)))?;
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
            match line::parse(&fields, old, place).map_err(at)? {
                Line::Blank => {}
                Line::Rule(rule) => self.rules.push(*rule),
                Line::Directive(directive) => {
                    self.directive(directive, old, depth, &|problem| at((0, problem)))?;
                }
            }
        }
        Ok(())
    }

    fn directive(
        &mut self,
        directive: Directive,
        old: Option<&ServiceColumns>,
        depth: usize,
        error: &dyn Fn(Problem) -> PolicyError,
    ) -> Result<(), PolicyError> {
        match directive {
            Directive::Include(path) => self.file(&path, old, depth + 1, error),
            Directive::IncludeService(columns, path) => {
                self.file(&path, Some(&columns), depth + 1, error)
            }
            Directive::IncludeDirectory(path) => {
                let names = self
                    .files
                    .names(self.directory, &path)
                    .map_err(|why| error(Problem::Unreadable(why)))?;
                let chosen = select(&[names])
                    .map_err(|refused| error(Problem::Unreadable(refused.to_string())))?;
                for PolicyFile { name, .. } in chosen {
                    self.file(&format!("{path}/{name}"), old, depth + 1, error)?;
                }
                Ok(())
            }
        }
    }
}
