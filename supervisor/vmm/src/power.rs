//! How a guest ends itself: the ACPI sleep and reset registers, and the reset line of a keyboard controller.

use std::sync::Arc;

use casemate_devices::bus::BusDevice;
use casemate_vmm_control::StopReason;

use crate::stop::Stop;

/// Offset of the sleep control register.
pub(crate) const SLEEP_CONTROL: u16 = 0;
/// Offset of the sleep status register.
pub(crate) const SLEEP_STATUS: u16 = 1;
/// Offset of the reset register.
pub(crate) const RESET: u16 = 2;
/// Registers.
pub(crate) const LEN: u16 = 3;

/// What the guest writes to the reset register.
pub(crate) const RESET_VALUE: u8 = 1;
/// The sleep type of S5.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;

/// Sleep and reset registers (ACPI 6.5, 4.8.3.7).
#[derive(Debug)]
pub(crate) struct PowerRegisters(pub(crate) Arc<Stop>);

impl BusDevice for PowerRegisters {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        // Never woken up, nothing latched.
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        const ENABLE: u8 = 1 << 5;
        let [value] = data else { return };
        if offset == u64::from(SLEEP_CONTROL) {
            if value & ENABLE != 0 && (value >> 2) & 0x7 == SLEEP_TYPE_OFF {
                self.0.ask(StopReason::PowerOff);
            }
        } else if offset == u64::from(RESET) && *value == RESET_VALUE {
            self.0.ask(StopReason::Reset);
        }
    }
}

/// The command port of a keyboard controller that knows one command.
#[derive(Debug)]
pub(crate) struct KeyboardReset(pub(crate) Arc<Stop>);

impl BusDevice for KeyboardReset {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        // Status: both buffers empty, so that a kernel that wants to reset does not wait.
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        const PULSE_RESET: u8 = 0xfe;
        if data == [PULSE_RESET] {
            self.0.ask(StopReason::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_devices::event_loop::EventLoop;

    #[test]
    fn only_the_right_values_stop_the_vm() {
        let off = (SLEEP_TYPE_OFF << 2) | 1 << 5;
        for (offset, data, expected) in [
            (0, &[off][..], Some(StopReason::PowerOff)),
            (0, &[SLEEP_TYPE_OFF << 2], None),
            (0, &[1 << 5], None),
            (0, &[off, 0], None),
            (1, &[off], None),
            (2, &[RESET_VALUE], Some(StopReason::Reset)),
            (2, &[0], None),
        ] {
            let stop = Arc::new(Stop::new(EventLoop::new().expect("epoll")));
            PowerRegisters(Arc::clone(&stop)).write(offset, data);
            assert_eq!(stop.reason(), expected, "{offset} {data:?}");
        }
    }

    #[test]
    fn the_first_reason_stays() {
        let stop = Arc::new(Stop::new(EventLoop::new().expect("epoll")));
        KeyboardReset(Arc::clone(&stop)).write(0, &[0xfe]);
        stop.ask(StopReason::Killed);
        assert_eq!(stop.reason(), Some(StopReason::Reset));
    }
}
