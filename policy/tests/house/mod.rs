//! A policy in one text, and a house of VMs of every kind.
#![allow(dead_code, reason = "no test needs all of it")]

use casemate_policy::{
    Decision, Facts, Files, Policy, PolicyError, PolicyFile, Reading, Request, Verdict,
};

/// One file under every path.
pub(crate) struct One<'a>(pub(crate) &'a str);

impl Files for One<'_> {
    fn text(&self, _: usize, _: &str) -> Result<String, String> {
        Ok(self.0.to_owned())
    }

    fn names(&self, _: usize, _: &str) -> Result<Vec<String>, String> {
        Err("there are no directories".to_owned())
    }

    fn display(&self, _: usize, path: &str) -> String {
        path.to_owned()
    }
}

fn top() -> [PolicyFile; 1] {
    [PolicyFile {
        directory: 0,
        name: "p".to_owned(),
    }]
}

pub(crate) fn read(text: &str) -> Result<Policy, PolicyError> {
    Policy::read(&top(), &One(text))
}

pub(crate) fn reading(text: &str) -> Reading {
    Reading::new(&top(), &One(text))
}

const FACTS: &str = r#"{"domains":{
"dom0":{"type":"AdminVM","power_state":"Running","tags":["own"],"default_dispvm":"dvm",
  "uuid":"00000000-0000-0000-0000-000000000000"},
"work":{"type":"AppVM","power_state":"Running","tags":["own"],"default_dispvm":"dvm","uuid":"11"},
"bank":{"type":"AppVM","power_state":"Halted","tags":["own"],"default_dispvm":"bank","uuid":"22"},
"bare":{"type":"StandaloneVM","power_state":"Paused","default_dispvm":null,"uuid":"33"},
"dvm":{"type":"AppVM","power_state":"Halted","tags":["t"],"template_for_dispvms":true,"uuid":"44"},
"dvm2":{"type":"TemplateVM","power_state":"Running","tags":["t"],"template_for_dispvms":true,"uuid":"55"},
"hidden":{"type":"AppVM","power_state":"Running","tags":["own"],"internal":true,"uuid":"66"},
"hidvm":{"type":"AppVM","power_state":"Halted","tags":["t"],"internal":true,"template_for_dispvms":true,"uuid":"77"},
"disp1":{"type":"DispVM","power_state":"Running","default_dispvm":"dvm2","uuid":"88"},
"relay":{"type":"AppVM","power_state":"Running","uuid":"99"},
"far":{"type":"RemoteVM","power_state":"Running","relayvm":"relay","transport_rpc":"x.Carry","uuid":"aa"},
"mute":{"type":"RemoteVM","power_state":"Running","relayvm":"relay","uuid":"bb"}
}}"#;

pub(crate) fn facts() -> Facts {
    serde_json::from_str(FACTS).expect("facts")
}

pub(crate) fn request<'a>(source: &'a str, target: &'a str) -> Request<'a> {
    Request {
        source,
        target,
        service: "s",
        argument: "+",
    }
}

/// A decision in words: `deny WHY`, `allow PLACE`, `ask PLACES`, each with what is not the default.
pub(crate) fn words(decision: &Decision) -> String {
    let (mut text, user, autostart) = match &decision.verdict {
        Verdict::Deny(denial) => (format!("deny {}", denial.word()), &None, true),
        Verdict::Allow {
            target,
            user,
            autostart,
        } => (format!("allow {target}"), user, *autostart),
        Verdict::Ask {
            targets,
            default,
            user,
            autostart,
        } => {
            let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
            let default = match default {
                Some(default) => format!(" first {default}"),
                None => String::new(),
            };
            (
                format!("ask {}{default}", targets.join(" ")),
                user,
                *autostart,
            )
        }
    };
    if let Some(user) = user {
        text += &format!(" as {user}");
    }
    if !autostart {
        text += " running";
    }
    if decision.notify != matches!(decision.verdict, Verdict::Deny(_)) {
        text += if decision.notify { " told" } else { " quiet" };
    }
    text
}
