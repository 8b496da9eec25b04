//! What is left of a run when its process has ended: places at the services, sockets, group, record.

use std::{fs, io, sync::Arc};

use casemate_vm::VmName;
use casemate_vmm_control::LinkKind;
use tokio::task::spawn_blocking;

use crate::{attach, house::House};

/// Removes it. What cannot be removed is told in the log.
pub(crate) async fn clean_up(house: &Arc<House>, name: &VmName) {
    attach::detach(house, LinkKind::Rpc, name).await;
    attach::detach(house, LinkKind::Windows, name).await;
    let (house, name) = (Arc::clone(house), name.clone());
    let cleaned = spawn_blocking(move || {
        let folder = house.paths.vm_runtime(&name);
        house.limiter.remove(&name);
        for result in [
            absent(fs::remove_dir_all(folder)),
            house.records.remove(&name),
        ] {
            if let Err(error) = result {
                tracing::error!(vm = %name, %error, "could not clean up");
            }
        }
    });
    // A panic there is a bug that the panic hook has told already.
    let _ = cleaned.await;
}

/// Nothing there is as good as removed.
fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
