//! A policy of up to three files, and requests judged by it.
#![no_main]

use casemate_fuzz::policy::{self, Tree};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(tree) = Tree::new(input) {
        policy::judge(&tree);
    }
});
