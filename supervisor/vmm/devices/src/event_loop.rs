//! Threads that wait for descriptors on behalf of devices.
//!
//! An [`EventLoop`] is a handle: clone it freely. One thread calls [`EventLoop::run`]; every other thread may add
//! subscribers, register descriptors through a [`Registrar`], and stop the loop. A VM has several: one for the
//! slow devices and one per disk, so that a slow disk starves nobody.
//!
//! Readiness is level-triggered and only a hint: by the time a subscriber's lock is taken, another thread may have
//! reset the device or replaced the descriptor. A handler must find out for itself (non-blocking reads) and must
//! ignore tokens it no longer knows.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::lock;

/// Most events taken from the kernel at once; only a batch size.
const BATCH: usize = 32;

/// The epoll data of the descriptor that wakes the loop; no subscriber has this number.
const WAKE: u64 = u64::MAX;

/// Something that owns descriptors and reacts when they are ready.
pub trait Subscriber: Send {
    /// A descriptor that was registered under `token` became ready, or was when the loop last looked.
    /// Called on the loop's thread with the subscriber's own lock held.
    fn handle(&mut self, token: u32, ready: Ready, registrar: &mut Registrar<'_>);
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// A read will not block; also set at end of file.
    pub readable: bool,
    /// A write will not block.
    pub writable: bool,
    /// The other side is gone or the descriptor failed; reported whatever the interest is.
    pub hung_up: bool,
}

impl Ready {
    /// Ready for reading only.
    pub const READABLE: Self = Self {
        readable: true,
        writable: false,
        hung_up: false,
    };
    /// Ready for writing only.
    pub const WRITABLE: Self = Self {
        readable: false,
        writable: true,
        hung_up: false,
    };
}

impl From<EventSet> for Ready {
    fn from(set: EventSet) -> Self {
        Self {
            readable: set.contains(EventSet::IN),
            writable: set.contains(EventSet::OUT),
            hung_up: set.intersects(EventSet::HANG_UP | EventSet::ERROR),
        }
    }
}

/// What a subscriber wants to hear of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Only that the other side is gone. Beware: that is reported again and again until the descriptor is removed.
    Nothing,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
}

impl From<Interest> for EventSet {
    fn from(interest: Interest) -> Self {
        match interest {
            Interest::Nothing => Self::empty(),
            Interest::Read => Self::IN,
            Interest::Write => Self::OUT,
            Interest::ReadWrite => Self::IN | Self::OUT,
        }
    }
}

/// Names a subscriber of one loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubscriberId(u32);

/// Registers descriptors for one subscriber. Descriptors stay registered until they are removed or closed:
/// remove before closing, because a duplicate elsewhere would keep a closed one alive in the kernel's table.
#[derive(Debug)]
pub struct Registrar<'a> {
    epoll: &'a Epoll,
    subscriber: SubscriberId,
}

impl Registrar<'_> {
    /// Starts to watch `descriptor`; `token` comes back in the handler.
    ///
    /// # Errors
    /// The kernel's, for instance when the descriptor is watched already or is a regular file.
    pub fn add(
        &mut self,
        descriptor: &impl AsRawFd,
        token: u32,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(ControlOperation::Add, descriptor, token, interest)
    }

    /// Changes the token or interest of a watched descriptor.
    ///
    /// # Errors
    /// The kernel's, for instance when the descriptor is not watched.
    pub fn modify(
        &mut self,
        descriptor: &impl AsRawFd,
        token: u32,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(ControlOperation::Modify, descriptor, token, interest)
    }

    /// Stops watching.
    ///
    /// # Errors
    /// The kernel's, for instance when the descriptor is not watched.
    pub fn remove(&mut self, descriptor: &impl AsRawFd) -> io::Result<()> {
        self.control(ControlOperation::Delete, descriptor, 0, Interest::Nothing)
    }

    fn control(
        &self,
        operation: ControlOperation,
        descriptor: &impl AsRawFd,
        token: u32,
        interest: Interest,
    ) -> io::Result<()> {
        let data = (u64::from(self.subscriber.0) << 32) | u64::from(token);
        self.epoll.ctl(
            operation,
            descriptor.as_raw_fd(),
            EpollEvent::new(interest.into(), data),
        )
    }
}

/// A loop whose thread stands still until this is dropped; see [`EventLoop::hold`].
#[derive(Debug)]
pub struct Held<T> {
    /// What the work returned.
    pub value: T,
    _release: mpsc::Sender<()>,
}

type Handler = Arc<dyn Fn(u32, Ready, &mut Registrar<'_>) + Send + Sync>;

#[derive(Default)]
struct Subscribers {
    next: u32,
    handlers: BTreeMap<SubscriberId, Handler>,
}

/// Work for the loop's thread.
pub type Job = Box<dyn FnOnce() + Send>;

struct Shared {
    epoll: Epoll,
    wake: EventFd,
    stop: AtomicBool,
    subscribers: Mutex<Subscribers>,
    jobs: Mutex<Vec<Job>>,
}

/// Handle of a loop; all clones are the same loop.
#[derive(Clone)]
pub struct EventLoop {
    shared: Arc<Shared>,
}

/// Handle of a loop that does not keep it.
#[derive(Clone)]
pub struct WeakEventLoop(Weak<Shared>);

impl WeakEventLoop {
    /// The loop, while anyone keeps it.
    pub fn upgrade(&self) -> Option<EventLoop> {
        let shared = self.0.upgrade()?;
        Some(EventLoop { shared })
    }
}

impl fmt::Debug for WeakEventLoop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WeakEventLoop")
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EventLoop").finish_non_exhaustive()
    }
}

impl EventLoop {
    /// Makes a loop that watches nothing yet.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        epoll.ctl(
            ControlOperation::Add,
            wake.as_raw_fd(),
            EpollEvent::new(EventSet::IN, WAKE),
        )?;
        Ok(Self {
            shared: Arc::new(Shared {
                epoll,
                wake,
                stop: AtomicBool::new(false),
                subscribers: Mutex::default(),
                jobs: Mutex::default(),
            }),
        })
    }

    /// Adds a subscriber; it hears nothing until it has registered a descriptor.
    pub fn add<S: Subscriber + ?Sized + 'static>(&self, subscriber: Arc<Mutex<S>>) -> SubscriberId {
        let handler: Handler = Arc::new(move |token, ready, registrar| {
            lock(&subscriber).handle(token, ready, registrar);
        });
        let mut subscribers = lock(&self.shared.subscribers);
        let id = SubscriberId(subscribers.next);
        subscribers.next = subscribers.next.saturating_add(1);
        subscribers.handlers.insert(id, handler);
        id
    }

    /// Forgets a subscriber. Its descriptors should have been removed: events of those that were not are dropped.
    pub fn remove(&self, id: SubscriberId) {
        let gone = lock(&self.shared.subscribers).handlers.remove(&id);
        // Outside of the lock: what a subscriber holds may be a subscriber's own to forget.
        drop(gone);
    }

    /// A handle for what the loop itself holds, which would else keep each other alive for ever.
    pub fn downgrade(&self) -> WeakEventLoop {
        WeakEventLoop(Arc::downgrade(&self.shared))
    }

    /// Has the loop's thread do `job` between two handlers, in the order of these calls. A job that comes after
    /// [`EventLoop::stop`] is dropped with the loop, undone.
    pub fn run_job(&self, job: Job) {
        lock(&self.shared.jobs).push(job);
        // Fails only when the counter is full, and then the loop is awake.
        let _ = self.shared.wake.write(1);
    }

    /// The registrar of a subscriber, for use on any thread.
    pub fn registrar(&self, id: SubscriberId) -> Registrar<'_> {
        Registrar {
            epoll: &self.shared.epoll,
            subscriber: id,
        }
    }

    /// Handles events until [`EventLoop::stop`]. One thread at a time.
    ///
    /// # Errors
    /// When the kernel refuses to wait, which is a bug of ours.
    pub fn run(&self) -> io::Result<()> {
        while !self.shared.stop.load(Ordering::Acquire) {
            self.turn(-1)?;
        }
        Ok(())
    }

    /// Handles what is ready now, without waiting; returns the number of events.
    ///
    /// # Errors
    /// Like [`EventLoop::run`].
    pub fn run_ready(&self) -> io::Result<usize> {
        self.turn(0)
    }

    /// Makes [`EventLoop::run`] return after the handler that is running, from any thread and for good.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        // Fails only when the counter is full, and then the loop is awake.
        let _ = self.shared.wake.write(1);
    }

    /// Does `work` on the loop's thread, after the handler that is running, and then keeps the thread still until the
    /// answer is dropped: for a snapshot, in which devices and memory have to be of one moment. `None` when the thread
    /// did not come to it within `limit`; it then goes on as soon as it can. Never from a handler of this loop, which
    /// would wait for itself.
    pub fn hold<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Held<T>> {
        let (done, answer) = mpsc::channel();
        let (release, released) = mpsc::channel();
        self.run_job(Box::new(move || {
            if done.send(work()).is_ok() {
                // Ends with an error, when the other side is dropped.
                let _ = released.recv();
            }
        }));
        let value = answer.recv_timeout(limit).ok()?;
        Some(Held {
            value,
            _release: release,
        })
    }

    fn turn(&self, timeout: i32) -> io::Result<usize> {
        let mut events = [EpollEvent::default(); BATCH];
        let count = match self.shared.epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(0),
            Err(error) => return Err(error),
        };
        for event in events.iter().take(count) {
            if self.shared.stop.load(Ordering::Acquire) {
                break;
            }
            self.dispatch(*event);
        }
        Ok(count)
    }

    fn dispatch(&self, event: EpollEvent) {
        let data = event.data();
        if data == WAKE {
            let _ = self.shared.wake.read();
            // The list's lock is not held meanwhile: a job may add another.
            let jobs = std::mem::take(&mut *lock(&self.shared.jobs));
            for job in jobs {
                job();
            }
            return;
        }
        let (Ok(id), Ok(token)) = (u32::try_from(data >> 32), u32::try_from(data & 0xffff_ffff))
        else {
            return;
        };
        let id = SubscriberId(id);
        // The list's lock is released before the handler runs, so that a handler may add subscribers.
        let handler = lock(&self.shared.subscribers).handlers.get(&id).cloned();
        if let Some(handler) = handler {
            handler(token, event.event_set().into(), &mut self.registrar(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder {
        seen: Vec<(u32, Ready)>,
        source: Option<EventFd>,
    }

    impl Subscriber for Recorder {
        fn handle(&mut self, token: u32, ready: Ready, registrar: &mut Registrar<'_>) {
            self.seen.push((token, ready));
            if let Some(source) = &self.source {
                registrar.remove(source).expect("it is registered");
            }
        }
    }

    fn source() -> EventFd {
        let source = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        source.write(1).expect("an empty counter takes one");
        source
    }

    #[test]
    fn each_subscriber_hears_its_own_descriptors_until_it_removes_them() {
        let looper = EventLoop::new().expect("epoll");
        let recorders = [0, 1].map(|_| {
            Arc::new(Mutex::new(Recorder {
                seen: Vec::new(),
                source: Some(source()),
            }))
        });
        for (token, recorder) in (7u32..).zip(&recorders) {
            let id = looper.add(recorder.clone());
            let recorder = lock(recorder);
            let source = recorder.source.as_ref().expect("just made");
            looper
                .registrar(id)
                .add(source, token, Interest::Read)
                .expect("fresh descriptor");
        }
        assert_eq!(looper.run_ready().expect("epoll"), 2);
        assert_eq!(looper.run_ready().expect("epoll"), 0, "both were removed");
        for (token, recorder) in (7u32..).zip(&recorders) {
            assert_eq!(lock(recorder).seen, [(token, Ready::READABLE)]);
        }
    }

    #[test]
    fn jobs_are_done_in_order_and_may_add_others() {
        let looper = EventLoop::new().expect("epoll");
        let done = Arc::new(Mutex::new(Vec::new()));
        for number in [1, 2] {
            let (done, again) = (Arc::clone(&done), looper.clone());
            looper.run_job(Box::new(move || {
                lock(&done).push(number);
                let done = Arc::clone(&done);
                again.run_job(Box::new(move || lock(&done).push(number + 10)));
            }));
        }
        assert_eq!(*lock(&done), [0; 0], "not on this thread's time");
        looper.run_ready().expect("epoll");
        assert_eq!(*lock(&done), [1, 2]);
        looper.run_ready().expect("epoll");
        assert_eq!(*lock(&done), [1, 2, 11, 12]);
        assert_eq!(looper.run_ready().expect("epoll"), 0);
    }

    #[test]
    fn a_forgotten_subscriber_is_not_called() {
        let looper = EventLoop::new().expect("epoll");
        let recorder = Arc::new(Mutex::new(Recorder::default()));
        let id = looper.add(recorder.clone());
        let source = source();
        looper
            .registrar(id)
            .add(&source, 1, Interest::ReadWrite)
            .expect("fresh descriptor");
        looper.remove(id);
        looper.run_ready().expect("epoll");
        assert_eq!(lock(&recorder).seen, []);
    }

    #[test]
    fn a_held_loop_does_the_work_and_then_nothing_until_it_is_let_go() {
        let looper = EventLoop::new().expect("epoll");
        let recorder = Arc::new(Mutex::new(Recorder {
            seen: Vec::new(),
            source: Some(source()),
        }));
        let id = looper.add(recorder.clone());
        let thread = std::thread::spawn({
            let looper = looper.clone();
            move || looper.run()
        });
        let limit = Duration::from_secs(60);
        let held = looper
            .hold(limit, || std::thread::current().id())
            .expect("it runs");
        assert_eq!(held.value, thread.thread().id());
        {
            let recorder = lock(&recorder);
            let source = recorder.source.as_ref().expect("just made");
            looper
                .registrar(id)
                .add(source, 3, Interest::Read)
                .expect("fresh descriptor");
        }
        // Whoever holds the loop may hold it once more, which is only done after the first was let go.
        assert!(looper.hold(Duration::from_millis(1), || ()).is_none());
        assert_eq!(lock(&recorder).seen, []);
        drop(held);
        while lock(&recorder).seen.is_empty() {
            std::thread::yield_now();
        }
        looper.stop();
        thread.join().expect("no panic").expect("no error");
    }

    #[test]
    fn stop_ends_a_waiting_loop() {
        let looper = EventLoop::new().expect("epoll");
        let thread = std::thread::spawn({
            let looper = looper.clone();
            move || looper.run()
        });
        looper.stop();
        thread.join().expect("no panic").expect("no error");
    }
}
