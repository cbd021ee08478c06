//! The entropy device (VIRTIO 1.2, "Entropy Device"): random bytes of the VM's own generator.

use super::backend::{Backend, Served};
use super::queue::{Bad, Chain};
use super::queues::SavedQueue;
use super::ram::GuestRam;
use super::transport::saved::{Save, Unfit};
use crate::firmware::entropy::Entropy;

/// How many bytes a request gets at most. It may get less than it has room for, and asks again.
const MOST: usize = 32;

/// The entropy device.
#[derive(Debug)]
pub struct EntropyDevice {
    generator: Entropy,
}

impl EntropyDevice {
    /// A device that hands out what `generator` makes.
    pub const fn new(generator: Entropy) -> Self {
        Self { generator }
    }
}

impl Backend for EntropyDevice {
    const ID: u32 = 4;
    /// Each takes some 1,500 instructions.
    const AT_ONCE: usize = 8;

    /// What a driver offers at one go is worked off at once, in its own time.
    fn queues(&self) -> &[u16] {
        &[8]
    }

    fn serve(&mut self, _queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let mut random = [0; MOST];
        self.generator.fill(&mut random);
        let mut left = &random[..];
        for buffer in chain.writable() {
            let size = usize::try_from(buffer.size).unwrap_or(usize::MAX);
            let (now, later) = left.split_at(size.min(left.len()));
            ram.write_bytes(buffer.ipa, now)?;
            left = later;
        }
        Ok(Served::Done(u32::try_from(MOST - left.len()).unwrap_or(0)))
    }
}

/// Nothing is saved: who goes on twice from one state of a generator gets the same bytes twice.
impl Save for EntropyDevice {
    type State = ();

    fn save(&self) {}

    fn restore(&mut self, (): (), _queues: &[SavedQueue]) -> Result<(), Unfit> {
        Ok(())
    }
}
