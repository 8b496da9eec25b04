//! How VMs end, and how they rest afterwards.

/// How a vmm ended, as far as it told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    PowerOff,
    Reset,
    Killed,
    /// It vanished, or said that it could not go on.
    Failed(String),
}

/// How a VM rests after its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) crashed: bool,
    pub(super) problem: String,
}

impl Rest {
    /// After an end in the running state.
    pub(super) fn after(ending: Ending) -> Self {
        let problem = match ending {
            Ending::PowerOff => return Self::default(),
            Ending::Reset => {
                "the guest asked for a reset or its kernel gave up; start it again, or see its log"
                    .to_owned()
            }
            Ending::Killed => "its vmm was killed by someone else".to_owned(),
            Ending::Failed(what) => what,
        };
        Self {
            crashed: true,
            problem,
        }
    }

    /// After an end before the agent reported.
    pub(super) fn before_report(ending: Ending) -> Self {
        match ending {
            Ending::PowerOff => Self {
                crashed: true,
                problem: "the guest powered off before its agent reported; see its log".to_owned(),
            },
            other => Self::after(other),
        }
    }
}
