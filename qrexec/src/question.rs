//! Policy as the reference's daemon asks for it: a few lines on a socket, a few lines back, then the end.

use std::{io, sync::Arc, time::Duration};

use casemate_api::{AskTarget, Question};
use casemate_policy::{Destination, Facts, Request, Verdict};
use casemate_qrexec_wire::{ServiceCall, Target};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use crate::broker::Broker;

/// Longest question: the longest service and room for the rest. Stops a client from filling the memory.
const MAX_QUESTION: usize = 80 * 1024;

/// Questions at one time, as many as in the reference.
const MAX_PENDING: usize = 256;

/// How long a client may take to ask.
const ASKING: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    source: Option<String>,
    target: Option<String>,
    call: Option<String>,
    assume_yes: bool,
    just_evaluate: bool,
}

impl Asked {
    /// Reads the lines; `None` for an unknown key, one twice, or one missing.
    fn parse(text: &str) -> Option<Self> {
        let mut asked = Self::default();
        let mut flags = (None, None);
        let mut requested_source = None;
        for line in text.lines() {
            let (key, value) = line.split_once('=')?;
            let yes = || match value {
                "yes" => Some(true),
                "no" => Some(false),
                _ => None,
            };
            let had = match key {
                "source" => asked.source.replace(value.to_owned()).is_some(),
                "intended_target" => asked.target.replace(value.to_owned()).is_some(),
                "service_and_arg" => asked.call.replace(value.to_owned()).is_some(),
                // A relay's word for whom it speaks. There are no rules about relays; who asks is `source`.
                "requested_source" => requested_source.replace(()).is_some(),
                "assume_yes_for_ask" => flags.0.replace(yes()?).is_some(),
                "just_evaluate" => flags.1.replace(yes()?).is_some(),
                _ => return None,
            };
            if had {
                return None;
            }
        }
        asked.assume_yes = flags.0.unwrap_or_default();
        asked.just_evaluate = flags.1.unwrap_or_default();
        (asked.source.is_some() && asked.target.is_some() && asked.call.is_some()).then_some(asked)
    }
}

/// Answers for ever.
pub(crate) async fn accept(listener: UnixListener, broker: Arc<Broker>) {
    let pending = Arc::new(Semaphore::new(MAX_PENDING));
    loop {
        let Ok(permit) = Arc::clone(&pending).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let broker = Arc::clone(&broker);
        tokio::spawn(async move {
            if let Err(error) = client(stream, &broker).await {
                tracing::debug!(%error, "a question of policy was not answered");
            }
            drop(permit);
        });
    }
}

async fn client(mut stream: UnixStream, broker: &Broker) -> io::Result<()> {
    let text = timeout(ASKING, question(&mut stream)).await;
    let text = text.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let asked = Asked::parse(&text).ok_or(io::ErrorKind::InvalidData)?;
    let answer = answer(&asked, broker).await;
    stream
        .write_all(answer.as_deref().unwrap_or("result=deny\n").as_bytes())
        .await
}

/// Everything up to the empty line.
async fn question(stream: &mut UnixStream) -> io::Result<String> {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece).await?;
        text.extend_from_slice(piece.get(..read).unwrap_or_default());
        if let Some(lines) = text.strip_suffix(b"\n\n") {
            return String::from_utf8(lines.to_vec()).map_err(io::Error::other);
        }
        if read == 0 || text.len() > MAX_QUESTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// The lines of an allow; `None` for everything else.
async fn answer(asked: &Asked, broker: &Broker) -> Option<String> {
    let source = asked.source.as_deref()?;
    let requested = Target::sanitise(asked.target.as_deref()?.as_bytes());
    let call = ServiceCall::sanitise(asked.call.as_deref()?.as_bytes()).ok()?;
    let facts = broker.peers.facts().await.ok()?;
    let policy = broker.policy().await;
    let request = Request {
        source,
        target: requested.as_str(),
        service: call.service(),
        argument: call.argument(),
    };
    let (target, user, autostart) = match policy.decide(&request, &facts).verdict {
        Verdict::Allow {
            target,
            user,
            autostart,
        } => (target, user, autostart),
        Verdict::Ask {
            targets,
            default,
            user,
            autostart,
        } => {
            let wanted = targets
                .iter()
                .find(|target| target.to_string() == requested.as_str());
            let chosen = if asked.assume_yes {
                wanted.or(default.as_ref()).or(targets.first()).cloned()?
            } else if asked.just_evaluate {
                return None;
            } else {
                choose(source, &call, &targets, default.as_ref(), broker).await?
            };
            (chosen, user, autostart)
        }
        Verdict::Deny(_) => return None,
    };
    let uuid = uuid(&facts, &target).unwrap_or_default();
    Some(format!(
        "user={}\nresult=allow\ntarget={target}\ntarget_uuid={uuid}\nautostart={}\nrequested_target={requested}\n",
        user.as_deref().unwrap_or("DEFAULT"),
        if autostart { "True" } else { "False" },
    ))
}

async fn choose(
    source: &str,
    call: &ServiceCall,
    targets: &[Destination],
    default: Option<&Destination>,
    broker: &Broker,
) -> Option<Destination> {
    let shown = |name: String| AskTarget {
        name,
        label: "gray".to_owned(),
    };
    let question = Question {
        source: shown(source.to_owned()),
        service: call.service().to_owned(),
        argument: crate::audit::shown(call.argument()),
        targets: targets
            .iter()
            .map(|target| shown(target.to_string()))
            .collect(),
        default_target: default.map(ToString::to_string).unwrap_or_default(),
    };
    let answer = broker.peers.ask(question).await.ok()?;
    let chosen = targets
        .iter()
        .find(|target| target.to_string() == answer.target);
    chosen.filter(|_| answer.allowed).cloned()
}

fn uuid<'f>(facts: &'f Facts, target: &Destination) -> Option<&'f str> {
    match target {
        Destination::Vm(name) => facts.domains.get(name)?.uuid.as_deref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_questions_of_known_keys_are_answered() {
        let whole = "source=work\nintended_target=\nservice_and_arg=s+a";
        let asked = Asked::parse(&format!("{whole}\nassume_yes_for_ask=yes")).unwrap();
        assert_eq!(asked.call.as_deref(), Some("s+a"));
        assert!(asked.assume_yes && !asked.just_evaluate);
        for wrong in [
            "",
            "source=work\nintended_target=x",
            &format!("{whole}\nsource=vault"),
            &format!("{whole}\nassume_yes_for_ask=maybe"),
            &format!("{whole}\nassume_yes_for_ask=no\nassume_yes_for_ask=yes"),
            &format!("{whole}\ndomain_id=3"),
            &format!("{whole}\nprocess_ident=3"),
            &format!("{whole}\nno key"),
        ] {
            assert_eq!(Asked::parse(wrong), None, "{wrong}");
        }
    }
}
