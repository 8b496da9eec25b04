//! MSI-X under any order of programming, masking and signals.
//!
//! An input is the number of vectors less one, then steps of 12 bytes: what to do, its width (1, 2, 4 or 8), an
//! offset or number, and a value.

use std::sync::Arc;

use casemate_devices::pci::Msix;

use crate::doubles::Router;
use crate::input::Input;

const ENABLE: u16 = 1 << 15;
const MASK: u16 = 1 << 14;

/// Plays an input. A signal of an enabled function is sent or pending, never both or neither, and nothing is sent
/// while it is masked.
pub fn play(input: &[u8]) {
    let mut input = Input(input);
    let count = u16::from(input.byte()) + 1;
    let router = Arc::new(Router::default());
    let msix = Msix::new(router.clone(), count).expect("a good count");
    let mut control = 0;
    while let Some([what, width, o0, o1, data @ ..]) = input.take::<12>() {
        let place = u16::from_le_bytes([o0, o1]);
        let offset = u64::from(place);
        let width = 1 << (width % 4);
        let mut data: [u8; 8] = data;
        let mut signalled = None;
        match what % 5 {
            0 => {
                control = place;
                msix.set_control(place);
            }
            1 => msix.write_table(offset, &data[..width]),
            2 => msix.read_table(offset, &mut data[..width]),
            3 => msix.read_pending(offset, &mut data[..width]),
            _ => {
                msix.signal(place);
                signalled = Some(place).filter(|vector| *vector < count);
            }
        }
        let sent = router.take_sent();
        let enabled = control & ENABLE != 0;
        for vector in &sent {
            let vector = u16::try_from(*vector).expect("a vector");
            assert!(
                enabled && control & MASK == 0,
                "sent while masked or disabled"
            );
            assert!(!masked(&msix, vector), "sent while the vector is masked");
            assert!(!pending(&msix, vector), "sent and still pending");
        }
        if let Some(vector) = signalled.filter(|_| enabled) {
            let sent = sent.contains(&usize::from(vector));
            assert_ne!(sent, pending(&msix, vector), "an interrupt was lost");
        }
    }
}

fn masked(msix: &Msix, vector: u16) -> bool {
    let mut control = [0; 4];
    msix.read_table(u64::from(vector) * 16 + 12, &mut control);
    control[0] & 1 != 0
}

fn pending(msix: &Msix, vector: u16) -> bool {
    let mut bits = [0; 4];
    msix.read_pending(u64::from(vector / 32) * 4, &mut bits);
    u32::from_le_bytes(bits) & (1 << (vector % 32)) != 0
}
