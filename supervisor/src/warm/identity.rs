//! Who a VM is that went on from another one's memory, told to its agent before anything else can reach it.

use std::fmt::Write as _;

use casemate_vm::VmName;

use crate::{
    calls::errand,
    house::House,
    ids::random,
    refusal::{Kind, Refusal},
};

/// The service that takes it on.
const SERVICE: &str = "casemate.Identity";

/// The service that returns when windows can be shown.
const SESSION: &str = "qubes.WaitForSession";

/// How often it is asked: the broker gives each errand half a minute.
const SESSION_TRIES: u32 = 6;

/// Gives a VM its name, a machine id and a seed of its own, and the time.
pub(super) async fn give(house: &House, name: &VmName) -> Result<(), Refusal> {
    errand::run(house, name, SERVICE, &text(name)?).await
}

/// Returns when the VM can show windows.
pub(super) async fn session(house: &House, name: &VmName) -> Result<(), Refusal> {
    let mut tries = 1;
    loop {
        match errand::run(house, name, SESSION, "").await {
            // The broker waits for less than a slow machine may need.
            Err(refusal) if refusal.kind == Kind::TimedOut && tries < SESSION_TRIES => tries += 1,
            result => return result,
        }
    }
}

fn text(name: &VmName) -> Result<String, Refusal> {
    let date = errand::now();
    let machine_id = hexadecimal(&random::<16>()?);
    let seed = hexadecimal(&random::<32>()?);
    Ok(format!(
        "name={name}\nmachine-id={machine_id}\ndate={date}\nseed={seed}\n"
    ))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
