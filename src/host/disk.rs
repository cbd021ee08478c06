//! A disk of the machine's, as block devices of guests see it.
//!
//! Requests are handed over with [`HostDisk::submit`] and come back through [`HostDisk::completed`], in any order. The data
//! goes between the disk and the frames that a request names, without a copy in between. Whoever submits keeps those
//! frames until the request has come back, whatever becomes of the guest meanwhile.

use crate::memory::Segment;

/// What a disk is divided into, in bytes; all positions and lengths are multiples of it.
pub const SECTOR: u64 = 512;

/// The most pieces that the data of one request has.
pub const MAX_SEGMENTS: usize = 16;

/// What a request is called by who submits it. The disk keeps it and gives it back.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Token(pub u64);

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Sectors from this one on are read, into the segments.
    Read(u64),
    /// Sectors from this one on are written, from the segments.
    Write(u64),
    /// What was written, and has come back before this is submitted, is to outlast a loss of power. There are no segments.
    Flush,
    /// Nobody needs these sectors any more, which then have any value: the first, and how many. There are no segments.
    Discard(u64, u32),
    /// These sectors are to be zeros: the first, how many, and whether the disk may give up what they take. There are no
    /// segments.
    Zero(u64, u32, bool),
    /// What the disk calls itself is read: [`SERIAL`] bytes, in one segment.
    Serial,
}

/// How many bytes a serial has; a shorter one has zeros behind it.
pub const SERIAL: u64 = 20;

/// What a disk can do beside reading and writing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Extras {
    /// The most sectors that one request can discard; 0: none can.
    pub discard: u32,
    /// How many sectors a part has that can be discarded for itself.
    pub discard_alignment: u32,
    /// The most sectors that one request can make zeros; 0: none can.
    pub zero: u32,
    /// Sectors that are made zeros may give up what they take.
    pub zero_unmaps: bool,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its name.
    pub token: Token,
    /// What is to be done.
    pub operation: Operation,
    /// Where the data goes or comes from, [`MAX_SEGMENTS`] pieces at most, and whole sectors altogether.
    pub segments: &'a [Segment],
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// As many are under way as there is room for. When one of them has come back there is room again.
    #[error("the disk's queue is full")]
    Full,
    /// Not all of its sectors are on the disk.
    #[error("the disk has no such sectors")]
    OutOfRange,
    /// The disk can only be read.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The data is not a positive number of whole sectors, or what has no data has some.
    #[error("a request is for whole sectors")]
    Length,
    /// The disk cannot do it, or not for so many sectors.
    #[error("the disk does not do that")]
    Unsupported,
    /// The data is in more pieces, or in longer ones, than the disk takes.
    #[error("too many segments, or too long ones")]
    Segments,
    /// The disk has been turned off, as it did not keep to its rules.
    #[error("the disk is out of order")]
    OutOfOrder,
}

/// Why a request has failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IoError {
    /// The disk could not do it; what was to be read or overwritten has any value.
    #[error("the disk reports an error")]
    Device,
    /// The disk does not know how to do it.
    #[error("the disk does not support that")]
    Unsupported,
    /// The disk was turned off before it had done it.
    #[error("the disk is out of order")]
    OutOfOrder,
}

/// A request that has come back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Completion {
    /// Its name.
    pub token: Token,
    /// What became of it.
    pub result: Result<(), IoError>,
}

/// A disk of the machine's.
///
/// Every method takes the disk's own lock for a short time; no other is taken inside it.
pub trait HostDisk: Send + Sync {
    /// How many sectors it has.
    fn sectors(&self) -> u64;

    /// Whether it can only be read.
    fn is_read_only(&self) -> bool;

    /// The most pieces that the data of a request may have: at least one, and [`MAX_SEGMENTS`] at most.
    fn max_segments(&self) -> usize;

    /// The longest piece that it takes, in bytes.
    fn max_segment_size(&self) -> u64 {
        u64::MAX
    }

    /// What it can do beside reading and writing.
    fn extras(&self) -> Extras {
        Extras::default()
    }

    /// Hands a request over. It does not wait, and takes no memory.
    ///
    /// # Errors
    /// The request is not taken; nothing of it was done.
    fn submit(&self, request: &Request<'_>) -> Result<(), Refused>;

    /// A request that has come back; each does once. To be asked until there is none, when the disk's bell is rung and
    /// after a flush was submitted, which may come back at once.
    fn completed(&self) -> Option<Completion>;

    /// The disk's interrupt was taken. What has come back is with [`completed`](Self::completed).
    fn attend(&self);

    /// The disk is not to be relied on any more. It is turned off, so that it reaches no memory from here on; what was under
    /// way comes back as failed, and nothing is taken any more.
    fn give_up(&self);
}
