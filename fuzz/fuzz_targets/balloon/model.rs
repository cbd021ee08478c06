//! What there is to know of a balloon from outside: which pages are in it, which units may be gone for what was named, and what its
//! driver and the monitor are told.

use std::collections::BTreeSet;

use plinth::addr::{Ipa, PAGE_SIZE};
use plinth::memory::elastic::UNIT;
use plinth::virtio::balloon::STATISTICS_TAGS;
use plinth::virtio::queue::fake::Offer;
use plinth_fuzz::RAM;

/// The guest's RAM: units, and what is none, of which it keeps some.
pub const UNITS: usize = 12;
pub const SIZE: u64 = UNITS as u64 * UNIT + 0x3000;
pub const KEEP: u64 = 2 * UNIT;
pub const MOST: usize = UNITS - 2;
/// The unit that the rings are in.
pub const OWN: usize = 0;

pub const INFLATE: usize = 0;
pub const DEFLATE: usize = 1;
pub const STATISTICS: usize = 2;

pub const MUST_TELL_HOST: u64 = 1 << 0;
pub const STATS_VQ: u64 = 1 << 1;

/// What can be said of what the device will do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Knows {
    /// Everything.
    All,
    /// What is named, but not in which order it is looked at.
    Names,
    /// Nothing: anything may be in the rings.
    Nothing,
}

/// What becomes of a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    Used,
    Kept,
    /// The device needs a reset.
    Broken,
    /// The rings are gone in the middle of it.
    Unknown,
}

#[derive(Debug)]
pub struct Model {
    pub knows: Knows,
    pub features: u64,
    /// The units that are gone, or will be when what was named has been looked at.
    pub holes: BTreeSet<usize>,
    /// How many others use each unit meanwhile.
    pub pins: [u8; UNITS],
    /// Whether each page is in the balloon; or may be, where only names are known.
    inside: Vec<bool>,
    /// Units that were reported since the driver has begun.
    named: BTreeSet<usize>,
    pub reported: u64,
    /// Pages, as the device's configuration has them.
    pub target: u32,
    pub told: u32,
    pub actual: u32,
    pub poison: u32,
    pub statistics: [Option<u64>; STATISTICS_TAGS],
    pub kept: Option<u16>,
    pub asked: bool,
    /// The driver is interrupted, as the configuration has changed.
    pub changed: bool,
}

/// Which unit `ipa` is in.
pub fn unit_of(ipa: u64) -> Option<usize> {
    let unit = ipa.checked_sub(RAM)? / UNIT;
    usize::try_from(unit).ok().filter(|unit| *unit < UNITS)
}

/// The first byte of a unit.
pub fn start_of(unit: usize) -> u64 {
    RAM + unit as u64 * UNIT
}

impl Model {
    pub fn new() -> Self {
        Self {
            knows: Knows::Nothing,
            features: 0,
            holes: BTreeSet::new(),
            pins: [0; UNITS],
            inside: vec![false; (SIZE / PAGE_SIZE) as usize],
            named: BTreeSet::new(),
            reported: 0,
            target: 0,
            told: 0,
            actual: 0,
            poison: 0,
            statistics: [None; STATISTICS_TAGS],
            kept: None,
            asked: false,
            changed: false,
        }
    }

    /// A driver that keeps to the rules begins, with `features`.
    pub fn begin(&mut self, features: u64) {
        self.knows = Knows::All;
        self.features = features;
        self.inside.fill(false);
        self.named.clear();
        self.told = self.target;
        (self.actual, self.poison, self.kept, self.changed) = (0, 0, None, false);
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// The word of the configuration at `offset`.
    pub fn word(&self, offset: u64) -> u32 {
        match offset & !3 {
            0 => self.target,
            4 => self.actual,
            12 => self.poison,
            _ => 0,
        }
    }

    /// The device looks outside. Returns the name of the chain that it gives back then.
    pub fn signal(&mut self) -> Option<u16> {
        self.changed |= core::mem::replace(&mut self.told, self.target) != self.target;
        let back = self.kept.take_if(|_| self.asked);
        self.asked &= back.is_none();
        back
    }

    /// Whether all of `ipa..ipa + size` is there, for who reads it.
    fn is_there(&self, ipa: Ipa, size: u64) -> bool {
        let last = ipa.raw().saturating_add(size - 1);
        let is_hole = |at| unit_of(at).is_some_and(|unit| self.holes.contains(&unit));
        ipa.raw() >= RAM && last < RAM + SIZE && !is_hole(ipa.raw()) && !is_hole(last)
    }

    fn take(&mut self, unit: usize) -> bool {
        let may = unit < UNITS && self.holes.len() < MOST && self.pins[unit] == 0;
        may && self.holes.insert(unit)
    }

    /// The index of a page that is RAM.
    fn page(number: u32) -> Option<usize> {
        let offset = (u64::from(number) * PAGE_SIZE).checked_sub(RAM).filter(|at| *at < SIZE)?;
        usize::try_from(offset / PAGE_SIZE).ok()
    }

    fn is_full(&self, unit: usize) -> bool {
        let pages = (UNIT / PAGE_SIZE) as usize;
        unit < UNITS && self.inside[unit * pages..(unit + 1) * pages].iter().all(|inside| *inside)
    }

    /// The page numbers that a chain holds, and where they are. `read` is what is there when it is offered.
    fn numbers<'a, R: Fn(Ipa) -> Option<u32> + 'a>(
        offer: &'a Offer,
        read: R,
    ) -> impl Iterator<Item = (Ipa, Option<u32>)> + 'a {
        let words = |size: u32| (0..u64::from(size / 4)).map(|index| 4 * index);
        let ats = offer.readable.iter().flat_map(move |buffer| {
            words(buffer.size).map(|at| Ipa::new(buffer.ipa.raw().saturating_add(at)))
        });
        ats.map(move |at| (at, read(at)))
    }

    /// The units that a chain reports as a whole, as often as it does.
    fn ranges(offer: &Offer) -> impl Iterator<Item = usize> {
        offer.writable.iter().flat_map(|buffer| {
            let end = buffer.ipa.raw().checked_add(buffer.size.into()).unwrap_or(0);
            let first = buffer.ipa.raw().checked_next_multiple_of(UNIT).unwrap_or(u64::MAX);
            // It ends where it leaves RAM.
            let units = (first..end).step_by(UNIT as usize);
            units.take_while(move |at| end - at >= UNIT).map_while(unit_of)
        })
    }

    /// What becomes of a chain that is looked at alone, when everything is known.
    pub fn serve(
        &mut self,
        queue: usize,
        offer: &Offer,
        read: impl Fn(Ipa) -> Option<u32>,
    ) -> Fate {
        match queue {
            INFLATE | DEFLATE => {
                for (at, number) in Self::numbers(offer, read) {
                    let Some(number) = number.filter(|_| self.is_there(at, 4)) else {
                        return Fate::Broken;
                    };
                    let Some(page) = Self::page(number) else { continue };
                    self.inside[page] = queue == INFLATE;
                    let unit = page / (UNIT / PAGE_SIZE) as usize;
                    let takes = queue == INFLATE && self.has(MUST_TELL_HOST) && self.is_full(unit);
                    if takes && self.take(unit) && unit == OWN {
                        return Fate::Unknown;
                    }
                }
                Fate::Used
            }
            STATISTICS if self.has(STATS_VQ) => self.note(offer, read),
            _ if self.poison != 0 => Fate::Used,
            _ => {
                for unit in Self::ranges(offer) {
                    if self.take(unit) {
                        self.reported += UNIT;
                        if unit == OWN {
                            return Fate::Unknown;
                        }
                    }
                }
                Fate::Used
            }
        }
    }

    /// The guest tells of its memory.
    fn note(&mut self, offer: &Offer, read: impl Fn(Ipa) -> Option<u32>) -> Fate {
        let (Some(buffer), None) = (offer.readable.first(), self.kept) else { return Fate::Used };
        for index in 0..u64::from(buffer.size / 10).min(STATISTICS_TAGS as u64) {
            let at = Ipa::new(buffer.ipa.raw().saturating_add(10 * index));
            if !self.is_there(at, 10) {
                return Fate::Broken;
            }
            let word = |by| read(Ipa::new(at.raw() + by)).expect("it is there");
            let (tag, low, high) = (word(0) & 0xffff, word(2), word(6));
            let value = u64::from(high) << 32 | u64::from(low);
            if let Some(statistic) = self.statistics.get_mut(tag as usize) {
                *statistic = Some(value).filter(|value| *value != u64::MAX);
            }
        }
        Fate::Kept
    }

    /// Takes down what a chain names, which is looked at with others, or later.
    pub fn name(&mut self, queue: usize, offer: &Offer, read: impl Fn(Ipa) -> Option<u32>) {
        match queue {
            INFLATE => {
                let numbers = Self::numbers(offer, read).filter_map(|(_, number)| number);
                numbers.filter_map(Self::page).for_each(|page| self.inside[page] = true);
            }
            // What was in the balloon may have been looked at before.
            DEFLATE => {}
            STATISTICS if self.has(STATS_VQ) => {}
            _ => self.named.extend(Self::ranges(offer)),
        }
    }

    /// Whether a unit may be taken where only names are known.
    pub fn may_be_taken(&self, unit: usize) -> bool {
        self.named.contains(&unit) || self.has(MUST_TELL_HOST) && self.is_full(unit)
    }
}
