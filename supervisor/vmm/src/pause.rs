//! How vCPU threads stand still: each parks between two runs of its vCPU while a pause is wanted.
//!
//! Only the guest stands still. Devices go on with what the driver had queued, and their interrupts wait in KVM.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Where vCPU threads wait. Shared by all of a VM and whoever pauses them.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    /// Read before every run of a vCPU, so without the lock; written with it.
    wanted: AtomicBool,
    /// Number of threads that stand still.
    parked: Mutex<usize>,
    released: Condvar,
}

impl Pause {
    /// From now on threads park; those that are in the guest have to be taken out of it first.
    pub(crate) fn ask(&self) {
        let _parked = self.lock();
        self.wanted.store(true, Ordering::Release);
    }

    /// Lets the threads go on.
    pub(crate) fn release(&self) {
        let _parked = self.lock();
        self.wanted.store(false, Ordering::Release);
        self.released.notify_all();
    }

    /// Whether a pause is wanted.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Number of threads that stand still now.
    pub(crate) fn parked(&self) -> usize {
        *self.lock()
    }

    /// Parks the calling thread for as long as a pause is wanted; returns whether it was.
    pub(crate) fn stand_still(&self) -> bool {
        if !self.is_wanted() {
            return false;
        }
        let mut parked = self.lock();
        *parked = parked.saturating_add(1);
        while self.is_wanted() {
            parked = self
                .released
                .wait(parked)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *parked = parked.saturating_sub(1);
        true
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn threads_stand_still_only_while_it_is_wanted() {
        let pause = Arc::new(Pause::default());
        assert!(!pause.stand_still(), "nobody asked");
        for _ in 0..100 {
            pause.ask();
            let (gone, news) = mpsc::channel();
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (pause, gone) = (Arc::clone(&pause), gone.clone());
                    std::thread::spawn(move || {
                        assert!(pause.stand_still());
                        gone.send(()).expect("somebody listens");
                    })
                })
                .collect();
            while pause.parked() < 2 {
                std::thread::yield_now();
            }
            assert!(news.try_recv().is_err(), "both are parked");
            pause.release();
            for thread in threads {
                thread.join().expect("no panic");
            }
            assert_eq!((news.try_iter().count(), pause.parked()), (2, 0));
        }
    }
}
