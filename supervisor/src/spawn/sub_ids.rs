//! Users that the host has granted to this one (subuid(5), subgid(5)): each VM's vmm is another of them.

use std::{fs, path::Path};

use casemate_vm::VmId;

/// What has to be there to use them.
const HELPERS: [&str; 2] = ["/usr/bin/newuidmap", "/usr/bin/newgidmap"];

/// The user and group of a VM's vmm, as its command line says them; nothing when the host grants none.
pub(crate) fn of(id: VmId) -> Option<String> {
    let user = rustix::process::geteuid().as_raw();
    if !HELPERS.iter().all(|helper| Path::new(helper).exists()) {
        return None;
    }
    let name = std::env::var("USER").unwrap_or_default();
    let granted = |file: &str| number(&fs::read_to_string(file).ok()?, &name, user, id.0);
    Some(format!(
        "{}:{}",
        granted("/etc/subuid")?,
        granted("/etc/subgid")?
    ))
}

/// The `index`th number granted to a user, who is listed by name or by number, in the first range that is long enough.
/// Zero and the user's own number are never given.
fn number(table: &str, name: &str, user: u32, index: u32) -> Option<u32> {
    let own = user.to_string();
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let who = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        if fields.next().is_some() || who.is_empty() || (who != name && who != own) {
            return None;
        }
        let number = u32::checked_add(start, index)?;
        (index < count && number != 0 && number != user && number != u32::MAX).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vm_has_another_number_of_those_granted() {
        let table = "root:5:2\nother:100:65536\nme:1000:10\nme:200000:65536\n1234:400000:9\n";
        for (name, user, index, expected) in [
            ("me", 1, 3, Some(1003)),
            ("me", 1003, 3, Some(200_003)),
            ("me", 1, 10, Some(200_010)),
            ("me", 1, 65536, None),
            ("", 1234, 3, Some(400_003)),
            ("stranger", 1, 3, None),
            ("", 1, 3, None),
        ] {
            assert_eq!(
                number(table, name, user, index),
                expected,
                "{name} {user} {index}"
            );
        }
        for bad in [
            "me",
            "me:1",
            "me:x:5",
            "me:-1:5",
            "me:1:5:6",
            "me:4294967295:9",
            "me:0:1",
        ] {
            assert_eq!(number(bad, "me", 7, 0), None, "{bad}");
        }
    }
}
