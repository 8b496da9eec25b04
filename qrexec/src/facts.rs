//! The supervisor's facts about VMs: from its JSON to what policy judges by.

use std::collections::BTreeMap;

use casemate_policy as policy;
use serde::Deserialize;

#[derive(Deserialize)]
struct Facts {
    domains: BTreeMap<String, Domain>,
}

#[derive(Deserialize)]
struct Domain {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    default_dispvm: Option<String>,
    #[serde(default)]
    template_for_dispvms: bool,
    power_state: String,
    #[serde(default)]
    uuid: Option<String>,
    #[serde(default)]
    internal: bool,
}

/// Reads what `facts` of the supervisor returned.
///
/// # Errors
/// When it is not of that shape.
pub(crate) fn parse(json: &str) -> Result<policy::Facts, serde_json::Error> {
    let facts: Facts = serde_json::from_str(json)?;
    let domain = |domain: Domain| policy::Domain {
        kind: domain.kind,
        tags: domain.tags.into_iter().collect(),
        default_dispvm: domain.default_dispvm,
        template_for_dispvms: domain.template_for_dispvms,
        running: domain.power_state == "Running",
        uuid: domain.uuid,
        internal: domain.internal,
    };
    Ok(policy::Facts {
        domains: facts
            .domains
            .into_iter()
            .map(|(name, facts)| (name, domain(facts)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_and_nonsense_is_refused() {
        let facts = parse(
            r#"{"domains":{"work":{"type":"AppVM","tags":["t"],"default_dispvm":"d",
            "template_for_dispvms":false,"power_state":"Running","uuid":"u","internal":false,"new":1},
            "d":{"type":"TemplateVM","power_state":"Halted","template_for_dispvms":true}}}"#,
        )
        .unwrap();
        assert!(facts.domains["work"].running);
        assert!(facts.domains["work"].tags.contains("t"));
        assert!(facts.domains["d"].template_for_dispvms && !facts.domains["d"].running);
        assert!(parse("{}").is_err());
        assert!(parse(r#"{"domains":{"work":{}}}"#).is_err());
    }
}
