//! Calls to the admin domain: the few services that the host serves itself. No program of the host is ever started.

use tokio::time::timeout;

use super::{Call, Granted, LAST_WORDS, Refusal};
use crate::{
    audit::{Outcome, shown},
    broker::ADMIN_DOMAIN,
    errand,
    session::{CallEnd, Caller, Slots},
};

/// How the admin domain is called in records.
const NAME: &str = "dom0";

/// Most updates that are believed: no distribution has more packages.
const MAX_UPDATES: u32 = 100_000;

/// What the host serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// `qubes.NotifyUpdates`: how many packages of the caller could be updated.
    NotifyUpdates,
}

impl Service {
    fn named(name: &str) -> Option<Self> {
        match name {
            "qubes.NotifyUpdates" => Some(Self::NotifyUpdates),
            _ => None,
        }
    }
}

impl Call {
    /// Serves the call here and waits for its end.
    pub(super) async fn serve_at_host(
        &self,
        granted: &Granted,
        caller: &Caller,
        slots: Slots,
    ) -> Result<(), Refusal> {
        let refusal = |reason: &dyn ToString| Refusal {
            rule: granted.rule.clone(),
            ..Refusal::failed(&reason.to_string())
        };
        let service = Service::named(self.service.service())
            .ok_or_else(|| refusal(&"the admin domain offers no such service"))?;
        // What it says would be taken for its relay's word.
        if self.remote.is_some() {
            return Err(refusal(&"the admin domain serves no remote VMs"));
        }
        // Where calls meet at sockets nobody keeps what would be told.
        if self.source.meets {
            return Err(refusal(
                &"without a supervisor the admin domain offers no services",
            ));
        }
        let (ours, theirs) =
            std::os::unix::net::UnixStream::pair().map_err(|error| refusal(&error))?;
        let end = CallEnd::Stream(theirs.into());
        let connected = self.source.connect(caller.clone(), ADMIN_DOMAIN, end).await;
        let mut client = connected.map_err(|error| refusal(&error))?;
        let Slots { pending, call } = slots;
        drop(pending);
        self.ticket.runs(NAME, true);
        self.record(
            granted.outcome,
            &granted.rule,
            NAME.to_owned(),
            "a rule allows the call",
        );
        if granted.notify {
            let text = format!(
                "{} uses {} of the host",
                self.who(),
                shown(self.service.full())
            );
            self.tell("info", text).await;
        }
        let served = tokio::select! {
            served = errand::serve(ours, async |input| self.take(service, &input).await) => Ok(served),
            by = self.ticket.killed() => Err(by),
        };
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(source = %self.source.name, %error, "a call to the host");
            }
            Err(by) => {
                self.source.cut(&client).await;
                let reason = format!("killed by {by}");
                self.record(Outcome::Killed, &granted.rule, NAME.to_owned(), &reason);
            }
        }
        let _ = timeout(LAST_WORDS, client.ended()).await;
        drop(call);
        Ok(())
    }

    /// Does what is asked; the exit code.
    async fn take(&self, service: Service, input: &[u8]) -> i32 {
        match service {
            Service::NotifyUpdates => {
                let Some(count) = updates(input) else {
                    return 1;
                };
                let noted = self.broker.peers.note_updates(&self.source.name, count);
                match noted.await {
                    Ok(()) => 0,
                    Err(error) => {
                        tracing::warn!(vm = %self.source.name, %error, "its updates are not noted");
                        1
                    }
                }
            }
        }
    }
}

/// A number on one line.
fn updates(input: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(input).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let count = text.parse().ok().filter(|_| digits)?;
    (count <= MAX_UPDATES).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_number_and_nothing_else() {
        for (input, count) in [("0", 0), ("7\n", 7), ("100000\n", 100_000)] {
            assert_eq!(updates(input.as_bytes()), Some(count));
        }
        for input in [
            "",
            "\n",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1\n\n",
            "1.0",
            "100001",
            "99999999999",
            "1\0",
            "é",
        ] {
            assert_eq!(updates(input.as_bytes()), None, "{input:?}");
        }
        assert_eq!(updates(b"\xff"), None);
    }
}
