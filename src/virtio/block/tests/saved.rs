//! A disk that is saved at any moment, and restored, against one that is not.

use proptest::prelude::*;

use super::*;
use crate::device::Signal;
use crate::testing::{carried, damaged, pick, start};
use crate::virtio::queue::fake::{Driver, Offer};
use crate::virtio::queue::{Buffer, Negotiated, Place};
use crate::virtio::transport::saved::{Saved, Unfit};

/// How many requests a queue has room for, and where each has its header, its status and its data.
const SLOTS: u64 = 4;
const ROOM: u64 = 0x1_8000;
const TABLES: u64 = BASE + 0x4000;
const SLOT: u64 = BASE + 0x8000;
const PAGES: u64 = 8 + 2 * SLOTS * ROOM / 4096;
const SECTORS: u64 = 512;

#[derive(Clone, Debug)]
enum Step {
    /// Asks for this, of so many sectors, in pieces of this size.
    Ask {
        queue: usize,
        kind: u32,
        sector: u64,
        count: u64,
        cut: u64,
    },
    Notify(usize),
    Advance,
    Acknowledge,
    /// The one is saved and restored here.
    Here,
}

/// A guest with two queues, and its driver.
struct World {
    ram: SharedRam,
    disk: SharedDisk,
    device: Transport<BlockDevice, SharedRam>,
    drivers: [Driver; 2],
    asked: u64,
    /// What has come back, in the order in which it has.
    back: Vec<(usize, u16, u32)>,
}

fn place(queue: u64) -> Place {
    let at = BASE + 0x1000 * queue;
    Place { size: 8, descriptors: at, driver: at + 0x400, device: at + 0x800 }
}

fn device(ram: &SharedRam, disk: &SharedDisk) -> Transport<BlockDevice, SharedRam> {
    Transport::new(BlockDevice::new(disk.clone(), 2), ram.clone(), "test".into())
}

impl World {
    fn new(packed: bool, event_index: bool, in_order: bool) -> Self {
        let ram = shared_ram(BASE, PAGES);
        let disk = disk(None, SECTORS * 512, Some(SECTORS * 256), &mut pool(2 * SECTORS / 8));
        let disk = Arc::new(TicketMutex::new(disk));
        let mut device = device(&ram, &disk);
        let features = 1 << 28
            | u64::from(event_index) << 29
            | 1 << 32
            | u64::from(packed) << 34
            | device.backend().features() & !(u64::from(!in_order) << 35);
        let places = [place(0), place(1)];
        assert!(start(&mut device, features, &places));
        let negotiated = Negotiated { indirect: true, event_index, packed, in_order };
        let drivers =
            [0, 1].map(|at| Driver::new(places[at], negotiated, TABLES + 0x1000 * at as u64));
        Self { ram, disk, device, drivers, asked: 0, back: vec![] }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.get().unwrap().write_from(Ipa::new(at), bytes).unwrap();
    }

    fn ask(&mut self, queue: usize, kind: u32, sector: u64, count: u64, cut: u64) {
        let at = SLOT + ROOM * (self.asked % SLOTS + SLOTS * queue as u64);
        self.asked += 1;
        let size = (512 * count).min(ROOM - 0x1000);
        self.put(at, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), &[0xee]].concat());
        let seed = self.asked;
        let data = pattern(usize::try_from(size + seed).unwrap());
        self.put(at + 0x1000, &data[usize::try_from(seed).unwrap()..]);
        let buffer = |at, size: u64| Buffer { ipa: Ipa::new(at), size: size.try_into().unwrap() };
        let mut offer = Offer { indirect: true, ..Offer::default() };
        offer.readable.push(buffer(at, 16));
        let cut = cut.max(size / 5).max(1);
        let mut pieces: Vec<_> = (0..size)
            .step_by(cut.try_into().unwrap())
            .map(|from| buffer(at + 0x1000 + from, cut.min(size - from)))
            .collect();
        if matches!(kind, request::DISCARD | request::WRITE_ZEROES) {
            let range =
                [&sector.to_le_bytes()[..], &u32::try_from(count).unwrap().to_le_bytes(), &[0; 4]];
            self.put(at + 0x1000, &range.concat().repeat(2));
            pieces = vec![buffer(at + 0x1000, 20), buffer(at + 0x1014, 12)];
        }
        let writes = matches!(kind, request::IN | request::GET_ID);
        if writes { &mut offer.writable } else { &mut offer.readable }.extend(pieces);
        offer.writable.push(buffer(at + 16, 1));
        self.drivers[queue].offer(self.ram.get().unwrap(), &offer);
    }

    fn collect(&mut self) {
        for (queue, driver) in self.drivers.iter_mut().enumerate() {
            while let Some((id, written)) = driver.used(self.ram.get().unwrap()) {
                self.back.push((queue, id, written));
            }
        }
    }

    fn act(&mut self, step: &Step, saves: bool) {
        match *step {
            Step::Ask { queue, kind, sector, count, cut } => {
                self.ask(queue, kind, sector, count, cut)
            }
            Step::Notify(queue) => {
                if self.drivers[queue].show(self.ram.get().unwrap()) {
                    self.device.write(0x050, Width::Word, queue as u64, NOW);
                }
            }
            Step::Advance => self.device.advance(NOW),
            Step::Acknowledge => {
                let seen = self.device.read(0x060, Width::Word, NOW);
                self.device.write(0x064, Width::Word, seen, NOW);
                self.collect();
            }
            Step::Here if saves => {
                self.save_and_restore();
                self.device.advance(NOW);
            }
            Step::Here => self.device.signal(Signal::Input, NOW),
        }
    }

    fn save_and_restore(&mut self) {
        let saved = carried(&self.device.save());
        self.device = device(&self.ram, &self.disk);
        self.device.restore(saved).unwrap();
    }

    /// Whatever is left to do is done.
    fn end(&mut self) {
        for _ in 0..2 {
            (0..2).for_each(|queue| self.act(&Step::Notify(queue), false));
            while self.device.deadline().is_some() {
                self.device.advance(NOW);
            }
            self.collect();
        }
    }

    /// All that can be seen of it.
    fn all(&self) -> (Saved<impl Eq + core::fmt::Debug + use<>>, Vec<u8>, Vec<u8>) {
        let saved = self.device.save();
        let mut ram = vec![0; usize::try_from(PAGES * 4096).unwrap()];
        self.ram.get().unwrap().read_into(Ipa::new(BASE), &mut ram).unwrap();
        let (mut content, mut piece) = (vec![], [0; 4096]);
        for block in 0..SECTORS / 8 {
            self.disk
                .lock()
                .read(block * 4096, 4096, Ipa::new(SLOT), self.ram.get().unwrap())
                .unwrap();
            self.ram.get().unwrap().read_into(Ipa::new(SLOT), &mut piece).unwrap();
            content.extend_from_slice(&piece);
        }
        (saved, ram, content)
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        3 => Just(request::OUT), 3 => Just(request::IN), 1 => Just(request::FLUSH), 1 => Just(request::GET_ID),
        1 => Just(request::DISCARD), 1 => Just(request::WRITE_ZEROES), 1 => Just(99)];
    let ask = (0usize..2, kind, 0..SECTORS + 2, 0u64..pick(190, 20), 1u64..30_000);
    let ask = ask.prop_map(|(queue, kind, sector, count, cut)| {
        let sector = if sector < SECTORS { sector / 2 } else { sector };
        Step::Ask { queue, kind, sector, count, cut }
    });
    let step = prop_oneof![
        4 => ask, 4 => (0usize..2).prop_map(Step::Notify), 2 => Just(Step::Advance),
        1 => Just(Step::Acknowledge), 3 => Just(Step::Here)];
    prop::collection::vec(step, 1..pick(60, 6))
}

proptest! {
    #![proptest_config(crate::testing::cases(128, 1))]

    #[test]
    fn a_disk_that_is_saved_and_restored_goes_on_as_if_it_had_not_been(
        (packed, event_index, in_order) in any::<(bool, bool, bool)>(), steps in steps(),
    ) {
        let mut worlds = [0; 2].map(|_| World::new(packed, event_index, in_order));
        let [reference, saved] = &mut worlds;
        for step in &steps {
            reference.act(step, false);
            saved.act(step, true);
            prop_assert_eq!(reference.device.save(), saved.device.save());
        }
        worlds.iter_mut().for_each(World::end);
        let [reference, saved] = &worlds;
        prop_assert_eq!(&reference.back, &saved.back);
        prop_assert!(reference.all() == saved.all());
    }

    /// Whatever somebody has made of what was saved: it is refused, or harms nobody but the guest.
    #[test]
    fn no_state_that_is_restored_makes_it_panic(
        packed: bool, in_order: bool, steps in steps(), more in steps(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..5),
    ) {
        let mut world = World::new(packed, false, in_order);
        steps.iter().for_each(|step| world.act(step, false));
        let Some(saved) = damaged(&world.device.save(), &changes) else { return Ok(()) };
        let restored = world.device.restore(saved);
        if let Err(why) = restored {
            prop_assert!(!why.to_string().is_empty());
            prop_assert_eq!(world.device.read(0x070, Width::Word, NOW), 0);
        }
        for step in more {
            // Its driver is as it was, and may not know what comes back.
            if !matches!(step, Step::Acknowledge) {
                world.act(&step, false);
            }
        }
    }
}

/// A disk in the middle of a request.
fn in_the_middle() -> World {
    let mut world = World::new(false, false, false);
    for kind in [request::OUT, request::IN] {
        world.ask(0, kind, 8, 176, 20_000);
    }
    world.act(&Step::Notify(0), false);
    world
}

#[test]
fn a_request_that_is_half_done_is_saved_and_ended_where_it_is_restored() {
    let mut world = in_the_middle();
    let saved = world.device.save();
    assert!(saved.queues()[0].in_hand().is_some(), "its chain is in hand");
    world.collect();
    assert_eq!(world.back, []);
    world.save_and_restore();
    world.end();
    assert_eq!(world.back.len(), 2);
    let slot = |at: u64| {
        let mut bytes = vec![0; 512 * 176];
        world
            .ram
            .get()
            .unwrap()
            .read_into(Ipa::new(SLOT + ROOM * at + 0x1000), &mut bytes)
            .unwrap();
        bytes
    };
    assert!(slot(0) == slot(1));
}

/// Whatever a byte of it becomes, one at a time: the place in the buffers and what is left of the request among them.
#[test]
fn a_request_that_is_half_done_and_damaged_anywhere_is_refused_or_harms_nobody_but_the_guest() {
    let length = postcard::to_allocvec(&in_the_middle().device.save()).unwrap().len();
    for at in (0..length).step_by(pick(1, 101)) {
        for byte in [0, 0xff, 1, 0x7f, 0x80].into_iter().take(pick(5, 1)) {
            let mut world = in_the_middle();
            let Some(saved) = damaged(&world.device.save(), &[(at, byte)]) else { continue };
            let _ = world.device.restore(saved);
            (0..4).for_each(|_| world.act(&Step::Advance, false));
        }
    }
}

#[test]
fn what_cannot_be_its_state_is_refused_with_the_reason_and_leaves_a_device_that_is_reset() {
    let refused = |change: fn(&mut World)| {
        let mut world = in_the_middle();
        let saved = world.device.save();
        change(&mut world);
        let mut other = device(&world.ram, &world.disk);
        let refused = other.restore(carried(&saved)).unwrap_err();
        assert_eq!(other.save(), device(&world.ram, &world.disk).save());
        refused
    };
    // A disk that is smaller, one that has other queues, RAM that is elsewhere.
    let smaller = |world: &mut World| {
        let smaller = disk(None, 100 * 512, Some(4096), &mut pool(40));
        world.disk = Arc::new(TicketMutex::new(smaller));
    };
    let why = "a request is for what the disk does not have";
    assert_eq!(refused(smaller), Unfit::Device(why));
    assert_eq!(refused(|world| world.ram = shared_ram(2 * BASE, PAGES)), Unfit::Queue(0));
    let mut world = in_the_middle();
    let saved = world.device.save();
    let one = BlockDevice::new(world.disk.clone(), 1);
    let mut one = Transport::new(one, world.ram.clone(), "test".into());
    let why = one.restore(saved).unwrap_err();
    assert_eq!(why, Unfit::Queues { got: 2, wanted: 1 });
    assert_eq!(why.to_string(), "it has 2 queues, and the device 1");
    world.end();
    assert_eq!(world.back.len(), 2, "the one that was saved knows nothing of it");
}
