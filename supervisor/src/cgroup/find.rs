//! Which groups this process may make groups in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Tree, V1, write};

/// Controllers that a VM's limits need.
const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];

/// Where we ourselves go on version 2: a group with controllers for its children may hold no process.
const OWN_LEAF: &str = "casemate-supervisor";

/// How a person gets a group of our own.
const HINT: &str = "start Casemate in a scope of its own: \
     systemd-run --user --scope --property=Delegate=yes casemate start NAME";

/// What there is, or why there is nothing.
pub(super) fn find() -> Result<Tree, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let found = Found::parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
    let v2 = match found.v2 {
        Some(own) => take_over(own, std::process::id()),
        None => Err("version 2 is not mounted".to_owned()),
    };
    let why = match v2 {
        Ok(tree) => return Ok(tree),
        Err(why) => why,
    };
    match found.v1 {
        Some(v1) => usable(v1),
        None => Err(why),
    }
}

/// Our own groups, by what the kernel says of us.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) v2: Option<PathBuf>,
    pub(super) v1: Option<V1>,
}

impl Found {
    /// From `/proc/self/cgroup` and `/proc/self/mountinfo`.
    pub(super) fn parse(groups: &str, mounts: &str) -> Self {
        let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::parse).collect();
        let own = |controller: &str| -> Option<PathBuf> {
            let group = groups.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                // On version 2 the list is empty, and so is the name that is looked for.
                controllers
                    .split(',')
                    .any(|name| name == controller)
                    .then_some(path)
            })?;
            let mount = mounts.iter().find(|mount| mount.has(controller))?;
            let below = Path::new(group).strip_prefix(mount.root).ok()?;
            Some(Path::new(mount.point).join(below))
        };
        let v1 = || {
            Some(V1 {
                memory: own("memory")?,
                pids: own("pids")?,
                cpu: own("cpu")?,
            })
        };
        Self {
            v2: own(""),
            v1: v1(),
        }
    }
}

/// A mounted tree of groups.
struct Mount<'a> {
    /// The group that is seen at the mount point.
    root: &'a str,
    point: &'a str,
    /// Empty for version 2.
    options: Option<&'a str>,
}

impl<'a> Mount<'a> {
    /// From a line of `mountinfo`; nothing for other file systems.
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let options = match after.next()? {
            "cgroup2" => None,
            "cgroup" => Some(after.nth(1)?),
            _ => return None,
        };
        Some(Self {
            root,
            point,
            options,
        })
    }

    fn has(&self, controller: &str) -> bool {
        match self.options {
            None => controller.is_empty(),
            Some(options) => options.split(',').any(|option| option == controller),
        }
    }
}

/// Makes our own group of version 2 one of groups: we go to a leaf of it, and its children get controllers.
pub(super) fn take_over(own: PathBuf, process: u32) -> Result<Tree, String> {
    // A supervisor that was started from the leaf of one before.
    let own = match own.file_name() {
        Some(name) if name == OWN_LEAF => own.parent().map(Path::to_owned).unwrap_or(own),
        _ => own,
    };
    let has = |file: &str| -> Vec<String> {
        let text = fs::read_to_string(own.join(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let given = has("cgroup.controllers");
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|name| !given.iter().any(|other| other == name))
        .collect();
    if !missing.is_empty() {
        return Err(format!(
            "no controllers {} in {}; {HINT}",
            missing.join(", "),
            own.display()
        ));
    }
    let leaf = own.join(OWN_LEAF);
    let taken = (|| {
        match fs::create_dir(&leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        write(&leaf.join("cgroup.procs"), &process.to_string())?;
        let wanted = NEEDED.map(|name| format!("+{name}")).join(" ");
        write(&own.join("cgroup.subtree_control"), &wanted)
    })();
    match taken {
        Ok(()) => Ok(Tree::V2(own)),
        Err(error) => Err(format!(
            "{} is not ours alone ({error}); {HINT}",
            own.display()
        )),
    }
}

/// Groups of version 1, if we may make some.
fn usable(v1: V1) -> Result<Tree, String> {
    for own in [&v1.memory, &v1.pids, &v1.cpu] {
        let test = own.join(format!("casemate-test-{}", std::process::id()));
        fs::create_dir(&test)
            .and_then(|()| fs::remove_dir(&test))
            .map_err(|error| {
                format!(
                    "{} cannot be used ({error}); boot with systemd.unified_cgroup_hierarchy=1",
                    own.display()
                )
            })?;
    }
    Ok(Tree::V1(v1))
}
