//! How the C library's allocator serves a process of many threads that hardly allocate.
#![expect(unsafe_code, reason = "the allocator's settings are C")]

/// One heap for all threads. Every further one would cost each thread pages of its own, and grows by `mprotect`, which
/// no thread may call once the VM runs. To be called before there is a second thread.
pub(crate) fn tune() {
    // SAFETY: only sets a number, in a process with one thread. It fails for an unknown setting, which this is not.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
