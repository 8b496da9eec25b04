//! What a new supervisor does first: finish what a dead one began, and take over the VMs that run.

use std::{io, sync::Arc};

use casemate_vm::{VmKind, VmName};

use crate::{
    calls,
    control::Control,
    driver::{self, Origin},
    house::House,
    launch::Plan,
    life::Life,
    machine::Machine,
    process::Process,
    run_record::RunRecord,
};

/// Finishes creations and removals that were cut. Blocks; nothing else runs yet.
pub(crate) fn recover(house: &House) -> io::Result<()> {
    for name in house.pending.left()? {
        if !house.definitions.exists(&name) {
            tracing::warn!(vm = %name, "finishing a creation or removal that was cut");
            if let Err(refusal) = house.volumes.remove(&name) {
                tracing::error!(vm = %name, %refusal, "its volume stays");
                continue;
            }
        }
        house.pending.end(&name)?;
    }
    Ok(())
}

/// Makes a driver for every VM that was running. Never waits for a vmm.
pub(crate) fn adopt(house: &Arc<House>) -> io::Result<()> {
    for name in house.records.names()? {
        match house.records.load(&name) {
            Ok(record) => adopt_one(house, name, record),
            Err(error) => {
                // No guessing: the VM runs on unseen, and its volume's lock keeps it from being started twice.
                let aside = house.records.set_aside(&name)?;
                let what = format!(
                    "its record is damaged ({error}) and was kept as {}; if it runs, it cannot be controlled",
                    aside.display()
                );
                tracing::error!(vm = %name, what, "not adopted");
                house.note_damage(name, what);
            }
        }
    }
    Ok(())
}

fn adopt_one(house: &Arc<House>, name: VmName, record: RunRecord) {
    let kind = record.spec.kind;
    let origin = match kind {
        VmKind::App => Origin::Defined,
        VmKind::Disposable => Origin::Disposable(Box::new(Plan {
            name: name.clone(),
            spec: record.spec.clone(),
            uuid: record.uuid.clone(),
            made_for: record.made_for.clone(),
        })),
    };
    let call = record.ends_with_call;
    let machine = take_over(house, &name, record);
    let (life, effects) = match &machine {
        Some(machine) if machine.record.unfinished => Life::unfinished(kind),
        Some(machine) => Life::adopted(kind, machine.record.agent_reported),
        None => Life::found_dead(kind),
    };
    tracing::info!(vm = %name, alive = machine.is_some(), "adopted");
    let handle = driver::spawn(house, name.clone(), origin, life, effects, machine);
    house.add_driver(name, handle.clone());
    if let Some(call) = call {
        calls::end_with_call(house, handle, call, None);
    }
}

/// The machine of a record, if its process lives and listens.
fn take_over(house: &House, name: &VmName, record: RunRecord) -> Option<Machine> {
    let process = match record.process.map(Process::reopen) {
        Some(Ok(process)) => Some(process),
        Some(Err(_)) => return None,
        None => None,
    };
    match Control::connect(&house.paths.vm_runtime(name).join("control")) {
        Ok(control) => Some(Machine::new(
            record,
            control,
            process,
            None,
            house.settings.watchdog(),
        )),
        Err(error) => {
            // Without its socket it can neither be stopped nor joined to anything.
            if let Some(process) = &process {
                tracing::error!(vm = %name, %error, "its control socket has gone; it is ended");
                process.kill();
            }
            None
        }
    }
}
