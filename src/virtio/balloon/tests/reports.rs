//! Free pages that are reported, what the guest keeps, and how much a device does in one go.

use super::*;

#[test]
fn the_guest_keeps_what_its_manifest_says() {
    let mut guest = Guest::new(false);
    for unit in (0..UNITS as u64).rev() {
        guest.report(&[(at(unit), UNIT_SIZE)]);
    }
    // Of seven units and a bit it keeps two: the last five that it named would be too many.
    assert_eq!(guest.holes(), [2, 3, 4, 5, 6]);
    guest.inflate(&pages(0));
    assert_eq!(guest.holes(), [2, 3, 4, 5, 6]);
    guest.end();
}

#[test]
fn of_what_is_reported_only_whole_units_that_are_ram_are_taken() {
    let mut guest = Guest::new(true);
    for range in [
        (0, UNIT_SIZE),
        (BASE - UNIT, UNIT_SIZE),
        (BASE - UNIT, UNIT_SIZE + 4096),
        (at(UNITS as u64), UNIT_SIZE),
        (at(UNITS as u64), 0x3000),
        (u64::MAX - 4095, UNIT_SIZE),
        (u64::MAX, 1),
        (u64::MAX - UNIT + 1, UNIT_SIZE),
        (at(1) + 4096, UNIT_SIZE),
        (at(1), UNIT_SIZE - 1),
        (at(1) + 1, UNIT_SIZE + UNIT_SIZE - 2),
        (at(3), 1),
    ] {
        assert!(guest.report(&[range]), "{range:x?}");
        assert_eq!(guest.holes(), [], "{range:x?}");
    }
    // A UNIT_SIZE in the midst of what is reported, and one at the end.
    assert!(guest.report(&[(at(1) + 4096, UNIT_SIZE + UNIT_SIZE - 4096), (at(4), UNIT_SIZE)]));
    assert_eq!(guest.holes(), [2, 4]);
    // As much as can be said at once, from before RAM to behind it, as often as a chain can.
    guest.fill(2);
    guest.fill(4);
    assert!(guest.report(&[(BASE - UNIT, u32::MAX); 8]));
    assert_eq!(guest.holes(), [], "it does not begin in RAM");
    assert!(guest.report(&[(at(1), u32::MAX); 8]));
    assert_eq!(guest.holes(), [1, 2, 3, 4, 5]);
    assert_eq!(guest.shared.reported(), 7 * UNIT);
    guest.end();
}

#[test]
fn what_is_reported_is_not_taken_where_pages_are_to_hold_a_pattern() {
    let mut guest = Guest::new(false);
    guest.begin(1 << 4 | 1 << 5);
    guest.set(0x100 + POISON_VAL, 0xaa);
    assert!(guest.report(&[(at(2), UNIT_SIZE)]));
    assert_eq!(guest.holes(), []);
    guest.set(0x100 + POISON_VAL, 0);
    assert!(guest.report(&[(at(2), UNIT_SIZE)]));
    assert_eq!(guest.holes(), [2]);
    guest.end();
}

#[test]
fn a_serving_is_bounded_and_the_rest_is_due() {
    let mut guest = Guest::new(false);
    let before = guest.device.backend().state.clone();
    let size = u32::MAX;
    let offer =
        Offer { writable: vec![Buffer { ipa: Ipa::new(at(1)), size }; 8], ..Offer::default() };
    guest.drivers[REPORTING].offer(guest.ram.get().unwrap(), &offer).unwrap();
    guest.drivers[REPORTING].show(guest.ram.get().unwrap());
    guest.set(0x050, REPORTING as u64);
    let state = guest.device.backend().state.clone();
    // Seven units are less than it looks at in one go, and what is not RAM ends a buffer.
    assert_eq!(before.progress, state.progress);
    // 256 numbers in one go.
    let numbers: Vec<u8> = (0..1000u32).flat_map(u32::to_le_bytes).collect();
    guest.fill(1);
    guest.ram.get().unwrap().write_from(Ipa::new(at(1)), &numbers).unwrap();
    let readable = vec![Buffer { ipa: Ipa::new(at(1)), size: 4000 }];
    guest.drivers[INFLATE]
        .offer(guest.ram.get().unwrap(), &Offer { readable, ..Offer::default() })
        .unwrap();
    guest.drivers[INFLATE].show(guest.ram.get().unwrap());
    guest.set(0x050, 0);
    let progress = guest.device.backend().state.progress[INFLATE];
    assert_eq!(progress, Progress { buffer: 0, offset: 1024 });
    assert_eq!(guest.device.deadline(), Some(Ticks(0)));
    guest.go_on();
    assert!(guest.drivers[INFLATE].used(guest.ram.get().unwrap()).is_some());
    guest.end();
}
