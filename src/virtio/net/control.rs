//! The control queue ("Control Virtqueue"): how many pairs of queues the driver uses.
//!
//! The other classes are not there. A filter for receiving would have little to do: the switch brings a card no frame for an
//! address that another port has, only those for many and for whom it does not know. And the address is the manifest's.

use super::lan;
use super::steering::MAX_PAIRS;
use crate::memory::{GuestMemory, OutsideRam};
use crate::virtio::queue::{Bad, Chain};

/// `VIRTIO_NET_CTRL_MQ`, and its one command, `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`.
const MQ: u8 = 4;
const VQ_PAIRS_SET: u8 = 0;

/// What is answered: `VIRTIO_NET_OK`.
pub const OK: u8 = 0;
/// `VIRTIO_NET_ERR`.
pub const ERR: u8 = 1;

/// A command's class, itself, and a number of 16 bits.
const SIZE: usize = 4;

/// A copy of what the driver asks for: to use so many pairs, `most` at most. `None` where it is anything else.
pub fn parse(ram: &GuestMemory, chain: &Chain, most: u8) -> Result<Option<u8>, OutsideRam> {
    let size: u64 = chain.readable().iter().map(|buffer| u64::from(buffer.size)).sum();
    if size < SIZE as u64 {
        return Ok(None);
    }
    let mut bytes = [0; SIZE];
    lan::read(ram, chain.readable(), 0, &mut bytes)?;
    let [MQ, VQ_PAIRS_SET, low, high] = bytes else { return Ok(None) };
    let pairs = u8::try_from(u16::from_le_bytes([low, high])).ok();
    Ok(pairs.filter(|pairs| (1..=most.min(MAX_PAIRS)).contains(pairs)))
}

/// Answers.
///
/// # Errors
/// There is no room for it, or it is no RAM.
pub fn answer(ram: &GuestMemory, chain: &Chain, ack: u8) -> Result<u32, Bad> {
    let place = chain.writable().first().ok_or(Bad::NoStatus)?;
    ram.write_from(place.ipa, &[ack])?;
    Ok(1)
}
