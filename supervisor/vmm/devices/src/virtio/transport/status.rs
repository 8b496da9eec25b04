//! The device status register (virtio 1.2, 2.1 and 3.1.1) as a state machine.
//!
//! ```text
//! Reset -> Acknowledged -> Driver -> FeaturesOk -> DriverOk
//! ```
//!
//! A write takes steps forward only, one after the other; a write that would clear a bit or leave a step out is
//! ignored from there on. Zero resets from anywhere. FAILED may be set anywhere and stops further steps.

/// Status bits.
pub(super) const ACKNOWLEDGE: u8 = 1;
pub(super) const DRIVER: u8 = 2;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
pub(super) const NEEDS_RESET: u8 = 64;
pub(super) const FAILED: u8 = 128;

/// How far the driver has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Reset,
    Acknowledged,
    Driver,
    /// Features are frozen; queues are set up now.
    FeaturesOk,
    /// Queues are frozen too.
    DriverOk,
}

/// What a write made happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Reset,
    /// [`Phase::DriverOk`] was reached just now.
    DriverOk,
}

/// The register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    phase: Phase,
    failed: bool,
}

impl Status {
    pub(super) fn phase(self) -> Phase {
        self.phase
    }

    /// The register's value, without NEEDS_RESET, which is not the driver's.
    pub(super) fn bits(self) -> u8 {
        let phase = match self.phase {
            Phase::Reset => 0,
            Phase::Acknowledged => ACKNOWLEDGE,
            Phase::Driver => ACKNOWLEDGE | DRIVER,
            Phase::FeaturesOk => ACKNOWLEDGE | DRIVER | FEATURES_OK,
            Phase::DriverOk => ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        };
        phase | if self.failed { FAILED } else { 0 }
    }

    /// The driver writes the register. `features_good` says whether its features are acceptable; if they are not,
    /// FEATURES_OK stays clear, which is how the driver learns of it.
    pub(super) fn write(&mut self, value: u8, features_good: bool) -> Step {
        if value == 0 {
            *self = Self::default();
            return Step::Reset;
        }
        if self.bits() & !value != 0 {
            return Step::Nothing;
        }
        self.failed = value & FAILED != 0;
        let before = self.phase;
        while !self.failed
            && let Some(next) = self.next(value, features_good)
        {
            self.phase = next;
        }
        if self.phase == Phase::DriverOk && before != Phase::DriverOk {
            Step::DriverOk
        } else {
            Step::Nothing
        }
    }

    fn next(self, value: u8, features_good: bool) -> Option<Phase> {
        match self.phase {
            Phase::Reset if value & ACKNOWLEDGE != 0 => Some(Phase::Acknowledged),
            Phase::Acknowledged if value & DRIVER != 0 => Some(Phase::Driver),
            Phase::Driver if value & FEATURES_OK != 0 && features_good => Some(Phase::FeaturesOk),
            Phase::FeaturesOk if value & DRIVER_OK != 0 => Some(Phase::DriverOk),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_taken_in_order_only() {
        // Values written; then what the register reads, and what the last write made happen.
        for (writes, bits, step) in [
            (&[1][..], 1, Step::Nothing),
            (&[2], 0, Step::Nothing),
            (&[4], 0, Step::Nothing),
            (&[8], 0, Step::Nothing),
            (&[1, 3], 3, Step::Nothing),
            (&[3], 3, Step::Nothing),
            (&[1, 3, 11], 11, Step::Nothing),
            (&[1, 3, 11, 15], 15, Step::DriverOk),
            (&[15], 15, Step::DriverOk),
            (&[1, 3, 7], 3, Step::Nothing),
            (&[1, 3, 11, 15, 15], 15, Step::Nothing),
            (&[1, 3, 11, 3], 11, Step::Nothing),
            (&[1, 3, 2], 3, Step::Nothing),
            (&[1, 3, 11, 15, 4], 15, Step::Nothing),
            (&[1, 3, 11, 15, 0], 0, Step::Reset),
            (&[0], 0, Step::Reset),
            (&[1, 129], 129, Step::Nothing),
            (&[1, 129, 131], 129, Step::Nothing),
            (&[1, 129, 1], 129, Step::Nothing),
            (&[1, 3, 11, 15, 143], 143, Step::Nothing),
            (&[64], 0, Step::Nothing),
            (&[1, 3, 11, 15, 79], 15, Step::Nothing),
            (&[48, 1], 1, Step::Nothing),
        ] {
            let mut status = Status::default();
            let mut last = Step::Nothing;
            for value in writes {
                last = status.write(*value, true);
            }
            assert_eq!((status.bits(), last), (bits, step), "{writes:?}");
        }
    }

    #[test]
    fn bad_features_stop_at_driver() {
        let mut status = Status::default();
        assert_eq!(status.write(15, false), Step::Nothing);
        assert_eq!(status.phase(), Phase::Driver);
        assert_eq!(status.write(11, true), Step::Nothing);
        assert_eq!(status.phase(), Phase::FeaturesOk);
    }
}
