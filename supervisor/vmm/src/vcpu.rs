//! vCPU threads: run the guest, hand its accesses to the buses, end when asked.

use std::io;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use casemate_devices::bus::Bus;
use casemate_vmm_control::StopReason;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::jail::{Filters, ThreadClass};
use crate::stop::Stop;

/// What a vCPU reaches outside of KVM.
#[derive(Clone, Debug)]
pub(crate) struct Outside {
    /// Memory-mapped devices.
    pub(crate) memory: Arc<Bus>,
    /// Devices behind ports.
    pub(crate) ports: Arc<Bus>,
    /// How the VM ends.
    pub(crate) stop: Arc<Stop>,
}

/// What every thread does before it works: take on its filter, then wait for all others to have theirs.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    /// The filters.
    pub(crate) filters: Arc<Filters>,
    /// Opens when all threads have come.
    pub(crate) barrier: Arc<Barrier>,
}

impl Gate {
    /// Locks this thread up and waits for the others. Ends the process when it cannot: nothing of the guest has run.
    pub(crate) fn pass(&self, class: ThreadClass) {
        if let Err(error) = self.filters.install(class) {
            tracing::error!(%error, "cannot install the system call filter");
            std::process::abort();
        }
        self.barrier.wait();
    }
}

/// Running vCPU threads.
#[derive(Debug)]
pub(crate) struct Vcpus {
    threads: Vec<JoinHandle<()>>,
}

impl Vcpus {
    /// Starts one thread per vCPU; each passes the gate before it enters the guest.
    pub(crate) fn spawn(vcpus: Vec<VcpuFd>, outside: &Outside, gate: &Gate) -> io::Result<Self> {
        // The signal does nothing but make KVM_RUN return.
        register_signal_handler(SIGRTMIN(), on_kick)?;
        let threads = vcpus
            .into_iter()
            .enumerate()
            .map(|(index, vcpu)| {
                let (outside, gate) = (outside.clone(), gate.clone());
                std::thread::Builder::new()
                    .name(format!("vcpu{index}"))
                    .spawn(move || {
                        gate.pass(ThreadClass::Vcpu);
                        run(vcpu, &outside);
                    })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { threads })
    }

    /// Makes all threads leave the guest and waits for them, but not longer than `limit`; the reason to stop must have
    /// been given. Returns whether all have ended.
    pub(crate) fn stop(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        for thread in self.threads {
            // A signal may come just before KVM_RUN and be lost, so it is sent until the thread ends.
            while !thread.is_finished() {
                if Instant::now() >= end {
                    return false;
                }
                let _ = thread.kill(SIGRTMIN());
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = thread.join();
        }
        true
    }
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Runs one vCPU until the VM is asked to stop.
fn run(mut vcpu: VcpuFd, outside: &Outside) {
    while outside.stop.reason().is_none() {
        match vcpu.run() {
            Ok(exit) => {
                if let Some(reason) = handle(exit, outside) {
                    outside.stop.ask(reason);
                }
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => {
                tracing::error!(%error, "KVM cannot run the vCPU");
                outside.stop.ask(StopReason::Error);
            }
        }
    }
}

/// Answers one exit; returns why the VM must end, if it must.
fn handle(exit: VcpuExit<'_>, outside: &Outside) -> Option<StopReason> {
    match exit {
        VcpuExit::IoIn(port, data) if is_single(data) => {
            outside.ports.read(u64::from(port), data);
        }
        // String instructions come as many accesses at once. None of our devices is meant for them: all ones.
        VcpuExit::IoIn(_, data) => data.fill(0xff),
        VcpuExit::IoOut(port, data) if is_single(data) => {
            outside.ports.write(u64::from(port), data);
        }
        VcpuExit::IoOut(..) | VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
        VcpuExit::MmioRead(address, data) => outside.memory.read(address, data),
        VcpuExit::MmioWrite(address, data) => outside.memory.write(address, data),
        VcpuExit::Shutdown => return Some(StopReason::Reset), // Triple fault.
        VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN, _) => {
            return Some(StopReason::PowerOff);
        }
        VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_RESET, _) => {
            return Some(StopReason::Reset);
        }
        other => {
            // Entry failures, internal errors, memory faults: the guest did what KVM cannot emulate, or we have a bug.
            tracing::error!(exit = ?other, "vCPU cannot go on");
            return Some(StopReason::Error);
        }
    }
    None
}

fn is_single(data: &[u8]) -> bool {
    matches!(data.len(), 1 | 2 | 4)
}
