//! One line: blank, a directive, or a rule.

use std::collections::BTreeMap;

use crate::{
    parse::Problem,
    rule::{Action, Columns, Place, Rule},
    token::{InvalidToken, Pattern, Wish},
};

/// A problem and the column of its field.
type Located = (u32, Problem);

/// The fields of a line, each with its column.
pub(super) struct Fields<'a>(Vec<(u32, &'a str)>);

impl<'a> Fields<'a> {
    /// Splits at white space of any kind; the information separators of ASCII are such to the reference.
    pub(super) fn new(line: &'a str) -> Self {
        let mut fields = Vec::new();
        let mut start = None;
        // One character beyond the end closes the last field.
        let ends = line.char_indices().chain([(line.len(), ' ')]);
        let is_space = |c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}');
        for (column, (offset, character)) in (1u32..).zip(ends) {
            match (start, is_space(character)) {
                (None, false) => start = Some((column, offset)),
                (Some((column, from)), true) => {
                    fields.push((column, line.get(from..offset).unwrap_or_default()));
                    start = None;
                }
                _ => {}
            }
        }
        Self(fields)
    }
}

/// The first two columns of a rule.
#[derive(Clone, Debug)]
pub(super) struct ServiceColumns {
    service: Option<String>,
    argument: Option<String>,
}

/// A parsed line.
pub(super) enum Line {
    Blank,
    Directive(Directive),
    Rule(Box<Rule>),
}

/// A line that names other files.
pub(super) enum Directive {
    Include(String),
    IncludeDirectory(String),
    IncludeService(ServiceColumns, String),
    Compatibility,
}

impl ServiceColumns {
    /// The columns of a file of Qubes 4.0, which is named `SERVICE` or `SERVICE+ARGUMENT`; `None` for other names.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        const LEFTOVERS: [&str; 3] = [".rpmsave", ".rpmnew", ".swp"];
        if name.starts_with('.') || LEFTOVERS.iter().any(|end| name.ends_with(end)) {
            return None;
        }
        let (service, argument) = match name.find('+') {
            Some(at) => name.split_at(at),
            None => (name, "*"),
        };
        if service.is_empty() || service == "*" {
            return None;
        }
        service_columns((0, service), (0, argument)).ok()
    }

    /// Files in the order in which they are read: by service, those with an argument before the one without.
    pub(super) fn order(&self) -> (Option<&str>, bool, Option<&str>) {
        (
            self.service.as_deref(),
            self.argument.is_none(),
            self.argument.as_deref(),
        )
    }

    /// What a file with an argument ends with: the file without one does not speak about this argument.
    pub(super) fn closing(&self, place: &Place) -> Vec<Rule> {
        if self.argument.is_none() {
            return Vec::new();
        }
        [Pattern::AnyVm, Pattern::Admin]
            .map(|target| Rule {
                place: place.clone(),
                at: Columns::default(),
                service: self.service.clone(),
                argument: self.argument.clone(),
                source: Pattern::AnyVm,
                target,
                action: Action::Deny,
                notify: true,
            })
            .into()
    }
}

/// Rewrites a line of the old format to the words of this one.
pub(super) fn convert(line: &str) -> String {
    if line.trim_start().starts_with('#') {
        return String::new();
    }
    let line = line.replace('$', "@").replace(',', " ");
    match line.trim_start().strip_prefix("@include:") {
        Some(path) => format!("!include {path}"),
        None => line,
    }
}

/// Reads a line. In the old format service and argument are given from outside.
pub(super) fn parse(
    fields: &Fields<'_>,
    old: Option<&ServiceColumns>,
    place: Place,
) -> Result<Line, Located> {
    let Some(((column, first), _)) = fields.0.split_first() else {
        return Ok(Line::Blank);
    };
    if first.starts_with('#') {
        return Ok(Line::Blank);
    }
    if first.starts_with('!') {
        return directive(&fields.0, old.is_some())
            .map(Line::Directive)
            .map_err(|(at, problem)| (at.unwrap_or(*column), problem));
    }
    let (columns, rest) = match (old, fields.0.as_slice()) {
        (Some(columns), rest) => (columns.clone(), rest),
        (None, [service, argument, rest @ ..]) => (service_columns(*service, *argument)?, rest),
        (None, _) => return Err((*column, Problem::Fields)),
    };
    let [source, target, action, parameters @ ..] = rest else {
        let problem = match old {
            Some(_) => Problem::OldFields,
            None => Problem::Fields,
        };
        return Err((*column, problem));
    };
    let located = |at: u32| move |invalid: InvalidToken| (at, Problem::Token(invalid));
    let at = Columns {
        source: source.0,
        target: target.0,
        action: action.0,
    };
    let source = Pattern::source(source.1).map_err(located(source.0))?;
    let target_at = target.0;
    let target = Pattern::target(target.1).map_err(located(target_at))?;
    let (action, notify) = self::action(*action, parameters)?;
    if target == Pattern::Default && matches!(action, Action::Allow { redirect: None, .. }) {
        return Err((target_at, Problem::AllowDefault));
    }
    Ok(Line::Rule(Box::new(Rule {
        place,
        at,
        service: columns.service,
        argument: columns.argument,
        source,
        target,
        action,
        notify,
    })))
}

fn directive(fields: &[(u32, &str)], old: bool) -> Result<Directive, (Option<u32>, Problem)> {
    let words: Vec<&str> = fields.iter().map(|(_, word)| *word).collect();
    match words.as_slice() {
        ["!include", path] => Ok(Directive::Include((*path).to_owned())),
        [word, ..] if old && *word != "!include" => {
            Err((None, Problem::Directive((*word).to_owned())))
        }
        ["!include-dir", path] => Ok(Directive::IncludeDirectory((*path).to_owned())),
        ["!include-service", _, _, path] => {
            let [_, service, argument, _] = *fields else {
                return Err((None, Problem::Fields));
            };
            service_columns(service, argument)
                .map(|columns| Directive::IncludeService(columns, (*path).to_owned()))
                .map_err(|(column, problem)| (Some(column), problem))
        }
        ["!compat-4.0"] => Ok(Directive::Compatibility),
        [
            word @ ("!include" | "!include-dir" | "!include-service" | "!compat-4.0"),
            ..,
        ] => Err((None, Problem::DirectiveWords((*word).to_owned()))),
        [word, ..] => Err((None, Problem::Directive((*word).to_owned()))),
        [] => Err((None, Problem::Fields)),
    }
}

fn service_columns(
    (service_at, service): (u32, &str),
    (argument_at, argument): (u32, &str),
) -> Result<ServiceColumns, Located> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let owned_service = match service {
        "*" => None,
        name if name.bytes().all(is_name) => Some(name.to_owned()),
        other => return Err((service_at, Problem::Service(other.to_owned()))),
    };
    let owned_argument = match argument {
        "*" => None,
        _ if owned_service.is_none() => {
            return Err((argument_at, Problem::ArgumentOfEveryService));
        }
        text if !text.starts_with('+') => {
            return Err((argument_at, Problem::Argument(text.to_owned())));
        }
        text if text.bytes().all(|byte| byte == b'+' || is_name(byte)) => Some(text.to_owned()),
        other => return Err((argument_at, Problem::ArgumentCharacters(other.to_owned()))),
    };
    Ok(ServiceColumns {
        service: owned_service,
        argument: owned_argument,
    })
}

/// Reads the action and its parameters; the second of the result is `notify`.
fn action(
    (column, action): (u32, &str),
    parameters: &[(u32, &str)],
) -> Result<(Action, bool), Located> {
    let mut parameters = Parameters::new(parameters)?;
    let (action, word, notify) = match action {
        "deny" => (Action::Deny, "deny", parameters.yes_no("notify", true)?),
        "allow" => {
            let allow = Action::Allow {
                redirect: parameters.wish("target")?,
                user: parameters.text("user"),
                autostart: parameters.yes_no("autostart", true)?,
            };
            (allow, "allow", parameters.yes_no("notify", false)?)
        }
        "ask" => {
            let ask = Action::Ask {
                redirect: parameters.wish("target")?,
                default_target: parameters.wish("default_target")?,
                user: parameters.text("user"),
                autostart: parameters.yes_no("autostart", true)?,
            };
            (ask, "ask", parameters.yes_no("notify", false)?)
        }
        other => return Err((column, Problem::Action(other.to_owned()))),
    };
    parameters.end(word)?;
    Ok((action, notify))
}

/// `key=value` fields that nobody has asked for yet.
struct Parameters<'a>(BTreeMap<&'a str, (u32, &'a str)>);

impl<'a> Parameters<'a> {
    fn new(fields: &[(u32, &'a str)]) -> Result<Self, Located> {
        let mut parameters = BTreeMap::new();
        for (column, field) in fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err((*column, Problem::Parameter((*field).to_owned())));
            };
            if parameters.insert(key, (*column, value)).is_some() {
                return Err((*column, Problem::Duplicate(key.to_owned())));
            }
        }
        Ok(Self(parameters))
    }

    /// An empty text is as good as none.
    fn text(&mut self, key: &str) -> Option<String> {
        let (_, value) = self.0.remove(key)?;
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn wish(&mut self, key: &str) -> Result<Option<Wish>, Located> {
        let Some((column, value)) = self.0.remove(key) else {
            return Ok(None);
        };
        Wish::redirect(value)
            .map(Some)
            .map_err(|invalid| (column, Problem::Token(invalid)))
    }

    fn yes_no(&mut self, key: &str, default: bool) -> Result<bool, Located> {
        match self.0.remove(key) {
            None => Ok(default),
            Some((_, "yes")) => Ok(true),
            Some((_, "no")) => Ok(false),
            Some((column, value)) => Err((
                column,
                Problem::YesNo {
                    key: key.to_owned(),
                    value: value.to_owned(),
                },
            )),
        }
    }

    fn end(self, action: &'static str) -> Result<(), Located> {
        match self.0.into_iter().min_by_key(|(_, (column, _))| *column) {
            None => Ok(()),
            Some((key, (column, _))) => Err((
                column,
                Problem::ParameterOfAction {
                    action,
                    key: key.to_owned(),
                },
            )),
        }
    }
}
