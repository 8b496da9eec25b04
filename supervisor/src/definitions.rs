//! Definitions of app VMs: `vms/NAME.toml` in the configuration directory. The file name is the VM's name.
//!
//! They belong to the person: they are read anew at each use, so an edit counts from the next start on, and a broken
//! one spoils only its own VM.

use std::{
    collections::BTreeSet,
    fs, io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use casemate_vm::{Tag, VmKind, VmName, VmSpec};
use toml_edit::{Array, DocumentMut, Item, value};

use crate::{
    durable,
    located::{self, Unreadable},
    refusal::{Kind, Refusal},
};

/// The folder of definitions.
#[derive(Debug)]
pub(crate) struct Definitions {
    folder: PathBuf,
    /// Held while a definition is changed or removed: of two changes none is lost, and none brings a removed VM back.
    changing: Mutex<()>,
}

impl Definitions {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            changing: Mutex::new(()),
        }
    }

    /// Every file that could name a VM, sorted. Files with other names are a person's notes.
    pub(crate) fn names(&self) -> io::Result<Vec<VmName>> {
        let names = durable::names(&self.folder, ".toml")?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub(crate) fn exists(&self, name: &VmName) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// The definition of a VM.
    pub(crate) fn load(&self, name: &VmName) -> Result<VmSpec, Refusal> {
        let path = self.path(name);
        let spec: VmSpec = located::read(&path).map_err(|error| match error {
            Unreadable::Missing(_) => Refusal::no_vm(name.as_str()),
            other => Refusal::failed(format!("the definition of '{name}' is wrong: {other}")),
        })?;
        let wrong = |what: String| {
            Refusal::failed(format!(
                "the definition of '{name}' is wrong: {}: {what}",
                path.display()
            ))
        };
        spec.check().map_err(|error| wrong(error.to_string()))?;
        if spec.kind != VmKind::App {
            return Err(wrong(
                "kind must be \"app\"; disposables are made by `casemate run --disposable`"
                    .to_owned(),
            ));
        }
        Ok(spec)
    }

    /// Adds a definition; of two creators one wins, the other gets `AlreadyExists`.
    pub(crate) fn create(&self, name: &VmName, spec: &VmSpec) -> io::Result<()> {
        let text = toml::to_string_pretty(spec).map_err(io::Error::other)?;
        durable::create(&self.path(name), &text)
    }

    pub(crate) fn remove(&self, name: &VmName) -> io::Result<()> {
        let _changing = self.changing();
        durable::remove(&self.path(name))
    }

    /// Puts tags on a VM and takes others off; gives those that it then has. The rest of the file stays as the person
    /// wrote it.
    pub(crate) fn tag(
        &self,
        name: &VmName,
        add: &BTreeSet<Tag>,
        remove: &BTreeSet<Tag>,
    ) -> Result<BTreeSet<Tag>, Refusal> {
        let _changing = self.changing();
        let mut spec = self.load(name)?;
        spec.tags.extend(add.iter().cloned());
        spec.tags.retain(|tag| !remove.contains(tag));
        spec.check()
            .map_err(|error| Refusal::new(Kind::Usage, format!("'{name}': {error}")))?;
        let wrap = |error: io::Error| Refusal::io(format!("cannot tag '{name}'"), &error);
        let path = self.path(name);
        let text = fs::read_to_string(&path).map_err(wrap)?;
        let changed = with_tags(&text, &spec.tags)
            .map_err(|error| Refusal::failed(format!("cannot tag '{name}': {error}")))?;
        if changed != text {
            durable::replace(&path, &changed).map_err(wrap)?;
        }
        Ok(spec.tags)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &VmName) -> PathBuf {
        self.folder.join(format!("{name}.toml"))
    }
}

/// A definition's text with these tags and no others.
fn with_tags(text: &str, tags: &BTreeSet<Tag>) -> Result<String, toml_edit::TomlError> {
    let mut document: DocumentMut = text.parse()?;
    if tags.is_empty() {
        document.remove("tags");
        return Ok(document.to_string());
    }
    let list: Array = tags.iter().map(Tag::as_str).collect();
    match document.get_mut("tags").and_then(Item::as_value_mut) {
        // What stands around the old list, such as a comment behind it, stays.
        Some(old) => {
            let decor = old.decor().clone();
            *old = list.into();
            *old.decor_mut() = decor;
        }
        None => {
            document.insert("tags", value(list));
        }
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(words: &[&str]) -> BTreeSet<Tag> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn tagging_leaves_the_rest_of_a_definition_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let definitions = Definitions::new(folder.path().to_owned());
        let name: VmName = "work".parse().unwrap();
        let path = folder.path().join("work.toml");
        let written = "# my work\ntemplate = \"debian-12\"\nlabel   = \"blue\" # like the folder\n";
        fs::write(&path, written).unwrap();
        let tag = |add, remove| {
            let now = definitions.tag(&name, &tags(add), &tags(remove)).unwrap();
            assert_eq!(definitions.load(&name).unwrap().tags, now);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with(written), "{text}");
            (now, text[written.len()..].to_owned())
        };
        let (now, rest) = tag(&["office", "mail"], &[]);
        assert_eq!(now, tags(&["mail", "office"]));
        assert_eq!(rest, "tags = [\"mail\", \"office\"]\n");
        fs::write(&path, format!("{written}tags = [\"mail\"] # for policy\n")).unwrap();
        let (_, rest) = tag(&["bank"], &["absent"]);
        assert_eq!(rest, "tags = [\"bank\", \"mail\"] # for policy\n");
        let (now, rest) = tag(&[], &["bank", "mail"]);
        assert_eq!((now, rest.as_str()), (tags(&[]), ""));
    }

    #[test]
    fn what_cannot_be_tagged_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let definitions = Definitions::new(folder.path().to_owned());
        let name: VmName = "work".parse().unwrap();
        let absent = definitions.tag(&name, &tags(&["a"]), &tags(&[]));
        assert_eq!(absent.unwrap_err().kind, Kind::NotFound);
        let path = folder.path().join("work.toml");
        for broken in [
            "template = 5\n",
            "template = \"debian-12\"\nlabel = \"blue\"\ntags = [\"no way\"]\n",
        ] {
            fs::write(&path, broken).unwrap();
            definitions
                .tag(&name, &tags(&["a"]), &tags(&[]))
                .unwrap_err();
            assert_eq!(fs::read_to_string(&path).unwrap(), broken);
        }
        fs::write(&path, "template = \"debian-12\"\nlabel = \"blue\"\n").unwrap();
        let many: Vec<String> = (0..40).map(|n| format!("t{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let refusal = definitions
            .tag(&name, &tags(&many), &tags(&[]))
            .unwrap_err();
        assert_eq!(refusal.kind, Kind::Usage);
        assert!(!fs::read_to_string(&path).unwrap().contains("tags"));
    }
}
