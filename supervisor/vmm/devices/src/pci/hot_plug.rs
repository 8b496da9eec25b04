//! Hot-plug and hot-unplug that the guest is told of: the registers behind the ACPI devices of the 31 slots.
//!
//! ```text
//! 0  inserted  bit n: a function came into slot n; reading clears
//! 4  leaving   bit n: the function of slot n is to be given up; reading clears
//! 8  eject     written: bit n gives up slot n; reads as zero
//! ```
//!
//! The host changes a register and sends the interrupt of the event device, whose ACPI method reads the registers and
//! tells the kernel which slots to look at. A slot is given up only if the host asked for it and the function came by
//! hot-plug: a guest cannot eject what it was started with, nor surprise the host.

use std::fmt;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::{PciError, PciFunction, PciRoot, Slot};
use crate::bus::BusDevice;
use crate::lock;

/// Called on the vCPU thread that gave a slot up, when its function is off the bus.
pub type Ejected = Box<dyn Fn(Slot) + Send + Sync>;

/// The function in a slot cannot be asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {0} has no function that was plugged in while the VM ran")]
pub struct NotRemovable(pub u8);

#[derive(Debug, Default)]
struct State {
    /// Functions that came by hot-plug and are there.
    plugged: u32,
    /// Those of them that the host wants back.
    wanted: u32,
    inserted: u32,
    leaving: u32,
}

impl State {
    /// The slot is as it was before anything came.
    fn forget(&mut self, slot: Slot) {
        for register in [
            &mut self.plugged,
            &mut self.wanted,
            &mut self.inserted,
            &mut self.leaving,
        ] {
            *register &= !bit(slot);
        }
    }
}

/// The controller: a handle for the host, and by [`HotPlug::registers`] a device of the port bus.
pub struct HotPlug {
    root: Arc<PciRoot>,
    interrupt: EventFd,
    ejected: Ejected,
    state: Mutex<State>,
}

impl fmt::Debug for HotPlug {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HotPlug")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

fn bit(slot: Slot) -> u32 {
    1_u32.wrapping_shl(slot.number().into())
}

impl HotPlug {
    /// Bytes of the registers.
    pub const LEN: u64 = 12;
    /// Offset of the register of functions that came.
    pub const INSERTED: u64 = 0;
    /// Offset of the register of functions that are to leave.
    pub const LEAVING: u64 = 4;
    /// Offset of the register that gives slots up.
    pub const EJECT: u64 = 8;

    /// A controller of `root`, which writes to `interrupt` when the guest is to look.
    pub fn new(root: Arc<PciRoot>, interrupt: EventFd, ejected: Ejected) -> Arc<Self> {
        Arc::new(Self {
            root,
            interrupt,
            ejected,
            state: Mutex::default(),
        })
    }

    /// What belongs on the port bus.
    pub fn registers(self: &Arc<Self>) -> impl BusDevice + 'static {
        Registers(Arc::clone(self))
    }

    /// Puts a function into a free slot and tells the guest.
    ///
    /// # Errors
    /// [`PciError`] when slots or addresses are used up; the guest has seen nothing then.
    pub fn add(&self, function: Arc<Mutex<dyn PciFunction>>) -> Result<Slot, PciError> {
        let mut state = lock(&self.state);
        let slot = self.root.add(function)?;
        state.plugged |= bit(slot);
        state.inserted |= bit(slot);
        drop(state);
        self.interrupt();
        Ok(slot)
    }

    /// Puts a function into a free slot before the guest runs: it is found there, not announced, but can be asked back.
    ///
    /// # Errors
    /// Like [`HotPlug::add`].
    pub fn adopt(&self, function: Arc<Mutex<dyn PciFunction>>) -> Result<Slot, PciError> {
        let mut state = lock(&self.state);
        let slot = self.root.add(function)?;
        state.plugged |= bit(slot);
        Ok(slot)
    }

    /// Whether there is a function that can be asked back. Such a VM cannot be saved: whoever restores it could not know
    /// what to plug in.
    pub fn is_in_use(&self) -> bool {
        lock(&self.state).plugged != 0
    }

    /// Asks the guest to give a slot up. It does so in its own time, or never; asking again reminds it.
    ///
    /// # Errors
    /// [`NotRemovable`] when the slot is empty or its function was there from the start.
    pub fn ask_back(&self, slot: Slot) -> Result<(), NotRemovable> {
        let mut state = lock(&self.state);
        if state.plugged & bit(slot) == 0 {
            return Err(NotRemovable(slot.number()));
        }
        state.wanted |= bit(slot);
        state.leaving |= bit(slot);
        drop(state);
        self.interrupt();
        Ok(())
    }

    fn interrupt(&self) {
        // Fails only when the counter is full, and then the interrupt is pending.
        let _ = self.interrupt.write(1);
    }

    fn eject(&self, slots: u32) {
        for slot in Slot::all().filter(|slot| slots & bit(*slot) != 0) {
            let mut state = lock(&self.state);
            if state.plugged & state.wanted & bit(slot) == 0 {
                continue;
            }
            state.forget(slot);
            // With the lock held: nobody may take the slot before it is empty.
            self.root.remove(slot);
            drop(state);
            (self.ejected)(slot);
        }
    }
}

struct Registers(Arc<HotPlug>);

impl BusDevice for Registers {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let mut state = lock(&self.0.state);
        let register = match offset {
            HotPlug::INSERTED => &mut state.inserted,
            HotPlug::LEAVING => &mut state.leaving,
            _ => return,
        };
        // Only whole: a part would lose the rest.
        if let Ok(place) = <&mut [u8; 4]>::try_from(data) {
            *place = std::mem::take(register).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == HotPlug::EJECT
            && let Ok(bits) = data.try_into()
        {
            self.0.eject(u32::from_le_bytes(bits));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;
    use crate::bus::Bus;
    use crate::pci::{BarIndex, ConfigPorts, Configuration, Identity};
    use crate::state::{FunctionState, StateError};

    /// A function with one page, which reads as its number; counts its removals.
    struct Page {
        configuration: Configuration,
        decoded: Option<u64>,
        removed: Arc<StdMutex<u32>>,
    }

    impl PciFunction for Page {
        fn configuration(&mut self) -> &mut Configuration {
            &mut self.configuration
        }
        fn bar_read(&mut self, _bar: BarIndex, _offset: u64, data: &mut [u8]) {
            data.fill(0x5a);
        }
        fn bar_write(&mut self, _bar: BarIndex, _offset: u64, _data: &[u8]) {}
        fn bar_moved(&mut self, _bar: BarIndex, address: Option<u64>) {
            assert_ne!(self.decoded.is_some(), address.is_some(), "they alternate");
            self.decoded = address;
        }
        fn save(&mut self) -> Option<FunctionState> {
            None
        }
        fn restore(&mut self, _saved: &FunctionState) -> Result<(), StateError> {
            Err(StateError::Unfit("a test"))
        }
        fn removed(&mut self) {
            assert_eq!(self.decoded, None, "BARs are taken back before");
            *lock(&self.removed) += 1;
        }
    }

    struct Fixture {
        memory: Arc<Bus>,
        ports: Bus,
        controller: Arc<HotPlug>,
        interrupt: EventFd,
        ejected: Arc<StdMutex<Vec<u8>>>,
        removed: Arc<StdMutex<u32>>,
    }

    const WINDOW: u64 = 0x10_0000_0000;
    const REGISTERS: u64 = 0x610;

    impl Fixture {
        fn new() -> Self {
            let memory = Arc::new(Bus::new());
            let window = WINDOW..WINDOW + 0x10_0000;
            let root = Arc::new(PciRoot::new(Arc::clone(&memory), vec![window]));
            let interrupt = EventFd::new(EFD_NONBLOCK).expect("eventfd");
            let ejected = Arc::new(StdMutex::new(Vec::new()));
            let heard = Arc::clone(&ejected);
            let controller = HotPlug::new(
                Arc::clone(&root),
                interrupt.try_clone().expect("eventfd"),
                Box::new(move |slot| lock(&heard).push(slot.number())),
            );
            let ports = Bus::new();
            let device = Arc::new(Mutex::new(controller.registers()));
            ports.insert(REGISTERS, HotPlug::LEN, device).expect("free");
            let config = Arc::new(Mutex::new(ConfigPorts::new(root)));
            ports
                .insert(ConfigPorts::BASE, ConfigPorts::LEN, config)
                .expect("free");
            Self {
                memory,
                ports,
                controller,
                interrupt,
                ejected,
                removed: Arc::default(),
            }
        }

        fn add(&self) -> Result<Slot, PciError> {
            let mut configuration = Configuration::new(Identity {
                vendor: 0x1234,
                device: 1,
                class: 0xff_00_00,
                revision: 0,
                subsystem: (0, 0),
            });
            configuration
                .add_bar(BarIndex::Bar0, 0x1000, false)
                .expect("a good BAR");
            configuration.enable_memory();
            self.controller.add(Arc::new(Mutex::new(Page {
                configuration,
                decoded: None,
                removed: Arc::clone(&self.removed),
            })))
        }

        fn read(&self, offset: u64) -> u32 {
            let mut data = [0; 4];
            self.ports.read(REGISTERS + offset, &mut data);
            u32::from_le_bytes(data)
        }

        fn eject(&self, bits: u32) {
            self.ports
                .write(REGISTERS + HotPlug::EJECT, &bits.to_le_bytes());
        }

        fn interrupts(&self) -> u64 {
            self.interrupt.read().unwrap_or(0)
        }

        /// Vendor and device number in a slot.
        fn identity(&self, slot: u8) -> u32 {
            let address = 1 << 31 | u32::from(slot) << 11;
            self.ports.write(0xcf8, &u32::to_le_bytes(address));
            let mut data = [0; 4];
            self.ports.read(0xcfc, &mut data);
            u32::from_le_bytes(data)
        }

        fn page(&self, index: u64) -> u8 {
            let mut data = [0];
            self.memory.read(WINDOW + index * 0x1000, &mut data);
            data[0]
        }
    }

    #[test]
    fn a_function_comes_and_goes_and_the_guest_is_told() {
        let fixture = Fixture::new();
        assert_eq!(fixture.identity(1), u32::MAX);
        let slot = fixture.add().expect("room");
        assert_eq!(slot.number(), 1);
        assert_eq!((fixture.interrupts(), fixture.page(0)), (1, 0x5a));
        assert_eq!(fixture.identity(1), 0x0001_1234);
        assert_eq!(fixture.read(HotPlug::INSERTED), 1 << 1);
        assert_eq!(fixture.read(HotPlug::INSERTED), 0, "reading clears");

        fixture.eject(1 << 1);
        assert_eq!(fixture.page(0), 0x5a, "the host did not ask");
        fixture.controller.ask_back(slot).expect("it was plugged");
        assert_eq!((fixture.interrupts(), fixture.page(0)), (1, 0x5a));
        assert_eq!(fixture.read(HotPlug::LEAVING), 1 << 1);
        assert_eq!(fixture.read(HotPlug::LEAVING), 0, "reading clears");
        fixture.eject(u32::MAX);
        assert_eq!(fixture.page(0), 0xff);
        assert_eq!(fixture.identity(1), u32::MAX);
        assert_eq!(*lock(&fixture.ejected), [1]);
        assert_eq!(*lock(&fixture.removed), 1);
        assert_eq!(
            fixture.controller.ask_back(slot),
            Err(NotRemovable(1)),
            "it is gone"
        );
        fixture.eject(u32::MAX);
        assert_eq!(*lock(&fixture.ejected), [1], "only once");
        assert_eq!(fixture.read(HotPlug::EJECT), 0);
    }

    #[test]
    fn slots_and_addresses_are_used_again_for_ever() {
        let fixture = Fixture::new();
        for round in 0..100 {
            for number in 1..=31 {
                let slot = fixture.add().expect("room");
                assert_eq!(slot.number(), number, "round {round}");
            }
            assert_eq!(fixture.add(), Err(PciError::NoSlot));
            assert_eq!(fixture.read(HotPlug::INSERTED), 0xffff_fffe);
            // In a different order, with one that stays.
            for number in (1..=31).rev().filter(|number| *number != 7) {
                let slot = Slot::new(number).expect("a slot");
                fixture.controller.ask_back(slot).expect("plugged");
                fixture.eject(1 << number);
            }
            assert_eq!(fixture.identity(7), 0x0001_1234);
            assert_eq!(fixture.page(6), 0x5a);
            let slot = Slot::new(7).expect("a slot");
            fixture.controller.ask_back(slot).expect("plugged");
            fixture.eject(1 << 7);
        }
        assert_eq!(lock(&fixture.ejected).len(), 3100);
        assert_eq!(*lock(&fixture.removed), 3100);
    }

    #[test]
    fn what_was_there_from_the_start_stays() {
        let fixture = Fixture::new();
        let configuration = Configuration::new(Identity {
            vendor: 1,
            device: 2,
            class: 0,
            revision: 0,
            subsystem: (0, 0),
        });
        let function = Arc::new(Mutex::new(Page {
            configuration,
            decoded: None,
            removed: Arc::default(),
        }));
        let slot = fixture.controller.root.add(function).expect("room");
        assert_eq!(
            fixture.controller.ask_back(slot),
            Err(NotRemovable(slot.number()))
        );
        fixture.eject(u32::MAX);
        assert_eq!(fixture.identity(1), 0x0002_0001);
        // The bridge in slot 0 is no slot at all.
        assert_eq!(
            fixture.identity(0) & 0xffff,
            u32::from(crate::pci::VENDOR_CASEMATE)
        );
        assert_eq!((Slot::new(0), Slot::new(32)), (None, None));
    }

    #[test]
    fn an_adopted_function_is_not_announced_but_can_be_asked_back() {
        let fixture = Fixture::new();
        let slot = fixture.add().expect("room");
        fixture.controller.ask_back(slot).expect("plugged");
        fixture.eject(1 << 1);
        fixture.interrupts();
        let configuration = Configuration::new(Identity {
            vendor: 1,
            device: 2,
            class: 0,
            revision: 0,
            subsystem: (0, 0),
        });
        let function = Arc::new(Mutex::new(Page {
            configuration,
            decoded: None,
            removed: Arc::clone(&fixture.removed),
        }));
        let slot = fixture.controller.adopt(function).expect("room");
        assert_eq!(fixture.interrupts(), 0);
        assert_eq!(fixture.read(HotPlug::INSERTED), 0);
        fixture.controller.ask_back(slot).expect("adopted");
        assert_eq!(fixture.read(HotPlug::LEAVING), 1 << slot.number());
        fixture.eject(1 << slot.number());
        assert_eq!(*lock(&fixture.removed), 2);
    }

    #[test]
    fn other_accesses_lose_nothing() {
        let fixture = Fixture::new();
        let slot = fixture.add().expect("room");
        fixture.controller.ask_back(slot).expect("plugged");
        for (offset, len) in [(0, 1), (0, 2), (2, 2), (1, 4), (4, 8), (6, 1), (8, 4)] {
            let mut data = vec![0x77; len];
            fixture.ports.read(REGISTERS + offset, &mut data);
            assert!(data.iter().all(|byte| *byte == 0), "{offset} {len}");
        }
        for (offset, len) in [(8, 1), (8, 2), (9, 2), (0, 4), (4, 4)] {
            fixture.ports.write(REGISTERS + offset, &vec![0xff; len]);
        }
        assert_eq!(fixture.page(0), 0x5a);
        assert_eq!(fixture.read(HotPlug::INSERTED), 2);
        assert_eq!(fixture.read(HotPlug::LEAVING), 2);
    }
}
