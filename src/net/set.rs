//! Ports: which one, and sets of those of one network.

use serde::{Deserialize, Serialize};

/// The most ports that one network can have, the uplink among them.
pub const MAX_PORTS: usize = 256;

/// A port of a [`Switch`](super::Switch): its network, and its place there. Both count from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct PortId {
    pub(super) network: u8,
    pub(super) index: u8,
}

impl PortId {
    /// The network, in the order in which they were given.
    pub const fn network(self) -> usize {
        self.network as usize
    }

    /// Its place among the network's ports.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// Ports of one network; also an iterator that takes them out, the lowest first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct PortSet([u64; MAX_PORTS / 64]);

impl PortSet {
    pub(super) const EMPTY: Self = Self([0; MAX_PORTS / 64]);

    #[must_use]
    pub(super) const fn with(mut self, port: u8) -> Self {
        self.0[(port >> 6) as usize] |= 1 << (port & 63);
        self
    }

    #[must_use]
    pub(super) const fn without(mut self, port: u8) -> Self {
        self.0[(port >> 6) as usize] &= !(1 << (port & 63));
        self
    }

    pub(super) const fn contains(&self, port: u8) -> bool {
        self.0[(port >> 6) as usize] >> (port & 63) & 1 != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }
}

impl Iterator for PortSet {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let index = self.0.iter().position(|word| *word != 0)?;
        let word = self.0.get_mut(index)?;
        let bit = word.trailing_zeros() as usize;
        *word &= word.wrapping_sub(1);
        u8::try_from(index << 6 | bit).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::testing::cases(64, 1))]

        #[test]
        fn a_set_of_ports_is_what_a_tree_says(changes in prop::collection::vec((any::<u8>(), any::<bool>()), 0..64)) {
            let (mut set, mut model) = (PortSet::EMPTY, BTreeSet::new());
            for (port, put) in changes {
                set = if put { set.with(port) } else { set.without(port) };
                if put { model.insert(port); } else { model.remove(&port); }
                prop_assert_eq!(set.contains(port), put);
            }
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert!(set.eq(model));
        }
    }
}
