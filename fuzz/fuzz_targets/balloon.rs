//! A driver that names any pages by the queues of a balloon, in any chains, and breaks its rings when it likes, while the monitor
//! has other wishes, other guests want memory, and the device is saved and restored. The guest keeps what its manifest says and
//! loses nothing that it did not name; every frame has one owner, and all come back; each go is short, and where the driver keeps to
//! the rules the device does what a model says.
#![no_main]

#[path = "balloon/model.rs"]
mod model;
#[path = "balloon/step.rs"]
mod step;
#[path = "balloon/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;
use plinth::addr::{Ipa, Region};
use plinth::device::{Device, Signal};
use plinth::exit::Width;
use plinth::memory::elastic::fake::Room;
use plinth::memory::elastic::{Filled, UNIT};
use plinth::virtio::queue::Buffer;
use plinth::virtio::queue::fake::Offer;
use plinth_fuzz::driver::{NOW, QUEUE_NOTIFY, RUNNING, Rings, STATUS, set};
use plinth_fuzz::{Access, RAM};

use self::model::{Fate, KEEP, Knows, OWN, SIZE, STATISTICS, UNITS, start_of, unit_of};
use self::step::{Chain, Say, Step};
use self::world::{World, device};

/// What there is for others and for tables, in bytes.
const BESIDE: u64 = 3 * UNIT;
const SIZES: [u16; 5] = [16, 16, 8, 16, 16];
/// What a driver can have.
const FEATURES: u64 = 0x33;
thread_local! {
    // What it takes of the heap is never given back.
    static ROOM: Room = Room::quiet(Ipa::new(RAM), SIZE, KEEP, BESIDE);
}

impl World<'_> {
    fn signal(&mut self) {
        self.back.extend(self.model.signal().map(|name| (STATISTICS, name)));
    }

    fn save(&mut self, changes: &[(usize, u8)]) {
        let bytes = postcard::to_allocvec(&self.driven.device.save()).expect("plain data");
        self.restore(bytes, changes);
    }

    /// Another device goes on from there.
    fn restore(&mut self, mut bytes: Vec<u8>, changes: &[(usize, u8)]) {
        let length = bytes.len();
        changes.iter().for_each(|(at, byte)| bytes[at % length] = *byte);
        if !changes.is_empty() {
            // Its rings may be anywhere now.
            (self.model.knows, self.marks) = (Knows::Nothing, None);
        }
        let Ok(saved) = postcard::from_bytes(&bytes) else { return };
        self.driven.device = device(&self.shared, self.room);
        match self.driven.device.restore(saved) {
            Ok(()) => self.signal(),
            Err(why) => {
                assert_eq!(self.model.knows, Knows::Nothing, "{why}");
                assert_eq!(self.driven.get(STATUS), 0);
            }
        }
    }

    fn begin(&mut self, features: u64, rings: Rings) {
        if self.touch(OWN) {
            if self.model.knows != Knows::All {
                // What there was to be told, and asked, is not known; so it is asked for.
                self.shared.ask();
                self.model.asked = true;
                self.model.reported = self.shared.reported();
                self.model.statistics = core::array::from_fn(|tag| self.shared.statistic(tag));
            }
            self.driven.begin(features, rings, &SIZES);
            self.model.begin(features);
            self.back.clear();
            if self.marks.is_none() {
                self.mark();
            }
        }
    }

    /// Writes down what `chain` says.
    fn offer(&mut self, chain: &Chain) -> Offer {
        let mut buffer = |say: &Say| match say {
            Say::Span(from, count) => {
                let numbers = *from..from + count;
                self.driven.text(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<_>>())
            }
            Say::Every(page, is_that) => {
                let pages = (UNIT >> 12) as u32;
                let first = (start_of(1) >> 12) as u32;
                let numbers = first..first + pages * (UNITS as u32 - 1);
                let numbers = numbers.filter(|number| (number % pages == *page) == *is_that);
                self.driven.text(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<_>>())
            }
            Say::Bytes(bytes) => self.driven.text(bytes),
            Say::There(at, size) => Buffer { ipa: Ipa::new(*at), size: *size },
        };
        let readable = chain.readable.iter().map(&mut buffer).collect();
        let range = |(at, size): &(u64, u32)| Buffer { ipa: Ipa::new(*at), size: *size };
        let writable = chain.writable.iter().map(range).collect();
        Offer { readable, writable, indirect: chain.indirect }
    }

    /// One chain, while nothing else is to be done.
    fn alone(&mut self, chain: &Chain, save_at: Option<u8>) {
        if self.model.knows != Knows::All {
            return self.together(core::slice::from_ref(chain), true);
        }
        let offer = self.offer(chain);
        let Some(name) = self.driven.offer(chain.queue, offer.clone()) else { return };
        let memory = self.room.memory();
        let fate = self.model.serve(chain.queue, &offer, |at| memory.read(at).ok());
        match fate {
            Fate::Used => self.back.push((chain.queue, name)),
            Fate::Kept => self.model.kept = Some(name),
            Fate::Broken => {}
            Fate::Unknown => self.model.knows = Knows::Nothing,
        }
        let expected = self.model.holes.clone();
        self.show(chain.queue);
        self.finish(save_at);
        if fate == Fate::Broken {
            assert_eq!(self.driven.get(STATUS), RUNNING | 64);
            let gone = (0..UNITS).filter(|unit| self.gone[*unit]);
            assert!(gone.eq(expected), "units beside those that were named before");
            self.model.knows = Knows::Nothing;
        }
    }

    /// Chains that are looked at in any order.
    fn together(&mut self, chains: &[Chain], to_the_end: bool) {
        if self.model.knows == Knows::Nothing {
            return;
        }
        self.model.knows = Knows::Names;
        let offers: Vec<_> = chains.iter().map(|chain| (chain.queue, self.offer(chain))).collect();
        for (queue, offer) in offers {
            if self.driven.offer(queue, offer.clone()).is_some() {
                let memory = self.room.memory();
                self.model.name(queue, &offer, |at| memory.read(at).ok());
            }
        }
        for chain in chains {
            // The rings may go with the first.
            if self.model.knows == Knows::Names {
                self.show(chain.queue);
            }
        }
        if to_the_end {
            self.finish(None);
        }
        if !to_the_end || self.driven.get(STATUS) != RUNNING {
            self.model.knows = Knows::Nothing;
        }
    }

    fn show(&mut self, queue: usize) {
        if self.driven.shows(queue) {
            self.go(|device| set(device, QUEUE_NOTIFY, queue as u64));
        }
    }

    fn config(&mut self, access: Access) {
        let Access { offset, width, write, .. } = access;
        let at = offset - 0x100;
        let word = self.model.word(at);
        let read = access.perform(&mut self.driven.device);
        match (at, write) {
            (4 | 12, Some(value)) if width == Width::Word => {
                let value = (value & width.mask()) as u32;
                if at == 4 { self.model.actual = value } else { self.model.poison = value }
            }
            _ => {}
        }
        if let Some(read) = read.filter(|_| self.model.knows != Knows::Nothing) {
            assert_eq!(read, u64::from(word) >> (8 * (at & 3)) & width.mask());
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Alone(chain, save_at) => self.alone(&chain, save_at),
            Step::Together(chains, to_the_end) => self.together(&chains, to_the_end),
            Step::Begin(features, rings) => self.begin(features, rings),
            Step::Config(access) => self.config(access),
            Step::Acknowledge(bits) => {
                self.driven.set(0x064, bits.into());
                self.model.changed &= bits & 2 == 0;
            }
            Step::Aim(bytes) => {
                self.shared.set_target(bytes);
                self.model.target = u32::try_from(bytes >> 12).unwrap_or(u32::MAX);
            }
            Step::Ask => {
                self.shared.ask();
                self.model.asked = true;
            }
            Step::Signal => {
                self.signal();
                self.go(|device| device.signal(Signal::Input, NOW));
            }
            Step::Touch(unit) => assert!(self.touch(unit) != self.gone[unit]),
            Step::Fault(unit) if self.gone[unit] => {
                let how = self.room.elastic().fill_step(unit);
                self.filled(unit, how);
            }
            Step::Fault(unit) => assert_eq!(self.room.elastic().fill_step(unit), Filled::There),
            Step::Mark => self.mark(),
            Step::Want(at, size) => {
                let Some(ipas) = Region::new(Ipa::new(at), size) else { return };
                let first = self.units(&ipas).find(|unit| self.gone[*unit]);
                assert_eq!(self.room.elastic().want(&ipas), first.is_some());
                self.wanted = first.or(self.wanted);
            }
            Step::Pin(at, size) => {
                let ipas = Region::new(Ipa::new(at), size).filter(|_| self.pinned.len() < 8);
                ipas.into_iter().for_each(|ipas| self.pin(ipas));
            }
            Step::Unpin(_) if self.pinned.is_empty() => {}
            Step::Unpin(index) => self.unpin(index % self.pinned.len()),
            Step::Lend => self.lend(),
            Step::TakeBack => {
                let memory = self.others.pop();
                let pool = &self.room.pool;
                memory.into_iter().for_each(|memory| memory.release(&mut pool.lock().frames));
            }
            Step::Crowd => self.crowd += 4096 * self.room.crowd(),
            Step::Settle => self.settle(),
            Step::Save(changes) => self.save(&changes),
            Step::Keep => {
                let saved = self.driven.device.save();
                self.saved = Some(postcard::to_allocvec(&saved).expect("plain data"));
            }
            Step::Back => {
                if let Some(saved) = self.saved.take() {
                    self.model.knows = Knows::Nothing;
                    self.restore(saved, &[]);
                }
            }
            Step::Register(offset, value) => {
                self.model.knows = Knows::Nothing;
                self.go(|device| set(device, offset, value.into()));
            }
            Step::Word(at, value) => {
                self.model.knows = Knows::Nothing;
                let written = self.room.memory().write(Ipa::new(at), value);
                assert_eq!(written.is_err(), unit_of(at).is_some_and(|unit| self.gone[unit]));
            }
        }
    }

    /// What the device has said and done, as far as that is known.
    fn check(&mut self) {
        self.check_memory();
        assert_eq!(self.shared.target(), u64::from(self.model.target) * 4096);
        if self.model.knows == Knows::Nothing {
            return;
        }
        let mut back = Vec::new();
        for queue in 0..SIZES.len() {
            while let Some((name, written)) = self.driven.used(queue) {
                assert_eq!(written, 0);
                back.push((queue, name));
            }
        }
        assert_eq!(self.driven.get(STATUS), RUNNING);
        assert_eq!(self.shared.actual(), u64::from(self.model.actual) * 4096);
        let mut expected = core::mem::take(&mut self.back);
        back.sort_unstable();
        expected.sort_unstable();
        if self.model.knows == Knows::All {
            assert_eq!(back, expected);
            assert!(self.model.holes.iter().copied().eq((0..UNITS).filter(|at| self.gone[*at])));
            assert_eq!(self.driven.get(0x060) & 2 != 0, self.model.changed);
            assert_eq!(self.shared.reported(), self.model.reported);
            for (tag, value) in self.model.statistics.iter().enumerate() {
                assert_eq!(self.shared.statistic(tag), *value);
            }
        }
    }
}

fuzz_target!(|input: (u8, Rings, Vec<Step>)| {
    let (features, rings, steps) = input;
    ROOM.with(|room| {
        let mut world = World::new(room);
        world.begin(u64::from(features) & FEATURES, rings);
        for step in steps.into_iter().take(60) {
            world.step(step);
            world.finish(None);
            world.check();
        }
        world.end();
    });
});
