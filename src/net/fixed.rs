//! The ports' own addresses: said when the switch is made, and never changed. So they are looked up without a lock, and
//! no frame whatever changes what is found.

use alloc::boxed::Box;
use alloc::vec;

use super::mac::MacAddr;

/// No entry: its address would be a group's.
const FREE: u64 = u64::MAX;

/// Addresses of stations, and the port of each.
#[derive(Debug)]
pub(super) struct Fixed {
    /// Address and port, wherever it was free from the address' place on. Half of the places are free at least.
    slots: Box<[u64]>,
}

/// Two ports have one address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Twice;

impl Fixed {
    /// Room for `count` addresses.
    pub(super) fn new(count: usize) -> Self {
        let size = count.saturating_mul(2).next_power_of_two().max(2);
        Self { slots: vec![FREE; size].into_boxed_slice() }
    }

    /// `mac`, a station's, is the address of `port`. There has to be room.
    pub(super) fn add(&mut self, mac: MacAddr, port: u8) -> Result<(), Twice> {
        if self.owner(mac).is_some() {
            return Err(Twice);
        }
        let at = self.place(mac);
        let (before, after) = self.slots.split_at_mut(at);
        if let Some(slot) = after.iter_mut().chain(before).find(|slot| **slot == FREE) {
            *slot = mac.bits() << 8 | u64::from(port);
        }
        Ok(())
    }

    /// Whose address this is.
    #[inline]
    pub(super) fn owner(&self, mac: MacAddr) -> Option<u8> {
        let mask = self.slots.len() - 1;
        let mut at = self.place(mac);
        for _ in 0..self.slots.len() {
            let slot = *self.slots.get(at)?;
            let [.., port] = slot.to_be_bytes();
            if slot >> 8 == mac.bits() {
                return Some(port);
            }
            if slot == FREE {
                return None;
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Where the search for `mac` begins.
    #[inline]
    fn place(&self, mac: MacAddr) -> usize {
        spread(mac.bits()) & (self.slots.len() - 1)
    }
}

/// A number in which every bit depends on many of the key's (Fibonacci hashing).
#[inline]
pub(super) const fn spread(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::testing::cases(64, 1))]

        #[test]
        fn an_address_has_the_port_it_was_given(
            macs in prop::collection::vec((any::<[u8; 3]>(), any::<u8>()), 0..200),
            other: [u8; 3],
        ) {
            let mac = |[a, b, c]: [u8; 3]| MacAddr([0x52, 0x54, 0, a, b, c & 0xf]);
            let (mut fixed, mut model) = (Fixed::new(macs.len()), HashMap::new());
            for (bytes, port) in &macs {
                let known = model.contains_key(&mac(*bytes));
                prop_assert_eq!(fixed.add(mac(*bytes), *port), if known { Err(Twice) } else { Ok(()) });
                model.entry(mac(*bytes)).or_insert(*port);
            }
            for (mac, port) in &model {
                prop_assert_eq!(fixed.owner(*mac), Some(*port));
            }
            prop_assert_eq!(fixed.owner(mac(other)), model.get(&mac(other)).copied());
            prop_assert_eq!(fixed.owner(MacAddr::default()), None);
        }
    }
}
