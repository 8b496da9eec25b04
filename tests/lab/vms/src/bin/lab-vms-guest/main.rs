//! `lab-vms-guest`: the only program of a measured VM, started by its kernel as `/init`. It says that it is up, does
//! the works that the kernel's command line asks for, says how long each took, and stays.
#![expect(clippy::print_stdout, reason = "the console is all it has")]

mod bell;
mod disk;
mod frames;
mod modules;
mod stream;
mod works;

use std::time::Duration;

use casemate_lab_vms::guest::{DONE, FAILED, UP};

fn main() {
    // Before anything else: this line is what a boot is measured to.
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    println!("{UP} {}.{:09}", clock.tv_sec, clock.tv_nsec);
    match works::run() {
        Ok(()) => println!("{DONE}"),
        Err(error) => println!("{FAILED} all: {error:#}"),
    }
    // Process 1 must not end.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
