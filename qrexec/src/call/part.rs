//! The end of a call whose two ends met at a socket of their own: the broker has no part in its stream, so the agent that
//! serves it is told to end it. An agent of the reference does not know how.

use std::{io, os::unix::net::UnixStream, time::Duration};

use casemate_qrexec_wire::{EndCall, ExecParams};
use tokio::time::timeout;

use crate::{
    broker::{ADMIN_DOMAIN, ADMIN_NAME, LAST_BREATH},
    errand,
    session::{Host, Leg, Streams, Vm},
};

/// Exit code of an agent that does not know the order.
const NO_SERVICE: i32 = 127;

/// Time between two orders to an agent that has not got the stream yet.
const PAUSE: Duration = Duration::from_millis(50);

/// Has the agent of `vm` end the call of this leg. Ends without having done so when the call is no more.
///
/// # Errors
/// Why it goes on.
pub(super) async fn part(vm: &Vm, leg: &mut Leg) -> Result<(), String> {
    let ordered = timeout(LAST_BREATH, async {
        loop {
            match order(vm, leg).await {
                Ok(0) => return Ok(()),
                Ok(NO_SERVICE) => return Err("it cannot end calls".to_owned()),
                Err(error) => return Err(error.to_string()),
                // Over already, or not begun yet.
                Ok(_) => {}
            }
            if timeout(PAUSE, leg.ended()).await.is_ok() {
                return Ok(());
            }
        }
    });
    let done = ordered
        .await
        .unwrap_or_else(|_| Err("it does not answer, or has no such call".to_owned()));
    done.map_err(|why| format!("the agent of '{}': {why}", vm.name))
}

/// Returns the exit code of the order.
async fn order(vm: &Vm, leg: &Leg) -> io::Result<i32> {
    let order = EndCall(ExecParams {
        domain: leg.peer(),
        port: leg.port,
    });
    let command = order.command_line(ADMIN_NAME).map_err(io::Error::other)?;
    let (_, end) = vm.ends(Host::Listens)?;
    let served = vm.serve(ADMIN_DOMAIN, command, Streams::None, end).await;
    let mut own = served.map_err(io::Error::other)?;
    let listening = own.listening.take().ok_or(io::ErrorKind::NotConnected)?;
    let code = errand::run(UnixStream::from(listening.accept().await?), &[]).await;
    own.ended().await;
    code
}
