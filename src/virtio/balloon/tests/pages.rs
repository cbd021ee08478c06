//! Pages by number, that go into the balloon and out of it.

use super::*;
use crate::testing::pick;

#[test]
fn a_unit_goes_when_its_last_page_is_in_the_balloon_and_not_before() {
    for packed in [false, true].into_iter().skip(pick(0, 1)) {
        let mut guest = Guest::new(packed);
        let all = pages(3);
        guest.inflate(&all[1..]);
        assert_eq!(guest.holes(), []);
        // The same again is the same page, however often.
        for _ in 0..pick(3, 1) {
            guest.inflate(&all[1..]);
        }
        assert_eq!(guest.holes(), []);
        guest.inflate(&all[..1]);
        assert_eq!(guest.holes(), [3]);
        guest.inflate(&all);
        assert_eq!(guest.elastic().given_back(), UNIT, "it was taken once");
        // What is out of the balloon, and is used, is there; the rest of its unit has to be too.
        guest.deflate(&all[7..8]);
        assert_eq!(guest.holes(), [3]);
        guest.fill(3);
        assert_eq!(guest.room.memory().read::<u64>(Ipa::new(at(3) + 7 * PAGE_SIZE)), Ok(0));
        guest.inflate(&all[7..8]);
        assert_eq!(guest.holes(), [3]);
        guest.end();
    }
}

#[test]
fn nothing_is_taken_from_the_balloon_of_who_may_use_pages_before_they_are_out_of_it() {
    let mut guest = Guest::new(false);
    guest.begin_with(1 << 5);
    guest.inflate(&pages(3));
    assert_eq!(guest.holes(), []);
    assert!(guest.report(&[(at(4), UNIT_SIZE)]), "what is reported is not used");
    assert_eq!(guest.holes(), [4]);
    guest.end();
}

#[test]
fn queues_that_are_worked_off_in_turn_do_not_lose_their_place() {
    let mut guest = Guest::new(false);
    // Half of a unit goes out, as another goes in, and what is reported comes between them.
    guest.inflate(&pages(3)[..256]);
    let named: [Vec<u8>; 2] = [&pages(2)[..], &pages(3)[..256]]
        .map(|numbers| numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
    for (queue, bytes) in [INFLATE, DEFLATE].into_iter().zip(&named) {
        let ipa = Ipa::new(TEXTS + 0x4000 * queue as u64);
        guest.ram.get().unwrap().write_from(ipa, bytes).unwrap();
        let readable = vec![Buffer { ipa, size: u32::try_from(bytes.len()).unwrap() }];
        guest.drivers[queue]
            .offer(guest.ram.get().unwrap(), &Offer { readable, ..Offer::default() })
            .unwrap();
        guest.drivers[queue].show(guest.ram.get().unwrap());
    }
    let writable = vec![Buffer { ipa: Ipa::new(at(5)), size: UNIT_SIZE }];
    guest.drivers[REPORTING]
        .offer(guest.ram.get().unwrap(), &Offer { writable, ..Offer::default() })
        .unwrap();
    guest.drivers[REPORTING].show(guest.ram.get().unwrap());
    for queue in [INFLATE, DEFLATE, REPORTING] {
        guest.set(0x050, queue as u64);
    }
    guest.go_on();
    assert_eq!(guest.holes(), [2, 5]);
    // So nothing of this unit is in the balloon but what goes in now.
    guest.inflate(&pages(3)[256..]);
    assert_eq!(guest.holes(), [2, 5]);
    guest.end();
}

#[test]
fn pages_outside_ram_and_what_was_never_in_the_balloon_change_nothing() {
    let mut guest = Guest::new(false);
    let first = u32::try_from(BASE / PAGE_SIZE).unwrap();
    let end = u32::try_from((BASE + RAM) / PAGE_SIZE).unwrap();
    let outside = [0, 1, first - 1, end, end + 1, u32::MAX, u32::MAX - 511, 1 << 31];
    for queue in [INFLATE, DEFLATE] {
        assert!(guest.name(queue, &outside, 4096));
        // A page number that is cut in two is none.
        assert!(guest.name(queue, &pages(2)[..2], 3));
    }
    // From far before RAM to far behind it, wrapping on the way.
    let across: Vec<u32> = (0..pick(40_000u32, 400))
        .map(|n| first.wrapping_sub(100).wrapping_add(n.wrapping_mul(107_377)))
        .collect();
    guest.inflate(&across);
    assert_eq!(guest.holes(), []);
    guest.deflate(&pages(4));
    assert_eq!(guest.holes(), []);
    guest.inflate(&pages(4));
    assert_eq!(guest.holes(), [4]);
    // What is no unit stays, though all of it is in the balloon.
    guest.inflate(&(end - 3..end).collect::<Vec<_>>());
    assert_eq!(guest.holes(), [4]);
    guest.end();
}

#[test]
fn who_gives_up_the_rings_has_broken_them_and_nothing_else() {
    for packed in [false, true].into_iter().skip(pick(0, 1)) {
        let mut guest = Guest::new(packed);
        let mut left = pages(0);
        let last = left.split_off(511);
        guest.inflate(&left);
        assert_eq!(guest.get(0x070), 15);
        // The answer to this cannot be written any more.
        let bytes = last[0].to_le_bytes();
        guest.ram.get().unwrap().write_from(Ipa::new(TEXTS), &bytes).unwrap();
        let readable = vec![Buffer { ipa: Ipa::new(TEXTS), size: 4 }];
        guest.drivers[0]
            .offer(guest.ram.get().unwrap(), &Offer { readable, ..Offer::default() })
            .unwrap();
        guest.drivers[0].show(guest.ram.get().unwrap());
        guest.set(0x050, 0);
        guest.go_on();
        assert_eq!(guest.get(0x070), 15 | 64, "the device needs a reset");
        assert_eq!(guest.holes(), [0]);
        // And after one, with rings in memory that is there, all is well.
        guest.begin(1 << 5);
        guest.inflate(&pages(1));
        assert_eq!(guest.holes(), [1]);
        guest.end();
    }
}

#[test]
fn a_reset_forgets_the_balloon_and_what_was_taken_stays_away_until_it_is_used() {
    let mut guest = Guest::new(false);
    guest.inflate(&pages(2));
    guest.inflate(&pages(3)[1..]);
    guest.set(0x100 + ACTUAL, 1023);
    assert_eq!(guest.shared.actual(), 1023 * PAGE_SIZE);
    guest.begin(1 << 5);
    assert_eq!((guest.get(0x100 + ACTUAL), guest.shared.actual()), (0, 0));
    assert_eq!(guest.holes(), [2]);
    // What was in the balloon before is not in the new one.
    guest.inflate(&pages(3)[..1]);
    assert_eq!(guest.holes(), [2]);
    guest.inflate(&pages(3)[1..]);
    assert_eq!(guest.holes(), [2, 3]);
    guest.fill(2);
    assert_eq!(guest.holes(), [3]);
    // In the middle of a chain.
    let ranges = Offer {
        writable: vec![Buffer { ipa: Ipa::new(at(1)), size: u32::MAX }; 8],
        ..Offer::default()
    };
    guest.drivers[REPORTING].offer(guest.ram.get().unwrap(), &ranges).unwrap();
    guest.drivers[REPORTING].show(guest.ram.get().unwrap());
    guest.set(0x050, REPORTING as u64);
    guest.begin(1 << 5);
    assert!(guest.device.deadline().is_none());
    assert_eq!(guest.device.backend().state.progress, <[Progress; 5]>::default());
    guest.end();
}
