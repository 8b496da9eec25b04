//! System call filters, made from the [`policy`]: what is not on the list of a thread's class ends the
//! process.

use std::collections::BTreeMap;
use std::sync::Arc;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::blocked;
use super::policy::{self, Test, ThreadClass};

/// A thread could not be locked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// The filter could not be made or was not taken.
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

fn compile(class: ThreadClass) -> Result<BpfProgram, seccompiler::Error> {
    let mut rules = BTreeMap::new();
    for allowed in policy::allowed(class) {
        let uses = allowed.uses.iter().map(|tests| rule(tests));
        rules.insert(allowed.number, uses.collect::<Result<_, _>>()?);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

fn rule(tests: &[Test]) -> Result<SeccompRule, seccompiler::Error> {
    let conditions = tests.iter().map(|test| {
        let (argument, operator, value) = match *test {
            Test::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
            Test::Bits(argument, mask, value) => {
                (argument, SeccompCmpOp::MaskedEq(mask.into()), value)
            }
            Test::OwnProcess(argument) => (argument, SeccompCmpOp::Eq, std::process::id()),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    });
    Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
}
