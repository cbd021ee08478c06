//! A guest with a balloon on a machine with others: where its memory is, and the device's goes.

use std::sync::Arc;

use plinth::addr::{Ipa, Region};
use plinth::device::Device;
use plinth::memory::elastic::fake::Room;
use plinth::memory::elastic::{Filled, UNIT};
use plinth::memory::{GuestMemory, Uncached};
use plinth::virtio::balloon::{Balloon, BalloonState};
use plinth::virtio::ram::SharedRam;
use plinth::virtio::transport::Transport;
use plinth_fuzz::driver::{Driven, NOW};

use crate::model::{Knows, MOST, Model, OWN, SIZE, UNITS, start_of};

/// How much of a unit rings and words may be in; behind it are marks.
pub const WORDS: u64 = 0x2_0000;
pub const MARKS: [u64; 3] = [0x3_0000, 0x10_0008, UNIT - 8];
/// How many units a device gives up in one go.
const AT_ONCE: u64 = 8;
/// In how many goes it comes to an end with what a step gives it to do.
const GOES: usize = 2_000;

/// The device.
pub type BalloonDevice = Transport<Balloon, SharedRam>;

/// The guest, and what there is to know of its memory.
pub struct World<'a> {
    pub room: &'a Room,
    pub driven: Driven<BalloonDevice>,
    pub shared: Arc<BalloonState>,
    pub model: Model,
    /// The units that are gone.
    pub gone: [bool; UNITS],
    /// How much is on its way back to the pool, in units; and whether a unit is on its way into a hole.
    limbo: u64,
    filling: bool,
    /// What is in each unit where marks are; `None` where that is not known.
    pub marks: Option<[[u64; MARKS.len()]; UNITS]>,
    next: u64,
    pub pinned: Vec<Region<Ipa>>,
    /// The hole that somebody else would write to.
    pub wanted: Option<usize>,
    pub others: Vec<GuestMemory>,
    /// What is free when nothing is missing, and what others have given up and is not free yet; in bytes.
    free: u64,
    pub crowd: u64,
    /// The chains that are to be back, by queue and name.
    pub back: Vec<(usize, u16)>,
    pub saved: Option<Vec<u8>>,
}

/// A balloon of the guest's, as it is in the beginning.
pub fn device(shared: &Arc<BalloonState>, room: &Room) -> BalloonDevice {
    Transport::new(Balloon::new(SIZE, shared.clone()), room.ram.clone(), "fuzzed".to_owned())
}

fn is_hole(room: &Room, unit: usize) -> bool {
    room.elastic().ipas(unit).is_some_and(|ipas| room.elastic().has_hole(&ipas))
}

impl<'a> World<'a> {
    pub fn new(room: &'a Room) -> Self {
        room.elastic().waits_no_more();
        for unit in 0..UNITS {
            let words = Region::new(Ipa::new(start_of(unit)), WORDS).expect("a part of it");
            room.memory().zero(words).expect("all is there");
        }
        let shared = Arc::<BalloonState>::default();
        let mut world = Self {
            room,
            driven: Driven::new(device(&shared, room), room.ram.clone(), WORDS),
            shared,
            model: Model::new(),
            gone: [false; UNITS],
            limbo: 0,
            filling: false,
            marks: None,
            next: 1,
            pinned: Vec::new(),
            wanted: None,
            others: Vec::new(),
            free: room.free(),
            crowd: 0,
            back: Vec::new(),
            saved: None,
        };
        world.mark();
        world
    }

    /// The guest writes to all that it has.
    pub fn mark(&mut self) {
        let mut marks = [[0; MARKS.len()]; UNITS];
        for (unit, marks) in marks.iter_mut().enumerate() {
            for (at, mark) in MARKS.iter().zip(marks) {
                let written = self.room.memory().write(Ipa::new(start_of(unit) + at), self.next);
                assert_eq!(written.is_err(), self.gone[unit]);
                if written.is_ok() {
                    *mark = self.next;
                    self.next += 1;
                }
            }
        }
        self.marks = Some(marks);
    }

    /// Takes down which units have gone since the last time, and whether they may.
    fn look(&mut self) {
        for unit in 0..UNITS {
            let is_gone = is_hole(self.room, unit);
            assert!(is_gone || !self.gone[unit], "unit {unit} has come back by itself");
            if !is_gone || self.gone[unit] {
                continue;
            }
            assert_eq!(self.model.pins[unit], 0, "unit {unit} is in use");
            let may = self.model.knows != Knows::Names || self.model.may_be_taken(unit);
            assert!(may, "unit {unit} was not named");
            self.gone[unit] = true;
            self.limbo += 1;
            if let Some(marks) = &mut self.marks {
                marks[unit] = [0; MARKS.len()];
            }
        }
        if self.model.knows != Knows::All {
            self.model.holes = (0..UNITS).filter(|unit| self.gone[*unit]).collect();
            if self.gone[OWN] {
                self.model.knows = Knows::Nothing;
            }
        }
    }

    /// Somebody has filled some of `unit`, a hole.
    pub fn filled(&mut self, unit: usize, how: Filled) {
        match how {
            Filled::There => {
                self.filling = false;
                self.gone[unit] = false;
                self.model.holes.remove(&unit);
            }
            Filled::More => self.filling = true,
            Filled::NoFrames => {
                let largest = self.room.pool.lock().frames.largest_block();
                assert!(largest < UNIT && !self.filling, "there is memory");
                assert!(self.room.elastic().is_starved());
            }
        }
    }

    /// The guest touches `unit`. Returns whether it is there then.
    pub fn touch(&mut self, unit: usize) -> bool {
        for _ in 0..=UNIT >> 18 {
            if !self.gone[unit] {
                return true;
            }
            let how = self.room.elastic().fill_step(unit);
            self.filled(unit, how);
            if how == Filled::NoFrames {
                return false;
            }
        }
        panic!("it takes too many steps");
    }

    /// The device does something: in one go at most.
    pub fn go(&mut self, act: impl FnOnce(&mut BalloonDevice)) {
        let given_back = || self.room.elastic().given_back();
        let before = given_back();
        act(&mut self.driven.device);
        assert!(given_back() <= before + AT_ONCE * UNIT, "too much in one go");
        if let Some(unit) = self.wanted.filter(|unit| self.gone[*unit]) {
            let elastic = self.room.elastic();
            let how = match is_hole(self.room, unit) {
                true if elastic.is_wanted() => Filled::More,
                true if elastic.is_starved() => Filled::NoFrames,
                // Also where it was given up again at once.
                _ => Filled::There,
            };
            self.filled(unit, how);
        }
        self.wanted = self.wanted.filter(|_| self.room.elastic().is_wanted());
        self.look();
    }

    /// CPUs pass from step to step.
    pub fn settle(&mut self) {
        self.room.settle();
        (self.limbo, self.crowd) = (0, 0);
    }

    /// Goes on until nothing is due; but before one of these goes the device is saved and restored.
    pub fn finish(&mut self, save_at: Option<u8>) {
        for number in 0..GOES {
            if self.driven.device.deadline().is_none() {
                return;
            }
            if save_at.is_some_and(|at| usize::from(at) == number) {
                self.save(&[]);
            }
            self.go(|device| device.advance(NOW));
            // It waits for that when much has been given up.
            if number % 8 == 7 {
                self.settle();
            }
            // Chains of a driver that breaks its rings can be as long as its RAM.
            if self.model.knows == Knows::Nothing && number > 20 {
                return;
            }
        }
        panic!("there is always something to do");
    }

    pub fn pin(&mut self, ipas: Region<Ipa>) {
        let all = self.room.elastic().ram();
        let there = all.contains_region(&ipas) && self.units(&ipas).all(|unit| !self.gone[unit]);
        let pinned = self.room.memory().segments(ipas).is_ok();
        assert_eq!(pinned, there);
        if pinned {
            self.units(&ipas).for_each(|unit| self.model.pins[unit] += 1);
            self.pinned.push(ipas);
        }
    }

    pub fn unpin(&mut self, index: usize) {
        let ipas = self.pinned.swap_remove(index);
        self.room.memory().unpin(ipas);
        self.units(&ipas).for_each(|unit| self.model.pins[unit] -= 1);
    }

    /// The whole units that `ipas` is in.
    pub fn units(&self, ipas: &Region<Ipa>) -> impl Iterator<Item = usize> + use<> {
        let (first, last) = (ipas.start().raw(), ipas.last().raw());
        (0..UNITS).filter(move |unit| first < start_of(unit + 1) && last >= start_of(*unit))
    }

    /// Another guest begins.
    pub fn lend(&mut self) {
        let frames = self.room.pool.lock().frames.allocate(UNIT);
        if let Ok(frames) = frames {
            let mut memory = GuestMemory::new();
            memory.add(Ipa::new(0), frames.scrub().clean(&Uncached)).expect("the first");
            MARKS.iter().for_each(|at| memory.write(Ipa::new(*at), u64::MAX).expect("it is RAM"));
            self.others.push(memory);
        }
    }

    /// Where every frame is, and what is in the guest's.
    pub fn check_memory(&mut self) {
        self.look();
        let missing = self.gone.iter().filter(|gone| **gone).count();
        assert!(missing <= MOST, "the guest keeps so much");
        assert_eq!(self.room.elastic().given_back(), missing as u64 * UNIT);
        let units = missing as i64 - self.limbo as i64 - i64::from(self.filling);
        let units = units - self.others.len() as i64;
        let free = self.free as i64 + units * UNIT as i64 - self.crowd as i64;
        assert_eq!(self.room.free() as i64, free, "each frame is somebody's");
        for unit in 0..UNITS {
            let mapped = self.room.translate(Ipa::new(start_of(unit) + 8));
            assert_eq!(mapped.is_none(), self.gone[unit], "as the guest sees it");
            for (index, at) in MARKS.iter().enumerate() {
                let read = self.room.memory().read::<u64>(Ipa::new(start_of(unit) + at)).ok();
                assert_eq!(read.is_none(), self.gone[unit]);
                if let (Some(read), Some(marks)) = (read, &self.marks) {
                    assert_eq!(read, marks[unit][index], "of unit {unit}");
                }
            }
        }
        for memory in &self.others {
            assert!(MARKS.iter().all(|at| memory.read(Ipa::new(*at)) == Ok(u64::MAX)));
        }
    }

    /// All that is missing comes back.
    pub fn end(mut self) {
        while !self.pinned.is_empty() {
            self.unpin(0);
        }
        self.others.drain(..).for_each(|memory| memory.release(&mut self.room.pool.lock().frames));
        self.settle();
        (0..UNITS).for_each(|unit| assert!(self.touch(unit), "all is free"));
        self.room.elastic().fill_wanted();
        assert!(!self.filling && !self.room.elastic().is_wanted());
        assert_eq!(self.room.free(), self.free);
    }
}
