//! The console device under hostile queues.
#![no_main]

use std::sync::Arc;

use casemate_devices::console::Console;
use casemate_fuzz::{doubles::Silence, driver};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| driver::play(Console::new(Arc::new(Silence)), input, || {}));
