//! The clock of a VM, set by its agent. The broker speaks to the agent: no guest byte comes here.

use casemate_vm::VmName;
use jiff::Timestamp;

use crate::{house::House, refusal::Refusal};

/// The service that sets it; it reads one date.
const SERVICE: &str = "qubes.SetDateTime";

/// Sets a VM's clock to ours.
pub(super) async fn set(house: &House, name: &VmName) -> Result<(), Refusal> {
    let date = Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S+00:00")
        .to_string();
    let connection = house.broker.connection().await?;
    let broker = casemate_api::broker(&connection)
        .await
        .map_err(casemate_api::Error::from)?;
    match broker
        .errand(name.as_str(), SERVICE, date.as_bytes())
        .await?
    {
        0 => Ok(()),
        code => Err(Refusal::failed(format!(
            "{SERVICE} in '{name}' ended with {code}"
        ))),
    }
}
