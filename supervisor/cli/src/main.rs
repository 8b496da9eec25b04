//! The command line: everything a person does; keeps no state.

fn main() {}
