//! Wire between casemate-windows and the compositor: messages, limits, codec; no I/O.
