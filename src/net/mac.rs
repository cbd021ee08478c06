//! Addresses of network cards (IEEE 802, "Universal addresses" and "Local MAC addresses").

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit address, its bytes as they are sent.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize,
)]
pub struct MacAddr(pub [u8; 6]);

/// A text that is no address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a MAC address is six bytes in hexadecimal with colons, as in 52:54:00:12:34:01")]
pub struct BadMac;

impl MacAddr {
    /// Every station.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address that the card number `index` of the guest called `name` has when nobody says otherwise: the same
    /// whenever it is asked for, and locally administered. Others may by chance have the same.
    pub fn derived(name: &str, index: u8) -> Self {
        // FNV-1a, 64 bits.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        // No name has a zero byte, so the number is no part of one.
        let bytes = name.bytes().chain([0, index]);
        let [_, _, first, rest @ ..] = bytes.fold(0xcbf2_9ce4_8422_2325, step).to_be_bytes();
        let [b, c, d, e, f] = rest;
        Self([first & !MULTICAST | LOCAL, b, c, d, e, f])
    }

    /// Whether it stands for a group of stations, or for all of them.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & MULTICAST != 0
    }

    /// Whether it was given by whoever administers the network, not by the maker of the card.
    pub const fn is_local(self) -> bool {
        self.0[0] & LOCAL != 0
    }

    /// Whether it can be the address of one station: no group, and not zero.
    pub const fn is_station(self) -> bool {
        !self.is_multicast() && self.bits() != 0
    }

    /// Whether bridges keep frames to it to themselves (IEEE 802.1Q, "Reserved addresses":
    /// 01-80-C2-00-00-00 to 01-80-C2-00-00-0F).
    pub const fn is_reserved(self) -> bool {
        self.bits() & !0xf == 0x0180_c200_0000
    }

    /// As a number of 48 bits, the first byte the highest.
    #[inline]
    pub const fn bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address of these low 48 bits.
    pub(super) const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

/// "I/G", in the first byte.
const MULTICAST: u8 = 1;
/// "U/L", in the first byte.
const LOCAL: u8 = 2;

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let mut parts = text.split(':');
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let part = parts.next().ok_or(BadMac)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(BadMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| BadMac)?;
        }
        if parts.next().is_some() { Err(BadMac) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_byte_tells_groups_and_local_addresses() {
        let first = |byte| MacAddr([byte, 0, 0, 0, 0, 1]);
        assert!(first(0x52).is_local() && first(0x52).is_station());
        assert!(!first(0x00).is_local() && first(0x00).is_station());
        assert!(first(0x01).is_multicast() && !first(0x01).is_station());
        assert!(MacAddr::BROADCAST.is_multicast());
        assert!(!MacAddr::default().is_station());
    }

    #[test]
    fn bridges_keep_sixteen_addresses_to_themselves() {
        let group = |e, f| MacAddr([0x01, 0x80, 0xc2, 0, e, f]);
        assert!((0..=0xf).all(|last| group(0, last).is_reserved()));
        assert!(!group(0, 0x10).is_reserved() && !group(1, 0).is_reserved());
        assert!(!MacAddr([0x01, 0, 0x5e, 0, 0, 1]).is_reserved());
    }

    #[test]
    fn a_text_that_is_no_address_is_refused() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:01:02",
            "52:54:00:12:34:1",
            "52-54-00-12-34-01",
            "52:54:00:12:34:+1",
            "52:54:00:12:34:0g",
            " 52:54:00:12:34:01",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(BadMac), "{text}");
        }
        let mixed = "52:54:00:Ab:cD:01".parse::<MacAddr>().unwrap();
        assert_eq!(mixed.to_string(), "52:54:00:ab:cd:01");
    }

    /// What guests and their networks know each other by does not change with the next release.
    #[test]
    fn a_derived_address_is_always_the_same() {
        assert_eq!(MacAddr::derived("web", 0).to_string(), "0e:2e:09:98:a7:99");
        assert_eq!(MacAddr::derived("web", 1).to_string(), "0e:2e:09:98:a5:e6");
    }

    proptest! {
        #![proptest_config(crate::testing::cases(64, 1))]

        #[test]
        fn an_address_is_read_as_it_is_shown(bytes in any::<[u8; 6]>()) {
            let mac = MacAddr(bytes);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
            prop_assert_eq!(MacAddr::from_bits(mac.bits()), mac);
        }

        #[test]
        fn a_derived_address_is_one_stations_and_local(name in "[!-~]{1,32}", index: u8) {
            let mac = MacAddr::derived(&name, index);
            prop_assert!(mac.is_station() && mac.is_local());
        }
    }
}
