//! `casemate.toml`: what a person decides for all VMs. Every key has a default; unknown keys are errors.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use casemate_vm::{Tag, VmName};
use serde::Deserialize;

use crate::{
    located::{self, Unreadable},
    machine::Watchdog,
};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    pub(crate) start: Start,
    pub(crate) compositor: Compositor,
    pub(crate) disposables: Disposables,
    vmm: Vmm,
    /// `[template.NAME]`
    template: BTreeMap<VmName, Template>,
}

/// `[template.NAME]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Template {
    /// What policy may call the template and its disposables, by `@dispvm:@tag:` and `@tag:`.
    tags: BTreeSet<Tag>,
    /// As `warm` of `[disposables]`, for disposables of this template.
    warm: Option<bool>,
}

/// `[start]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Start {
    /// Seconds that a VM may take until its agent reports. Machines without hardware help are slow.
    timeout_s: u32,
}

/// `[compositor]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Compositor {
    /// `auto`, `kms`, `window` or `headless`; `CASEMATE_BACKEND` overrides it.
    backend: Backend,
}

/// `[disposables]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Disposables {
    /// Template of the disposables that a person opens; the only template when absent.
    pub(crate) template: Option<VmName>,
    /// Whether disposables go on from warm images instead of booting, and such images are made.
    warm: bool,
}

/// `[vmm]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Vmm {
    /// Seconds that a vmm may be silent before it is ended and its VM counts as crashed.
    silence_s: u32,
}

/// Where the compositor draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    #[default]
    Auto,
    Kms,
    Window,
    Headless,
}

impl Default for Start {
    fn default() -> Self {
        Self { timeout_s: 180 }
    }
}

impl Default for Vmm {
    /// A slow machine under load can need half a minute.
    fn default() -> Self {
        Self { silence_s: 40 }
    }
}

impl Default for Compositor {
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
        }
    }
}

impl Settings {
    /// Reads `casemate.toml` in the configuration directory, all defaults when there is none.
    pub(crate) fn load(config: &Path) -> Result<Self, Unreadable> {
        let mut settings: Self =
            located::read_optional(&config.join("casemate.toml"))?.unwrap_or_default();
        if let Ok(text) = std::env::var("CASEMATE_BACKEND") {
            settings.compositor.backend = Backend::parse(&text).ok_or_else(|| {
                Unreadable::Wrong(format!(
                    "CASEMATE_BACKEND is '{text}', it must be auto, kms, window or headless"
                ))
            })?;
        }
        Ok(settings)
    }

    /// How long a VM may take until its agent reports.
    pub(crate) fn start_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.start.timeout_s.max(1)))
    }

    /// When a vmm counts as hung.
    pub(crate) fn watchdog(&self) -> Watchdog {
        Watchdog {
            silence: Duration::from_secs(u64::from(self.vmm.silence_s.max(1))),
        }
    }

    /// The tags of a template and of its disposables.
    pub(crate) fn tags_of(&self, template: &VmName) -> &BTreeSet<Tag> {
        static NONE: BTreeSet<Tag> = BTreeSet::new();
        self.template
            .get(template)
            .map_or(&NONE, |template| &template.tags)
    }

    /// Whether disposables of a template go on from warm images.
    pub(crate) fn warm(&self, template: &VmName) -> bool {
        let own = self.template.get(template).and_then(|own| own.warm);
        own.unwrap_or(self.disposables.warm)
    }

    /// Where the compositor draws, as its command line says it.
    pub(crate) fn backend(&self) -> &'static str {
        match self.compositor.backend {
            Backend::Auto => "auto",
            Backend::Kms => "kms",
            Backend::Window => "window",
            Backend::Headless => "headless",
        }
    }
}

impl Backend {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "kms" => Some(Self::Kms),
            "window" => Some(Self::Window),
            "headless" => Some(Self::Headless),
            _ => None,
        }
    }
}
