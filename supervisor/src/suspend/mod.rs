//! The host's sleep: VMs stand still before it begins, and go on with the right time after it.
//!
//! logind is asked to wait for us ("delay"), for as long as it lets programs delay a sleep (five seconds unless its
//! configuration says otherwise). A VM that does not stand still by then sleeps as it is.

mod clock;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all};
use tokio::time::timeout;
use zbus::{Connection, zvariant::OwnedFd};

use crate::{driver::Handle, house::House};

/// How long all VMs may take until they stand still: less than logind's five seconds.
const STAND_STILL: Duration = Duration::from_secs(4);

/// `org.freedesktop.login1(5)`.
#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Logind {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;
}

/// Follows the host's sleeps for as long as there is a logind to tell of them. Never returns.
pub(crate) async fn follow(house: Arc<House>) -> Infallible {
    let mut held = false;
    let followed = async {
        let connection = Connection::system().await?;
        listen(&connection, async |asleep| {
            held = asleep;
            if asleep {
                hold(&house).await;
            } else {
                release(&house).await;
            }
        })
        .await
    };
    let result = followed.await;
    if held {
        // Nobody is left to say that the host is awake.
        release(&house).await;
    }
    match result {
        Ok(()) => tracing::info!("logind has gone: VMs are not held when the host sleeps"),
        Err(error) => tracing::info!(%error, "no logind: VMs are not held when the host sleeps"),
    }
    std::future::pending().await
}

/// Calls `change` with true before each sleep, which waits for it, and with false after it.
async fn listen(connection: &Connection, mut change: impl AsyncFnMut(bool)) -> zbus::Result<()> {
    let logind = LogindProxy::new(connection).await?;
    let mut sleeps = logind.receive_prepare_for_sleep().await?;
    let inhibit = || logind.inhibit("sleep", "Casemate", "VMs are made to stand still", "delay");
    let mut delay = Some(inhibit().await?);
    while let Some(sleep) = sleeps.next().await {
        let asleep = *sleep.args()?.start();
        change(asleep).await;
        if asleep {
            // Lets the sleep begin.
            delay = None;
        } else if delay.is_none() {
            delay = Some(inhibit().await?);
        }
    }
    Ok(())
}

async fn hold(house: &House) {
    let drivers: Vec<Handle> = house.drivers().into_values().collect();
    let held = join_all(drivers.iter().map(Handle::hold));
    match timeout(STAND_STILL, held).await {
        Ok(results) => {
            for refusal in results.into_iter().filter_map(Result::err) {
                tracing::warn!(%refusal, "the host sleeps with a VM that runs");
            }
        }
        Err(_) => tracing::warn!("the host sleeps before all VMs stand still"),
    }
}

async fn release(house: &Arc<House>) {
    for (name, driver) in house.drivers() {
        driver.release().await;
        let house = Arc::clone(house);
        tokio::spawn(async move {
            // One that starts has its time from the host anyway.
            if driver.is_running()
                && let Err(refusal) = clock::set(&house, &name).await
            {
                tracing::warn!(vm = %name, %refusal, "its clock is behind by the host's sleep");
            }
        });
    }
}
