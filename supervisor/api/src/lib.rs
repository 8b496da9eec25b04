//! D-Bus shapes and proxies of the supervisor, the broker and the compositor; no logic.
