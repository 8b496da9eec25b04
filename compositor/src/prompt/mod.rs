//! What the host itself asks and says: questions of policy, one at a time, and notices for a few seconds.
//!
//! While a question is shown no input reaches a VM. Denying is always possible; allowing needs [`ARM`] of
//! uninterrupted focus, so that nobody answers what they have not seen: every key that is not meant for the
//! question starts that time again.

mod notice;
mod question;
mod view;

use std::{collections::VecDeque, time::Duration};

use casemate_api::Answer;
use tokio::sync::oneshot;

pub(crate) use notice::Notices;
pub(crate) use question::Question;
use view::Layout;
pub(crate) use view::Overlay;

use crate::{
    geometry::{Point, Size},
    input::keys,
    scene::Typesetter,
    words::Time,
};

/// How long a question must have had the focus before it can be allowed.
pub(crate) const ARM: Duration = Duration::from_secs(1);

/// Most waiting questions of one source beside the one shown: a VM cannot bury a person in questions.
const MAX_WAITING: usize = 4;

/// Most waiting questions of all sources.
const MAX_ALL: usize = 32;

/// Too many questions wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many questions wait for an answer already; answer those first")]
pub(crate) struct TooMany;

/// Where the keyboard is in a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Button {
    Deny,
    Allow,
    /// This call, and those like it for some minutes.
    AllowForAWhile,
}

impl Button {
    /// From left to right.
    pub(crate) const ALL: [Self; 3] = [Self::Deny, Self::Allow, Self::AllowForAWhile];

    fn right(self) -> Self {
        match self {
            Self::Deny => Self::Allow,
            Self::Allow | Self::AllowForAWhile => Self::AllowForAWhile,
        }
    }

    fn left(self) -> Self {
        match self {
            Self::AllowForAWhile => Self::Allow,
            Self::Allow | Self::Deny => Self::Deny,
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Deny => Self::Allow,
            Self::Allow => Self::AllowForAWhile,
            Self::AllowForAWhile => Self::Deny,
        }
    }
}

#[derive(Debug)]
struct Asked {
    question: Question,
    selected: Option<usize>,
    button: Button,
    /// Start of the uninterrupted focus; `None` while it waits in the queue or the screen is away.
    since: Option<Time>,
    reply: oneshot::Sender<Answer>,
}

impl Asked {
    fn armed(&self, now: Time) -> bool {
        self.since
            .is_some_and(|since| now.saturating_sub(since) >= ARM)
    }

    fn can_allow(&self, now: Time) -> bool {
        self.armed(now) && self.selected.is_some()
    }
}

/// The questions, the first of which is shown.
#[derive(Debug, Default)]
pub(crate) struct Prompts {
    waiting: VecDeque<Asked>,
    layout: Option<Layout>,
    drawn: Option<view::Drawn>,
}

impl Prompts {
    /// Whether a question is shown, and so owns all input.
    pub(crate) fn shown(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Queues a question; the answer goes to `reply`.
    pub(crate) fn ask(
        &mut self,
        question: Question,
        reply: oneshot::Sender<Answer>,
        now: Time,
    ) -> Result<(), TooMany> {
        let same = self
            .waiting
            .iter()
            .filter(|asked| asked.question.source.name == question.source.name)
            .count();
        if same > MAX_WAITING || self.waiting.len() >= MAX_ALL {
            return Err(TooMany);
        }
        let first = self.waiting.is_empty();
        self.waiting.push_back(Asked {
            selected: question.default,
            question,
            button: Button::Deny,
            since: first.then_some(now),
            reply,
        });
        Ok(())
    }

    /// Drops questions that nobody waits for any more; answers whether the screen changes.
    pub(crate) fn sweep(&mut self, now: Time) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|asked| !asked.reply.is_closed());
        let changed = self.waiting.len() != before;
        if changed {
            self.show_next(now);
        }
        changed
    }

    /// The screen or seat was away: the person may not have seen the question.
    pub(crate) fn interrupt(&mut self, now: Time) {
        if let Some(asked) = self.waiting.front_mut() {
            asked.since = Some(now);
        }
    }

    /// When the shown question becomes allowable, if that is still to come.
    pub(crate) fn deadline(&self, now: Time) -> Option<Time> {
        let asked = self.waiting.front()?;
        (!asked.armed(now)).then(|| asked.since.map(|since| since + ARM))?
    }

    /// Whether the question on the screen looks different by now.
    pub(crate) fn looks_old(&self, now: Time) -> bool {
        match (self.waiting.front(), &self.drawn) {
            (Some(asked), Some(drawn)) => drawn.armed != asked.armed(now),
            (None, None) => false,
            _ => true,
        }
    }

    /// A key went down while a question is shown.
    pub(crate) fn key(&mut self, code: u16, now: Time) {
        let Some(asked) = self.waiting.front_mut() else {
            return;
        };
        let targets = asked.question.targets.len();
        match code {
            keys::ESC => self.answer(Button::Deny, now),
            keys::TAB => asked.button = asked.button.next(),
            keys::RIGHT => asked.button = asked.button.right(),
            keys::LEFT => asked.button = asked.button.left(),
            keys::DOWN => {
                let next = asked.selected.map_or(0, |selected| selected + 1);
                asked.selected = Some(next.min(targets.saturating_sub(1)));
            }
            keys::UP => {
                asked.selected = Some(asked.selected.unwrap_or(0).saturating_sub(1));
            }
            keys::ENTER | keys::KEYPAD_ENTER | keys::SPACE if asked.armed(now) => {
                let button = asked.button;
                if button == Button::Deny || asked.can_allow(now) {
                    self.answer(button, now);
                }
            }
            // Typed for something else: the person is not reading.
            _ => asked.since = Some(now),
        }
    }

    /// The left button went down while a question is shown.
    pub(crate) fn click(&mut self, at: Point, now: Time) {
        let (Some(asked), Some(layout)) = (self.waiting.front_mut(), &self.layout) else {
            return;
        };
        let button = layout.buttons.iter().find(|(_, place)| place.contains(at));
        if let Some(&(button, _)) = button {
            if button == Button::Deny || asked.can_allow(now) {
                self.answer(button, now);
            }
        } else if let Some(&(row, _)) = layout.rows.iter().find(|(_, place)| place.contains(at)) {
            asked.selected = Some(row);
        }
    }

    fn answer(&mut self, button: Button, now: Time) {
        if let Some(asked) = self.waiting.pop_front() {
            let target = asked
                .selected
                .filter(|_| button != Button::Deny)
                .and_then(|selected| asked.question.targets.get(selected))
                .map(|target| target.exact.clone());
            let answer = Answer {
                allowed: target.is_some(),
                for_a_while: target.is_some() && button == Button::AllowForAWhile,
                target: target.unwrap_or_default(),
            };
            // The asker may have gone meanwhile; then nobody is left to tell.
            let _gone = asked.reply.send(answer);
        }
        self.show_next(now);
    }

    fn show_next(&mut self, now: Time) {
        self.layout = None;
        if let Some(asked) = self.waiting.front_mut() {
            asked.since.get_or_insert(now);
        }
    }

    /// Draws the shown question, if it looks different from before.
    pub(crate) fn draw(
        &mut self,
        typesetter: &mut Typesetter,
        output: Size,
        now: Time,
        overlay: &mut Overlay,
    ) {
        let Some(asked) = self.waiting.front() else {
            self.drawn = None;
            overlay.prompt = None;
            return;
        };
        let drawn = view::Drawn {
            question: asked.question.clone(),
            selected: asked.selected,
            button: asked.button,
            armed: asked.armed(now),
            output: output.to_wire(),
        };
        if self.drawn.as_ref() != Some(&drawn) || self.layout.is_none() {
            let (picture, layout) = view::draw(typesetter, &drawn, output);
            overlay.prompt = Some((picture, layout.place.origin()));
            self.layout = Some(layout);
            self.drawn = Some(drawn);
        }
    }

    /// The middle of each button as last drawn.
    #[cfg(test)]
    pub(crate) fn buttons(&self) -> Option<[Point; 3]> {
        let layout = self.layout.as_ref()?;
        Some(
            layout
                .buttons
                .map(|(_, rect)| Point::new(rect.x + rect.w / 2, rect.y + rect.h / 2)),
        )
    }
}
