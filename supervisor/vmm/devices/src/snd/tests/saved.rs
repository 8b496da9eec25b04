//! Snapshots: streams go on where they were, and no state is believed.

use super::*;
use crate::state::StateError;

fn state(guest: &Guest) -> Vec<u8> {
    let mut sound = lock(&guest.sound);
    sound.quiesce().expect("nothing to fail");
    sound.save()
}

#[test]
fn a_running_stream_goes_on_in_another_vm() {
    let (speaker, _far) = host();
    let mut guest = Guest::new(true, Some(speaker));
    guest.start(0);
    guest.start(1);
    guest.play(0, &samples(0, PERIOD));
    guest.listen(0, PERIOD);
    let saved = state(&guest);
    assert_eq!(guest.back(TX).len(), 1, "messages are given back before");
    assert_eq!(guest.back(RX)[0].written, 8);
    guest.rest();
    // The one that was saved goes on as well.
    guest.play(0, &samples(0, PERIOD));

    let (speaker, far) = host();
    let mut clone = Guest::restored(true, Some(speaker), Some(&saved)).expect("fits");
    assert_eq!(far.runs(), 1);
    clone.play(0, &samples(1, PERIOD));
    assert_eq!(far.played(), samples(1, PERIOD));
    far.hear(u64::from(PERIOD), 0);
    clone.rest();
    assert_eq!(clone.back(TX).len(), 1);
    clone.listen(0, PERIOD);
    clone.pass(10);
    assert_eq!(clone.back(RX).len(), 1);
    assert_eq!(clone.status(&[STOP, 1]), OK);
    assert_eq!(clone.status(&[RELEASE, 1]), OK);
}

#[test]
fn a_grant_is_not_part_of_a_snapshot_and_the_guest_hears_of_that() {
    let (microphone, _far) = host();
    let mut guest = Guest::new(true, None);
    guest.handle.grant(microphone);
    guest.rest();
    guest.offer_events(&[0]);
    assert_eq!(guest.events(), [(0x1000, 1)]);
    let saved = state(&guest);
    let mut clone = Guest::restored(true, None, Some(&saved)).expect("fits");
    clone.offer_events(&[0]);
    assert_eq!(clone.events(), [(0x1001, 1)]);
}

#[test]
fn a_snapshot_is_of_a_card_that_can_do_the_same() {
    for can_record in [false, true] {
        let saved = state(&Guest::new(can_record, None));
        assert!(Guest::restored(can_record, None, Some(&saved)).is_ok());
        let refused = Guest::restored(!can_record, None, Some(&saved)).map(drop);
        assert!(matches!(refused, Err(StateError::Other(_))));
    }
}

#[test]
fn every_phase_comes_back() {
    let mut guest = Guest::new(false, None);
    let mut check = |words: &[u32]| {
        if words[0] == SET {
            assert_eq!(guest.set(0, BUFFER, PERIOD, [1, 17, 6]), OK);
        } else {
            assert_eq!(guest.status(words), OK);
        }
        let saved = state(&guest);
        let clone = Guest::restored(false, None, Some(&saved)).expect("fits");
        assert_eq!(state(&clone), saved);
    };
    for command in [SET, PREPARE, START, STOP, RELEASE] {
        check(&[command, 0]);
    }
}

#[test]
fn hostile_states_are_refused_or_are_possible_ones() {
    let mut guest = Guest::new(true, None);
    guest.start(0);
    assert_eq!(guest.set(1, BUFFER, PERIOD, [2, 19, 6]), OK);
    let saved = state(&guest);
    for len in (0..saved.len()).chain([saved.len() + 1, 1000]) {
        let mut bytes = saved.clone();
        bytes.resize(len, 0);
        assert!(Guest::restored(true, None, Some(&bytes)).is_err(), "{len}");
    }
    let (mut refused, mut taken) = (0, 0);
    for place in 0..saved.len() {
        for value in 0..=255 {
            let mut bytes = saved.clone();
            bytes[place] = value;
            match Guest::restored(true, None, Some(&bytes)) {
                Err(_) => refused += 1,
                Ok(clone) => {
                    taken += 1;
                    assert_eq!(state(&clone), bytes, "what is taken is what is there");
                }
            }
        }
    }
    assert!(refused > 6000 && taken > 27, "{refused} {taken}");
}
