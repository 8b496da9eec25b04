//! Serial port.
