//! The steps of the demo in their order. Each asks the running system for its proof: text that a VM
//! printed, pixels on the screen, a hash, a file that is gone.

mod endure;
mod files;
mod life;
mod services;
mod warm;
mod windows;

use super::stage::Stage;
use super::{Step, Work};

/// A step without which the rest makes no sense.
fn need(name: &'static str, work: Work) -> Step {
    Step {
        name,
        essential: true,
        hands: false,
        work,
    }
}

/// Up to a machine that has the programs and the template.
fn beginning(stage: Stage) -> Vec<Step> {
    vec![
        need("build the programs", life::build),
        need("build the template", life::template),
        if stage.native() {
            need("take this machine", life::here)
        } else {
            need("boot the lab", life::lab)
        },
    ]
}

/// Another, shorter story: disposables that boot and disposables that do not.
pub(super) fn warm_steps(stage: Stage) -> Vec<Step> {
    let mut steps = beginning(stage);
    steps.extend([
        need("switch warm images on", warm::switch_on),
        need(
            "disposables from an image are VMs of their own",
            warm::told_apart,
        ),
        Step {
            hands: true,
            ..need("a document in one", warm::window)
        },
    ]);
    steps
}

pub(super) fn steps(stage: Stage) -> Vec<Step> {
    let show = |name, work| Step {
        essential: false,
        ..need(name, work)
    };
    // What needs a person's keys and clicks, which the demo makes itself where it can.
    let act = |name, work| Step {
        hands: true,
        ..show(name, work)
    };
    let mut steps = beginning(stage);
    steps.extend([
        need("create work and untrusted", life::create),
        need("start both VMs", life::start),
        show("run a command in work", life::command),
        show("100 MB through a VM", life::stream),
        show(
            "a terminal of work, a GTK 4 program of untrusted",
            windows::show,
        ),
        act("a typed line reaches work alone", windows::typed),
        act("a file crosses when the person allows it", files::asked),
        show("a file that policy denies does not cross", files::denied),
        show(
            "service scripts and rules as they are",
            services::unmodified,
        ),
        act("a document in a disposable", endure::disposable),
        show(
            "writes outside /home are gone after a restart",
            endure::restart,
        ),
        show(
            "the supervisor is killed, VMs and windows stay",
            endure::adoption,
        ),
    ]);
    steps
}
