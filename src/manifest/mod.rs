//! The boot bundle: one file that says which guests to run and carries what they need.
//!
//! The boot loader hands it over as the initrd, and it is read in place. All numbers are
//! little-endian:
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 4 | [`FORMAT_VERSION`] |
//! | 12 | 4 | CRC-32 (ISO-HDLC, as in gzip) of every byte from offset 16 to the end of the bundle |
//! | 16 | 8 | the bundle's length in bytes |
//! | 24 | 8 | the table's length in bytes |
//! | 32 | … | the table: a [`MachineConfig`], a sequence of [`NetworkConfig`] and one of [`VmConfig`], as postcard serialises them |
//! | … | … | payloads, each at a multiple of [`PAYLOAD_ALIGN`]; the gaps are zero |
//!
//! Bytes after the bundle's length are not looked at: boot loaders round an initrd up. Payloads with
//! the same contents are stored once, and none overlaps another. `docs/src/manifests.md` tells the
//! table byte by byte.
//!
//! Reading trusts nothing: what [`read()`] returns has been checked, each payload lies inside the
//! bundle, and every mistake is its own [`ManifestError`]. What a payload *is* (a kernel image,
//! say) is not looked at here; that is for `firmware::image`.

mod bundle;
mod check;
mod config;
mod error;
mod host_disk;
mod network;
mod port;
mod vsock;

pub use bundle::{Manifest, checksum, read, read_with, write};
pub use check::{DiskPlace, is_node, is_serial, shared};
pub use config::{
    Devices, DiskConfig, DiskContents, MachineConfig, OnBadAccess, OnCrash, OnReboot, Payload,
    Shutdown, View, VmConfig, VmSource, WhenIdle,
};
pub use error::{ManifestError, PayloadKind, Place};
pub use host_disk::{DiskName, DiskPart, HostDiskConfig, PartError};
pub use network::{CardConfig, NetworkConfig, NetworkError, NetworkSource, is_name as is_network};
pub use port::{ConsolePort, Keys, MAX_PORT_NAME, PortsError, is_joined, is_port};
pub use vsock::{FIRST_CID, LAST_CID, Rights, VsockConfig, VsockError};

use crate::vm::layout;

/// The first bytes of every bundle.
pub const MAGIC: [u8; 8] = *b"PLBUNDLE";
/// The format that is read and written.
pub const FORMAT_VERSION: u32 = 14;
/// What a payload's offset is a multiple of.
pub const PAYLOAD_ALIGN: u64 = 4096;
/// The most VMs one manifest may name.
pub const MAX_VMS: usize = 128;
/// The longest name, in bytes.
pub const MAX_NAME: usize = 32;
/// The longest command line, in bytes: arm64 Linux's `COMMAND_LINE_SIZE` without the final NUL.
pub const MAX_CMDLINE: usize = 2047;
/// The longest text that is typed to ask a guest to power off, in bytes.
pub const MAX_SHUTDOWN: usize = 64;
/// The most of the board's devices that one VM can have.
pub const MAX_ASSIGNED: usize = 16;
/// The longest name of a node of the board's device tree, in bytes.
pub const MAX_NODE: usize = 128;
/// The most network cards that one VM can have.
pub const MAX_CARDS: usize = 8;
/// The most disks that one VM can have.
pub const MAX_DISKS: usize = 8;
/// The longest that a disk can call itself, in bytes (VIRTIO 1.2, "Device Operation" of the block device).
pub const MAX_SERIAL: usize = 20;
/// The longest name of a partition, in UTF-16 code units (UEFI Specification 2.10, "GPT Partition Entry Array").
pub const MAX_PARTITION_NAME: usize = 36;
/// The memory of a VM that does not say how much it wants.
pub const DEFAULT_MEMORY: u64 = 512 << 20;
/// The most memory one VM can have: what QEMU's `virt` memory map keeps for RAM below
/// [`RAM_LIMIT`].
pub const MAX_MEMORY: u64 = RAM_LIMIT - layout::RAM_BASE.raw();
/// Where a VM's RAM ends at the latest.
pub const RAM_LIMIT: u64 = 256 << 30;
/// What the start of a VM's RAM is a multiple of: Linux wants its image at 2 MiB.
pub const RAM_BASE_ALIGN: u64 = 2 << 20;
/// How many bytes of each guest's output can be kept.
pub const SCROLLBACK: core::ops::RangeInclusive<u32> = 4 << 10..=1 << 20;
/// How many bytes of each guest's output are kept where the manifest does not say.
pub const DEFAULT_SCROLLBACK: u32 = 64 << 10;
/// The longest table: [`MAX_VMS`] entries of at most 8 KiB.
pub const MAX_TABLE: u64 = 8192 * MAX_VMS as u64;

#[cfg(test)]
mod tests;
