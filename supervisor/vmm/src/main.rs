//! One VM: KVM, vCPUs, devices, jail; opens no path once jailed.
//!
//! Started by the supervisor as `casemate-vmm --launch FD`. What happens then is in [`launch`], in order. Around it:
//! [`inherited`] descriptors, the [`jail`], the [`machine`] that KVM makes, what is in its memory at [`boot`], its
//! [`devices`] and those that come by [`plug`], and what runs: [`vcpu`] threads, disk threads, and the main loop with [`control`]. It ends by [`stop`].
//!
//! Threads and event loops only: no async runtime, no D-Bus, no policy.

mod allocator;
mod arguments;
mod boot;
mod control;
mod devices;
mod generation;
mod inherited;
mod jail;
mod launch;
mod machine;
mod pause;
mod plug;
mod power;
mod report;
mod snapshot;
mod stop;
mod vcpu;
mod vfio;

use std::process::ExitCode;

fn main() -> ExitCode {
    allocator::tune();
    report::init();
    let result = arguments::parse(std::env::args_os().skip(1)).and_then(launch::run);
    match result {
        Ok(code) => code,
        Err(error) => report::failure(&error),
    }
}
