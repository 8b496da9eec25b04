//! Recording: silence until there is a grant, and again at once when there is none any more.

use super::*;

const CONNECTED: u32 = 0x1000;
const DISCONNECTED: u32 = 0x1001;

fn period() -> usize {
    usize::try_from(PERIOD).expect("small")
}

fn silence() -> Vec<u8> {
    vec![0; period()]
}

#[test]
fn without_a_grant_there_is_silence_at_the_pace_of_sound() {
    let mut guest = Guest::new(true, None);
    guest.start(1);
    guest.listen(0, PERIOD);
    guest.listen(1, PERIOD);
    assert_eq!(guest.back(RX), []);
    guest.pass(9);
    assert_eq!(guest.back(RX), []);
    guest.pass(1);
    let back = Back {
        slot: 0,
        written: PERIOD + 8,
        status: OK,
        latency: 0,
    };
    assert_eq!(guest.back(RX), [back]);
    assert_eq!(guest.recorded(0, PERIOD), silence());
    guest.pass(10);
    assert_eq!(guest.back(RX).len(), 1);
}

#[test]
fn a_grant_brings_samples_and_its_end_silence_at_once() {
    let (microphone, far) = host();
    let mut guest = Guest::new(true, None);
    guest.offer_events(&[0, 1, 2]);
    guest.start(1);
    guest.handle.grant(microphone);
    guest.rest();
    assert_eq!(guest.events(), [(CONNECTED, 1)]);
    assert_eq!(far.runs(), 1);
    let voice = samples(1, PERIOD);
    guest.listen(0, PERIOD);
    far.record(&voice);
    guest.rest();
    assert_eq!(guest.back(RX).len(), 1);
    assert_eq!(guest.recorded(0, PERIOD), voice);
    // Half a message and more was heard when the grant ends, and more is on its way.
    guest.listen(1, PERIOD);
    far.record(&voice[..period() / 2]);
    guest.rest();
    far.record(&voice);
    guest.handle.revoke();
    guest.rest();
    guest.pass(10);
    assert_eq!(guest.back(RX).len(), 1);
    assert_eq!(guest.recorded(1, PERIOD), silence());
    assert_eq!(guest.events(), [(DISCONNECTED, 1)]);
    assert_eq!(Arc::strong_count(&far.script), 1, "the host was let go");
}

#[test]
fn samples_that_wait_for_the_guest_are_not_given_after_the_grant() {
    let (microphone, far) = host();
    let mut guest = Guest::new(true, None);
    guest.handle.grant(microphone);
    guest.start(1);
    far.record(&samples(1, PERIOD));
    guest.rest();
    guest.handle.revoke();
    guest.listen(0, PERIOD);
    guest.pass(10);
    assert_eq!(guest.back(RX).len(), 1);
    assert_eq!(guest.recorded(0, PERIOD), silence());
}

#[test]
fn a_grant_while_there_is_no_driver_can_be_taken_back() {
    let (microphone, far) = host();
    let mut guest = Guest::new(true, None);
    guest.handle.grant(microphone);
    guest.rest();
    guest.activated.restart();
    guest.seen = [0; 4];
    assert_eq!(Arc::strong_count(&far.script), 2, "it outlives a driver");
    guest.start(1);
    assert_eq!(far.runs(), 1);
    // The device is reset and nobody starts it.
    guest.activated.stop();
    assert!(far.ended().is_empty(), "not on the thread of a vCPU");
    guest.activated.rest();
    assert_eq!(far.ended(), [1]);
    guest.handle.revoke();
    guest.activated.rest();
    assert_eq!(Arc::strong_count(&far.script), 1);
}

#[test]
fn a_card_that_cannot_record_never_does() {
    let (microphone, far) = host();
    let mut guest = Guest::new(false, None);
    guest.offer_events(&[0]);
    guest.handle.grant(microphone);
    guest.rest();
    assert_eq!(Arc::strong_count(&far.script), 1, "nothing is kept");
    assert_eq!(guest.set(1, BUFFER, PERIOD, [2, 5, 7]), BAD);
    guest.listen(0, PERIOD);
    assert_eq!(guest.back(RX)[0].status, IO_ERROR);
    assert_eq!(guest.events(), []);
}

#[test]
fn who_does_not_listen_loses_what_came_first() {
    let (microphone, far) = host();
    let mut guest = Guest::new(true, None);
    guest.handle.grant(microphone);
    guest.start(1);
    for part in 0..6 {
        far.record(&samples(part, PERIOD));
    }
    guest.rest();
    // The last four periods make a buffer.
    for slot in 0..4 {
        guest.listen(slot, PERIOD);
        let seed = u8::try_from(slot).expect("small") + 2;
        assert_eq!(guest.back(RX).len(), 1);
        assert_eq!(guest.recorded(slot, PERIOD), samples(seed, PERIOD));
        // A period is a quarter of the buffer: not more at once.
        guest.pass(10);
    }
    guest.listen(4, PERIOD);
    assert_eq!(guest.back(RX), []);
}

#[test]
fn a_microphone_that_breaks_the_rules_is_let_go() {
    for half_a_frame in [true, false] {
        let (microphone, far) = host();
        let mut guest = Guest::new(true, None);
        guest.handle.grant(microphone);
        guest.start(1);
        guest.listen(0, PERIOD);
        if half_a_frame {
            far.record(&[1; 6]);
        } else {
            far.hear(1, 1);
        }
        guest.rest();
        assert_eq!(Arc::strong_count(&far.script), 1);
        guest.pass(10);
        assert_eq!(guest.back(RX).len(), 1);
        assert_eq!(guest.recorded(0, PERIOD), silence());
    }
}

#[test]
fn a_microphone_that_falls_silent_is_gone_on_without() {
    let (microphone, far) = host();
    let mut guest = Guest::new(true, None);
    guest.handle.grant(microphone);
    guest.start(1);
    guest.listen(0, PERIOD);
    guest.pass(119);
    assert_eq!(guest.back(RX), []);
    guest.pass(1);
    guest.pass(10);
    assert_eq!(guest.back(RX).len(), 1);
    assert_eq!(guest.recorded(0, PERIOD), silence());
    assert_eq!(far.ended(), [1]);
}

#[test]
fn the_guest_is_told_of_its_microphone_when_it_can_be() {
    let mut guest = Guest::new(true, None);
    let (microphone, _far) = host();
    guest.handle.grant(microphone);
    guest.rest();
    guest.offer_events(&[]);
    assert_eq!(guest.events(), [], "there is no buffer");
    guest.handle.revoke();
    guest.rest();
    guest.offer_events(&[0]);
    assert_eq!(guest.events(), [], "it is as it was");
    let (microphone, _far) = host();
    guest.handle.grant(microphone);
    guest.rest();
    assert_eq!(guest.events(), [(CONNECTED, 1)]);
}

#[test]
fn a_jack_says_what_is_plugged_in_and_then_there_is_nothing_to_tell() {
    let mut guest = Guest::new(true, None);
    let (microphone, _far) = host();
    guest.handle.grant(microphone);
    guest.rest();
    let query = [1, 1, 1, 24].map(u32::to_le_bytes).concat();
    assert_eq!(guest.ask(&query, 28)[20], 1);
    guest.offer_events(&[0]);
    assert_eq!(guest.events(), []);
}

#[test]
fn buffers_for_events_that_are_none_are_given_back() {
    let mut guest = Guest::new(true, None);
    let table = [
        (EVENT, 7, WRITE, 0),
        (EVENT, 8, 0, 0),
        (EVENT + 16, 8, WRITE, 0),
    ];
    guest.activated.offer(EVENTS, &table, &[0, 1, 2]);
    let (microphone, _far) = host();
    guest.handle.grant(microphone);
    guest.rest();
    assert_eq!(guest.new_used(EVENTS), [(0, 0), (1, 0), (2, 8)]);
}
