//! Qubes policy: parser and evaluator; pure, no I/O, reads no clock.
