//! Rings that hold anything, and memory that changes while it is read.

use core::cell::{Cell, RefCell};
use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::*;
use super::watched::Watched;
use super::{BASE, DATA, PLAIN, formats, of, ram};
use crate::memory::{OutsideRam, Store};
use crate::testing::{cases, pick};

/// Memory in which nothing stays as it was: each read gives the next of some values. It counts them.
struct Restless {
    values: RefCell<Vec<u64>>,
    reads: Cell<usize>,
}

impl Restless {
    fn next(&self) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.values.borrow_mut().pop().unwrap_or(0)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the low bits are as good as any")]
impl GuestRam for Restless {
    fn read_u16(&self, _: Ipa) -> Result<u16, OutsideRam> {
        Ok(self.next() as u16)
    }
    fn write_u16(&self, _: Ipa, _: u16) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn read_u32(&self, _: Ipa) -> Result<u32, OutsideRam> {
        Ok(self.next() as u32)
    }
    fn write_u32(&self, _: Ipa, _: u32) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn read_u64(&self, _: Ipa) -> Result<u64, OutsideRam> {
        Ok(self.next())
    }
    fn write_u64(&self, _: Ipa, _: u64) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn read_bytes(&self, _: Ipa, into: &mut [u8]) -> Result<(), OutsideRam> {
        into.fill(0);
        Ok(())
    }
    fn write_bytes(&self, _: Ipa, _: &[u8]) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn copy_from(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn copy_to(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn zero(&self, _: Region<Ipa>) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn holds(&self, _: &Region<Ipa>) -> bool {
        true
    }
}

/// Words that look like parts of rings more often than any would: small numbers, and a descriptor's size, flags and
/// number, as either format has them.
fn words() -> impl Strategy<Value = u64> {
    let flags = prop_oneof![
        0u64..8,
        (0u64..8).prop_map(|flags| flags | 0x80),
        any::<u16>().prop_map(u64::from)
    ];
    prop_oneof![
        0u64..16,
        (0u64..8, flags, 1u64..64, any::<bool>()).prop_map(|(number, flags, size, packed)| {
            let (high, low) = if packed { (flags, number) } else { (number, flags) };
            high << 48 | low << 32 | (size * 16)
        }),
        (0u64..0x10).prop_map(|at| DATA + 64 * at),
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(cases(512, 1))]

    #[test]
    fn whatever_is_read_a_chain_ends_and_nothing_is_read_twice(
        values in prop::collection::vec(words(), 0..200), size in 0u32..4, indirect: bool, packed: bool,
    ) {
        let size = 1u16 << size;
        let ram = Restless { values: RefCell::new(values), reads: Cell::new(0) };
        let negotiated = Negotiated { indirect, packed, ..PLAIN };
        let (mut queue, _) = of(negotiated, size, &ram);
        let mut chain = Chain::default();
        let taken = queue.take(&ram, &mut chain);
        // The index, the head, and two words of each descriptor and of the one that stands for a table; the one too many.
        prop_assert!(ram.reads.get() <= 2 + 2 * (usize::from(size) + 2));
        if taken == Ok(true) {
            prop_assert!(chain.readable().len() + chain.writable().len() <= usize::from(size));
            prop_assert!(chain.head.descriptors <= size && (packed || chain.head.id < size));
        }
    }

    #[test]
    fn whatever_is_in_a_ring_nothing_else_is_written(
        (negotiated, size) in formats(),
        steps in prop::collection::vec((0u8..8, 0u64..40, words()), 0..pick(120, 20)),
    ) {
        let ram = Watched { ram: ram(), writes: RefCell::default() };
        let (mut queue, _) = of(negotiated, size, &ram);
        let (mut chain, mut held) = (Chain::default(), VecDeque::new());
        for (step, at, word) in steps {
            match step {
                0 => ram.ram.write(Ipa::new(BASE + 8 * at), word).unwrap(),
                1 => ram.ram.write(Ipa::new(BASE + 0x4000 + 2 * (at % 8)), word & 0xf).unwrap(),
                2 | 3 => {
                    if let Ok(true) = queue.take(&ram, &mut chain) {
                        prop_assert!(chain.head.descriptors <= size);
                        held.push_back(chain.head);
                        prop_assert!(held.len() <= usize::from(size), "more than there are");
                        if step == 3 {
                            queue.untake(chain.head);
                            held.pop_back();
                        }
                    }
                }
                4 => {
                    let head = if at % 2 == 0 { held.pop_front() } else { held.pop_back() };
                    if let Some(head) = head {
                        queue.give_back(&ram, head, 1).unwrap();
                    }
                }
                5 => _ = queue.publish(&ram).unwrap(),
                _ => _ = queue.want_notification(&ram, step == 6).unwrap(),
            }
        }
        let ring = if negotiated.packed {
            BASE..BASE + 16 * u64::from(size)
        } else {
            BASE + 0x5000..BASE + 0x5000 + 8 * u64::from(size) + 6
        };
        for (at, bytes) in ram.writes.take() {
            prop_assert!(
                ring.contains(&at) && at + bytes <= ring.end || at == BASE + 0x5000, "{at:#x}");
        }
    }
}
