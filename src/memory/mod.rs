//! Memory: who owns each frame, how a guest's addresses are translated, how the hypervisor reads and
//! writes what a guest sees.
//!
//! | module | what it is |
//! |---|---|
//! | [`phys`] | by-value access to physical memory; the only `unsafe` here |
//! | [`frames`] | the frame pool, and the states a frame passes on its way to a guest |
//! | [`shared`] | the pool as all CPUs share it, and how what a running VM gives up gets there |
//! | [`scrub`] | zeroing many frames in steps |
//! | [`maintenance`] | caches and TLBs: what only a CPU can do |
//! | [`stage2`] | VMSAv8-64 stage-2 translation tables and VMIDs |
//! | [`guest`] | a VM's RAM, reached by checked accesses through its IPAs |
//! | [`copies`] | copies between that and other memory |
//! | [`elastic`] | what of it can be taken away, and comes back when it is used |
//! | [`parts`] | where the bytes of an access are |
//! | [`segment`] | what of it a device of the machine's reads and writes by itself |
//! | [`store`] | frames that the hypervisor itself keeps something in |
//!
//! The physical addresses used here come from [`FramePool`] and from nowhere else, and what enters the
//! pool is [`Ram`], whose creation is the one unsafe promise. That is why accesses are safe functions
//! that do not leave this module.
//!
//! A frame's way: the pool hands out [`Dirty`] frames, `scrub` makes them [`Scrubbed`], `clean` makes
//! them [`Clean`], and [`GuestMemory`] takes only those; a [`Store`], which no guest reaches, takes dirty ones. It goes back after [`Stage2::destroy`] or
//! [`Stage2::unmap`] returned, which is after the TLB invalidation completed.

pub mod copies;
pub mod elastic;
pub mod frames;
pub mod guest;
pub mod maintenance;
pub mod parts;
pub mod phys;
pub mod scrub;
pub mod segment;
pub mod shared;
pub mod stage2;
pub mod store;

pub use elastic::Elastic;
pub use frames::{Block, Clean, Dirty, FramePool, Frames, OutOfFrames, Scrubbed};
pub use guest::{GuestMemory, OutsideEither, OutsideRam, RamOverlap};
pub use maintenance::{Maintenance, Operation, Recorder, Uncached, Vttbr};
pub use phys::{Erasable, Ram, Word};
pub use segment::Segment;
pub use shared::SharedPool;
pub use stage2::{
    Geometry, Leaf, MapError, Mapping, MemoryType, PaRange, Perms, Stage2, Stage2Error,
    TableFrames, Vmid, Vmids,
};
pub use store::Store;
