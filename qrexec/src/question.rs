//! Policy as the reference's daemon asks for it: a few lines on a socket, a few lines back, then the end.

use std::{
    io,
    os::unix::net,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use casemate_api::{AskTarget, Question};
use casemate_policy::{Destination, Facts, Request, Verdict};
use casemate_qrexec_wire::{ServiceCall, Target};
use casemate_vm::VmName;
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Handle,
    sync::Semaphore,
    time::timeout,
};

use crate::{
    audit::{Entry, Outcome, shown},
    broker::Broker,
    call::relay,
};

/// Longest question: the longest service and room for the rest. Stops a client from filling the memory.
const MAX_QUESTION: usize = 80 * 1024;

/// Questions at one time, as many as in the reference.
const MAX_PENDING: usize = 256;

/// How long a client may take to ask.
const ASKING: Duration = Duration::from_secs(10);

/// Room for a question as it mostly is.
const FIRST: usize = 4096;

/// What ends a question.
const END: &[u8] = b"\n\n";

/// How long the next question is looked for before the thread sleeps. Questions come in bursts, and to wake an idle
/// processor takes longer than to answer one.
const LINGER: Duration = Duration::from_micros(50);

/// Pause after a failure to accept, such as when descriptors run out.
const PAUSE: Duration = Duration::from_millis(200);

/// What is asked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    source: Option<String>,
    target: Option<String>,
    call: Option<String>,
    /// The remote VM that the source speaks for.
    remote: Option<String>,
    assume_yes: bool,
    just_evaluate: bool,
}

impl Asked {
    /// Reads the lines; `None` for an unknown key, one twice, or one missing.
    fn parse(text: &str) -> Option<Self> {
        let mut asked = Self::default();
        let mut flags = (None, None);
        let mut requested_source: Option<String> = None;
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
                "requested_source" => requested_source.replace(value.to_owned()).is_some(),
                "assume_yes_for_ask" => flags.0.replace(yes()?).is_some(),
                "just_evaluate" => flags.1.replace(yes()?).is_some(),
                _ => return None,
            };
            if had {
                return None;
            }
        }
        asked.remote =
            requested_source.filter(|of| !of.is_empty() && Some(of) != asked.source.as_ref());
        asked.assume_yes = flags.0.unwrap_or_default();
        asked.just_evaluate = flags.1.unwrap_or_default();
        (asked.source.is_some() && asked.target.is_some() && asked.call.is_some()).then_some(asked)
    }
}

/// Answers for ever, in a thread of its own. A question that is there as a whole, and that nobody has to be asked or
/// waited for, is answered before the next one is taken: no other thread has to wake up for it. All else goes on in the
/// runtime.
pub(crate) fn serve(listener: &net::UnixListener, broker: &Arc<Broker>, runtime: &Handle) {
    // For the timers and sockets of what goes on there.
    let _entered = runtime.enter();
    let pending = Arc::new(Semaphore::new(MAX_PENDING));
    let mut lately = None;
    loop {
        let stream = match next(listener, lately) {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely; those that are answered will give some back.
                tracing::warn!(%error, "no question of policy is taken");
                thread::sleep(PAUSE);
                lately = None;
                continue;
            }
        };
        let broker = Arc::clone(broker);
        let mut client = Box::pin(async move {
            if let Err(error) = client(stream, &broker).await {
                tracing::debug!(%error, "a question of policy was not answered");
            }
        });
        let at_once = Pin::as_mut(&mut client).poll(&mut Context::from_waker(Waker::noop()));
        lately = Some(Instant::now());
        if at_once.is_ready() {
            continue;
        }
        let Ok(permit) = runtime.block_on(Arc::clone(&pending).acquire_owned()) else {
            return;
        };
        runtime.spawn(async move {
            client.await;
            drop(permit);
        });
    }
}

/// The next client, for whom this looks again and again while the last one came `lately`.
fn next(listener: &net::UnixListener, lately: Option<Instant>) -> io::Result<net::UnixStream> {
    loop {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(stream) => return Ok(stream.into()),
            Err(Errno::AGAIN) if lately.is_some_and(|lately| lately.elapsed() < LINGER) => {
                std::hint::spin_loop();
            }
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(listener, PollFlags::IN)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn client(stream: net::UnixStream, broker: &Broker) -> io::Result<()> {
    let mut text = Vec::with_capacity(FIRST);
    let received = recv(&stream, spare_capacity(&mut text), RecvFlags::DONTWAIT);
    let mut later = None;
    if received.is_err() || !text.ends_with(END) {
        let stream = later.insert(in_runtime(&stream)?);
        let rest = timeout(ASKING, rest(stream, &mut text)).await;
        rest.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    let text = text.strip_suffix(END).unwrap_or_default();
    let text = str::from_utf8(text).map_err(io::Error::other)?;
    let asked = Asked::parse(text).ok_or(io::ErrorKind::InvalidData)?;
    let answer = answer(&asked, broker).await;
    let mut answer = answer.as_deref().unwrap_or("result=deny\n").as_bytes();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if let Ok(sent) = send(&stream, answer, flags) {
        answer = answer.get(sent..).unwrap_or_default();
    }
    if answer.is_empty() {
        return Ok(());
    }
    let mut stream = match later {
        Some(stream) => stream,
        None => in_runtime(&stream)?,
    };
    stream.write_all(answer).await
}

/// The same socket as the runtime knows it.
fn in_runtime(stream: &net::UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream.try_clone()?)
}

/// Everything up to the empty line.
async fn rest(stream: &mut UnixStream, text: &mut Vec<u8>) -> io::Result<()> {
    while !text.ends_with(END) {
        let read = stream.read_buf(text).await?;
        if read == 0 || text.len() > MAX_QUESTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}

/// The lines of an allow; `None` for everything else. Either is put on record, unless it was only to be evaluated.
async fn answer(asked: &Asked, broker: &Broker) -> Option<String> {
    let source = asked.source.as_deref()?;
    let requested = Target::sanitise(asked.target.as_deref()?.as_bytes());
    let call = ServiceCall::sanitise(asked.call.as_deref()?.as_bytes()).ok()?;
    let mut entry = Entry {
        source: shown(source),
        requested: requested.to_string(),
        target: String::new(),
        service: call.full().to_owned(),
        outcome: Outcome::Deny,
        rule: String::new(),
        reason: String::new(),
    };
    let lines = judge(asked, (source, &requested, &call), broker, &mut entry).await;
    if !asked.just_evaluate {
        broker.audit.record(entry);
    }
    lines
}

async fn judge(
    asked: &Asked,
    (source, requested, call): (&str, &Target, &ServiceCall),
    broker: &Broker,
    entry: &mut Entry,
) -> Option<String> {
    let facts = match broker.peers.facts().await {
        Ok(facts) => facts,
        Err(error) => {
            (entry.outcome, entry.reason) = (Outcome::Failed, error.to_string());
            return None;
        }
    };
    let policy = broker.policy().await;
    let remote = match &asked.remote {
        None => None,
        Some(claimed) => match relay::spoken_for(&facts, source, claimed) {
            Ok(remote) => Some(remote),
            Err(reason) => {
                entry.reason = reason;
                return None;
            }
        },
    };
    let judged = remote.as_ref().map_or(source, VmName::as_str);
    entry.source = shown(judged);
    let request = Request {
        source: judged,
        target: requested.as_str(),
        service: call.service(),
        argument: call.argument(),
    };
    let decision = policy.decide(&request, &facts);
    entry.rule = decision
        .rule
        .map(|rule| rule.to_string())
        .unwrap_or_default();
    let (target, user, autostart) = match decision.verdict {
        Verdict::Allow {
            target,
            user,
            autostart,
        } => {
            (entry.outcome, entry.reason) = (Outcome::Allow, "a rule allows the call".to_owned());
            (target, user, autostart)
        }
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
                wanted.or(default.as_ref()).or(targets.first()).cloned()
            } else if asked.just_evaluate {
                None
            } else {
                choose((source, judged), call, &targets, default.as_ref(), broker).await
            };
            (entry.outcome, entry.reason) = match (&chosen, asked.assume_yes) {
                (Some(_), true) => (Outcome::Allow, "a yes was to be assumed".to_owned()),
                (Some(_), false) => (Outcome::AskAllowed, "the person said yes".to_owned()),
                (None, _) => (Outcome::AskDenied, "nobody said yes".to_owned()),
            };
            (chosen?, user, autostart)
        }
        Verdict::Deny(denial) => {
            entry.reason = denial.to_string();
            return None;
        }
    };
    entry.target = target.to_string();
    let via = match relay::relayed(&facts, &target, &request) {
        Ok(via) => via,
        Err(reason) => {
            (entry.outcome, entry.reason) = (Outcome::Failed, reason);
            return None;
        }
    };
    let (target, user) = match &via {
        Some(via) => (Destination::Vm(via.relay.to_string()), None),
        None => (target, user),
    };
    let uuid = uuid(&facts, &target).unwrap_or_default();
    let mut lines = format!(
        "user={}\nresult=allow\ntarget={target}\ntarget_uuid={uuid}\nautostart={}\nrequested_target={requested}\n",
        user.as_deref().unwrap_or("DEFAULT"),
        if autostart { "True" } else { "False" },
    );
    if let Some(via) = &via {
        lines += &format!("service={}\n", via.service);
    }
    if let Some(remote) = &remote {
        lines += &format!("policy_source={remote}\n");
    }
    Some(lines)
}

/// Asks the person, within what the source may ask; whoever is no VM of ours shares one allowance with all such.
async fn choose(
    (source, judged): (&str, &str),
    call: &ServiceCall,
    targets: &[Destination],
    default: Option<&Destination>,
    broker: &Broker,
) -> Option<Destination> {
    let gray = |name: String| AskTarget {
        name,
        label: "gray".to_owned(),
    };
    let question = Question {
        source: gray(judged.to_owned()),
        service: call.service().to_owned(),
        argument: shown(call.argument()),
        targets: targets
            .iter()
            .map(|target| gray(target.to_string()))
            .collect(),
        default_target: default.map(ToString::to_string).unwrap_or_default(),
    };
    let vm = source.parse().ok().and_then(|name| broker.vm(&name));
    let attention = vm.as_ref().map_or(&broker.others, |vm| &vm.attention);
    let answer = attention.ask(&broker.peers, question).await.ok()?;
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
    use std::fs;

    use super::*;
    use crate::{
        alone::{Alone, Asking},
        arguments::Reply,
        audit::Audit,
        peers::Peers,
    };

    const FACTS: &str = r#"{"domains":{
        "work": {"type": "AppVM", "power_state": "Running", "uuid": "w"},
        "vault": {"type": "AppVM", "power_state": "Running", "uuid": "v"},
        "far": {"type": "RemoteVM", "power_state": "Running", "uuid": "f", "relayvm": "work", "transport_rpc": "x.Carry"},
        "lost": {"type": "RemoteVM", "power_state": "Running"}}}"#;

    #[tokio::test]
    async fn a_relay_asks_for_its_remote_vm_and_is_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let facts = dir.path().join("facts");
        fs::write(&facts, FACTS).unwrap();
        let policy = dir.path().join("policy");
        fs::create_dir(&policy).unwrap();
        let rules = "mail * far vault allow\nmail * vault @anyvm allow user=root\n";
        fs::write(policy.join("10-test.policy"), rules).unwrap();
        let broker = Broker::new(
            Peers::Alone(Alone::new(facts, Asking::Standing(Reply::Deny))),
            vec![policy],
            Audit::open(dir.path()).unwrap(),
        );
        let ask = async |source: &str, remote: &str, target: &str| {
            let text = format!(
                "source={source}\nrequested_source={remote}\nintended_target={target}\nservice_and_arg=mail+a"
            );
            answer(&Asked::parse(&text).unwrap(), &broker).await
        };
        let allowed = |user: &str, target: &str, uuid: &str, requested: &str, more: &str| {
            Some(format!(
                "user={user}\nresult=allow\ntarget={target}\ntarget_uuid={uuid}\nautostart=True\n\
                requested_target={requested}\n{more}"
            ))
        };
        let of = "policy_source=far\n";
        for (source, remote, target, answer) in [
            (
                "work",
                "far",
                "vault",
                allowed("DEFAULT", "vault", "v", "vault", of),
            ),
            (
                "work",
                "uuid:f",
                "vault",
                allowed("DEFAULT", "vault", "v", "vault", of),
            ),
            ("work", "", "vault", None),
            ("vault", "far", "work", None),
            ("work", "vault", "work", None),
            ("work", "lost", "vault", None),
            ("work", "nobody", "vault", None),
            ("vault", "", "lost", None),
            (
                "vault",
                "",
                "far",
                allowed(
                    "DEFAULT",
                    "work",
                    "w",
                    "far",
                    "service=x.Carry+far+mail+a\n",
                ),
            ),
        ] {
            assert_eq!(
                ask(source, remote, target).await,
                answer,
                "{source} {remote} {target}"
            );
        }
        let decisions = broker.audit.last(usize::MAX);
        let sources: Vec<&str> = decisions
            .iter()
            .map(|decision| decision.source.as_str())
            .collect();
        // Who is no relay is on record as itself.
        let expected = [
            "far", "far", "work", "vault", "work", "work", "work", "vault", "vault",
        ];
        assert_eq!(sources, expected);
        assert!(decisions.iter().all(|decision| !decision.reason.is_empty()));
    }

    #[test]
    fn only_whole_questions_of_known_keys_are_answered() {
        let whole = "source=work\nintended_target=\nservice_and_arg=s+a";
        let asked = Asked::parse(&format!("{whole}\nassume_yes_for_ask=yes")).unwrap();
        assert_eq!(asked.call.as_deref(), Some("s+a"));
        assert!(asked.assume_yes && !asked.just_evaluate);
        assert_eq!(asked.remote, None);
        for (of, remote) in [("", None), ("work", None), ("vault", Some("vault"))] {
            let asked = Asked::parse(&format!("{whole}\nrequested_source={of}")).unwrap();
            assert_eq!(asked.remote.as_deref(), remote, "{of}");
        }
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
