//! What happens to a balloon, as a fuzzer draws it.

use arbitrary::{Arbitrary, Result, Unstructured};
use plinth::addr::PAGE_SIZE;
use plinth::memory::elastic::UNIT;
use plinth_fuzz::driver::{QUEUES, Rings};
use plinth_fuzz::{Access, RAM, often};

use crate::FEATURES;
use crate::model::{SIZE, UNITS, start_of};
use crate::world::{MARKS, WORDS};

/// Something in a chain that the device reads.
#[derive(Debug)]
pub enum Say {
    /// So many pages from one on, by number.
    Span(u32, u32),
    /// A page of every unit but the first, or all pages but that one.
    Every(u32, bool),
    Bytes(Vec<u8>),
    /// Whatever is there, if anything is.
    There(u64, u32),
}

#[derive(Debug)]
pub struct Chain {
    pub queue: usize,
    pub readable: Vec<Say>,
    pub writable: Vec<(u64, u32)>,
    pub indirect: bool,
}

#[derive(Debug)]
pub enum Step {
    /// A chain, looked at to its end; but before one of the goes for it the device is saved and restored.
    Alone(Chain, Option<u8>),
    /// Several, of which each queue's are looked at in turn with others'; to the end, or not.
    Together(Vec<Chain>, bool),
    Begin(u64, Rings),
    Config(Access),
    Acknowledge(u8),
    /// The monitor would have the guest be without so many bytes.
    Aim(u64),
    /// The monitor asks for statistics.
    Ask,
    Signal,
    /// The guest touches a unit, or begins to.
    Touch(usize),
    Fault(usize),
    /// The guest writes to all that it has.
    Mark,
    /// Another guest's device writes there.
    Want(u64, u64),
    /// A device of the machine's does.
    Pin(u64, u64),
    Unpin(usize),
    /// Others need memory, have done with it, give up some, and CPUs pass.
    Lend,
    TakeBack,
    Crowd,
    Settle,
    /// The device is saved and restored, with some of the bytes changed.
    Save(Vec<(usize, u8)>),
    /// The device is saved, and restored later.
    Keep,
    Back,
    /// A driver that breaks its rings.
    Register(u64, u32),
    Word(u64, u64),
}

/// An address in RAM, or about it, or any.
fn address(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=3)? {
        0 | 1 => RAM + UNIT * u.int_in_range(0..=UNITS as u64)?,
        2 => u.int_in_range(RAM - UNIT..=RAM + SIZE + UNIT)?,
        _ => u.arbitrary()?,
    })
}

fn say(u: &mut Unstructured<'_>) -> Result<Say> {
    let first = (RAM / PAGE_SIZE) as u32;
    let pages = (UNIT / PAGE_SIZE) as u32;
    Ok(match u.int_in_range(0..=6)? {
        0..=2 => Say::Span(first + pages * u.int_in_range(0..=UNITS as u32)?, pages),
        3 => {
            let from = u.int_in_range(first - pages..=first + (SIZE / PAGE_SIZE) as u32)?;
            Say::Span(from, u.int_in_range(1..=700)?)
        }
        4 => Say::Every(*u.choose(&[0, 511])?, u.arbitrary()?),
        5 => Say::Bytes(u.arbitrary::<[u8; 24]>()?[..u.int_in_range(1..=24)?].to_vec()),
        _ => {
            // Not what the device itself writes meanwhile.
            let at = address(u)?;
            let at = if (RAM..RAM + QUEUES).contains(&at) { at + QUEUES } else { at };
            let at = if (RAM - WORDS..RAM).contains(&at) { at - WORDS } else { at };
            Say::There(at, u.int_in_range(1..=0x2000)?)
        }
    })
}

fn some<'a, T>(
    u: &mut Unstructured<'a>,
    most: usize,
    draw: impl Fn(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=most)?).map(|_| draw(u)).collect()
}

impl<'a> Arbitrary<'a> for Chain {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let range = |u: &mut Unstructured<'a>| {
            let size = often(u, &[UNIT, 2 * UNIT, 12 * UNIT, UNIT - 1, 0xffff_ffff])?;
            Ok((address(u)?, (size as u32).max(1)))
        };
        let queue = u.int_in_range(0..=4)?;
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        if queue < 3 || u.ratio(1, 8)? {
            readable = some(u, 4, say)?;
        }
        if queue > 1 || u.ratio(1, 8)? {
            writable = some(u, 4, range)?;
        }
        Ok(Self { queue, readable, writable, indirect: u.arbitrary()? })
    }
}

/// A word that means something to a queue, of either format, that lies somewhere in RAM.
fn word(u: &mut Unstructured<'_>) -> Result<u64> {
    let usual = [0, 1, 8, RAM, RAM + UNIT, RAM + 0x1_0000];
    let described =
        [1 << 32 | 2048, 2 << 32 | 0x20_0000, 0x0080 << 48 | 2048, 0x8002 << 48 | 0x40_0000];
    if u.arbitrary()? { often(u, &usual) } else { often(u, &described) }
}

/// A place for a word that is not where marks are.
fn place(at: u64) -> u64 {
    assert!(WORDS < MARKS[0]);
    start_of((at / UNIT) as usize % UNITS) + at % UNIT % WORDS / 8 * 8
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let unit = |u: &mut Unstructured<'_>| u.int_in_range(0..=UNITS - 1);
        Ok(match u.int_in_range(0..=50)? {
            0..=13 => Self::Alone(u.arbitrary()?, u.arbitrary()?),
            14..=17 => Self::Together(some(u, 4, Chain::arbitrary)?, u.ratio(7, 8)?),
            18 | 19 => Self::Begin(often(u, &[0x33, 0x23, 1])? & FEATURES, u.arbitrary()?),
            20 | 21 => {
                let access: Access = u.arbitrary()?;
                let at = *u.choose(&[0, 4, 8, 12, access.offset & 0x3f])?;
                let at = at / access.width.bytes() * access.width.bytes();
                Self::Config(Access { offset: 0x100 + at, ..access })
            }
            22 => Self::Acknowledge(u.arbitrary()?),
            23 => Self::Aim(often(u, &[0, UNIT, 10 * UNIT])?),
            24 => Self::Ask,
            25 => Self::Signal,
            26..=29 => Self::Touch(unit(u)?),
            30 => Self::Fault(unit(u)?),
            31 => Self::Mark,
            32 | 33 => Self::Want(address(u)?, u.int_in_range(1..=2 * UNIT)?),
            34 => Self::Pin(address(u)?, u.int_in_range(1..=2 * UNIT)?),
            35 => Self::Unpin(u.arbitrary()?),
            36 => Self::Lend,
            37 => Self::TakeBack,
            38..=41 => Self::Crowd,
            42 => Self::Settle,
            43 => Self::Save(u.arbitrary()?),
            44 => Self::Keep,
            45 => Self::Back,
            46 | 47 => {
                let usual = [0, 1, 2, 3, 4, 8, 11, 15, RAM, RAM + 0x2000, RAM + UNIT + 0x400];
                let value = often(u, &usual)?;
                let offset = u.int_in_range(0..=0x40)? * 4;
                // Where a queue lies.
                let is_place = offset & !0x20 == 0x80 || offset == 0x90;
                let value = if is_place && value >= RAM { place(value - RAM) } else { value };
                Self::Register(offset, (value & 0xffff_ffff) as u32)
            }
            _ => {
                let at = often(u, &[0, 8, 0x400, 0x800, UNIT])?
                    .wrapping_add(u.int_in_range(0..=15u64)? * 8);
                Self::Word(place(at), word(u)?)
            }
        })
    }
}
