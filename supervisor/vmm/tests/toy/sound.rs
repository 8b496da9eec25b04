//! Grants to record over the control socket: who gets them, and that what is taken back is closed.

use std::os::fd::{AsFd as _, OwnedFd};

use casemate_vmm_control::{Action, Event, Phase};
use rustix::net::RecvFlags;

use crate::payload;
use crate::vm::{self, Parts, Vm};

/// Says something and waits until it was heard; false when it was refused.
fn tell(vm: &Vm, action: &Action, sockets: &[&OwnedFd]) -> bool {
    let descriptors: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
    vm.act_with(action, &descriptors);
    vm.act(&Action::Ping);
    let answer = vm.event();
    if matches!(answer, Event::Failed { .. }) {
        assert!(matches!(vm.event(), Event::State { .. }));
        return false;
    }
    assert!(matches!(answer, Event::State { .. }), "{answer:?}");
    true
}

fn revoke(vm: &Vm) {
    vm.act(&Action::RevokeRecording);
    let Event::State { phase, .. } = vm.event() else {
        panic!("it is always answered so");
    };
    assert_eq!(phase, Phase::Running);
}

/// Whether the vmm has closed its end.
fn is_closed(far: &OwnedFd) -> bool {
    let received = rustix::net::recv(far, &mut [0; 64][..], RecvFlags::DONTWAIT);
    received.map(|(len, _)| len) == Ok(0)
}

#[test]
fn a_grant_is_taken_replaced_and_taken_back() {
    if !vm::has_kvm() {
        return;
    }
    let parts = Parts::full(&payload::elf(payload::WINDOW_SLOT_OF_FULL));
    let vm = Vm::start(&parts);
    revoke(&vm);
    let [near, first] = vm::pair();
    assert!(tell(&vm, &Action::GrantRecording, &[&near]));
    drop(near);
    assert!(!is_closed(&first));
    let [near, second] = vm::pair();
    assert!(tell(&vm, &Action::GrantRecording, &[&near]));
    drop(near);
    assert!(is_closed(&first), "replaced");
    assert!(!is_closed(&second));
    revoke(&vm);
    assert!(is_closed(&second), "when it is answered it holds");
    let [near, speaker] = vm::pair();
    assert!(tell(&vm, &Action::AttachSpeaker, &[&near]));
    drop(near);
    assert!(!is_closed(&speaker));
    for sockets in [&[][..], &[&first, &second]] {
        assert!(!tell(&vm, &Action::GrantRecording, sockets));
        assert!(!tell(&vm, &Action::AttachSpeaker, sockets));
    }
    vm.act(&Action::Kill);
    assert_eq!(vm.wait(), Some(0));
}

#[test]
fn a_vm_without_a_card_is_granted_nothing() {
    if !vm::has_kvm() {
        return;
    }
    let parts = Parts::new(&payload::elf(payload::WINDOW_SLOT));
    let vm = Vm::start(&parts);
    let [near, far] = vm::pair();
    assert!(!tell(&vm, &Action::GrantRecording, &[&near]));
    assert!(!tell(&vm, &Action::AttachSpeaker, &[&near]));
    drop(near);
    assert!(is_closed(&far));
    revoke(&vm);
    vm.act(&Action::Kill);
    assert_eq!(vm.wait(), Some(0));
}
