//! The control queue and the event queue: requests of the guest, and what it is told of its microphone.

use super::device::{Active, Sound};
use super::line::Turn;
use super::message::{Command, EVENT_LEN, Item, Query, Request, Status, jack_event};
use super::parameters::Direction;
use crate::virtio::QueueError;

impl Sound {
    /// Answers requests.
    pub(super) fn control_turn(&mut self, active: &mut Active) -> Result<Turn, QueueError> {
        for _ in 0..active.control.budget() {
            let Some(chain) = active.control.pop(&active.memory)? else {
                if active.control.rearm(&active.memory)? {
                    continue;
                }
                active.control.notify(&active.memory)?;
                return Ok(Turn::Idle);
            };
            let head = chain.head_index();
            let mut written = 0;
            if self.request.load(chain, &active.memory).is_ok() {
                let room = self.request.writable().len();
                let request = Request::read(self.request.readable(), &active.memory);
                let answer = match request {
                    // Without room for a status nothing is done that could not be answered.
                    _ if room < 4 => Vec::new(),
                    Ok(Request::Query(query)) => self.query(query, room),
                    Ok(Request::Stream(number, command)) => {
                        let status = self.command(number, command, active)?;
                        status.code().to_le_bytes().to_vec()
                    }
                    Err(status) => status.code().to_le_bytes().to_vec(),
                };
                written = self.request.writable().write(&active.memory, &answer);
            }
            let written = u32::try_from(written).unwrap_or(0);
            active.control.complete(&active.memory, head, written)?;
        }
        active.control.notify(&active.memory)?;
        Ok(Turn::BudgetSpent)
    }

    fn query(&mut self, query: Query, room: usize) -> Vec<u8> {
        let plugged = self.capture.has_host();
        let connected = |jack| match jack {
            Direction::Playback => true,
            Direction::Capture => plugged,
        };
        match query.answer(self.directions(), connected, room) {
            Ok(answer) => {
                if query.item == Item::Jack && query.names(Direction::Capture) {
                    self.told = plugged;
                }
                answer
            }
            Err(status) => status.code().to_le_bytes().to_vec(),
        }
    }

    fn command(
        &mut self,
        number: u32,
        command: Command,
        active: &mut Active,
    ) -> Result<Status, QueueError> {
        let directions = self.directions();
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        let now = self.clock.now();
        let Active { memory, tx, rx, .. } = active;
        // What the guest queued before a release is given back before its answer.
        let buffers = (command == Command::Release).then_some(&mut self.buffers);
        match directions.get(place) {
            Some(Direction::Playback) => self.playback.command(command, now, tx, memory, buffers),
            Some(Direction::Capture) => self.capture.command(command, now, rx, memory, buffers),
            None => Ok(Status::BadMessage),
        }
    }

    /// Tells the guest when its microphone is another than it thinks, if it has a buffer for that.
    pub(super) fn event_turn(&mut self, active: &mut Active) -> Result<Turn, QueueError> {
        let plugged = self.capture.has_host();
        if !self.can_record || plugged == self.told {
            return Ok(Turn::Idle);
        }
        for _ in 0..active.events.budget() {
            let Some(chain) = active.events.pop(&active.memory)? else {
                if active.events.rearm(&active.memory)? {
                    continue;
                }
                active.events.notify(&active.memory)?;
                return Ok(Turn::Idle);
            };
            let head = chain.head_index();
            let usable = self.buffers.load(chain, &active.memory).is_ok()
                && self.buffers.readable().is_empty()
                && self.buffers.writable().len() >= EVENT_LEN;
            if !usable {
                active.events.complete(&active.memory, head, 0)?;
                continue;
            }
            let event = jack_event(Direction::Capture, plugged);
            let written = self.buffers.writable().write(&active.memory, &event);
            let written = u32::try_from(written).unwrap_or(0);
            active.events.complete(&active.memory, head, written)?;
            active.events.notify(&active.memory)?;
            self.told = plugged;
            return Ok(Turn::Idle);
        }
        active.events.notify(&active.memory)?;
        Ok(Turn::BudgetSpent)
    }
}
