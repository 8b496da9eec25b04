//! A program of a stock kernel's guest that plays and records by the card's plain files: it plays half a second of the
//! known signal in each of three shapes, then records: silence, the signal, silence again, each told when it was there.
//! Whoever watches gives and takes the grant in between. Not a player: shapes and lengths are those of its test.
#![expect(clippy::print_stdout, reason = "the console is how a guest is heard")]

mod listen;
mod pcm;
mod shape;
mod signal;

use std::io::Result;
use std::process::ExitCode;

use pcm::Pcm;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("stock: sound: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    for (number, shape) in shape::PLAYED.into_iter().enumerate() {
        let pcm = Pcm::open("/dev/snd/pcmC0D0p", shape)?;
        let mut place = 0;
        // 25 periods of 20 ms.
        for _ in 0..25 {
            let frames = usize::try_from(shape.rate / 50).map_err(std::io::Error::other)?;
            let mut samples = Vec::new();
            while samples.len() < frames * shape.frame_bytes() {
                samples.extend(signal::word(place));
                place += 1;
            }
            pcm.write(&mut samples)?;
        }
        pcm.drain()?;
        println!("stock: sound {number} played {place} words");
    }
    let pcm = Pcm::open("/dev/snd/pcmC0D0c", shape::RECORDED)?;
    // Silence of which nothing is to be learned.
    pcm.read_first(&mut [0; 960 * 4])?;
    listen::run(|samples| pcm.read(samples))
}
