//! The devices of the machine that the hypervisor drives itself: where it is virtual, its network cards and disks.
//!
//! They are virtio devices over MMIO (VIRTIO 1.2, and the legacy interface that QEMU's `virt` board has unless it is told
//! otherwise), by the queues and transports of the `virtio-drivers` crate. Its own drivers wait for the device by spinning,
//! or take memory for each request; these never do. A driver says what came about when the device's interrupt is
//! taken, and nothing is asked again and again. The machine is trusted; even so, what a device answers is looked at, and
//! one that answers nonsense is turned off.
//!
//! | module | what it is |
//! |---|---|
//! | [`uplink`] | what a network card is to the rest: [`Uplink`], and why there is none |
//! | [`disk`] | what a disk is to the rest: [`HostDisk`] |
//! | [`gpt`] | the partitions of a disk |
//! | [`share`], [`part`] | a disk of which several guests have parts, and one of them |
//! | [`alarm`] | when disks are looked at that may not have answered |
//! | [`allotment`] | which guests have what of which disk |
//! | [`nic`] | the driver of virtio network cards |
//! | [`drive`] | the driver of virtio disks |
//! | [`devices`] | all that were found, by their interrupts |
//! | [`session`] | how a driver and its device come to terms |
//! | [`ring`] | requests under way; most of the `unsafe` here |
//! | [`buffer`] | the memory that drivers share with their devices, and the rest of it |
//!
//! Packed rings, multiple queues, offloads and PCI are not used.

pub mod alarm;
pub mod allotment;
pub mod buffer;
pub mod devices;
pub mod disk;
pub mod drive;
pub mod gpt;
pub mod nic;
pub mod part;
pub mod ring;
pub mod session;
pub mod share;
pub mod uplink;

pub use devices::{DeviceKind, Devices, Missing};
pub use disk::{Completion, Extras, HostDisk, IoError, Operation, Refused, Request, SECTOR, Token};
pub use session::StartError;
pub use uplink::{NotSent, Uplink};
