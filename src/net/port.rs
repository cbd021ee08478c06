//! What is asked of one port: whose address it has, its VLANs, and how much may come in by it.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::mac::MacAddr;

/// The numbers that a VLAN can have (IEEE 802.1Q, "Reserved VID values").
pub const VIDS: RangeInclusive<u16> = 1..=4094;
/// The VLAN of ports of which no other is said ("Default PVID").
pub const DEFAULT_VID: u16 = 1;
/// The most VLANs that one trunk port has with tags.
pub const MAX_TRUNK: usize = 64;
/// How many bits a second a limit can be.
pub const RATES: RangeInclusive<u64> = 8_000..=400_000_000_000;
/// How many bytes can be let through at once.
pub const BURSTS: RangeInclusive<u32> = 2048..=16 << 20;
/// How many frames a second to many stations a limit can be.
pub const STORMS: RangeInclusive<u32> = 1..=1_000_000;
/// The storm limit where nobody asks for another.
pub const DEFAULT_STORM: u32 = 2000;

/// The VLANs of a port.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Vlans {
    /// This one, without a tag; frames with one are not taken, but those tagged for their priority alone.
    Access(u16),
    /// Several.
    Trunk {
        /// Those with tags: 1 to [`MAX_TRUNK`], each once.
        tagged: Vec<u16>,
        /// The one without. Where there is none, frames without a tag are not taken.
        native: Option<u16>,
    },
}

impl Default for Vlans {
    fn default() -> Self {
        Self::Access(DEFAULT_VID)
    }
}

/// How much may come in: over any time, so many bits a second and a burst.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Bits a second, within [`RATES`]: those of the frames themselves, without preambles, checksums and gaps.
    pub bits: u64,
    /// Bytes, within [`BURSTS`]. A frame that is longer comes through when a whole burst is saved up, and the rest is
    /// taken from what comes after it.
    pub burst: u32,
}

impl Rate {
    /// So many bits a second, and as a burst what they are in 20 ms, or 128 KiB where that is more.
    pub fn new(bits: u64) -> Self {
        let burst = u32::try_from(bits / 8 / 50).unwrap_or(u32::MAX);
        Self { bits, burst: burst.clamp(128 << 10, *BURSTS.end()) }
    }
}

/// One port.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PortConfig {
    /// Its own address: one station's, that no other port of the network has.
    pub mac: MacAddr,
    /// Its VLANs.
    pub vlans: Vlans,
    /// Whether frames from other addresses are taken, but those of other ports' own.
    pub spoof: bool,
    /// How much may come in; `None`: as much as does.
    pub rate: Option<Rate>,
    /// How many frames may come in that go to more than one port, in a second and at once: within [`STORMS`].
    pub storm: u32,
}

impl PortConfig {
    /// A port of which nothing is asked.
    pub const fn new(mac: MacAddr) -> Self {
        let vlans = Vlans::Access(DEFAULT_VID);
        Self { mac, vlans, spoof: false, rate: None, storm: DEFAULT_STORM }
    }

    /// Whether all of it can be.
    ///
    /// # Errors
    /// [`PortError`], for the first mistake that is found.
    pub fn check(&self) -> Result<(), PortError> {
        if !self.mac.is_station() {
            return Err(PortError::Mac { mac: self.mac });
        }
        match &self.vlans {
            Vlans::Access(vid) => check_vid(*vid)?,
            Vlans::Trunk { tagged, native } => {
                if tagged.is_empty() || tagged.len() > MAX_TRUNK {
                    return Err(PortError::Trunk { count: tagged.len() });
                }
                tagged.iter().chain(native).try_for_each(|vid| check_vid(*vid))?;
                let twice = |(at, vid): (usize, &u16)| tagged.iter().take(at).any(|one| one == vid);
                if let Some((_, vid)) = tagged.iter().enumerate().find(|one| twice(*one)) {
                    return Err(PortError::VlanTwice { vid: *vid });
                }
            }
        }
        if let Some(Rate { bits, burst }) = self.rate {
            if !RATES.contains(&bits) {
                return Err(PortError::Rate { bits });
            }
            if !BURSTS.contains(&burst) {
                return Err(PortError::Burst { bytes: burst });
            }
        }
        if STORMS.contains(&self.storm) {
            Ok(())
        } else {
            Err(PortError::Storm { frames: self.storm })
        }
    }
}

fn check_vid(vid: u16) -> Result<(), PortError> {
    if VIDS.contains(&vid) { Ok(()) } else { Err(PortError::Vlan { vid }) }
}

/// What cannot be asked of a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PortError {
    /// Its address is not that of one station.
    #[error("{mac} is not the address of one station")]
    Mac {
        /// The address asked for.
        mac: MacAddr,
    },
    /// A VLAN's number out of range.
    #[error("there is no VLAN {vid}; its number is {} to {}", VIDS.start(), VIDS.end())]
    Vlan {
        /// The number asked for.
        vid: u16,
    },
    /// A trunk of no VLAN, or of too many.
    #[error("a trunk of {count} VLANs is not possible; give it 1 to {MAX_TRUNK}")]
    Trunk {
        /// How many.
        count: usize,
    },
    /// A trunk names a VLAN twice.
    #[error("its trunk names VLAN {vid} twice; name it once")]
    VlanTwice {
        /// Which one.
        vid: u16,
    },
    /// A limit out of range.
    #[error("{bits} bits a second are not possible; give it {} to {}", RATES.start(), RATES.end())]
    Rate {
        /// Bits a second.
        bits: u64,
    },
    /// A burst out of range.
    #[error(
        "a burst of {bytes} bytes is not possible; give it {} to {}",
        BURSTS.start(), BURSTS.end()
    )]
    Burst {
        /// In bytes.
        bytes: u32,
    },
    /// A storm limit out of range.
    #[error(
        "a storm limit of {frames} frames a second is not possible; give it {} to {}",
        STORMS.start(), STORMS.end()
    )]
    Storm {
        /// Frames a second.
        frames: u32,
    },
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn refusal(change: impl Fn(&mut PortConfig)) -> Option<PortError> {
        let mut port = PortConfig::new(MacAddr([2, 0, 0, 0, 0, 1]));
        change(&mut port);
        port.check().err()
    }

    fn trunk(tagged: Vec<u16>, native: Option<u16>) -> impl Fn(&mut PortConfig) {
        move |port| port.vlans = Vlans::Trunk { tagged: tagged.clone(), native }
    }

    #[test]
    fn each_mistake_of_a_port_has_its_own_error() {
        let mac = MacAddr::BROADCAST;
        assert_eq!(refusal(|port| port.mac = mac), Some(PortError::Mac { mac }));
        let zero = MacAddr::default();
        assert_eq!(refusal(|port| port.mac = zero), Some(PortError::Mac { mac: zero }));
        for vid in [0, 4095, u16::MAX] {
            let error = Some(PortError::Vlan { vid });
            assert_eq!(refusal(|port| port.vlans = Vlans::Access(vid)), error);
            assert_eq!(refusal(trunk(vec![10, vid], None)), error);
            assert_eq!(refusal(trunk(vec![10], Some(vid))), error);
        }
        assert_eq!(refusal(trunk(vec![], Some(1))), Some(PortError::Trunk { count: 0 }));
        let many = (1..=65).collect();
        assert_eq!(refusal(trunk(many, None)), Some(PortError::Trunk { count: 65 }));
        assert_eq!(refusal(trunk(vec![3, 4, 3], None)), Some(PortError::VlanTwice { vid: 3 }));
        for bits in [7_999, 400_000_000_001] {
            let rate = Rate { bits, burst: 2048 };
            assert_eq!(refusal(|port| port.rate = Some(rate)), Some(PortError::Rate { bits }));
        }
        for bytes in [0, 2047, (16 << 20) + 1] {
            let rate = Rate { bits: 8_000, burst: bytes };
            assert_eq!(refusal(|port| port.rate = Some(rate)), Some(PortError::Burst { bytes }));
        }
        for frames in [0, 1_000_001] {
            assert_eq!(refusal(|port| port.storm = frames), Some(PortError::Storm { frames }));
        }
        assert_eq!(refusal(|_| ()), None);
        assert_eq!(refusal(trunk((1..=64).collect(), Some(1))), None);
    }

    #[test]
    fn a_burst_that_nobody_asked_for_is_possible() {
        for (bits, burst) in [
            (*RATES.start(), 128 << 10),
            (100_000_000, 250_000),
            (10_000_000_000, 16 << 20),
            (*RATES.end(), 16 << 20),
        ] {
            assert_eq!(Rate::new(bits), Rate { bits, burst });
        }
    }
}
