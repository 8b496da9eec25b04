//! Playing: what is heard is what was queued, and the guest goes on whatever the host does.

use super::*;

#[test]
fn what_the_host_hears_is_given_back_with_its_latency() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    // Three periods are a quarter of it, which may be heard at once.
    assert_eq!(guest.set(0, 12 * PERIOD, PERIOD, [2, 5, 7]), OK);
    assert_eq!(guest.status(&[PREPARE, 0]), OK);
    let all: Vec<Vec<u8>> = (0..3).map(|slot| samples(slot, PERIOD)).collect();
    guest.play(0, &all[0]);
    guest.play(1, &all[1]);
    assert_eq!(far.runs(), 0, "it has not started");
    assert_eq!(guest.status(&[START, 0]), OK);
    let (run, shape, period) = lock(&far.script).begun[0];
    assert_eq!(
        (run, shape.bytes_per_second(), period),
        (1, 192_000, PERIOD)
    );
    guest.play(2, &all[2]);
    assert_eq!(far.played(), all.concat());
    assert_eq!(guest.back(TX), [], "sent is not heard");
    far.hear(u64::from(PERIOD) - 4, 0);
    guest.rest();
    assert_eq!(guest.back(TX), [], "not quite");
    far.hear(u64::from(PERIOD), 960);
    guest.rest();
    let back = Back {
        slot: 0,
        written: 8,
        status: OK,
        latency: 960,
    };
    assert_eq!(guest.back(TX), [back]);
    far.hear(u64::from(3 * PERIOD), 0);
    guest.rest();
    assert_eq!(guest.back(TX).len(), 2);
}

#[test]
fn a_host_is_not_believed_what_it_cannot_have_heard() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    guest.play(0, &samples(0, PERIOD));
    far.hear(u64::MAX, u32::MAX);
    far.hear(0, 0);
    guest.rest();
    let back = guest.back(TX);
    assert_eq!(back.len(), 1);
    guest.play(1, &samples(1, PERIOD));
    far.hear(u64::MAX, u32::MAX);
    guest.rest();
    assert_eq!(guest.back(TX), [], "it said that before");
    // Of another run, and what only a microphone says.
    far.say(
        News::Heard {
            run: 7,
            total: 9999,
            latency: 0,
        },
        &[],
    );
    guest.rest();
    assert_eq!(guest.back(TX), []);
}

#[test]
fn a_latency_is_at_most_a_second() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    guest.play(0, &samples(0, PERIOD));
    far.hear(u64::from(PERIOD), u32::MAX);
    guest.rest();
    assert_eq!(guest.back(TX)[0].latency, 192_000);
}

#[test]
fn a_host_that_says_nothing_is_gone_on_without() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    for slot in 0..4 {
        guest.play(slot, &samples(0, PERIOD));
    }
    guest.pass(100);
    assert_eq!(guest.back(TX), [], "it is waited for");
    guest.pass(20);
    assert_eq!(far.ended(), [1]);
    for slot in 0..4 {
        guest.pass(10);
        let slots: Vec<u16> = guest.back(TX).iter().map(|back| back.slot).collect();
        assert_eq!(slots, [slot]);
    }
    // Kicks without time give nothing back.
    guest.play(0, &samples(0, PERIOD));
    for _ in 0..1000 {
        guest.activated.kick(TX);
    }
    assert_eq!(guest.back(TX), []);
}

/// Its stream would seem to stand still.
#[test]
fn a_driver_that_does_not_look_never_has_its_whole_buffer_back() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    for slot in 0..4 {
        guest.play(slot, &samples(0, PERIOD));
    }
    far.leave();
    // By the own clock, of which a second is worth many buffers.
    for _ in 0..100 {
        guest.pass(10);
        assert!(guest.activated.used(TX).len() < 4);
    }
    assert_eq!(guest.back(TX).len(), 3);
    guest.pass(10);
    assert_eq!(guest.back(TX).len(), 1, "now that it has looked");
}

#[test]
fn a_host_that_was_silent_is_asked_again_and_hears_what_comes_then() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    guest.play(0, &samples(0, PERIOD));
    guest.pass(200);
    let before = far.played().len();
    assert_eq!(far.runs(), 1);
    // For two seconds it is left alone.
    for round in 0..200 {
        guest.pass(10);
        guest.back(TX);
        guest.play(round % 4, &samples(9, PERIOD));
    }
    assert_eq!(far.runs(), 2);
    assert_eq!(far.played().len(), before, "it has not answered");
    guest.pass(10);
    guest.back(TX);
    guest.play(5, &samples(1, PERIOD));
    far.hear(0, 0);
    guest.rest();
    assert_eq!(far.played()[before..].last(), samples(1, PERIOD).last());
    let sent = far.played().len() - before;
    guest.pass(50);
    assert_eq!(guest.back(TX), [], "its clock again");
    far.hear(u64::try_from(sent).expect("small"), 0);
    guest.rest();
    assert_eq!(guest.back(TX).last().map(|back| back.slot), Some(5));
}

#[test]
fn a_host_that_is_gone_is_gone_on_without() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    guest.play(0, &samples(0, PERIOD));
    far.leave();
    guest.rest();
    assert_eq!(guest.back(TX), []);
    guest.pass(10);
    assert_eq!(guest.back(TX).len(), 1, "by the own clock");
    // A new one hears what was not played yet.
    guest.play(1, &samples(1, PERIOD));
    guest.pass(5);
    let (speaker, far) = host();
    guest.handle.attach_speaker(speaker);
    guest.rest();
    let half = usize::try_from(PERIOD / 2).expect("small");
    assert_eq!(far.played(), samples(1, PERIOD)[half..]);
}

#[test]
fn a_host_that_hears_too_fast_makes_no_guest_spin() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    guest.play(0, &samples(0, PERIOD));
    let (mut given_back, mut total) = (0, 0);
    while given_back < 300 {
        total += 1 << 40;
        far.hear(total, 0);
        guest.rest();
        let back = guest.back(TX).len();
        given_back += back;
        if back == 0 {
            guest.pass(4);
        } else {
            guest.play(0, &samples(0, PERIOD));
        }
    }
    let millis = lock(&guest.hand.0).as_millis();
    // Three seconds at 125 percent, after a quarter of the buffer at once.
    assert!((2380..2500).contains(&millis), "{millis} ms");
}

#[test]
fn not_more_than_a_window_is_on_its_way() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    assert_eq!(guest.set(0, 0x3_0000, 0x3000, [2, 19, 7]), OK);
    assert_eq!(guest.status(&[PREPARE, 0]), OK);
    assert_eq!(guest.status(&[START, 0]), OK);
    // One message of twelve pieces, all of them the same memory.
    let at = slot_at(TX, 0);
    guest.write(at, &[0; 4]);
    let mut chain = vec![(at, 4, NEXT, 1)];
    chain.extend((2..14).map(|next| (at + 0x100, 0x4000, NEXT, next)));
    chain.push((REQUEST, 8, WRITE, 0));
    guest.activated.offer(TX, &chain, &[0]);
    guest.activated.kick(TX);
    guest.rest();
    let window = usize::try_from(casemate_sound_wire::MAX_AHEAD).expect("small");
    assert_eq!(far.played().len(), window);
    // Room for less than a frame is none.
    for (heard, more) in [(5, 0), (8, 8), (17, 16), (4096, 4096)] {
        far.hear(heard, 0);
        guest.rest();
        assert_eq!(far.played().len(), window + more, "{heard}");
    }
}

#[test]
fn a_full_host_is_fed_when_it_has_room() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    lock(&far.script).full = true;
    guest.play(0, &samples(0, PERIOD));
    assert!(far.played().is_empty());
    lock(&far.script).full = false;
    far.hear(0, 0);
    guest.rest();
    assert_eq!(far.played(), samples(0, PERIOD));
}

#[test]
fn a_pause_plays_again_what_was_not_heard() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    let data = samples(5, PERIOD);
    guest.play(0, &data);
    far.hear(u64::from(PERIOD) / 2, 0);
    guest.rest();
    assert_eq!(guest.status(&[STOP, 0]), OK);
    assert_eq!(far.ended(), [1]);
    guest.pass(10_000);
    assert_eq!(guest.back(TX), [], "nothing is played while it stands");
    assert_eq!(guest.status(&[START, 0]), OK);
    let half = data.len() / 2;
    assert_eq!(far.played(), [&data[..], &data[half..]].concat());
    far.hear(u64::from(PERIOD) / 2, 0);
    guest.rest();
    assert_eq!(guest.back(TX).len(), 1);
}

#[test]
fn a_guest_that_leaves_leaves_the_host() {
    let (speaker, far) = host();
    let mut guest = Guest::new(false, Some(speaker));
    guest.start(0);
    guest.play(0, &samples(0, PERIOD));
    guest.activated.restart();
    guest.seen = [0; 4];
    guest.rest();
    assert_eq!(far.ended(), [1]);
    guest.start(0);
    guest.play(0, &samples(1, PERIOD));
    assert_eq!(far.runs(), 2, "the same host after a reset");
}
