//! Claims about balloons, made with a driver that keeps to the standard, and with one that names what it likes.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;
use crate::device::{Device, Signal};
use crate::memory::elastic::Filled;
use crate::memory::elastic::fake::Room;
use crate::time::Ticks;
use crate::virtio::queue::fake::{Driver, Offer};
use crate::virtio::queue::{Negotiated, Place};
use crate::virtio::ram::SharedRam;
use crate::virtio::transport::Transport;

const NOW: Ticks = Ticks(0);
const BASE: u64 = 0x4000_0000;
const UNITS: usize = 7;
/// Units, and what is none.
const RAM: u64 = UNITS as u64 * UNIT + 0x3000;
const KEEP: u64 = 2 * UNIT;
/// A unit, as descriptors have it.
const UNIT_SIZE: u32 = 2 << 20;
const SIZE: u16 = 8;
/// A page for what each queue's driver says, behind the rings.
const TEXTS: u64 = BASE + 0x1_0000;
const REPORTING: usize = 4;
const PAGES: u64 = UNIT / PAGE_SIZE;

mod saved;

struct Guest {
    room: Room,
    ram: SharedRam,
    device: Transport<Balloon, SharedRam>,
    shared: Arc<BalloonState>,
    drivers: Vec<Driver>,
    packed: bool,
}

impl Guest {
    fn new(packed: bool) -> Self {
        let room = Room::quiet(Ipa::new(BASE), RAM, KEEP, 3 * UNIT);
        let (ram, shared) = (room.ram.clone(), Arc::<BalloonState>::default());
        let device = Balloon::new(RAM, shared.clone());
        let device = Transport::new(device, ram.clone(), "test".into());
        let mut guest = Self { room, ram, device, shared, drivers: Vec::new(), packed };
        guest.begin(1 << 1 | 1 << 5);
        guest
    }

    fn set(&mut self, offset: u64, value: u64) {
        self.device.write(offset, Width::Word, value, NOW);
    }

    fn get(&mut self, offset: u64) -> u64 {
        self.device.read(offset, Width::Word, NOW)
    }

    /// A driver that uses pages when they are out of the balloon.
    fn begin(&mut self, features: u64) {
        self.begin_with(features | feature::MUST_TELL_HOST);
    }

    /// "Device Initialization", with rings where the guest has touched them.
    fn begin_with(&mut self, features: u64) {
        self.fill(0);
        self.ram.get().unwrap().write_from(Ipa::new(BASE), &[0; 0x1_0000]).unwrap();
        for status in [0, 1, 3] {
            self.set(0x070, status);
        }
        for (sel, half) in [(0, features), (1, 1 | u64::from(self.packed) << 2)] {
            self.set(0x024, sel);
            self.set(0x020, half);
        }
        self.set(0x070, 11);
        self.drivers.clear();
        for queue in 0..QUEUES.len() as u64 {
            let at = BASE + 0x1000 * queue;
            let place =
                Place { size: SIZE, descriptors: at, driver: at + 0x400, device: at + 0x800 };
            self.set(0x030, queue);
            self.set(0x038, place.size.into());
            for (offset, area) in [(0x080, at), (0x090, place.driver), (0x0a0, place.device)] {
                self.set(offset, area);
            }
            self.set(0x044, 1);
            let negotiated = Negotiated { packed: self.packed, ..Negotiated::default() };
            self.drivers.push(Driver::new(place, negotiated, 0));
        }
        self.set(0x070, 15);
        assert_eq!(self.get(0x070), 15);
    }

    /// Offers a chain and goes on until nothing is due. Returns whether it was used.
    fn offer(&mut self, queue: usize, offer: &Offer) -> bool {
        self.drivers[queue].offer(self.ram.get().unwrap(), offer).unwrap();
        self.drivers[queue].show(self.ram.get().unwrap());
        self.set(0x050, queue as u64);
        self.go_on();
        self.drivers[queue].used(self.ram.get().unwrap()).is_some()
    }

    fn go_on(&mut self) {
        // A bound: whatever is named is looked at in so many steps.
        for _ in 0..20_000 {
            if self.device.deadline().is_none() {
                return;
            }
            self.device.advance(NOW);
        }
        panic!("there is no end to it");
    }

    /// Names pages by number, in buffers of `cut` bytes.
    fn name(&mut self, queue: usize, numbers: &[u32], cut: usize) -> bool {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let at = TEXTS + 0x4000 * queue as u64;
        self.ram.get().unwrap().write_from(Ipa::new(at), &bytes).unwrap();
        let sizes = bytes.chunks(cut).map(|chunk| u32::try_from(chunk.len()).unwrap());
        let mut next = at;
        let readable = sizes.map(|size| {
            let ipa = Ipa::new(next);
            next += u64::from(size);
            Buffer { ipa, size }
        });
        self.offer(queue, &Offer { readable: readable.collect(), ..Offer::default() })
    }

    fn inflate(&mut self, numbers: &[u32]) {
        for some in numbers.chunks(256) {
            assert!(self.name(INFLATE, some, 4096));
        }
    }

    fn deflate(&mut self, numbers: &[u32]) {
        for some in numbers.chunks(256) {
            assert!(self.name(DEFLATE, some, 4096));
        }
    }

    fn report(&mut self, ranges: &[(u64, u32)]) -> bool {
        let buffer = |(at, size): &(u64, u32)| Buffer { ipa: Ipa::new(*at), size: *size };
        let writable = ranges.iter().map(buffer).collect();
        self.offer(REPORTING, &Offer { writable, ..Offer::default() })
    }

    fn elastic(&self) -> &Elastic {
        self.room.elastic()
    }

    /// The guest touches a unit.
    fn fill(&self, unit: usize) {
        while self.elastic().fill_step(unit) == Filled::More {}
        assert_eq!(self.elastic().fill_step(unit), Filled::There);
    }

    fn holes(&self) -> Vec<usize> {
        let ipas = |unit: &usize| self.elastic().ipas(*unit);
        let is_hole = |unit: &usize| ipas(unit).is_some_and(|ipas| self.elastic().has_hole(&ipas));
        let holes: Vec<_> = (0..=UNITS).filter(is_hole).collect();
        for unit in 0..=UNITS {
            let at = Ipa::new(BASE + unit as u64 * UNIT + 8);
            let gone = holes.contains(&unit);
            assert_eq!(self.room.memory().read::<u64>(at).is_err(), gone);
            assert_eq!(self.room.translate(at).is_none(), gone, "as the guest sees it");
        }
        holes
    }

    fn end(self) {
        let Self { room, ram, device, .. } = self;
        drop((ram, device));
        room.end();
    }
}

/// The numbers of a unit's pages.
fn pages(unit: u64) -> Vec<u32> {
    let first = BASE / PAGE_SIZE + unit * PAGES;
    (first..first + PAGES).map(|page| u32::try_from(page).unwrap()).collect()
}

fn at(unit: u64) -> u64 {
    BASE + unit * UNIT
}

#[test]
fn a_unit_goes_when_its_last_page_is_in_the_balloon_and_not_before() {
    for packed in [false, true] {
        let mut guest = Guest::new(packed);
        let all = pages(3);
        guest.inflate(&all[1..]);
        assert_eq!(guest.holes(), []);
        // The same again is the same page, however often.
        for _ in 0..3 {
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
    let across: Vec<u32> = (0..40_000u32)
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
    for packed in [false, true] {
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

#[test]
#[cfg_attr(miri, ignore = "megabytes are zeroed")]
fn vcpus_that_give_up_and_use_the_same_units_at_once_find_zeroes_or_what_they_wrote() {
    let guest = Guest::new(false);
    let (elastic, memory) = (guest.elastic(), guest.room.memory());
    let rounds = AtomicUsize::new(0);
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // One reports what it likes, as its device does.
        let reporter = scope.spawn(|| {
            for round in 0..400 {
                let taken = elastic.take(1 + round % 4);
                assert_ne!(taken, Taken::Later, "others take what was given up in");
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Two vCPUs have a unit each that nobody else writes to; they fill what they find gone.
        let users: Vec<_> = [1u64, 2]
            .map(|unit| {
                scope.spawn(move || {
                    let (mut expected, mut lost) = (None, 0);
                    for round in 1..2_000u64 {
                        let ipa = Ipa::new(at(unit) + round % 64 * 8);
                        while memory.write(ipa, round | unit << 32).is_err() {
                            let index = usize::try_from(unit).unwrap();
                            while elastic.fill_step(index) == Filled::More {}
                            (expected, lost) = (None, lost + 1);
                        }
                        if let Some((before, value)) = expected {
                            let read = memory.read::<u64>(before);
                            assert!(matches!(read, Err(_) | Ok(0)) || read == Ok(value));
                        }
                        expected = Some((ipa, round | unit << 32));
                    }
                    lost
                })
            })
            .into_iter()
            .collect();
        // And CPUs pass from step to step.
        let settler = scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                guest.room.settle();
            }
        });
        reporter.join().unwrap();
        let lost: u64 = users.into_iter().map(|user| user.join().unwrap()).sum();
        assert!(lost > 0, "nothing was taken from anybody");
        end.store(true, Ordering::Relaxed);
        settler.join().unwrap();
    });
    assert_eq!(rounds.load(Ordering::Relaxed), 400);
    guest.holes();
    guest.end();
}

#[derive(Clone, Debug)]
enum Act {
    Inflate(u64, u64),
    Deflate(u64, u64),
    Report(Vec<(u64, u32)>),
    Touch(usize),
    Settle,
    Reset,
}

fn act() -> impl Strategy<Value = Act> {
    // Mostly whole units, and sometimes anything, in pages from one unit before RAM to one behind it.
    let most = (UNITS as u64 + 3) * PAGES;
    let span = prop_oneof![
        3 => (0..UNITS as u64 + 3).prop_map(|unit| (unit * PAGES, PAGES)),
        2 => (0..most, 0..700u64),
    ];
    let range = prop_oneof![
        3 => (0..UNITS as u64 + 3, 1..3u32).prop_map(|(unit, count)| (BASE - UNIT + unit * UNIT, count << 21)),
        2 => (BASE - UNIT..BASE + RAM + UNIT, 0..3u32 << 21),
        1 => (any::<u64>(), any::<u32>()),
    ];
    prop_oneof![
        4 => span.clone().prop_map(|(first, count)| Act::Inflate(first, count)),
        2 => span.prop_map(|(first, count)| Act::Deflate(first, count)),
        3 => prop::collection::vec(range, 1..6).prop_map(Act::Report),
        3 => (0..UNITS + 2).prop_map(Act::Touch),
        1 => Just(Act::Settle),
        1 => Just(Act::Reset),
    ]
}

/// What is in the balloon, and what is missing.
#[derive(Default)]
struct Model {
    balloon: BTreeSet<u64>,
    holes: BTreeSet<usize>,
}

impl Model {
    fn take(&mut self, unit: usize) {
        let most = usize::try_from((RAM - KEEP) / UNIT).unwrap();
        if unit < UNITS && unit != 0 && self.holes.len() < most {
            self.holes.insert(unit);
        }
    }

    /// `page` counts from the start of RAM.
    fn inflate(&mut self, page: u64) {
        self.balloon.insert(page);
        let unit = page / PAGES;
        if (unit * PAGES..(unit + 1) * PAGES).all(|page| self.balloon.contains(&page)) {
            self.take(usize::try_from(unit).unwrap());
        }
    }

    fn report(&mut self, start: u64, size: u32) {
        let Some(end) = start.checked_add(size.into()) else { return };
        let Some(mut unit) = start.checked_next_multiple_of(UNIT) else { return };
        // A range ends where it leaves RAM; one that begins outside names nothing.
        while unit + UNIT <= end && (BASE..BASE + UNITS as u64 * UNIT).contains(&unit) {
            self.take(usize::try_from((unit - BASE) / UNIT).unwrap());
            unit += UNIT;
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(32, 1))]

    /// Whatever a driver names: what is missing is what it has named as a whole, and nothing else.
    #[test]
    #[cfg_attr(miri, ignore = "megabytes are zeroed")]
    fn what_is_missing_is_what_the_model_says(
        acts in prop::collection::vec(act(), 1..25),
        packed in any::<bool>(),
    ) {
        let mut guest = Guest::new(packed);
        let mut model = Model::default();
        let first = BASE / PAGE_SIZE - PAGES;
        for act in acts {
            match act {
                Act::Inflate(from, count) | Act::Deflate(from, count) => {
                    let inflates = matches!(act, Act::Inflate(..));
                    // Not what the rings are in: the test above is about that.
                    let named = (from..from + count).filter(|page| !(PAGES..2 * PAGES).contains(page));
                    let named: Vec<u32> = named.map(|page| u32::try_from(first + page).unwrap()).collect();
                    if inflates { guest.inflate(&named) } else { guest.deflate(&named) }
                    for page in named {
                        let page = u64::from(page).wrapping_sub(BASE / PAGE_SIZE);
                        if page < RAM / PAGE_SIZE {
                            if inflates {
                                model.inflate(page);
                            } else {
                                model.balloon.remove(&page);
                            }
                        }
                    }
                }
                Act::Report(ranges) => {
                    // As above. A driver has no descriptors of nothing.
                    let is_fine = |(start, size): &(u64, u32)| {
                        *size > 0 && start.checked_next_multiple_of(UNIT) != Some(BASE)
                    };
                    let ranges: Vec<_> = ranges.into_iter().filter(is_fine).collect();
                    if !ranges.is_empty() {
                        prop_assert!(guest.report(&ranges));
                    }
                    ranges.iter().for_each(|(start, size)| model.report(*start, *size));
                }
                Act::Touch(unit) => {
                    guest.room.settle();
                    if unit < UNITS {
                        guest.fill(unit);
                    }
                    model.holes.remove(&unit);
                }
                Act::Settle => guest.room.settle(),
                Act::Reset => {
                    guest.begin(1 << 5);
                    model.balloon.clear();
                }
            }
            let holes: Vec<_> = model.holes.iter().copied().collect();
            prop_assert_eq!(guest.holes(), holes);
        }
        guest.end();
    }
}
