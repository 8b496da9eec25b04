//! Words for VMs: what may stand in which column, and what it matches.

use std::fmt;

use crate::{
    decision::{Denial, Party, Requested},
    facts::Facts,
};

/// A VM by name or by UUID. No character of it is checked: a wrong word is a VM that never exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmRef {
    /// By name.
    Name(String),
    /// By UUID.
    Uuid(String),
}

impl VmRef {
    /// The name of the admin domain.
    pub const ADMIN_NAME: &str = "dom0";
    const ADMIN_UUID: &str = "00000000-0000-0000-0000-000000000000";

    fn parse(text: &str) -> Self {
        match text.strip_prefix("uuid:") {
            Some(uuid) => Self::Uuid(uuid.to_owned()),
            None => Self::Name(text.to_owned()),
        }
    }

    fn is_admin(&self) -> bool {
        match self {
            Self::Name(name) => name == Self::ADMIN_NAME,
            Self::Uuid(uuid) => uuid == Self::ADMIN_UUID,
        }
    }
}

/// A word that may not stand in its column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Nothing where a name must be.
    #[error("'{0}' names nothing")]
    Empty(String),
    /// A word of another column, or no word of the language.
    #[error("'{0}' cannot stand here")]
    Misplaced(String),
}

/// What the source or target column of a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `*`: everything.
    Everything,
    /// `@anyvm`: everything but the admin domain.
    AnyVm,
    /// `@adminvm`, `dom0`: the admin domain.
    Admin,
    /// One VM.
    Vm(VmRef),
    /// `@default`: the caller named no target, or one that does not exist.
    Default,
    /// `@dispvm`: a new disposable, template not named.
    Disposable,
    /// `@dispvm:NAME`: a new disposable of this template.
    DisposableOf(VmRef),
    /// `@dispvm:@tag:TAG`: a new disposable of a template with this tag.
    DisposableTagged(String),
    /// `@tag:TAG`: a VM with this tag.
    Tagged(String),
    /// `@type:TYPE`: a VM of this type.
    OfType(String),
}

impl Pattern {
    /// Reads the source column.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn source(text: &str) -> Result<Self, InvalidToken> {
        match Self::parse(text)? {
            Self::Default | Self::Disposable => Err(InvalidToken::Misplaced(text.to_owned())),
            pattern => Ok(pattern),
        }
    }

    /// Reads the target column.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn target(text: &str) -> Result<Self, InvalidToken> {
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self, InvalidToken> {
        let named = |rest: &str| {
            if rest.is_empty() {
                return Err(InvalidToken::Empty(text.to_owned()));
            }
            Ok(rest.to_owned())
        };
        Ok(match text {
            "*" => Self::Everything,
            "@anyvm" => Self::AnyVm,
            _ => match (text.strip_prefix("@tag:"), text.strip_prefix("@type:")) {
                (Some(tag), _) => Self::Tagged(named(tag)?),
                (_, Some(kind)) => Self::OfType(named(kind)?),
                _ => match text.strip_prefix("@dispvm:@tag:") {
                    Some(tag) => Self::DisposableTagged(named(tag)?),
                    None => Wish::parse(text)?.into(),
                },
            },
        })
    }

    /// Whether a caller is meant.
    pub(crate) fn matches_source(&self, source: &Party<'_>, facts: &Facts) -> bool {
        match (self, source) {
            (Self::Everything, _) | (Self::AnyVm, Party::Vm(_)) | (Self::Admin, Party::Admin) => {
                true
            }
            (Self::Vm(VmRef::Name(name)), Party::Vm(source)) => name == source,
            (Self::Vm(vm), Party::Vm(source)) => facts.find(vm) == Some(source),
            (Self::Tagged(tag), Party::Vm(source)) => facts
                .domain(source)
                .is_some_and(|domain| domain.tags.contains(tag)),
            (Self::OfType(kind), Party::Vm(source)) => facts
                .domain(source)
                .is_some_and(|domain| domain.kind == *kind),
            // A caller is a VM that runs, so it is never a disposable yet to be made.
            _ => false,
        }
    }

    /// Whether what the caller asked for is meant.
    pub(crate) fn matches_target(
        &self,
        target: &Requested<'_>,
        source: &Party<'_>,
        facts: &Facts,
    ) -> bool {
        match (self, target) {
            (Self::Everything, _)
            | (Self::Admin, Requested::Admin)
            | (Self::Default, Requested::Default)
            | (Self::Disposable, Requested::Disposable) => true,
            (Self::AnyVm, target) => *target != Requested::Admin,
            (Self::Vm(vm), Requested::Vm(target)) => facts.find(vm) == Some(target),
            (Self::Tagged(tag), Requested::Vm(target)) => facts
                .domain(target)
                .is_some_and(|domain| domain.tags.contains(tag)),
            (Self::OfType(kind), Requested::Vm(target)) => facts
                .domain(target)
                .is_some_and(|domain| domain.kind == *kind),
            (Self::DisposableOf(vm), Requested::DisposableOf(template)) => {
                facts.find(vm) == Some(template)
            }
            // Only a name stands for the default; a UUID does not, as in the reference.
            (Self::DisposableOf(VmRef::Name(name)), Requested::Disposable) => {
                facts.default_dispvm(source.name()) == Some(name.as_str())
            }
            (Self::DisposableTagged(tag), Requested::DisposableOf(template)) => {
                is_tagged_template(template, tag, facts)
            }
            (Self::DisposableTagged(tag), Requested::Disposable) => facts
                .default_dispvm(source.name())
                .is_some_and(|template| is_tagged_template(template, tag, facts)),
            _ => false,
        }
    }
}

fn is_tagged_template(name: &str, tag: &str, facts: &Facts) -> bool {
    facts
        .domain(name)
        .is_some_and(|domain| domain.template_for_dispvms && domain.tags.contains(tag))
}

/// One place to go to: what a caller may ask for, and what `target=` and `default_target=` may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// No target named.
    Default,
    /// The admin domain.
    Admin,
    /// One VM.
    Vm(VmRef),
    /// A new disposable of the caller's default template.
    Disposable,
    /// A new disposable of this template.
    DisposableOf(VmRef),
}

impl Wish {
    /// Reads what a caller asked for; empty is the default.
    ///
    /// # Errors
    /// [`InvalidToken::Misplaced`] for words that only rules may use.
    pub fn requested(text: &str) -> Result<Self, InvalidToken> {
        match text {
            "" => Ok(Self::Default),
            "*" => Err(InvalidToken::Misplaced(text.to_owned())),
            _ => Self::parse(text),
        }
    }

    /// Reads a `target=` or `default_target=`.
    ///
    /// # Errors
    /// [`InvalidToken`] for nothing, `@default`, and words that mean more than one place.
    pub fn redirect(text: &str) -> Result<Self, InvalidToken> {
        match text {
            "" => Err(InvalidToken::Empty(text.to_owned())),
            "*" | "@default" => Err(InvalidToken::Misplaced(text.to_owned())),
            _ => Self::parse(text),
        }
    }

    fn parse(text: &str) -> Result<Self, InvalidToken> {
        match text {
            "@default" => return Ok(Self::Default),
            "@adminvm" => return Ok(Self::Admin),
            "@dispvm" => return Ok(Self::Disposable),
            "" | "@dispvm:" => return Err(InvalidToken::Empty(text.to_owned())),
            _ => {}
        }
        let (disposable, name) = match text.strip_prefix("@dispvm:") {
            Some(template) => (true, template),
            None => (false, text),
        };
        if name.starts_with('@') {
            return Err(InvalidToken::Misplaced(text.to_owned()));
        }
        let vm = VmRef::parse(name);
        Ok(match disposable {
            true => Self::DisposableOf(vm),
            false if vm.is_admin() => Self::Admin,
            false => Self::Vm(vm),
        })
    }

    /// Looks the place up. A VM that does not exist is as good as none named.
    pub(crate) fn look_up<'f>(&self, facts: &'f Facts) -> Result<Requested<'f>, Denial> {
        Ok(match self {
            Self::Default => Requested::Default,
            Self::Admin => Requested::Admin,
            Self::Disposable => Requested::Disposable,
            Self::Vm(vm) => facts.find(vm).map_or(Requested::Default, Requested::Vm),
            Self::DisposableOf(vm) => facts
                .find(vm)
                .filter(|name| {
                    facts
                        .domain(name)
                        .is_some_and(|domain| domain.template_for_dispvms)
                })
                .map(Requested::DisposableOf)
                .ok_or(Denial::NotADisposableTemplate)?,
        })
    }
}

impl From<Wish> for Pattern {
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::Default => Self::Default,
            Wish::Admin => Self::Admin,
            Wish::Vm(vm) => Self::Vm(vm),
            Wish::Disposable => Self::Disposable,
            Wish::DisposableOf(vm) => Self::DisposableOf(vm),
        }
    }
}

impl fmt::Display for VmRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Uuid(uuid) => write!(f, "uuid:{uuid}"),
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Pattern::from(self.clone()).fmt(f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("*"),
            Self::AnyVm => f.write_str("@anyvm"),
            Self::Admin => f.write_str(VmRef::ADMIN_NAME),
            Self::Vm(vm) => vm.fmt(f),
            Self::Default => f.write_str("@default"),
            Self::Disposable => f.write_str("@dispvm"),
            Self::DisposableOf(vm) => write!(f, "@dispvm:{vm}"),
            Self::DisposableTagged(tag) => write!(f, "@dispvm:@tag:{tag}"),
            Self::Tagged(tag) => write!(f, "@tag:{tag}"),
            Self::OfType(kind) => write!(f, "@type:{kind}"),
        }
    }
}
