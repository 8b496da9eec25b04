//! The kernel's word that policy files have changed, by inotify.
//!
//! An event is queued before the call that caused it returns, so whoever reads the queue before each decision misses
//! nothing that was done before. What inotify cannot see is left to the caller, who then has to look by himself:
//! [`Watch::add`] says so.

use std::{
    collections::{HashMap, HashSet},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::{
        inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch},
        statfs,
    },
    io::Errno,
};

/// What changes the files in a directory.
const DIRECTORY: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// What changes a file.
const FILE: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// Room for events that are read at once, in bytes; one with the longest name takes 272.
const BUFFER: usize = 4096;

/// File systems, by their magic numbers (statfs(2)), that nobody changes but through this kernel: ext2 to ext4, btrfs,
/// xfs, tmpfs, overlayfs, f2fs, zfs, bcachefs, ramfs, squashfs.
const LOCAL: [u64; 10] = [
    0xef53,
    0x9123_683e,
    0x5846_5342,
    0x0102_1994,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
    0x8584_58f6,
    0x7371_7368,
];

/// The number of a watch; never given twice.
pub(super) type Id = i32;

/// The queue of events, and what is watched.
#[derive(Debug)]
pub(super) struct Watch {
    queue: Arc<OwnedFd>,
    /// Watches of the last reading, and of the one that is going on.
    known: HashSet<Id>,
    /// Watches that were added since [`Watch::begin`].
    wanted: HashSet<Id>,
    /// Files that somebody has begun to write, and since when.
    writing: HashMap<Id, Instant>,
    /// Those that are written for so long that nobody waits for the end.
    slow: HashSet<Id>,
    patience: Duration,
}

/// What has happened since the queue was read last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Something is another than it was.
    pub(super) changed: bool,
    /// Somebody has begun to write into a file.
    pub(super) begun: bool,
}

impl Watch {
    /// An empty queue. A file that is being written counts as it was, at most for `patience`. `None` when the kernel has
    /// no queue for us.
    pub(super) fn new(patience: Duration) -> Option<Self> {
        let queue = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let queue = queue
            .inspect_err(|error| tracing::warn!(%error, "no inotify: policy files are looked at on each call"))
            .ok()?;
        Some(Self {
            queue: Arc::new(queue),
            known: HashSet::new(),
            wanted: HashSet::new(),
            writing: HashMap::new(),
            slow: HashSet::new(),
            patience,
        })
    }

    /// Becomes readable when something happens.
    pub(super) fn queue(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.queue)
    }

    /// Begins a reading: what is not added before [`Watch::end`] is no longer watched.
    pub(super) fn begin(&mut self) {
        self.wanted.clear();
    }

    /// Watches a directory. `None` when its changes may go unseen.
    pub(super) fn directory(&mut self, path: &Path) -> Option<Id> {
        self.add(path, DIRECTORY)
    }

    /// Watches a file, whichever name it is reached by. `None` when its changes may go unseen.
    pub(super) fn file(&mut self, path: &Path) -> Option<Id> {
        self.add(path, FILE)
    }

    fn add(&mut self, path: &Path, flags: WatchFlags) -> Option<Id> {
        let kind = u64::try_from(statfs(path).ok()?.f_type).ok()?;
        if !LOCAL.contains(&kind) {
            return None;
        }
        let id = add_watch(&self.queue, path, flags).ok()?;
        self.known.insert(id);
        self.wanted.insert(id);
        Some(id)
    }

    /// Ends a reading.
    pub(super) fn end(&mut self) {
        for id in self.known.difference(&self.wanted) {
            // One whose file is gone has ended by itself.
            let _ = remove_watch(&self.queue, *id);
        }
        self.known.clone_from(&self.wanted);
        self.writing.retain(|id, _| self.known.contains(id));
        self.slow.retain(|id| self.known.contains(id));
    }

    /// Whether a file is being written, so that its text may be half of one.
    pub(super) fn is_being_written(&self, id: Id) -> bool {
        self.writing.contains_key(&id)
    }

    /// When a file that is being written will count as it then is.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.writing
            .values()
            .min()
            .map(|since| *since + self.patience)
    }

    /// Reads the queue. Does not wait.
    pub(super) fn news(&mut self) -> News {
        let mut news = News::default();
        let queue = Arc::clone(&self.queue);
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = Reader::new(&*queue, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => self.event(event.wd(), event.events(), &mut news),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    tracing::warn!(%error, "inotify");
                    news.changed = true;
                    break;
                }
            }
        }
        let patience = self.patience;
        let slow = self
            .writing
            .extract_if(|_, since| since.elapsed() >= patience)
            .map(|(id, _)| id);
        let before = self.slow.len();
        self.slow.extend(slow);
        news.changed |= self.slow.len() > before;
        news
    }

    fn event(&mut self, id: Id, what: ReadFlags, news: &mut News) {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            // Ends of writing may be among what was lost.
            self.writing.clear();
            news.changed = true;
        }
        if !self.known.contains(&id) || what.contains(ReadFlags::IGNORED) {
            return;
        }
        if what.contains(ReadFlags::MODIFY) && !self.slow.contains(&id) {
            self.writing.entry(id).or_insert_with(|| {
                news.begun = true;
                Instant::now()
            });
            return;
        }
        if what.contains(ReadFlags::CLOSE_WRITE) {
            self.writing.remove(&id);
            self.slow.remove(&id);
        }
        news.changed = true;
    }
}
