//! COM1, a 16550: what the guest prints before it has hvc0 goes to the same [`ConsoleSink`]. There is no input.
//! Every byte is an exit of the guest, so a kernel is told to leave it soon.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use vm_superio::Trigger;
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::console::ConsoleSink;
use crate::state::{SerialState, StateError};

struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.write(1)
    }
}

struct Output(Arc<dyn ConsoleSink>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The port.
pub struct Serial {
    registers: vm_superio::Serial<Irq, NoEvents, Output>,
}

impl fmt::Debug for Serial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Serial").finish_non_exhaustive()
    }
}

impl Serial {
    /// First I/O port of COM1.
    pub const BASE: u64 = 0x3f8;
    /// I/O ports.
    pub const LEN: u64 = 8;
    /// Its interrupt line.
    pub const IRQ: u32 = 4;

    /// A port that raises `irq` (non-blocking; an irqfd of line [`Serial::IRQ`]) and prints to `sink`.
    pub fn new(irq: EventFd, sink: Arc<dyn ConsoleSink>) -> Self {
        Self {
            registers: vm_superio::Serial::new(Irq(irq), Output(sink)),
        }
    }
}

impl Serial {
    /// Its registers, for a snapshot. There is no input, so there is nothing else.
    pub fn save(&self) -> SerialState {
        let state = self.registers.state();
        SerialState {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
        }
    }

    /// A port with saved registers; otherwise like [`Serial::new`].
    ///
    /// # Errors
    /// [`StateError::Unfit`].
    pub fn restored(
        saved: &SerialState,
        irq: EventFd,
        sink: Arc<dyn ConsoleSink>,
    ) -> Result<Self, StateError> {
        let [
            low,
            high,
            enable,
            identification,
            line,
            status,
            modem,
            modem_status,
            scratch,
        ] = saved.registers;
        let state = vm_superio::serial::SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control: line,
            line_status: status,
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: Vec::new(),
        };
        vm_superio::Serial::from_state(&state, Irq(irq), NoEvents, Output(sink))
            .map(|registers| Self { registers })
            .map_err(|_| StateError::Unfit("the serial port's registers"))
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Registers are bytes; a wider access reads as all ones.
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            *value = self.registers.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            // Fails when the interrupt cannot be raised or the sink fails: the former only when its counter is full
            // and the line up already, the latter never.
            let _ = self.registers.write(offset, *value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;
    use crate::lock;

    #[derive(Default)]
    struct Printed(Mutex<Vec<u8>>);

    impl ConsoleSink for Printed {
        fn write(&self, bytes: &[u8]) {
            lock(&self.0).extend_from_slice(bytes);
        }
    }

    #[test]
    fn bytes_of_the_data_port_are_printed_and_nothing_else() {
        let printed = Arc::new(Printed::default());
        let irq = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let mut serial = Serial::new(irq, printed.clone());
        for (offset, data) in [
            (0, &b"o"[..]),
            (0, b"k"),
            (0, b"xx"),
            (0, b"xxxxxxxx"),
            (1, b"\x00"),
            (2, b"\xff"),
            (7, b"s"),
            (0, b"\n"),
        ] {
            serial.write(offset, data);
        }
        assert_eq!(lock(&printed.0).as_slice(), b"ok\n");
    }

    #[test]
    fn every_port_answers_every_width() {
        let irq = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let mut serial = Serial::new(irq, Arc::new(Printed::default()));
        for offset in 0..Serial::LEN {
            for len in [1, 2, 4, 8] {
                let mut data = vec![0xff; len];
                serial.read(offset, &mut data);
                serial.write(offset, &data);
                assert!(len == 1 || data.iter().all(|byte| *byte == 0xff));
            }
        }
        // The transmitter is always empty, or a guest would wait for ever.
        serial.write(3, &[0x03]);
        let mut status = [0];
        serial.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
    }
}
