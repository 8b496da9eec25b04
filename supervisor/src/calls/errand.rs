//! Calls of services in a VM by the host itself: the broker makes them, so no guest byte comes here.

use casemate_vm::VmName;
use jiff::Timestamp;

use crate::{house::House, refusal::Refusal};

/// Has a service of a VM read `input`, and waits for its end.
pub(crate) async fn run(
    house: &House,
    name: &VmName,
    service: &str,
    input: &str,
) -> Result<(), Refusal> {
    let connection = house.broker.connection().await?;
    let broker = casemate_api::broker(&connection)
        .await
        .map_err(casemate_api::Error::from)?;
    match broker
        .errand(name.as_str(), service, input.as_bytes())
        .await?
    {
        0 => Ok(()),
        code => Err(Refusal::failed(format!(
            "{service} in '{name}' ended with {code}"
        ))),
    }
}

/// The time, as services that set a clock read it.
pub(crate) fn now() -> String {
    Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S+00:00")
        .to_string()
}
