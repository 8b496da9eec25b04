//! Flow control: how much may be sent to the guest, and how much it may send (virtio 1.2, 5.10.6.3).
//!
//! Counters are modulo 2^32 and only their differences mean anything. The guest's numbers are believed as far
//! as they only concern the guest.

use super::packet::Window;

/// Most that is ever in flight to the guest, whatever buffer it claims: keeps differences of counters unambiguous.
const MAX_IN_FLIGHT: u32 = 1 << 30;

/// The guest says that it has taken more than it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AheadOfSent;

/// The guest sent more than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BeyondCredit;

/// What may be sent to the guest.
#[derive(Debug)]
pub(super) struct SendCredit {
    peer: Window,
    sent: u32,
}

impl SendCredit {
    pub(super) fn new(size: u32) -> Self {
        Self {
            peer: Window { size, forwarded: 0 },
            sent: 0,
        }
    }

    /// Takes the window from a header of the guest. One that is older than the last is no offence: a guest's
    /// processors may overtake each other between writing a header and queueing it.
    pub(super) fn update(&mut self, window: Window) -> Result<(), AheadOfSent> {
        self.peer.size = window.size;
        let in_flight = self.sent.wrapping_sub(window.forwarded);
        if in_flight <= self.in_flight() {
            self.peer.forwarded = window.forwarded;
            Ok(())
        } else if in_flight <= u32::MAX / 2 {
            Ok(())
        } else {
            Err(AheadOfSent)
        }
    }

    fn in_flight(&self) -> u32 {
        self.sent.wrapping_sub(self.peer.forwarded)
    }

    /// Bytes that may be sent now.
    pub(super) fn available(&self) -> u32 {
        self.peer
            .size
            .min(MAX_IN_FLIGHT)
            .saturating_sub(self.in_flight())
    }

    /// Counts bytes as sent; at most [`SendCredit::available`].
    pub(super) fn sent(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }
}

/// What the guest may send.
#[derive(Debug)]
pub(super) struct ReceiveCredit {
    size: u32,
    received: u32,
    forwarded: u32,
    told: u32,
}

impl ReceiveCredit {
    pub(super) fn new(size: u32) -> Self {
        Self {
            size,
            received: 0,
            forwarded: 0,
            told: 0,
        }
    }

    /// The buffer that the guest was promised, in bytes.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// Counts bytes that came.
    pub(super) fn receive(&mut self, count: u32) -> Result<(), BeyondCredit> {
        let room = self
            .size
            .saturating_sub(self.received.wrapping_sub(self.forwarded));
        if count > room {
            return Err(BeyondCredit);
        }
        self.received = self.received.wrapping_add(count);
        Ok(())
    }

    /// Counts bytes that left the buffer.
    pub(super) fn forward(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
    }

    /// Whether the guest should be told of the room made: when what it does not know of is a quarter of the buffer.
    /// Less never stops it, because then it knows of three quarters less what is still buffered.
    pub(super) fn worth_telling(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= self.size / 4
    }

    /// The window for a header; the guest is thereby told.
    pub(super) fn tell(&mut self) -> Window {
        self.told = self.forwarded;
        Window {
            size: self.size,
            forwarded: self.forwarded,
        }
    }
}

/// The buffer that every connection is sure of, in bytes.
const MIN_BUFFER: u32 = 16 << 10;
/// The largest buffer of a connection, in bytes: a reader that stalls costs no more.
const MAX_BUFFER: u32 = 256 << 10;
/// Buffers of all connections of a VM together, in bytes: a guest that opens many and whose readers stall costs no more.
const MAX_TOTAL: u32 = 16 << 20;
/// Most connections of a VM.
pub(super) const MAX_CONNECTIONS: usize = 512;

/// What is left above the sure part of every connection.
const EXTRA: u32 = MAX_TOTAL - 512 * MIN_BUFFER;
const _: () = assert!(MAX_CONNECTIONS == 512);

/// Shares buffer sizes out, so that their sum stays below [`MAX_TOTAL`] however many connections there are.
#[derive(Debug)]
pub(super) struct Budget {
    extra: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { extra: EXTRA }
    }
}

impl Budget {
    /// A size for a new connection, one of at most [`MAX_CONNECTIONS`].
    pub(super) fn take(&mut self) -> u32 {
        let extra = self.extra.min(MAX_BUFFER - MIN_BUFFER);
        self.extra = self.extra.saturating_sub(extra);
        MIN_BUFFER.saturating_add(extra)
    }

    /// Takes a connection's size back.
    pub(super) fn give_back(&mut self, size: u32) {
        let extra = size.saturating_sub(MIN_BUFFER);
        self.extra = self.extra.saturating_add(extra).min(EXTRA);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: bytes sent, then the guest's size and forwarded count; what it makes of them.
    #[test]
    fn the_guests_window_is_believed_only_as_far_as_it_harms_the_guest() {
        let rows: &[(u32, u32, u32, Result<u32, AheadOfSent>)] = &[
            (0, 0, 0, Ok(0)),
            (0, 100, 0, Ok(100)),
            (100, 100, 0, Ok(0)),
            (100, 100, 40, Ok(40)),
            (100, 100, 100, Ok(100)),
            (100, 50, 0, Ok(0)),
            (100, u32::MAX, 0, Ok(MAX_IN_FLIGHT - 100)),
            (100, 100, 101, Err(AheadOfSent)),
            (0, 100, 1, Err(AheadOfSent)),
            (100, 100, u32::MAX / 2, Err(AheadOfSent)),
        ];
        for (sent, size, forwarded, expected) in rows {
            let mut credit = SendCredit::new(u32::MAX);
            credit.sent(*sent);
            let window = Window {
                size: *size,
                forwarded: *forwarded,
            };
            let got = credit.update(window).map(|()| credit.available());
            assert_eq!(got, *expected, "{sent} {size} {forwarded}");
        }
    }

    #[test]
    fn an_overtaken_header_does_not_take_room_back() {
        let mut credit = SendCredit::new(1000);
        credit.sent(1000);
        let window = |forwarded| Window {
            size: 1000,
            forwarded,
        };
        assert_eq!(credit.update(window(600)), Ok(()));
        assert_eq!(credit.update(window(200)), Ok(()));
        assert_eq!(credit.available(), 600);
    }

    #[test]
    fn counters_wrap_without_losing_or_gaining_room() {
        let mut send = SendCredit::new(1 << 20);
        let mut receive = ReceiveCredit::new(1 << 20);
        let step = 900_000_u32;
        let mut total = 0_u32;
        for round in 0..10_000 {
            assert_eq!(send.available(), 1 << 20, "round {round}");
            send.sent(step);
            receive.receive(step).expect("there is room");
            assert_eq!(receive.receive(1 << 20), Err(BeyondCredit));
            receive.forward(step);
            total = total.wrapping_add(step);
            assert!(receive.worth_telling());
            assert_eq!(receive.tell().forwarded, total);
            assert!(!receive.worth_telling());
            send.update(receive.tell()).expect("not ahead");
        }
    }

    #[test]
    fn a_guest_may_fill_the_buffer_to_the_last_byte_and_no_further() {
        for (first, second, fits) in [(16, 0, true), (15, 1, true), (16, 1, false), (17, 0, false)]
        {
            let mut credit = ReceiveCredit::new(16);
            let got = credit.receive(first).and_then(|()| credit.receive(second));
            assert_eq!(got.is_ok(), fits, "{first} {second}");
        }
    }

    #[test]
    fn buffers_of_all_connections_stay_below_the_total() {
        let mut budget = Budget::default();
        let sizes: Vec<u32> = (0..MAX_CONNECTIONS).map(|_| budget.take()).collect();
        assert_eq!(sizes.first(), Some(&MAX_BUFFER));
        assert_eq!(sizes.last(), Some(&MIN_BUFFER));
        assert!(
            sizes
                .iter()
                .all(|size| (MIN_BUFFER..=MAX_BUFFER).contains(size))
        );
        assert_eq!(sizes.iter().sum::<u32>(), MAX_TOTAL);
        sizes.into_iter().for_each(|size| budget.give_back(size));
        assert_eq!(budget.extra, EXTRA);
    }
}
