//! The table of system calls against the budget, the documentation and the filters that are made of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::*;

/// Where the table is documented, from the workspace's root, and what it is between.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocols/vmm.md");
const BEGIN: &str = "<!-- table of system calls: begin -->\n";
const END: &str = "<!-- table of system calls: end -->";

/// Most system calls of a class; fewer is better. Raising one is a decision, not a fix.
fn budget(class: ThreadClass) -> usize {
    match class {
        Vcpu => 25,
        Disk | Main => 45,
    }
}

fn count(class: ThreadClass) -> usize {
    let numbers: BTreeSet<_> = allowed(class).map(|allowed| allowed.number).collect();
    assert_eq!(numbers.len(), allowed(class).count(), "one row a class");
    numbers.len()
}

#[test]
fn every_class_is_within_its_budget() {
    for class in ALL {
        let count = count(*class);
        assert!(count <= budget(*class), "{}: {count}", class.name());
    }
}

#[test]
fn nothing_that_reaches_out_is_listed() {
    for forbidden in [
        "open",
        "openat",
        "openat2",
        "creat",
        "socket",
        "socketpair",
        "connect",
        "bind",
        "listen",
        "execve",
        "execveat",
        "fork",
        "vfork",
        "clone",
        "clone3",
        "ptrace",
        "kill",
        "tkill",
        "process_vm_readv",
        "process_vm_writev",
        "memfd_create",
        "mprotect",
        "pkey_mprotect",
        "io_uring_setup",
        "bpf",
        "unshare",
        "setns",
        "mount",
        "prctl",
        "arch_prctl",
        "seccomp",
        "rt_sigaction",
        "setrlimit",
        "prlimit64",
        "userfaultfd",
        "keyctl",
        "pidfd_getfd",
        "perf_event_open",
        "chdir",
        "unlink",
        "dup2",
    ] {
        let found = POLICY.iter().find(|allowed| allowed.name() == forbidden);
        assert!(found.is_none(), "{forbidden}");
    }
    // Without tests of their arguments these would be too much.
    for narrow in [
        "fcntl",
        "futex",
        "getsockopt",
        "ioctl",
        "madvise",
        "mmap",
        "mremap",
        "sendto",
        "tgkill",
    ] {
        let mut rows = POLICY.iter().filter(|allowed| allowed.name() == narrow);
        assert!(rows.all(|row| !row.uses.is_empty()), "{narrow}");
    }
}

#[test]
fn ioctls_have_the_numbers_of_the_kernel() {
    let found = [
        KVM_RUN,
        KVM_KVMCLOCK_CTRL,
        KVM_SET_GSI_ROUTING,
        KVM_IOEVENTFD,
        KVM_SET_USER_MEMORY_REGION,
        KVM_GET_CLOCK,
        KVM_GET_PIT2,
        KVM_GET_IRQCHIP,
        KVM_GET_MP_STATE,
        KVM_GET_REGS,
        KVM_GET_SREGS,
        KVM_GET_XSAVE,
        KVM_GET_XCRS,
        KVM_GET_DEBUGREGS,
        KVM_GET_LAPIC,
        KVM_GET_TSC_KHZ,
        KVM_GET_MSRS,
        KVM_GET_VCPU_EVENTS,
    ];
    let expected = [
        0xae80,
        0xaead,
        0x4008_ae6a,
        0x4040_ae79,
        0x4020_ae46,
        0x8030_ae7c,
        0x8070_ae9f,
        0xc208_ae62,
        0x8004_ae98,
        0x8090_ae81,
        0x8138_ae83,
        0x9000_aea4,
        0x8188_aea6,
        0x8080_aea1,
        0x8400_ae8e,
        0xaea3,
        0xc008_ae88,
        0x8040_ae9f,
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_table_is_well_formed() {
    assert!(POLICY.is_sorted_by_key(|allowed| allowed.name()));
    for row in POLICY {
        assert_eq!(row.uses.is_empty(), row.only.is_empty(), "{}", row.name());
        assert!(
            row.uses.iter().all(|tests| !tests.is_empty()),
            "{}",
            row.name()
        );
    }
    assert_eq!(i64::from(KICK), i64::from(vmm_sys_util::signal::SIGRTMIN()));
}

/// The table as it is documented.
fn table() -> String {
    let mut text = String::from("| system call |");
    for class in ALL {
        write!(text, " {} |", class.name()).expect("memory");
    }
    text.push_str(" only | for |\n|---|---|---|---|---|---|\n");
    for row in POLICY {
        write!(text, "| `{}` |", row.name()).expect("memory");
        for class in ALL {
            let mark = if row.classes.contains(class) {
                " x |"
            } else {
                " |"
            };
            text.push_str(mark);
        }
        let only = if row.only.is_empty() {
            String::new()
        } else {
            format!(" {}", row.only)
        };
        writeln!(text, "{only} | {} |", row.purpose).expect("memory");
    }
    text.push_str("| **together** |");
    for class in ALL {
        write!(text, " {} |", count(*class)).expect("memory");
    }
    text.push_str(" | |\n");
    text
}

#[test]
fn the_documented_table_is_this_one() {
    let table = table();
    println!("{table}");
    let document = std::fs::read_to_string(DOCUMENT).expect("the document");
    let (before, rest) = document.split_once(BEGIN).expect("the table begins");
    let (found, after) = rest.split_once(END).expect("the table ends");
    if found != table && std::env::var_os("CASEMATE_WRITE_TABLES").is_some() {
        let text = format!("{before}{BEGIN}{table}{END}{after}");
        std::fs::write(DOCUMENT, text).expect("the document can be written");
        return;
    }
    assert!(
        found == table,
        "docs/protocols/vmm.md has another table; run this test with CASEMATE_WRITE_TABLES=1"
    );
}
