//! The supervisor and the compositor, as the broker needs them.
//!
//! Each request connects anew: both may be restarted at any time, and a call is rare beside a handshake on a socket of
//! this machine.

use std::{collections::HashMap, future::Future, path::PathBuf, sync::Arc, time::Duration};

use casemate_api::{Answer, Bus, Error, Notice, Question};
use casemate_policy::Facts;
use casemate_vm::VmName;

use crate::alone::Alone;

/// How long a short question may take.
const ANSWER: Duration = Duration::from_secs(20);

/// How long a VM may take to start: as long as the supervisor gives it, and some more.
const START: Duration = Duration::from_secs(180);

/// Why one of the two did not do what was asked: a sentence without full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PeerError(String);

impl PeerError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Who answers for the rest of the house.
#[derive(Debug)]
pub(crate) enum Peers {
    /// The supervisor and the compositor.
    House(House),
    /// Nobody: what the command line said.
    Alone(Alone),
}

/// How to reach the two.
#[derive(Debug)]
pub(crate) struct House {
    runtime: PathBuf,
}

impl Peers {
    /// The supervisor and the compositor that have their sockets below this directory.
    pub(crate) fn house(runtime: PathBuf) -> Self {
        Self::House(House { runtime })
    }

    /// Facts for policy.
    pub(crate) async fn facts(&self) -> Result<Arc<Facts>, PeerError> {
        match self {
            Self::House(house) => house.facts().await.map(Arc::new),
            Self::Alone(alone) => alone.facts(),
        }
    }

    /// The label of every VM.
    pub(crate) async fn labels(&self) -> Result<HashMap<String, String>, PeerError> {
        match self {
            Self::House(house) => house.labels().await,
            Self::Alone(alone) => alone.labels(),
        }
    }

    /// Starts a VM unless it runs.
    pub(crate) async fn start(&self, name: &str) -> Result<(), PeerError> {
        match self {
            Self::House(house) => house.start(name).await,
            // Whether its agent is there shows when it is called.
            Self::Alone(_) => Ok(()),
        }
    }

    /// Makes and starts a disposable for a VM.
    pub(crate) async fn create_disposable(
        &self,
        for_vm: &VmName,
        template: &str,
    ) -> Result<VmName, PeerError> {
        match self {
            Self::House(house) => house.create_disposable(for_vm, template).await,
            Self::Alone(_) => Err(PeerError::new(
                "without a supervisor there are no disposables",
            )),
        }
    }

    /// Notes how many packages of a VM could be updated.
    pub(crate) async fn note_updates(&self, vm: &VmName, count: u32) -> Result<(), PeerError> {
        match self {
            Self::House(house) => house.note_updates(vm, count).await,
            Self::Alone(_) => Err(PeerError::new("without a supervisor nobody counts updates")),
        }
    }

    /// Ends a disposable.
    pub(crate) async fn destroy_disposable(&self, name: &VmName) -> Result<(), PeerError> {
        match self {
            Self::House(house) => house.destroy_disposable(name).await,
            Self::Alone(_) => Ok(()),
        }
    }

    /// Puts a question to the person; takes as long as the person does.
    pub(crate) async fn ask(&self, question: Question) -> Result<Answer, PeerError> {
        match self {
            Self::House(house) => house.ask(question).await,
            Self::Alone(alone) => alone.ask(&question).await,
        }
    }

    /// Tells the person something; says whether that came through. A failure is logged, and most do not care.
    pub(crate) async fn notify(&self, kind: &str, words: String) -> bool {
        match self {
            Self::House(house) => house.notify(kind, words).await,
            Self::Alone(_) => {
                tracing::info!(kind, "{words}");
                true
            }
        }
    }
}

impl House {
    /// Facts for policy.
    async fn facts(&self) -> Result<Facts, PeerError> {
        let json = self
            .within(ANSWER, "the supervisor", async {
                self.supervisor().await?.facts().await
            })
            .await?;
        serde_json::from_str(&json).map_err(|error| {
            PeerError(format!(
                "the supervisor's facts cannot be understood: {error}"
            ))
        })
    }

    /// The label of every VM.
    async fn labels(&self) -> Result<HashMap<String, String>, PeerError> {
        let vms = self
            .within(ANSWER, "the supervisor", async {
                self.supervisor().await?.list().await
            })
            .await?;
        Ok(vms.into_iter().map(|vm| (vm.name, vm.label)).collect())
    }

    /// Notes how many packages of a VM could be updated.
    async fn note_updates(&self, vm: &VmName, count: u32) -> Result<(), PeerError> {
        self.within(ANSWER, "the supervisor", async {
            self.supervisor()
                .await?
                .note_updates(vm.as_str(), count)
                .await
        })
        .await
    }

    /// Starts a VM unless it runs.
    async fn start(&self, name: &str) -> Result<(), PeerError> {
        self.within(START, "the supervisor", async {
            self.supervisor().await?.start(name).await
        })
        .await
    }

    /// Makes and starts a disposable for a VM.
    async fn create_disposable(
        &self,
        for_vm: &VmName,
        template: &str,
    ) -> Result<VmName, PeerError> {
        let name = self
            .within(START, "the supervisor", async {
                let supervisor = self.supervisor().await?;
                supervisor
                    .create_disposable(for_vm.as_str(), template)
                    .await
            })
            .await?;
        name.parse().map_err(|error| {
            PeerError(format!(
                "the supervisor made a disposable of no valid name: {error}"
            ))
        })
    }

    /// Ends a disposable.
    async fn destroy_disposable(&self, name: &VmName) -> Result<(), PeerError> {
        self.within(ANSWER, "the supervisor", async {
            let supervisor = self.supervisor().await?;
            supervisor.destroy_disposable(name.as_str()).await
        })
        .await
    }

    /// Puts a question to the person; takes as long as the person does.
    async fn ask(&self, question: Question) -> Result<Answer, PeerError> {
        let ask = async {
            let connection = Bus::Compositor.connect(&self.runtime).await?;
            casemate_api::compositor(&connection)
                .await?
                .ask(question)
                .await
        };
        ask.await
            .map_err(|error| PeerError(format!("the compositor did not ask: {}", text(&error))))
    }

    async fn notify(&self, kind: &str, words: String) -> bool {
        let notice = Notice {
            kind: kind.to_owned(),
            text: words,
        };
        let told = self
            .within(ANSWER, "the compositor", async {
                let connection = Bus::Compositor.connect(&self.runtime).await?;
                casemate_api::compositor(&connection)
                    .await?
                    .notify(notice)
                    .await
            })
            .await;
        if let Err(error) = &told {
            tracing::warn!(%error, "the person could not be told");
        }
        told.is_ok()
    }

    async fn supervisor(&self) -> zbus::Result<casemate_api::Supervisor1Proxy<'static>> {
        let connection = Bus::Supervisor.connect(&self.runtime).await?;
        casemate_api::supervisor(&connection).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        who: &str,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, PeerError> {
        match tokio::time::timeout(limit, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Error::ZBus(error))) => {
                Err(PeerError(format!("{who} cannot be reached: {error}")))
            }
            Ok(Err(error)) => Err(PeerError(text(&error))),
            Err(_) => Err(PeerError(format!(
                "{who} did not answer within {} seconds",
                limit.as_secs()
            ))),
        }
    }
}

/// The sentence of an error, without its D-Bus name.
fn text(error: &Error) -> String {
    match error {
        Error::ZBus(error) => error.to_string(),
        Error::Usage(text)
        | Error::NotFound(text)
        | Error::WrongState(text)
        | Error::Denied(text)
        | Error::Refused(text)
        | Error::Busy(text)
        | Error::NoResources(text)
        | Error::TimedOut(text)
        | Error::Failed(text) => text.clone(),
    }
}
