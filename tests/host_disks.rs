//! Guests' disks on a disk of the machine's: by a driver that is not ours, and by a machine's disk that fails, is late, or is gone.

use std::cell::Cell;
use std::sync::Arc;

use crate::disk::{FakeDisk, Inner};
use plinth::addr::Ipa;
use plinth::device::doorbell::{Doorbell, Doorbells};
use plinth::device::{Device, Signal};
use plinth::exit::Width;
use plinth::host::IoError;
use plinth::host::alarm::Alarm;
use plinth::host::disk::Extras;
use plinth::host::part::{Part, Place};
use plinth::host::share::{Lent, Share};
use plinth::memory::elastic::fake::Room;
use plinth::memory::elastic::{Taken, UNIT};
use plinth::memory::{FramePool, GuestMemory, Ram, Recorder};
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::virtio::block::host::HostBlockDevice;
use plinth::virtio::queue::fake::{Driver, Offer};
use plinth::virtio::queue::{self, Buffer, Negotiated};
use plinth::virtio::ram::SharedRam;
use plinth::virtio::transport::Transport;
use proptest::prelude::*;
use proptest::test_runner::Config;

const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 128;
/// How large a queue is, and where its parts are; data is behind.
const SIZE: u16 = 64;
const TABLES: u64 = BASE + 0x4000;
const DATA: u64 = BASE + 0x1_0000;
/// What each request has: a place for its header and status, and for its data.
const SLOT: u64 = 0x3000;
const SLOTS: u64 = (PAGES * 4096 - 0x1_0000) / SLOT;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// What no device has written.
const NONE: u8 = 0xee;

const PATIENCE: Ticks = Ticks(1000);

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(1) };
}

fn now() -> Ticks {
    Ticks(NOW.get())
}

fn alarm() -> &'static Alarm {
    Box::leak(Box::default())
}

fn share(disk: &Arc<FakeDisk>) -> Arc<Share> {
    Arc::new(Share::new(disk.clone(), now, PATIENCE, alarm()))
}

/// A guest with a part of a disk, and its driver.
struct Guest {
    ram: SharedRam,
    device: Transport<HostBlockDevice, SharedRam>,
    driver: Driver,
    bells: Arc<Doorbells>,
    lent: Arc<Lent>,
    /// Requests that are under way, by what the driver calls them: their places.
    places: Vec<(u16, u64)>,
    packed: bool,
}

/// A request that has come back.
#[derive(Debug, Eq, PartialEq)]
struct Back {
    place: u64,
    status: u8,
    written: u32,
}

impl Guest {
    fn new(share: &Arc<Share>, first: u64, sectors: u64, packed: bool) -> Self {
        Self::of(Place { share: share.clone(), first, sectors, read_only: false }, packed)
    }

    fn of(place: Place, packed: bool) -> Self {
        let mut pool = FramePool::new();
        // Not aligned to its size: the RAM lies in several places.
        pool.add(Ram::from_heap(2 * PAGES * 4096, 4096).unwrap(), &[]);
        let mut memory = GuestMemory::new();
        let mut kept = Vec::new();
        for page in (0..PAGES).step_by(2) {
            // Every two pages elsewhere.
            let frames = pool.allocate(2 * 4096).unwrap().scrub().clean(&Recorder::default());
            kept.push(pool.allocate(2 * 4096).unwrap());
            memory.add(Ipa::new(BASE + page * 4096), frames).unwrap();
        }
        let ram = SharedRam::default();
        ram.call_once(|| memory);
        Self::with_ram(place, packed, ram)
    }

    fn with_ram(place: Place, packed: bool, ram: SharedRam) -> Self {
        let (lent, bells) = (Arc::default(), Arc::new(Doorbells::new(1)));
        let part = Arc::new(Part::new(place, &lent));
        part.set_bell(Doorbell::new(bells.clone(), VmId(0), 0));
        let device = HostBlockDevice::new(part, ram.clone(), "serial".into(), 2);
        let device = Transport::new(device, ram.clone(), "test".into());
        let driver = Self::driver(packed);
        let places = Vec::new();
        let mut guest = Self { ram, device, driver, bells, lent, places, packed };
        guest.start();
        guest
    }

    fn driver(packed: bool) -> Driver {
        let place = queue::Place {
            size: SIZE,
            descriptors: BASE,
            driver: BASE + 0x1000,
            device: BASE + 0x2000,
        };
        Driver::new(place, Self::negotiated(packed), TABLES)
    }

    fn negotiated(packed: bool) -> Negotiated {
        Negotiated { indirect: true, event_index: false, packed, in_order: false }
    }

    fn set(&mut self, offset: u64, value: u64) {
        self.device.write(offset, Width::Word, value, now());
    }

    fn get(&mut self, offset: u64) -> u64 {
        self.device.read(offset, Width::Word, now())
    }

    fn features(&mut self) -> u64 {
        self.set(0x014, 0);
        self.get(0x010)
    }

    /// "Device Initialization", whatever was under way before.
    fn start(&mut self) {
        self.set(0x070, 0);
        self.put(BASE, &[0; 0x3000]);
        self.driver = Self::driver(self.packed);
        self.places.clear();
        let all = self.features();
        let transport = 1 | u64::from(self.packed) << 2;
        for (offset, value) in [
            (0x070, 3),
            (0x024, 0),
            (0x020, all & (1 << 28 | 0xff_ffff)),
            (0x024, 1),
            (0x020, transport),
            (0x070, 11),
            (0x030, 0),
            (0x038, SIZE.into()),
            (0x080, BASE),
            (0x090, BASE + 0x1000),
            (0x0a0, BASE + 0x2000),
            (0x044, 1),
            (0x070, 15),
        ] {
            self.set(offset, value);
        }
        assert_eq!(self.get(0x070), 15);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.get().unwrap().write_from(Ipa::new(at), bytes).unwrap();
    }

    fn bytes(&self, at: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.ram.get().unwrap().read_into(Ipa::new(at), &mut bytes).unwrap();
        bytes
    }

    /// Where the data of the request in `place` is.
    fn data(place: u64) -> u64 {
        DATA + place * SLOT + 0x100
    }

    /// Asks for something in `place`, with data of `size` bytes cut into pieces of `cut`, and the disk notices it.
    fn ask(&mut self, place: u64, kind: u32, sector: u64, size: usize, cut: usize) {
        self.ask_for(place, kind, sector, Self::data(place), size, cut);
    }

    /// The same with its data at `data`.
    fn ask_for(&mut self, place: u64, kind: u32, sector: u64, data: u64, size: usize, cut: usize) {
        let start = DATA + place * SLOT;
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.put(start, &header);
        self.put(start + 32, &[NONE]);
        let buffer = |at, size: usize| Buffer { ipa: Ipa::new(at), size: size.try_into().unwrap() };
        let pieces = (0..size).step_by(cut.max(1));
        let pieces = pieces.map(|at| buffer(data + at as u64, cut.min(size - at)));
        let mut offer = Offer { indirect: true, ..Offer::default() };
        offer.readable.push(buffer(start, 16));
        let writes = matches!(kind, IN | GET_ID);
        if writes { &mut offer.writable } else { &mut offer.readable }.extend(pieces);
        offer.writable.push(buffer(start + 32, 1));
        let ram = self.ram.clone();
        let id = self.driver.offer(ram.get().unwrap(), &offer).expect("there is room");
        self.places.push((id, place));
        if self.driver.show(ram.get().unwrap()) {
            self.set(0x050, 0);
        }
        self.go_on();
    }

    /// Whatever the device has to do is done: by itself, and as its bell is rung.
    fn go_on(&mut self) {
        loop {
            let mut rung = false;
            self.bells.answer(|_, slots| rung |= slots & 1 != 0);
            if rung {
                self.device.signal(Signal::Input, now());
            } else if self.device.deadline().is_some_and(|at| at <= now()) {
                self.device.advance(now());
            } else {
                return;
            }
        }
    }

    /// What has come back.
    fn back(&mut self) -> Vec<Back> {
        self.go_on();
        let ram = self.ram.clone();
        let mut all = Vec::new();
        while let Some((id, written)) = self.driver.used(ram.get().unwrap()) {
            let at = self.places.iter().position(|(other, _)| *other == id).unwrap();
            let (_, place) = self.places.remove(at);
            let status = self.bytes(DATA + place * SLOT + 32, 1)[0];
            all.push(Back { place, status, written });
        }
        all
    }
}

const fn pick<T: Copy>(ordinary: T, under_miri: T) -> T {
    if cfg!(miri) { under_miri } else { ordinary }
}

fn pattern(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|n| (n % 251).to_le_bytes()[0] ^ seed).collect()
}

#[test]
fn data_goes_between_a_part_of_the_disk_and_the_guests_ram_and_nowhere_else() {
    for packed in [false, true] {
        let disk = FakeDisk::new(128);
        disk.lock().data.fill(0x77);
        let share = share(&disk);
        let mut guest = Guest::new(&share, 40, 24, packed);
        assert_eq!((guest.get(0x100), guest.get(0x104)), (24, 0));
        let text = pattern(8192, 3);
        guest.put(Guest::data(0), &text);
        guest.ask(0, OUT, 8, 8192, 700);
        assert_eq!(guest.back(), []);
        disk.perform_all();
        share.attend();
        assert_eq!(guest.back(), [Back { place: 0, status: OK, written: 1 }]);
        guest.ask(1, IN, 8, 8192, 4096);
        guest.ask(2, FLUSH, 0, 0, 1);
        guest.ask(3, GET_ID, 0, 20, 7);
        assert_eq!(guest.back(), [Back { place: 3, status: OK, written: 21 }]);
        assert_eq!(guest.bytes(Guest::data(3), 7), *b"serial\0");
        disk.perform_all();
        share.attend();
        let back = [
            Back { place: 1, status: OK, written: 8193 },
            Back { place: 2, status: OK, written: 1 },
        ];
        assert_eq!(guest.back(), back);
        assert_eq!(guest.bytes(Guest::data(1), 8192), text);
        let inner = disk.lock();
        assert_eq!((inner.flushes, &inner.data[48 * 512..64 * 512]), (1, &text[..]));
        assert!(
            inner.data[..48 * 512].iter().chain(&inner.data[64 * 512..]).all(|byte| *byte == 0x77)
        );
        drop(inner);
        assert!(!guest.lent.is_any());
    }
}

#[test]
fn what_a_guest_cannot_ask_for_is_an_error_and_never_reaches_the_disk() {
    let disk = FakeDisk::new(128);
    let share = share(&disk);
    let mut guest = Guest::new(&share, 40, 24, false);
    let asked = [
        (IN, 24, 512, FAILED),
        (OUT, 23, 1024, FAILED),
        (OUT, u64::MAX, 512, FAILED),
        (IN, u64::MAX - 3, 4096, FAILED),
        (OUT, 0, 511, FAILED),
        (IN, 0, 100, FAILED),
        (OUT, 0, 0, FAILED),
        (DISCARD, 0, 16, UNSUPPORTED),
        (WRITE_ZEROES, 0, 16, UNSUPPORTED),
        (99, 0, 512, UNSUPPORTED),
    ];
    for (place, (kind, sector, size, status)) in (0..).zip(asked) {
        guest.ask(place, kind, sector, size, 4096);
        let back = guest.back();
        assert_eq!((back[0].place, back[0].status), (place, status), "{kind} {sector} {size}");
    }
    // Where nothing can be written.
    let place = Place { share: share.clone(), first: 0, sectors: 8, read_only: true };
    let mut guest = Guest::of(place, false);
    assert_eq!(guest.features() & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    guest.ask(0, OUT, 0, 512, 512);
    assert_eq!(guest.back()[0].status, FAILED);
    guest.ask(0, DISCARD, 0, 16, 16);
    assert_eq!(guest.back()[0].status, FAILED);
    // A sector in more pieces than the disk takes, after some that were not: all comes back as failed.
    let data = vec![0; 64 * 512];
    let narrow = FakeDisk::of(Inner { data, max_segments: 2, ..Inner::default() });
    let share_narrow = self::share(&narrow);
    let mut guest = Guest::new(&share_narrow, 0, 64, false);
    guest.ask(0, OUT, 0, 512, 100);
    assert_eq!(guest.waiting_or_failed(), FAILED);
    assert_eq!(narrow.waiting(), 0);
    // Data that is not in RAM.
    let mut guest = Guest::new(&share, 0, 128, false);
    let buffer = |at, size| Buffer { ipa: Ipa::new(at), size };
    for outside in [BASE + PAGES * 4096 - 256, 0, u64::MAX - 100] {
        guest.put(DATA, &[&OUT.to_le_bytes()[..], &[0; 12]].concat());
        guest.put(DATA + 32, &[NONE]);
        let readable = vec![buffer(DATA, 16), buffer(outside, 512)];
        let writable = vec![buffer(DATA + 32, 1)];
        let ram = guest.ram.clone();
        let offer = Offer { readable, writable, indirect: false };
        let id = guest.driver.offer(ram.get().unwrap(), &offer).unwrap();
        guest.places.push((id, 0));
        guest.driver.show(ram.get().unwrap());
        guest.set(0x050, 0);
        assert_eq!(guest.waiting_or_failed(), FAILED);
    }
    assert_eq!((disk.waiting(), share.disk().completed()), (0, None));
}

impl Guest {
    /// What became of the one request that was asked for.
    fn waiting_or_failed(&mut self) -> u8 {
        self.back().first().map_or(NONE, |back| back.status)
    }
}

#[test]
fn ranges_are_discarded_and_made_zeros_where_the_disk_does_that() {
    let extras = Extras { discard: 16, discard_alignment: 8, zero: 8, zero_unmaps: true };
    let data = vec![0x55; 128 * 512];
    let disk = FakeDisk::of(Inner { data, extras, ..Inner::default() });
    let share = share(&disk);
    let mut guest = Guest::new(&share, 64, 32, false);
    assert_eq!(guest.features() & (1 << 13 | 1 << 14), 1 << 13 | 1 << 14);
    let config = [36, 40, 44, 48, 52].map(|at| guest.get(0x100 + at));
    assert_eq!((config, guest.get(0x138)), ([16, 1, 8, 8, 1], 1));
    let range = |sector: u64, count: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    for (kind, sector, count, flags, status) in [
        (DISCARD, 0, 16, 0, OK),
        (DISCARD, 0, 17, 0, FAILED),
        (DISCARD, 0, 0, 0, FAILED),
        (DISCARD, 0, 1, 1, UNSUPPORTED),
        (WRITE_ZEROES, 24, 8, 1, OK),
        (WRITE_ZEROES, 25, 8, 0, FAILED),
        (WRITE_ZEROES, 0, 9, 0, FAILED),
        (WRITE_ZEROES, 0, 1, 2, UNSUPPORTED),
        (WRITE_ZEROES, u64::MAX, 1, 0, FAILED),
    ] {
        guest.put(Guest::data(0), &range(sector, count, flags));
        guest.ask(0, kind, 0, 16, 16);
        disk.perform_all();
        share.attend();
        assert_eq!(guest.back()[0].status, status, "{kind} {sector} {count} {flags}");
    }
    let zeros = |inner: &Inner| inner.data.iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeros(&disk.lock()), 24 * 512);
    assert!(disk.lock().data[64 * 512..80 * 512].iter().all(|byte| *byte == 0));
}

#[test]
fn a_request_that_fails_in_one_of_its_pieces_fails_when_all_have_come_back() {
    let data = vec![9; 128 * 512];
    let disk =
        FakeDisk::of(Inner { data, max_segments: 2, max_segment_size: 2048, ..Inner::default() });
    let share = share(&disk);
    for broken in 0..3 {
        let mut guest = Guest::new(&share, 0, 128, false);
        guest.ask(0, IN, 0, 8192, 8192);
        guest.ask(1, IN, 16, 512, 512);
        let pieces = disk.waiting();
        assert!(pieces >= 3, "{pieces}");
        for index in 0..pieces {
            assert_eq!(guest.back(), []);
            disk.perform(0, if index == broken { Err(IoError::Device) } else { Ok(()) });
            share.attend();
            if index == pieces - 2 {
                let back = guest.back();
                assert_eq!(back, [Back { place: 0, status: FAILED, written: 0 }]);
                disk.perform_all();
                share.attend();
                break;
            }
        }
        assert_eq!(guest.back(), [Back { place: 1, status: OK, written: 513 }]);
    }
}

#[test]
fn a_disk_that_is_gone_fails_what_was_under_way_and_what_comes_and_others_go_on() {
    let (disk, other) = (FakeDisk::new(64), FakeDisk::new(64));
    let (share_one, share_other) = (share(&disk), share(&other));
    let mut guest = Guest::new(&share_one, 0, 32, false);
    let mut neighbour = Guest::new(&share_other, 0, 32, false);
    for place in 0..30 {
        guest.ask(place, OUT, place, 512, 512);
    }
    neighbour.ask(0, OUT, 0, 512, 512);
    disk.give_up_now();
    share_one.attend();
    let mut back = guest.back();
    back.sort_by_key(|back| back.place);
    assert_eq!(back.iter().map(|back| back.status).collect::<Vec<_>>(), [FAILED; 30]);
    assert!(!guest.lent.is_any());
    for kind in [IN, OUT, FLUSH] {
        guest.ask(0, kind, 0, if kind == FLUSH { 0 } else { 512 }, 512);
        assert_eq!(guest.back()[0].status, FAILED);
    }
    guest.start();
    guest.ask(0, IN, 0, 512, 512);
    assert_eq!(guest.back()[0].status, FAILED);
    other.perform_all();
    share_other.attend();
    assert_eq!(neighbour.back()[0].status, OK);
}

impl FakeDisk {
    fn give_up_now(&self) {
        plinth::host::HostDisk::give_up(self);
    }
}

#[test]
fn a_disk_that_does_not_answer_is_turned_off_in_the_end_and_not_before() {
    let disk = FakeDisk::new(64);
    let alarm = alarm();
    let share = Arc::new(Share::new(disk.clone(), now, PATIENCE, alarm));
    let mut guest = Guest::new(&share, 0, 32, false);
    NOW.set(100);
    assert_eq!(alarm.due(), None);
    guest.ask(0, OUT, 0, 512, 512);
    guest.ask(1, OUT, 1, 512, 512);
    assert_eq!(alarm.due(), Some(Ticks(1100)));
    NOW.set(600);
    guest.ask(2, OUT, 2, 512, 512);
    disk.perform(0, Ok(()));
    disk.perform(0, Ok(()));
    let look = |at: u64| {
        NOW.set(at);
        alarm.heed(now(), || share.look(now()));
    };
    // Nobody has told that two came back.
    look(1100);
    assert_eq!(guest.back().len(), 2);
    assert!(!disk.lock().dead);
    let next = alarm.due().unwrap();
    assert!(next > Ticks(1100));
    look(next.0);
    assert!(disk.lock().dead);
    assert_eq!(
        guest.back(),
        [Back { place: 2, status: FAILED, written: 0 }].map(|back| Back { written: 1, ..back })
    );
    assert_eq!(alarm.due(), None);
}

#[test]
fn what_a_reset_takes_away_stays_lent_until_it_has_come_back_and_is_told_to_nobody() {
    for round in 0..4 {
        let disk = FakeDisk::new(64);
        disk.lock().data.fill(0x33);
        let share = share(&disk);
        let mut guest = Guest::new(&share, 0, 64, round & 1 != 0);
        for place in 0..20 {
            guest.ask(place, IN, place, 512, 512);
        }
        assert_eq!(disk.waiting(), 8);
        if round < 2 {
            guest.start();
        } else {
            // That queue alone.
            guest.set(0x030, 0);
            guest.set(0x0c0, 1);
            guest.start();
        }
        assert!(guest.lent.is_any() && guest.lent.has_orphans());
        // What waited is not submitted any more.
        for left in (0..8).rev() {
            disk.perform(0, Ok(()));
            share.attend();
            assert_eq!((disk.waiting(), guest.back()), (left, vec![]));
            assert_eq!(guest.lent.has_orphans(), left > 0);
        }
        assert!(!guest.lent.is_any());
        assert_eq!(guest.bytes(DATA + 32, 1), [NONE], "nobody asks for a status");
        guest.ask(0, IN, 0, 512, 512);
        disk.perform_all();
        share.attend();
        assert_eq!(guest.back()[0].status, OK);
    }
}

#[test]
fn resets_in_a_storm_lose_nothing_and_leave_nothing_behind() {
    let disk = FakeDisk::new(64);
    let share = share(&disk);
    let mut guest = Guest::new(&share, 0, 64, false);
    let mut seed = 1u32;
    for round in 0..pick(2000, 20) {
        let count = u64::from(seed >> 28) + 1;
        for place in 0..count {
            guest.ask(place, if seed & 1 == 0 { IN } else { OUT }, place, 1024, 300);
        }
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if seed & 3 == 0 {
            disk.perform_all();
            share.attend();
        } else if disk.waiting() > 0 {
            let result = if seed & 4 == 0 { Ok(()) } else { Err(IoError::Device) };
            disk.perform(0, result);
            share.attend();
        }
        guest.start();
        assert_eq!(guest.lent.has_orphans(), disk.waiting() > 0, "round {round}");
        assert!(disk.waiting() <= 8);
    }
    disk.perform_all();
    share.attend();
    assert!(!guest.lent.is_any());
    guest.ask(0, IN, 0, 512, 512);
    disk.perform_all();
    share.attend();
    assert_eq!(guest.back()[0].status, OK);
}

/// A guest whose RAM can be taken, with some of a disk; and the RAM.
fn elastic_guest(share: &Arc<Share>) -> (Guest, Room) {
    let room = Room::quiet(Ipa::new(BASE), 5 * UNIT, 0, UNIT);
    let place = Place { share: share.clone(), first: 0, sectors: 2048, read_only: false };
    (Guest::with_ram(place, false, room.ram.clone()), room)
}

fn unit(number: u64) -> u64 {
    BASE + number * UNIT
}

#[test]
fn what_a_disk_reads_or_writes_is_not_taken_before_it_has_come_back() {
    let disk = FakeDisk::new(2048);
    let share = share(&disk);
    let (mut guest, room) = elastic_guest(&share);
    let text = pattern(8192, 9);
    // Half in one unit, half in the next.
    let data = unit(2) - 4096;
    guest.put(data, &text);
    guest.ask_for(0, OUT, 8, data, 8192, 8192);
    guest.ask_for(1, OUT, 32, data, 512, 512);
    assert_eq!(guest.back(), []);
    let take = |unit: usize| room.elastic().take(unit);
    assert_eq!([take(1), take(2), take(3)], [Taken::Kept, Taken::Kept, Taken::Taken]);
    disk.perform(0, Ok(()));
    share.attend();
    assert_eq!(guest.back(), [Back { place: 0, status: OK, written: 1 }]);
    assert_eq!([take(1), take(2)], [Taken::Kept, Taken::Taken], "one of them is used by the other");
    disk.perform_all();
    share.attend();
    assert_eq!(guest.back(), [Back { place: 1, status: OK, written: 1 }]);
    assert_eq!(take(1), Taken::Taken);
    assert_eq!(disk.lock().data[8 * 512..24 * 512], text);
    room.settle();
    // What was given up is there again before the disk writes to it.
    guest.ask_for(2, IN, 8, data, 8192, 1024);
    assert_eq!([take(1), take(2)], [Taken::Kept; 2]);
    disk.perform_all();
    share.attend();
    assert_eq!(guest.back(), [Back { place: 2, status: OK, written: 8193 }]);
    assert_eq!(guest.bytes(data, 8192), text);
    assert_eq!(guest.bytes(data - 512, 512), [0; 512]);
    assert_eq!([take(1), take(2)], [Taken::Taken; 2]);
    drop(guest);
    room.end();
}

#[test]
fn whatever_becomes_of_a_request_its_memory_can_be_taken_afterwards() {
    let disk = FakeDisk::new(2048);
    let share = share(&disk);
    let (mut guest, room) = elastic_guest(&share);
    let take = |unit: usize| room.elastic().take(unit);
    // It fails, in one of its pieces.
    guest.put(unit(1), &[7; 1024]);
    guest.ask_for(0, OUT, 0, unit(1), 1024, 1024);
    disk.perform(0, Err(IoError::Device));
    share.attend();
    assert_eq!(guest.back()[0].status, FAILED);
    assert_eq!(take(1), Taken::Taken);
    // More than the disk has at a time, and a reset: what only waited can be taken at once, the rest when it has come back.
    for place in 0..12 {
        let at = if place < 8 { unit(2) } else { unit(3) };
        guest.ask_for(place, IN, place * 8, at + place * 4096, 4096, 4096);
    }
    assert_eq!(disk.waiting(), 8);
    assert_eq!([take(2), take(3)], [Taken::Kept; 2]);
    guest.set(0x070, 0);
    assert!(guest.lent.has_orphans());
    assert_eq!([take(2), take(3)], [Taken::Kept, Taken::Taken]);
    disk.perform_all();
    share.attend();
    assert!(!guest.lent.is_any());
    assert_eq!(take(2), Taken::Taken);
    // Where there is no memory for a hole, the request waits, and is done when there is.
    guest.start();
    room.settle();
    let mut others = Vec::new();
    while let Some(block) = room.pool.lock().frames.allocate_block(0) {
        others.push(block);
    }
    guest.ask_for(0, IN, 0, unit(3), 4096, 4096);
    assert_eq!((guest.back(), disk.waiting()), (vec![], 0));
    for block in others {
        room.pool.lock().frames.free_block(block);
    }
    NOW.set(u64::MAX / 2);
    guest.device.advance(now());
    guest.go_on();
    disk.perform_all();
    share.attend();
    assert_eq!(guest.back(), [Back { place: 0, status: OK, written: 4097 }]);
    drop(guest);
    room.end();
}

#[test]
fn who_asks_for_much_keeps_nobody_from_their_turn() {
    let disk = FakeDisk::new(128);
    disk.lock().depth = 4;
    let share = share(&disk);
    let mut greedy = Guest::new(&share, 0, 64, false);
    let mut modest = Guest::new(&share, 64, 64, false);
    for place in 0..SLOTS.min(40) {
        greedy.ask(place, OUT, place, 512, 512);
    }
    for place in 0..10 {
        modest.ask(place, OUT, place, 512, 512);
        let mut others = 0;
        while modest.waiting_or_failed() == NONE {
            disk.perform(0, Ok(()));
            share.attend();
            others += 1;
            assert!(others <= 6, "four were before it, and one of each since");
        }
        // It goes on asking.
        for Back { place, .. } in greedy.back() {
            greedy.ask(place, OUT, place, 512, 512);
        }
    }
}

#[test]
fn more_requests_than_are_under_way_at_a_time_are_all_done() {
    let disk = FakeDisk::new(128);
    disk.lock().depth = 3;
    let share = share(&disk);
    let mut guest = Guest::new(&share, 0, 128, true);
    for place in 0..SLOTS {
        guest.put(Guest::data(place), &pattern(1024, place.to_le_bytes()[0]));
        guest.ask(place, OUT, 2 * place, 1024, 1000);
    }
    let mut done = Vec::new();
    while done.len() < usize::try_from(SLOTS).unwrap() {
        assert!((1..=3).contains(&disk.waiting()));
        disk.perform(disk.waiting() - 1, Ok(()));
        share.attend();
        done.extend(guest.back().into_iter().map(|back| (back.place, back.status)));
    }
    done.sort_unstable();
    assert_eq!(done, (0..SLOTS).map(|place| (place, OK)).collect::<Vec<_>>());
    for place in 0..SLOTS {
        let at = usize::try_from(1024 * place).unwrap();
        assert_eq!(disk.lock().data[at..at + 1024], pattern(1024, place.to_le_bytes()[0]));
    }
}

impl Guest {
    /// The device is saved and goes; when the disk has nothing of it any more, another one goes on from that.
    fn save_and_restore(&mut self, place: Place, disk: &FakeDisk, share: &Share, performs: bool) {
        let saved = postcard::to_allocvec(&self.device.save()).unwrap();
        let part = Arc::new(Part::new(place.clone(), &self.lent));
        let device = HostBlockDevice::new(part, self.ram.clone(), "serial".into(), 2);
        self.device = Transport::new(device, self.ram.clone(), "test".into());
        while disk.waiting() > 0 {
            disk.perform(0, if performs { Ok(()) } else { Err(IoError::Device) });
            share.attend();
        }
        assert!(!self.lent.is_any());
        let part = Arc::new(Part::new(place, &self.lent));
        part.set_bell(Doorbell::new(self.bells.clone(), VmId(0), 0));
        let device = HostBlockDevice::new(part, self.ram.clone(), "serial".into(), 2);
        self.device = Transport::new(device, self.ram.clone(), "test".into());
        self.device.restore(postcard::from_bytes(&saved).unwrap()).unwrap();
    }
}

#[test]
fn requests_that_are_under_way_when_a_device_is_saved_are_begun_again_where_it_is_restored() {
    for performs in [true, false] {
        let disk = FakeDisk::of(Inner {
            data: vec![0x55; 64 * 512],
            max_segment_size: 1000,
            max_segments: 4,
            ..Inner::default()
        });
        let share = share(&disk);
        let mut guest = Guest::new(&share, 0, 64, false);
        // More than the disk has at a time, some of it read and written in several pieces.
        for place in 0..20 {
            guest.put(Guest::data(place), &pattern(1024, place.to_le_bytes()[0]));
            guest.ask(place, if place < 15 { OUT } else { IN }, 2 * place, 1024, 300);
        }
        disk.perform(0, Ok(()));
        disk.perform(1, Err(IoError::Device));
        share.attend();
        // What has come back and was not told counts as under way, too.
        let place = Place { share: share.clone(), first: 0, sectors: 64, read_only: false };
        guest.save_and_restore(place, &disk, &share, performs);
        let mut done = Vec::new();
        while done.len() < 20 {
            assert!(disk.waiting() > 0, "{} have come back", done.len());
            disk.perform(disk.waiting() - 1, Ok(()));
            share.attend();
            done.extend(guest.back().into_iter().map(|back| (back.place, back.status)));
        }
        done.sort_unstable();
        assert_eq!(done, (0..20).map(|place| (place, OK)).collect::<Vec<_>>());
        for place in 0..20u64 {
            let at = usize::try_from(1024 * place).unwrap();
            let wanted =
                if place < 15 { pattern(1024, place.to_le_bytes()[0]) } else { vec![0x55; 1024] };
            assert_eq!(disk.lock().data[at..at + 1024], wanted);
            assert_eq!(guest.bytes(Guest::data(place), 1024), wanted);
        }
        assert!(!guest.lent.is_any());
    }
}

#[test]
fn a_state_with_requests_that_the_disk_does_not_have_is_refused_and_nothing_is_begun() {
    let disk = FakeDisk::new(64);
    let share = share(&disk);
    let mut guest = Guest::new(&share, 0, 64, false);
    for place in 0..3 {
        guest.ask(place, OUT, 40 + place, 512, 512);
    }
    let saved = postcard::to_allocvec(&guest.device.save()).unwrap();
    disk.perform_all();
    share.attend();
    let restore = |sectors, read_only, bytes: &[u8]| {
        let place = Place { share: share.clone(), first: 0, sectors, read_only };
        let part = Arc::new(Part::new(place, &guest.lent));
        let device = HostBlockDevice::new(part, guest.ram.clone(), "serial".into(), 2);
        let mut device = Transport::new(device, guest.ram.clone(), "test".into());
        let saved = postcard::from_bytes(bytes).ok()?;
        let refused = device.restore(saved).err().map(|why| why.to_string());
        Some((refused, device))
    };
    let (refused, device) = restore(32, false, &saved).unwrap();
    assert_eq!(refused.unwrap(), "a request is for what the disk does not have");
    assert_eq!(disk.waiting(), 0);
    drop(device);
    // Its driver has features that such a disk does not offer, or the request is none that it takes.
    let (refused, device) = restore(64, true, &saved).unwrap();
    assert!(refused.is_some() && disk.waiting() == 0);
    drop(device);
    // Whatever else it is.
    for at in 0..saved.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut changed = saved.clone();
            changed[at] = byte;
            let Some((_, device)) = restore(64, false, &changed) else { continue };
            drop(device);
            disk.perform_all();
            share.attend();
        }
    }
    let (refused, _device) = restore(64, false, &saved).unwrap();
    assert_eq!(refused, None);
    assert_eq!(disk.waiting(), 3);
}

/// A request that is under way, and what of the part it is about.
struct UnderWay {
    place: u64,
    range: std::ops::Range<usize>,
    kind: u32,
    /// What it is to write, or will have read.
    bytes: Vec<u8>,
}

proptest! {
    #![proptest_config(Config {
        cases: pick(96, 2),
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn parts_of_a_disk_are_arrays_of_bytes_whatever_the_order(
        packed in any::<bool>(),
        limits in (4usize..17, prop_oneof![Just(u64::MAX), 512u64..5000], 1usize..9),
        steps in prop::collection::vec(
            (0u8..8, 0usize..2, 0usize..60, 1usize..17, 1usize..3000, any::<u8>()), 1..pick(150, 25)),
    ) {
        let (max_segments, max_segment_size, depth) = limits;
        let disk = FakeDisk::of(Inner {
            data: vec![0xaa; 256 * 512], max_segments, max_segment_size, depth, ..Inner::default()
        });
        let share = share(&disk);
        let first = [16u64, 160];
        let mut guests = first.map(|first| Guest::new(&share, first, 64, packed));
        let mut models = [vec![0xaa; 64 * 512], vec![0xaa; 64 * 512]];
        let mut under_way: [Vec<UnderWay>; 2] = Default::default();
        for (step, who, sector, count, cut, seed) in steps {
            let count = count.min(64 - sector);
            let range = 512 * sector..512 * (sector + count);
            // A sector in more pieces than the disk takes is an error: not asked for here.
            let cut = (range.len().div_ceil(12)).max(cut).max(512);
            let mine = &mut under_way[who];
            let place = (0..SLOTS).find(|place| mine.iter().all(|it| it.place != *place)).unwrap();
            let touches = |it: &UnderWay| it.range.start < range.end && range.start < it.range.end;
            let is_free = mine.len() < 20 && !mine.iter().any(touches);
            match step {
                0..=2 if is_free => {
                    let bytes = pattern(range.len(), seed);
                    guests[who].put(Guest::data(place), &bytes);
                    guests[who].ask(place, OUT, sector as u64, range.len(), cut);
                    mine.push(UnderWay { place, range, kind: OUT, bytes });
                }
                3..=4 if is_free => {
                    let bytes = models[who][range.clone()].to_vec();
                    guests[who].ask(place, IN, sector as u64, range.len(), cut);
                    mine.push(UnderWay { place, range, kind: IN, bytes });
                }
                _ if disk.waiting() > 0 => {
                    disk.perform(usize::from(seed) % disk.waiting(), Ok(()));
                    share.attend();
                }
                _ => {}
            }
            for (who, guest) in guests.iter_mut().enumerate() {
                settle(guest, &mut under_way[who], &mut models[who])?;
            }
        }
        while disk.waiting() > 0 {
            disk.perform(0, Ok(()));
            share.attend();
            for (who, guest) in guests.iter_mut().enumerate() {
                settle(guest, &mut under_way[who], &mut models[who])?;
            }
        }
        for (who, guest) in guests.iter().enumerate() {
            prop_assert!(under_way[who].is_empty() && !guest.lent.is_any());
            let at = 512 * usize::try_from(first[who]).unwrap();
            prop_assert!(disk.lock().data[at..at + models[who].len()] == models[who]);
        }
        let inner = disk.lock();
        let outside = [0..16, 80..160, 224..256usize];
        let clean = |range: &std::ops::Range<usize>| {
            inner.data[512 * range.start..512 * range.end].iter().all(|byte| *byte == 0xaa)
        };
        prop_assert!(outside.iter().all(clean));
    }
}

fn settle(
    guest: &mut Guest,
    under_way: &mut Vec<UnderWay>,
    model: &mut [u8],
) -> Result<(), TestCaseError> {
    for Back { place, status, .. } in guest.back() {
        prop_assert_eq!(status, OK);
        let at = under_way.iter().position(|it| it.place == place).unwrap();
        let UnderWay { range, kind, bytes, .. } = under_way.swap_remove(at);
        if kind == OUT {
            model[range].copy_from_slice(&bytes);
        } else {
            prop_assert!(guest.bytes(Guest::data(place), bytes.len()) == bytes);
        }
    }
    Ok(())
}
