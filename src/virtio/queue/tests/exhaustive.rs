//! Small rings with everything in them that can lead somewhere: what is read, how often, and what comes of it.
//!
//! What a word holds is decided when it is read, in every way that makes a difference, and anew where a chain leads to the same
//! descriptor again. So nothing depends on what stands where nobody looks, and whatever a driver writes meanwhile is among the ways.

use core::cell::RefCell;
use std::vec::IntoIter;

use super::super::*;
use super::{BASE, DATA, PLAIN, place};
use crate::memory::{OutsideRam, Store};
use crate::testing::{Choices, bound};

/// Where indirect tables may be: in RAM, and where the space ends, so that the second entry is at its beginning.
const TABLES: [u64; 2] = [BASE + 0x6000, u64::MAX - 15];
const AVAIL_INDEX: u64 = BASE + 0x4002;
const AVAIL_RING: u64 = BASE + 0x4004;

const NEXT: u64 = 1;
const WRITE: u64 = 2;
const INDIRECT: u64 = 4;
/// Of a packed ring.
const AVAIL: u64 = 1 << 7;
const USED: u64 = 1 << 15;

/// Memory whose words are what the test decides. Whatever is not part of the queue is not to be read.
struct Decided<'a> {
    choices: &'a Choices,
    size: u16,
    negotiated: Negotiated,
    /// What was read: the address, and the value.
    words: RefCell<Vec<(u64, u64)>>,
    /// The table that an indirect descriptor has led to, and how many entries it has.
    table: RefCell<Option<(u64, u64)>>,
}

impl Decided<'_> {
    fn note(&self, at: u64, value: u64) -> u64 {
        self.words.borrow_mut().push((at, value));
        value
    }

    /// The number of a descriptor: the first, the last, or one that there is not. What it leads to is decided anew, so those between
    /// lead to nothing else.
    fn number(&self) -> u64 {
        match self.size {
            1 => self.choices.of(&[0, 1]),
            size => self.choices.of(&[0, u64::from(size) - 1, size.into()]),
        }
    }

    /// Which part of which descriptor is at `at`: the second word, and whether it is in a table.
    fn place_of(&self, at: u64) -> (bool, bool) {
        let ring = at.wrapping_sub(BASE);
        let (offset, of_table) = match *self.table.borrow() {
            _ if ring < 16 * u64::from(self.size) => (ring, false),
            Some((table, entries)) if at.wrapping_sub(table) < 16 * entries => {
                (at.wrapping_sub(table), true)
            }
            _ => panic!("{at:#x} is read, which is no part of the queue"),
        };
        assert_eq!(offset % 8, 0, "{at:#x}");
        (offset % 16 == 8, of_table)
    }

    /// The size, flags and number of a descriptor, in every way that leads elsewhere than another one.
    fn rest(&self, of_table: bool, first: bool) -> u64 {
        let (choices, size) = (self.choices, u64::from(self.size));
        let mut flags = choices.below(8) as u64;
        let bytes = if flags & INDIRECT != 0 {
            choices.of(&[0, 8, 16, 24, 16 * size, 16 * size + 16, 0xffff_fff0])
        } else if size <= bound(2, 1, 1) {
            choices.of(&[1, 0, 0xffff_ffff])
        } else {
            1
        };
        if !self.negotiated.packed {
            let next = match flags & NEXT {
                0 => 0xffff,
                _ => self.number(),
            };
            return next << 48 | flags << 32 | bytes;
        }
        if first {
            flags |= choices.of(&[AVAIL, 0, USED, AVAIL | USED]);
        }
        // Its ID may be anything. In a table it has none, and flags but one mean nothing.
        let id = if of_table { 0xffff } else { choices.of(&[0, 0xffff]) };
        flags << 48 | id << 32 | bytes
    }
}

impl GuestRam for Decided<'_> {
    fn read_u16(&self, ipa: Ipa) -> Result<u16, OutsideRam> {
        let value = match ipa.raw() {
            AVAIL_INDEX => {
                self.choices.of(&[1, 0, self.size, self.size + 1, 0x8000, 0xffff]).into()
            }
            AVAIL_RING => self.number(),
            other => panic!("{other:#x} is read, which is no part of the queue"),
        };
        Ok(u16::try_from(self.note(ipa.raw(), value)).unwrap())
    }

    fn read_u64(&self, ipa: Ipa) -> Result<u64, OutsideRam> {
        let (is_rest, of_table) = self.place_of(ipa.raw());
        if is_rest {
            let first = self.words.borrow().is_empty();
            return Ok(self.note(ipa.raw(), self.rest(of_table, first)));
        }
        // A packed ring has the rest read before; a split one reads pairs, of which the rest is decided first.
        let (at, rest) = *self.words.borrow().last().unwrap();
        assert_eq!(at, ipa.raw().wrapping_add(8), "read for nothing");
        let [.., a, b] = rest.to_le_bytes();
        let [_, _, _, _, c, d, ..] = rest.to_le_bytes();
        let flags = u16::from_le_bytes(if self.negotiated.packed { [a, b] } else { [c, d] });
        let address = if u64::from(flags) & INDIRECT != 0 && !of_table {
            let table = self.choices.of(&TABLES);
            *self.table.borrow_mut() = Some((table, (rest & 0xffff_ffff) / 16));
            table
        } else {
            DATA
        };
        Ok(self.note(ipa.raw(), address))
    }

    fn read_pair(&self, ipa: Ipa) -> Result<[u64; 2], OutsideRam> {
        let rest = self.read_u64(Ipa::new(ipa.raw().wrapping_add(8)))?;
        Ok([self.read_u64(ipa)?, rest])
    }

    fn holds(&self, _: &Region<Ipa>) -> bool {
        true
    }
    fn write_u16(&self, _: Ipa, _: u16) -> Result<(), OutsideRam> {
        unreachable!("nothing is written when a chain is taken")
    }
    fn read_u32(&self, _: Ipa) -> Result<u32, OutsideRam> {
        unreachable!("nothing in a queue is read so")
    }
    fn write_u32(&self, _: Ipa, _: u32) -> Result<(), OutsideRam> {
        unreachable!("nothing is written when a chain is taken")
    }
    fn write_u64(&self, _: Ipa, _: u64) -> Result<(), OutsideRam> {
        unreachable!("nothing is written when a chain is taken")
    }
    fn read_bytes(&self, _: Ipa, _: &mut [u8]) -> Result<(), OutsideRam> {
        unreachable!("nothing in a queue is read so")
    }
    fn write_bytes(&self, _: Ipa, _: &[u8]) -> Result<(), OutsideRam> {
        unreachable!("nothing is written when a chain is taken")
    }
    fn copy_from(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        unreachable!("nothing is copied when a chain is taken")
    }
    fn copy_to(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        unreachable!("nothing is copied when a chain is taken")
    }
    fn zero(&self, _: Region<Ipa>) -> Result<(), OutsideRam> {
        unreachable!("nothing is zeroed when a chain is taken")
    }
}

/// What a descriptor says, whatever its format.
struct Said {
    ipa: u64,
    bytes: u32,
    flags: u64,
    number: u16,
}

/// What the standard makes of the words that were read, each once and in this order.
struct Standard {
    words: IntoIter<(u64, u64)>,
    size: u16,
    negotiated: Negotiated,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

impl Standard {
    fn word(&mut self, at: u64) -> u64 {
        let next = self.words.next();
        next.filter(|next| next.0 == at)
            .unwrap_or_else(|| panic!("{at:#x} is to be read, and not {next:x?}"))
            .1
    }

    fn descriptor(&mut self, at: u64) -> Said {
        let rest = self.word(at.wrapping_add(8));
        self.described(at, rest)
    }

    fn described(&mut self, at: u64, rest: u64) -> Said {
        let ipa = self.word(at);
        let (middle, last) = (rest >> 32 & 0xffff, rest >> 48);
        let (flags, number) = if self.negotiated.packed { (last, middle) } else { (middle, last) };
        let number = u16::try_from(number).unwrap();
        Said { ipa, bytes: u32::try_from(rest & 0xffff_ffff).unwrap(), flags, number }
    }

    /// "The driver MUST place any device-writable descriptor elements after any device-readable descriptor elements."
    fn buffer(&mut self, said: &Said) -> Result<(), Bad> {
        let buffer = Buffer { ipa: Ipa::new(said.ipa), size: said.bytes };
        let of_none = said.bytes == 0;
        if said.flags & WRITE != 0 {
            self.writable.extend((!of_none).then_some(buffer));
        } else if self.writable.is_empty() {
            self.readable.extend((!of_none).then_some(buffer));
        } else {
            return Err(Bad::ReadableAfterWritable);
        }
        Ok(())
    }

    /// "Indirect Descriptors": how many entries the table has.
    fn entries(&self, said: &Said) -> Result<u64, Bad> {
        let entries = u64::from(said.bytes) / 16;
        let whole = said.bytes > 0 && said.bytes.is_multiple_of(16);
        if whole && entries <= self.size.into() { Ok(entries) } else { Err(Bad::Table(said.bytes)) }
    }

    /// "Split Virtqueues". The number of the chain's first descriptor.
    fn split(&mut self) -> Result<Option<u16>, Bad> {
        let index = u16::try_from(self.word(AVAIL_INDEX)).unwrap();
        if index > self.size {
            return Err(Bad::Available(index));
        }
        if index == 0 {
            return Ok(None);
        }
        let head = u16::try_from(self.word(AVAIL_RING)).unwrap();
        let (mut table, mut entries) = (BASE, u64::from(self.size));
        let (mut at, mut indirect, mut buffers) = (head, false, 0);
        loop {
            if u64::from(at) >= entries {
                return Err(Bad::Descriptor(at));
            }
            let said = self.descriptor(table.wrapping_add(16 * u64::from(at)));
            if said.flags & INDIRECT != 0 {
                // "The driver MUST NOT set the VIRTQ_DESC_F_INDIRECT flag within an indirect descriptor", nor with NEXT.
                if !self.negotiated.indirect || indirect || said.flags & NEXT != 0 {
                    return Err(Bad::Indirect);
                }
                (table, entries, indirect, at) = (said.ipa, self.entries(&said)?, true, 0);
                continue;
            }
            buffers += 1;
            if buffers > self.size {
                return Err(Bad::TooLong);
            }
            self.buffer(&said)?;
            if said.flags & NEXT == 0 {
                return Ok(Some(head));
            }
            at = said.number;
        }
    }

    /// "Packed Virtqueues", in the first round. The buffer's ID.
    fn packed(&mut self) -> Result<Option<u16>, Bad> {
        // Whether it is there its flags say, and no more of it is read if it is not.
        let mut rest = self.word(BASE + 8);
        if rest >> 48 & (AVAIL | USED) != AVAIL {
            return Ok(None);
        }
        for number in 0..self.size {
            let said = self.described(BASE + 16 * u64::from(number), rest);
            if said.flags & INDIRECT != 0 {
                if !self.negotiated.indirect || number > 0 || said.flags & NEXT != 0 {
                    return Err(Bad::Indirect);
                }
                for entry in 0..self.entries(&said)? {
                    let said = self.descriptor(said.ipa.wrapping_add(16 * entry));
                    self.buffer(&said)?;
                }
                return Ok(Some(said.number));
            }
            self.buffer(&said)?;
            if said.flags & NEXT == 0 {
                return Ok(Some(said.number));
            }
            let next = (u64::from(number) + 1) % u64::from(self.size);
            rest = self.word(BASE + 16 * next + 8);
        }
        Err(Bad::TooLong)
    }
}

fn every_ring_of(size: u16, negotiated: Negotiated) -> u64 {
    Choices::try_all(|choices| {
        let (words, table) = (RefCell::default(), RefCell::default());
        let ram = Decided { choices, size, negotiated, words, table };
        let mut queue = Virtqueue::new(place(size), negotiated, &ram).unwrap();
        let mut chain = Chain::default();
        let taken = queue.take(&ram, &mut chain);
        let words = ram.words.take().into_iter();
        // The index, the head, and two words of each descriptor and of the one that stands for a table; the one too many.
        assert!(words.len() <= 2 + 2 * (usize::from(size) + 2));
        let mut standard =
            Standard { words, size, negotiated, readable: Vec::new(), writable: Vec::new() };
        let expected = if negotiated.packed { standard.packed() } else { standard.split() };
        assert_eq!(taken, expected.map(|id| id.is_some()));
        assert_eq!(standard.words.next(), None, "read for nothing");
        if let Ok(Some(id)) = expected {
            assert_eq!(
                (chain.readable(), chain.writable()),
                (&*standard.readable, &*standard.writable)
            );
            assert_eq!((chain.head.id, chain.looked_at() <= size), (id, true));
            let room: u64 = standard.writable.iter().map(|buffer| u64::from(buffer.size)).sum();
            assert_eq!(chain.room(), room);
        }
    })
}

#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn whatever_is_in_a_small_ring_it_is_read_once_and_taken_as_the_standard_says() {
    for packed in [false, true] {
        for indirect in [false, true] {
            let negotiated = Negotiated { indirect, packed, ..PLAIN };
            for size in (1..=bound(4, 2, 1)).filter(|size: &u16| packed || size.is_power_of_two()) {
                let ways = every_ring_of(size, negotiated);
                println!("{size} descriptors, {negotiated:?}: {ways} ways");
                assert!(ways > 40);
            }
        }
    }
}
