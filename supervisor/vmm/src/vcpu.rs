//! vCPU threads: run the guest, hand its accesses to the buses, stand still and end when asked.

use std::io;
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use casemate_devices::bus::Bus;
use casemate_vmm_control::StopReason;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::jail::{Filters, ThreadClass};
use crate::pause::Pause;
use crate::stop::Stop;

/// Most exits that one instruction can need: 64 bytes by single bytes.
const MAX_PARTS: usize = 64;

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
        #[cfg(feature = "escape-probe")]
        {
            crate::jail::probe::try_filter(class);
            // What is tried closes descriptors: nobody may make one meanwhile.
            self.barrier.wait();
            crate::jail::probe::end(class);
        }
    }
}

/// Running vCPU threads.
#[derive(Debug)]
pub(crate) struct Vcpus {
    threads: Mutex<Vec<JoinHandle<()>>>,
    pause: Arc<Pause>,
    /// Locked by its thread but while that stands still.
    vcpus: Vec<Arc<Mutex<VcpuFd>>>,
}

/// The vCPUs do not stand still; all of them run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PauseError {
    /// The VM ends.
    #[error("the VM is about to end")]
    Ending,
    /// A thread stayed in a device for too long: a disk does not answer.
    #[error("a vCPU waits for a device and did not stand still in time; the VM runs on, try again")]
    TooSlow,
}

impl Vcpus {
    /// Starts one thread per vCPU; each passes the gate before it enters the guest. `restored` says that the guest stood
    /// still before.
    pub(crate) fn spawn(
        vcpus: Vec<VcpuFd>,
        outside: &Outside,
        gate: &Gate,
        restored: bool,
    ) -> io::Result<Self> {
        // The signal does nothing but make KVM_RUN return.
        register_signal_handler(SIGRTMIN(), on_kick)?;
        let pause = Arc::new(Pause::default());
        let vcpus: Vec<_> = vcpus
            .into_iter()
            .map(|vcpu| Arc::new(Mutex::new(vcpu)))
            .collect();
        let threads = vcpus
            .iter()
            .enumerate()
            .map(|(index, vcpu)| {
                let (outside, gate) = (outside.clone(), gate.clone());
                let vcpu = Arc::clone(vcpu);
                let pause = Arc::clone(&pause);
                std::thread::Builder::new()
                    .name(format!("vcpu{index}"))
                    .spawn(move || {
                        gate.pass(ThreadClass::Vcpu);
                        run(&vcpu, &outside, &pause, restored);
                    })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            threads: Mutex::new(threads),
            pause,
            vcpus,
        })
    }

    /// Takes all vCPUs out of the guest and returns when they stand still. Nothing happens when they do already.
    ///
    /// # Errors
    /// [`PauseError`] when one does not within `limit`; then all go on.
    pub(crate) fn pause(&self, limit: Duration) -> Result<(), PauseError> {
        let end = Instant::now() + limit;
        let threads = self.threads();
        self.pause.ask();
        while self.pause.parked() < threads.len() {
            let failed = if threads.iter().any(JoinHandle::is_finished) {
                Some(PauseError::Ending)
            } else if Instant::now() >= end {
                Some(PauseError::TooSlow)
            } else {
                None
            };
            if let Some(error) = failed {
                self.pause.release();
                return Err(error);
            }
            // Lost when it comes just before KVM_RUN, so it is sent until all stand still.
            for thread in threads.iter() {
                let _ = thread.kill(SIGRTMIN());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets the vCPUs go on.
    pub(crate) fn resume(&self) {
        self.pause.release();
    }

    /// Whether they stand still.
    pub(crate) fn is_paused(&self) -> bool {
        self.pause.is_wanted()
    }

    /// Looks at every vCPU while all stand still.
    pub(crate) fn with_each<T, E>(
        &self,
        look: impl Fn(&VcpuFd) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        self.vcpus.iter().map(|vcpu| look(&lock(vcpu))).collect()
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all threads leave the guest and waits for them, but not longer than `limit`; the reason to stop must have
    /// been given. Returns whether all have ended. Ends paused ones too, without another run in the guest.
    pub(crate) fn stop(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        self.pause.release();
        for thread in std::mem::take(&mut *self.threads()) {
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

fn lock(vcpu: &Mutex<VcpuFd>) -> MutexGuard<'_, VcpuFd> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one vCPU until the VM is asked to stop.
fn run(shared: &Mutex<VcpuFd>, outside: &Outside, pause: &Pause, restored: bool) {
    let mut vcpu = lock(shared);
    if restored {
        tell_of_pause(&vcpu);
    }
    while outside.stop.reason().is_none() {
        if pause.is_wanted() {
            finish_exit(&mut vcpu, outside);
            drop(vcpu);
            pause.stand_still();
            vcpu = lock(shared);
            tell_of_pause(&vcpu);
            // The reason to stop may have come meanwhile.
            continue;
        }
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

/// Tells the guest's watchdogs that it was the host that stood still. Only before it goes on, and not as it stops: what
/// KVM notes down on the clock's page before the first run is what the guest finds there. Fails when the guest has no
/// such clock, and then has nothing to be told.
fn tell_of_pause(vcpu: &VcpuFd) {
    if let Err(error) = vcpu.kvmclock_ctrl() {
        tracing::debug!(%error, "the guest's clock knows of no pause");
    }
}

/// Lets KVM finish the instruction whose exit was answered last: half of it would be in no register that can be saved.
/// Does not enter the guest.
fn finish_exit(vcpu: &mut VcpuFd, outside: &Outside) {
    vcpu.set_kvm_immediate_exit(1);
    // An access may come in parts, each an exit of its own; no instruction has more than these.
    for _ in 0..MAX_PARTS {
        match vcpu.run() {
            Ok(exit) => {
                if let Some(reason) = handle(exit, outside) {
                    outside.stop.ask(reason);
                    break;
                }
            }
            Err(_) => break,
        }
    }
    vcpu.set_kvm_immediate_exit(0);
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
