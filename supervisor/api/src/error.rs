//! The errors of every bus. The kind decides the exit code of the command line.

/// Why a method failed. The text says what failed, why, and what to do next.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.casemate.Error")]
pub enum Error {
    /// The transport failed; not one of ours.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// An argument cannot be right (exit code 2).
    Usage(String),
    /// No VM, template or call of that name (3).
    NotFound(String),
    /// A VM of that name exists, or the VM is in a state in which this cannot be done (4).
    WrongState(String),
    /// Policy said no (5).
    Denied(String),
    /// A person said no (6).
    Refused(String),
    /// Someone else holds it (7).
    Busy(String),
    /// No KVM, memory, disk space or descriptors (8).
    NoResources(String),
    /// It took longer than allowed (124).
    TimedOut(String),
    /// Anything else (1).
    Failed(String),
}
