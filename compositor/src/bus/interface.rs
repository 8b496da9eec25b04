//! The D-Bus interface. Each method: check the arguments, send a request, await the reply.

use std::os::fd::OwnedFd as StdFd;

use casemate_api::{Answer, Error, Notice, Question, WindowInfo};
use casemate_vm::{Label, VmName};
use smithay::reexports::calloop::channel::Sender;
use tokio::sync::{oneshot, watch};
use zbus::zvariant::OwnedFd;

use super::{Request, screenshot};
use crate::input::InputEvent;

/// What every client talks to.
pub(super) struct Compositor {
    requests: Sender<Request>,
    /// Closes when the client has gone.
    gone: watch::Receiver<()>,
}

impl Compositor {
    pub(super) fn new(requests: Sender<Request>, gone: watch::Receiver<()>) -> Self {
        Self { requests, gone }
    }

    async fn call<T>(&self, request: Request, reply: oneshot::Receiver<T>) -> Result<T, Error> {
        let stopping = || Error::Failed("the compositor is stopping".to_owned());
        self.requests.send(request).map_err(|_| stopping())?;
        reply.await.map_err(|_| stopping())
    }

    async fn inject(&self, event: InputEvent) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        if self.call(Request::Inject { event, reply }, answer).await? {
            Ok(())
        } else {
            Err(Error::WrongState(
                "input is taken over the bus only by the headless backend".to_owned(),
            ))
        }
    }
}

fn name(text: &str) -> Result<VmName, Error> {
    text.parse()
        .map_err(|error| Error::Usage(format!("{error}")))
}

fn code(code: u32) -> Result<u16, Error> {
    u16::try_from(code)
        .ok()
        .filter(|&code| code <= casemate_window_wire::limits::MAX_CODE)
        .ok_or_else(|| Error::Usage(format!("{code} is not a Linux input code")))
}

#[zbus::interface(name = "org.casemate.Compositor1")]
impl Compositor {
    async fn attach_vm(
        &self,
        name: &str,
        label: &str,
        link: OwnedFd,
        window_memory: OwnedFd,
    ) -> Result<(), Error> {
        let name = self::name(name)?;
        let label: Label = label
            .parse()
            .map_err(|error| Error::Usage(format!("{error}")))?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Attach {
            name,
            label,
            link: StdFd::from(link),
            memory: StdFd::from(window_memory),
            reply,
        };
        self.call(request, answer).await?.map_err(|error| {
            let text = format!("{:#}", anyhow::Error::new(error));
            Error::WrongState(text)
        })
    }

    async fn detach_vm(&self, name: &str) -> Result<(), Error> {
        let name = self::name(name)?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Detach {
            name: name.clone(),
            reply,
        };
        if self.call(request, answer).await? {
            Ok(())
        } else {
            Err(Error::NotFound(format!("'{name}' is not attached")))
        }
    }

    async fn attached(&self) -> Result<Vec<String>, Error> {
        let (reply, answer) = oneshot::channel();
        self.call(Request::Attached { reply }, answer).await
    }

    async fn ask(&self, question: Question) -> Result<Answer, Error> {
        let question = question
            .try_into()
            .map_err(|error| Error::Usage(format!("{error}")))?;
        let (queued, accepted) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let request = Request::Ask {
            question,
            queued,
            answer,
        };
        self.call(request, accepted)
            .await?
            .map_err(|error| Error::Busy(format!("{error}")))?;
        // No time limit: a person may be away. A caller that goes away takes its question with it.
        let mut gone = self.gone.clone();
        let answer = tokio::select! {
            answer = answered => answer.ok(),
            _ = gone.changed() => None,
        };
        if answer.is_none() {
            // Nobody hears what is said here any more, but the question must not stay on the screen.
            let _stopping = self.requests.send(Request::AskerGone);
        }
        answer.ok_or_else(|| Error::Failed("the compositor is stopping".to_owned()))
    }

    async fn notify(&self, notice: Notice) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.call(Request::Notify { notice, reply }, answer).await
    }

    async fn windows(&self) -> Result<Vec<WindowInfo>, Error> {
        let (reply, answer) = oneshot::channel();
        self.call(Request::Windows { reply }, answer).await
    }

    async fn screenshot(&self) -> Result<OwnedFd, Error> {
        let (reply, answer) = oneshot::channel();
        let frame = self.call(Request::Screenshot { reply }, answer).await?;
        tokio::task::spawn_blocking(move || screenshot::memfd(&frame))
            .await
            .map_err(|error| Error::Failed(format!("cannot encode a screenshot: {error}")))?
            .map(OwnedFd::from)
            .map_err(|error| Error::Failed(format!("cannot write a screenshot: {error}")))
    }

    async fn inject_key(&self, code: u32, pressed: bool) -> Result<(), Error> {
        let code = self::code(code)?;
        self.inject(InputEvent::Key { code, pressed }).await
    }

    async fn inject_motion(&self, x: f64, y: f64) -> Result<(), Error> {
        self.inject(InputEvent::MotionTo { x, y }).await
    }

    async fn inject_button(&self, code: u32, pressed: bool) -> Result<(), Error> {
        let code = self::code(code)?;
        self.inject(InputEvent::Button { code, pressed }).await
    }
}
