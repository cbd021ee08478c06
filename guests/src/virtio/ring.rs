//! A virtqueue as a driver uses it, whatever its format: what Linux' `virtio_ring.c` is to its drivers. A chain is one
//! descriptor, of a buffer or of an indirect table.

use super::Device;

/// What a descriptor describes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Buffer {
    /// Where it is.
    pub address: u64,
    /// How many bytes.
    pub size: u32,
    /// [`WRITE`](super::split::WRITE), [`INDIRECT`](super::split::INDIRECT).
    pub flags: u16,
}

/// What the device has used: what the driver calls the chain, and how many bytes were written to it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Used {
    /// The head of a chain in a split ring, the ID of one in a packed one.
    pub id: u16,
    /// How many bytes.
    pub written: u32,
}

/// A virtqueue of some format.
pub trait Ring: Sized {
    /// The features that make a queue one of this format.
    const FEATURES: u64;

    /// A new queue of at most `size` descriptors as queue `index` of `device`; `features` were negotiated. `None` where the
    /// device does not take it.
    fn ready(device: Device, index: u16, size: u16, features: u64) -> Option<Self>;

    /// How many descriptors it has.
    fn size(&self) -> u16;

    /// Writes entry `number` of `entries` of the indirect table at `table`.
    fn describe_entry(table: u64, number: u16, entries: u16, buffer: Buffer);

    /// Makes a chain available, of whose bytes the device can write so many. No other has this `id`, which is below the
    /// queue's size, until it is used.
    fn add(&mut self, id: u16, buffer: Buffer, room: u32);

    /// Shows the device what was added. Whether it wants to be notified.
    fn show(&mut self) -> bool;

    /// The next chain that the device has used.
    fn used(&mut self) -> Option<Used>;

    /// That one was seen.
    fn pass(&mut self);

    /// Asks for an interrupt at the next used chain, or for none. Whether there is one already, for which none need come.
    fn want_interrupt(&self, wanted: bool) -> bool;

    /// The next chain that the device has used; it was seen.
    #[inline(always)]
    fn take(&mut self) -> Option<Used> {
        let used = self.used()?;
        self.pass();
        Some(used)
    }
}

/// Whether an index that went from `before` to `now` has passed `event` ("Used Buffer Notification Suppression").
#[inline]
pub fn passes(event: u16, now: u16, before: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}
