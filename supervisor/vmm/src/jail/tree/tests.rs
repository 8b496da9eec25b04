//! Filters are run as the kernel would run them, and compared with those that another library makes of the same table.

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::super::policy::ThreadClass;
use super::super::seccomp::rules;
use super::*;

/// A call as a filter sees it.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

impl Call {
    fn word(&self, at: u32) -> u32 {
        let half = |value: u64, high: bool| {
            let [low, upper] = [value & 0xffff_ffff, value >> 32];
            u32::try_from(if high { upper } else { low }).expect("a half")
        };
        match at {
            NUMBER_AT => self.number,
            ARCHITECTURE_AT => self.architecture,
            at => {
                let place = at - ARGUMENTS_AT;
                assert_eq!(place % 4, 0);
                half(self.arguments[(place / 8) as usize], place % 8 == 4)
            }
        }
    }
}

/// Runs a program: the verdict, and how many steps it took.
fn run(program: &[sock_filter], call: &Call) -> (u32, usize) {
    let (mut at, mut value) = (0, 0);
    for steps in 1..=program.len() {
        let step = &program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        match step.code {
            LOAD => value = call.word(step.k),
            AND => value &= step.k,
            JUMP => at += step.k as usize,
            IF_EQUAL => at += jump(value == step.k),
            IF_AT_LEAST => at += jump(value >= step.k),
            0x25 => at += jump(value > step.k),
            RETURN => return (step.k, steps),
            other => panic!("step {at} has the unknown code {other:#x}"),
        }
    }
    panic!("no end");
}

/// The same table by the other library.
fn other(rules: &BTreeMap<u32, Uses>) -> BpfProgram {
    let condition = |argument: &Argument| {
        let operator = match argument.mask {
            u32::MAX => SeccompCmpOp::Eq,
            mask => SeccompCmpOp::MaskedEq(mask.into()),
        };
        let (index, value) = (argument.index, argument.value.into());
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value).unwrap()
    };
    let rule = |arguments: &Vec<Argument>| {
        SeccompRule::new(arguments.iter().map(condition).collect()).unwrap()
    };
    let rules = rules
        .iter()
        .map(|(number, uses)| (i64::from(*number), uses.iter().map(rule).collect()))
        .collect();
    SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .unwrap()
    .try_into()
    .unwrap()
}

/// Values of an argument that some test of a call is about, those beside them, and with the high half in use.
fn values(uses: &Uses, index: u8) -> Vec<u64> {
    let mut values = vec![0, 1, u64::MAX];
    let tests = uses.iter().flatten();
    for test in tests.filter(|test| test.index == index) {
        let value = u64::from(test.value);
        values.extend([
            value,
            value ^ 1,
            value | u64::from(!test.mask),
            value | 1 << 32,
        ]);
        values.extend((0..32).map(|bit| value ^ 1 << bit));
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Calls of one number that make all its tests true and false, in all combinations of two arguments.
fn calls(number: u32, uses: &Uses) -> Vec<Call> {
    let mut calls = Vec::new();
    let tested: Vec<u8> = (0..6)
        .filter(|index| uses.iter().flatten().any(|test| test.index == *index))
        .collect();
    let (first, second) = match tested.as_slice() {
        [] => (0, 1),
        [one] => (*one, (*one + 1) % 6),
        [one, two, ..] => (*one, *two),
    };
    for a in values(uses, first) {
        for b in values(uses, second) {
            let mut arguments = [0; 6];
            arguments[usize::from(first)] = a;
            arguments[usize::from(second)] = b;
            calls.push(Call {
                number,
                architecture: ARCHITECTURE,
                arguments,
            });
        }
    }
    calls
}

#[test]
fn every_class_is_judged_as_by_the_other_library_and_in_fewer_steps() {
    for class in [ThreadClass::Vcpu, ThreadClass::Disk, ThreadClass::Main] {
        let rules = rules(class);
        let (ours, theirs) = (assemble(&rules).unwrap(), other(&rules));
        let none = Uses::new();
        let (mut steps, mut more, mut allowed) = (0, 0, 0);
        let unusual = [512, 1023, 0x4000_0000, 0x4000_0001, 0x7fff_ffff, u32::MAX];
        for number in (0..480).chain(unusual) {
            for call in calls(number, rules.get(&number).unwrap_or(&none)) {
                let ((verdict, mine), (expected, other)) = (run(&ours, &call), run(&theirs, &call));
                assert_eq!(verdict, expected, "{}: {call:?}", class.name());
                allowed += usize::from(verdict == libc::SECCOMP_RET_ALLOW);
                (steps, more) = (steps + mine, more + other);
            }
        }
        assert!(allowed > rules.len(), "{}", class.name());
        assert!(steps * 2 < more, "{}: {steps} of {more}", class.name());
    }
}

#[test]
fn another_architecture_ends_the_process() {
    let program = assemble(&rules(ThreadClass::Main)).unwrap();
    for architecture in [0x4000_0003, 0, u32::MAX] {
        let call = Call {
            number: 0,
            architecture,
            arguments: [0; 6],
        };
        assert_eq!(run(&program, &call).0, libc::SECCOMP_RET_KILL_PROCESS);
    }
}

#[test]
fn long_halves_are_leapt_over_and_too_long_rules_refused() {
    let test = |value| Argument {
        index: 1,
        mask: u32::MAX,
        value,
    };
    let many = |count| (0..count).map(|value| vec![test(value)]).collect::<Uses>();
    let rules: BTreeMap<_, _> = (0..64).map(|number| (number * 3, many(60))).collect();
    let program = assemble(&rules).unwrap();
    for number in 0..200 {
        for (value, good) in [(0, true), (59, true), (60, false)] {
            let mut call = Call {
                number,
                architecture: ARCHITECTURE,
                arguments: [0; 6],
            };
            call.arguments[1] = value;
            let expected = good && number % 3 == 0 && number < 192;
            let allowed = run(&program, &call).0 == libc::SECCOMP_RET_ALLOW;
            assert_eq!(allowed, expected, "{number} {value}");
        }
    }
    let rules = BTreeMap::from([(7, many(100))]);
    assert_eq!(assemble(&rules), Err(TooLong(7)));
    assert_eq!(
        run(
            &assemble(&BTreeMap::new()).unwrap(),
            &Call {
                number: 1,
                architecture: ARCHITECTURE,
                arguments: [0; 6]
            }
        )
        .0,
        libc::SECCOMP_RET_TRAP
    );
}
