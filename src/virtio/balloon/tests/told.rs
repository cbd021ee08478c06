//! What the driver is told of the target, and tells of the guest's memory.

use super::*;

#[test]
fn the_driver_is_told_of_a_target_and_tells_what_there_is() {
    let mut guest = Guest::new(false);
    let generation = guest.get(0x0fc);
    guest.shared.set_target(3 * UNIT);
    guest.device.signal(Signal::Input, NOW);
    assert_eq!(guest.get(0x060), 2, "the configuration has changed");
    assert_ne!(guest.get(0x0fc), generation);
    assert_eq!(guest.get(0x100), 3 * PAGES);
    assert_eq!(guest.device.read(0x101, Width::Byte, NOW), (3 * PAGES) >> 8);
    guest.set(0x064, 2);
    guest.device.signal(Signal::Input, NOW);
    assert_eq!(guest.get(0x060), 0, "it is told once");
    // Only whole words are written, and nothing that is the device's to say.
    guest.device.write(0x100 + ACTUAL, Width::Byte, 7, NOW);
    guest.set(0x100, 9);
    guest.set(0x100 + 12 + 4, 1);
    assert_eq!((guest.get(0x100), guest.get(0x104)), (3 * PAGES, 0));
    // Statistics wait until they are asked for; only then the chain comes back.
    let tell = |guest: &mut Guest, values: &[(u16, u64)]| {
        let entry =
            |(tag, value): &(u16, u64)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
        let bytes: Vec<u8> = values.iter().flat_map(entry).collect();
        guest.ram.get().unwrap().write_from(Ipa::new(TEXTS), &bytes).unwrap();
        let size = u32::try_from(bytes.len()).unwrap();
        let readable = vec![Buffer { ipa: Ipa::new(TEXTS), size }];
        guest.offer(STATISTICS, &Offer { readable, ..Offer::default() })
    };
    assert!(!tell(&mut guest, &[(4, 1 << 20), (6, 2 << 20), (99, 5), (u16::MAX, 6)]));
    assert_eq!(
        (guest.shared.statistic(4), guest.shared.statistic(6)),
        (Some(1 << 20), Some(2 << 20))
    );
    assert_eq!((guest.shared.statistic(5), guest.shared.statistic(99)), (None, None));
    // A second while the first is kept comes back at once: the device has no more to keep.
    assert!(tell(&mut guest, &[(4, 3)]));
    guest.shared.ask();
    guest.device.signal(Signal::Input, NOW);
    assert!(guest.drivers[STATISTICS].used(guest.ram.get().unwrap()).is_some());
    guest.end();
}

#[test]
fn statistics_that_were_offered_without_a_word_are_found_when_they_are_asked_for() {
    for features in [1 << 5, 1 << 1 | 1 << 5] {
        let mut guest = Guest::new(false);
        guest.begin(features);
        let bytes = [&[4, 0][..], &77u64.to_le_bytes()].concat();
        guest.ram.get().unwrap().write_from(Ipa::new(TEXTS), &bytes).unwrap();
        let readable = vec![Buffer { ipa: Ipa::new(TEXTS), size: 10 }];
        guest.drivers[STATISTICS]
            .offer(guest.ram.get().unwrap(), &Offer { readable, ..Offer::default() })
            .unwrap();
        guest.drivers[STATISTICS].show(guest.ram.get().unwrap());
        guest.go_on();
        assert_eq!(guest.shared.statistic(4), None);
        guest.shared.ask();
        guest.device.signal(Signal::Input, NOW);
        guest.go_on();
        // Without the feature there is no such queue, and it is not looked for.
        let told = (features & 1 << 1 != 0).then_some(77);
        assert_eq!(guest.shared.statistic(4), told);
        guest.end();
    }
}
