//! Writes the seeds of all targets into the folder given: valid conversations, from which fuzzing finds the invalid ones.
//! Run it after a change of a wire: `cargo run --manifest-path tests/fuzz/Cargo.toml --bin seeds tests/fuzz/corpus`.

mod copies;
mod guest;
mod kernels;
mod texts;
mod wires;

use std::error::Error;
use std::fs;
use std::path::PathBuf;

/// One seed: target, name, input.
type Seed = (&'static str, &'static str, Vec<u8>);

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("name the folder")?;
    let folder = PathBuf::from(folder);
    let seeds = [
        texts::all()?,
        wires::all()?,
        guest::all(),
        copies::all(),
        kernels::all(),
    ]
    .concat();
    for (target, name, input) in seeds {
        let place = folder.join(target);
        fs::create_dir_all(&place)?;
        fs::write(place.join(name), input)?;
    }
    Ok(())
}
