//! qrexec frames and names; no I/O.
