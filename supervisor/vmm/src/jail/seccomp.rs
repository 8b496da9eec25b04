//! System call filters, made from the [`policy`]: what is not on the list of a thread's class ends the
//! process.

use std::collections::BTreeMap;
use std::sync::Arc;

use seccompiler::BpfProgram;

use super::blocked;
use super::policy::{self, Test, ThreadClass};
use super::tree::{self, Argument, TooLong, Uses};

/// A thread could not be locked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// The filter could not be made.
    #[error(transparent)]
    Program(#[from] TooLong),
    /// The filter was not taken.
    #[error(transparent)]
    Filter(#[from] seccompiler::Error),
    /// What is blocked would not be reported.
    #[error("cannot handle the signal of blocked system calls")]
    Handler(#[source] std::io::Error),
}

/// Compiled filters of all classes.
#[derive(Debug)]
pub(crate) struct Filters {
    vcpu: Arc<BpfProgram>,
    disk: Arc<BpfProgram>,
    main: Arc<BpfProgram>,
}

impl Filters {
    /// Compiles them, for this process: signals may only go to its own threads. From now on a blocked call is
    /// reported before it ends the process.
    pub(crate) fn new() -> Result<Self, FilterError> {
        blocked::report().map_err(FilterError::Handler)?;
        Ok(Self {
            vcpu: Arc::new(compile(ThreadClass::Vcpu)?),
            disk: Arc::new(compile(ThreadClass::Disk)?),
            main: Arc::new(compile(ThreadClass::Main)?),
        })
    }

    /// Takes on the filter of a class, for the calling thread and for ever.
    pub(crate) fn install(&self, class: ThreadClass) -> Result<(), FilterError> {
        blocked::name_thread(class);
        Ok(seccompiler::apply_filter(match class {
            ThreadClass::Vcpu => &self.vcpu,
            ThreadClass::Disk => &self.disk,
            ThreadClass::Main => &self.main,
        })?)
    }
}

fn compile(class: ThreadClass) -> Result<BpfProgram, FilterError> {
    Ok(tree::assemble(&rules(class))?)
}

/// What a class may do, by the numbers of its calls.
pub(super) fn rules(class: ThreadClass) -> BTreeMap<u32, Uses> {
    policy::allowed(class)
        .map(|allowed| {
            let number = u32::try_from(allowed.number).expect("a small number");
            let uses = allowed.uses.iter();
            let uses = uses.map(|tests| tests.iter().map(argument).collect());
            (number, uses.collect())
        })
        .collect()
}

fn argument(test: &Test) -> Argument {
    let (index, mask, value) = match *test {
        Test::Is(index, value) => (index, u32::MAX, value),
        Test::Bits(index, mask, value) => (index, mask, value),
        Test::OwnProcess(index) => (index, u32::MAX, std::process::id()),
    };
    Argument { index, mask, value }
}
