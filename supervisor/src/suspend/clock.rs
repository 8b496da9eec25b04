//! The clock of a VM, set by its agent.

use casemate_vm::VmName;

use crate::{calls::errand, house::House, refusal::Refusal};

/// The service that sets it; it reads one date.
const SERVICE: &str = "qubes.SetDateTime";

/// Sets a VM's clock to ours.
pub(super) async fn set(house: &House, name: &VmName) -> Result<(), Refusal> {
    errand::run(house, name, SERVICE, &errand::now()).await
}
