//! What can be wrong with a boot bundle: one variant for each mistake, whose text says what is
//! wrong, where, and what to do about it.

use alloc::string::String;

use super::host_disk::PartError;
use super::network::NetworkError;
use super::port::PortsError;
use super::vsock::VsockError;
use super::{
    FORMAT_VERSION, MAX_ASSIGNED, MAX_CMDLINE, MAX_DISKS, MAX_MEMORY, MAX_NAME, MAX_NODE,
    MAX_SERIAL, MAX_SHUTDOWN, MAX_TABLE, MAX_VMS, PAYLOAD_ALIGN, RAM_BASE_ALIGN, RAM_LIMIT,
    SCROLLBACK, VmConfig,
};
use crate::monitor::command::NAME_RULE;
use crate::sched::policy::{MAX_WEIGHT, MIN_BUDGET_MICROS, PERIOD_MICROS};
use crate::vcpu::MAX_VCPUS;
use crate::virtio::block::image::MAX_DISK;
use crate::vm::layout;

/// Where in a manifest: the VM by its place and by its name. Messages count from 1, as people do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("VM {} ({name:?})", index + 1)]
pub struct Place {
    /// The VM's place in the manifest, counted from 0.
    pub index: usize,
    /// Its name; cut to [`MAX_NAME`] characters.
    pub name: String,
}

impl Place {
    #[cold]
    pub(super) fn new(index: usize, vm: &VmConfig) -> Self {
        Self { index, name: vm.name.chars().take(MAX_NAME).collect() }
    }
}

/// Which of a VM's payloads.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PayloadKind {
    /// [`VmConfig::kernel`].
    #[error("kernel")]
    Kernel,
    /// [`VmConfig::initrd`].
    #[error("initrd")]
    Initrd,
    /// The image of a disk, counted from 0.
    #[error("image of disk {}", .0 + 1)]
    Disk(usize),
}

/// Why a bundle cannot be written or is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// The file ends before the bundle does.
    #[error(
        "the boot bundle is cut short: {have} of {want} bytes are there; \
         copy it again, or check the initrd size the boot loader reports"
    )]
    Truncated {
        /// The bytes that are there.
        have: u64,
        /// The bytes that the header, or the header's own size, asks for.
        want: u64,
    },
    /// The first eight bytes are not [`super::MAGIC`].
    #[error(
        "this initrd is no Plinth boot bundle (it starts with {found:02x?}); pack one with xtask"
    )]
    Magic {
        /// What is there.
        found: [u8; 8],
    },
    /// The header names another format.
    #[error(
        "the boot bundle has format {found}, this hypervisor reads format {FORMAT_VERSION}; \
         pack it again with the xtask of the same source"
    )]
    Version {
        /// What the header says.
        found: u32,
    },
    /// The contents do not match the header's CRC-32.
    #[error(
        "the boot bundle is damaged: its CRC-32 is {computed:#010x}, the header says {stored:#010x}; \
         copy or pack it again"
    )]
    Checksum {
        /// What the header says.
        stored: u32,
        /// What the contents give.
        computed: u32,
    },
    /// The table's length in the header goes beyond the bundle or is absurd.
    #[error(
        "the boot bundle's table of VMs claims {table} bytes of a {total}-byte bundle \
         (at most {MAX_TABLE}); pack it again"
    )]
    TableSize {
        /// The table's length in the header.
        table: u64,
        /// The bundle's length in the header.
        total: u64,
    },
    /// The table is not what postcard writes for this format.
    #[error("the boot bundle's table of VMs cannot be decoded; pack it again")]
    Table,
    /// The console's escape key is no control code of a letter.
    #[error(
        "the console's escape key has the code {code}; it is 1 (Ctrl-A) to 26 (Ctrl-Z), but not \
        that of Ctrl-I, Ctrl-J or Ctrl-M"
    )]
    Escape {
        /// The code asked for.
        code: u8,
    },
    /// Too little scrollback or too much.
    #[error(
        "a scrollback of {bytes} bytes is not possible; it is {} to {}",
        SCROLLBACK.start(), SCROLLBACK.end()
    )]
    Scrollback {
        /// The bytes asked for.
        bytes: u32,
    },
    /// The manifest has no VM.
    #[error("the manifest names no VM; add at least one [[vm]]")]
    NoVm,
    /// The manifest has more than [`MAX_VMS`].
    #[error("the manifest names {count} VMs, at most {MAX_VMS} are possible; remove some")]
    TooManyVms {
        /// How many there are.
        count: usize,
    },
    /// A name is empty.
    #[error("VM {} has an empty name; give it one", index + 1)]
    NameEmpty {
        /// The VM's place in the manifest, counted from 0.
        index: usize,
    },
    /// A name is longer than [`MAX_NAME`].
    #[error(
        "{place}: the name is {length} bytes long, at most {MAX_NAME} are possible; shorten it"
    )]
    NameTooLong {
        /// Which VM.
        place: Place,
        /// The name's length in bytes.
        length: usize,
    },
    /// A name has a character that is not printable ASCII, or a space.
    #[error("{place}: the name may only have printable ASCII characters and no space; rename it")]
    NameNotPrintable {
        /// Which VM.
        place: Place,
    },
    /// The monitor could not tell the name from a word of its own.
    #[error("{place}: the monitor takes this name for something else: {NAME_RULE}; rename it")]
    NameReserved {
        /// Which VM.
        place: Place,
    },
    /// Two VMs have one name.
    #[error("{place}: VM {} has the same name already; rename one of them", first + 1)]
    NameDuplicate {
        /// Which VM.
        place: Place,
        /// The place of the VM that had the name first, counted from 0.
        first: usize,
    },
    /// No memory.
    #[error("{place}: memory is 0; give it some, for instance 256 MiB")]
    MemoryZero {
        /// Which VM.
        place: Place,
    },
    /// Memory is not whole pages.
    #[error("{place}: memory of {memory} bytes is not a multiple of 4096; round it")]
    MemoryUnaligned {
        /// Which VM.
        place: Place,
        /// The bytes asked for.
        memory: u64,
    },
    /// More memory than the guest machine's map has room for.
    #[error(
        "{place}: memory of {memory} bytes is above the guest machine's {MAX_MEMORY}; lower it"
    )]
    MemoryTooLarge {
        /// Which VM.
        place: Place,
        /// The bytes asked for.
        memory: u64,
    },
    /// RAM starts below the guest machine's place for it, or not at a multiple of 2 MiB.
    #[error(
        "{place}: RAM from {base:#x} on is not possible; \
         it starts at a multiple of {RAM_BASE_ALIGN:#x} from {:#x} on",
        layout::RAM_BASE.raw()
    )]
    RamBase {
        /// Which VM.
        place: Place,
        /// Where it should start.
        base: u64,
    },
    /// RAM ends beyond [`RAM_LIMIT`].
    #[error(
        "{place}: {memory} bytes of RAM from {base:#x} on end beyond {RAM_LIMIT:#x}; \
         lower one of them"
    )]
    RamTooHigh {
        /// Which VM.
        place: Place,
        /// Where it should start.
        base: u64,
        /// The bytes asked for.
        memory: u64,
    },
    /// What it keeps is no number of whole units, or more than it has.
    #[error(
        "{place}: it cannot keep {min} bytes; a balloon's min is a multiple of 2 MiB, up to its memory"
    )]
    Balloon {
        /// Which VM.
        place: Place,
        /// The bytes that it was to keep.
        min: u64,
    },
    /// Its memory is to go and come, and it has a device that may use memory by itself.
    #[error(
        "{place}: a balloon and devices of the board's do not go together: such a device may read and write memory \
         that has been given to others; leave one of them out"
    )]
    BalloonAssign {
        /// Which VM.
        place: Place,
    },
    /// No vCPU, or more than [`MAX_VCPUS`].
    #[error("{place}: {vcpus} vCPUs are not possible; give it 1 to {MAX_VCPUS}")]
    Vcpus {
        /// Which VM.
        place: Place,
        /// The number asked for.
        vcpus: u8,
    },
    /// A VM may run on no CPU at all.
    #[error("{place}: its affinity names no CPU; name at least one")]
    Affinity {
        /// Which VM.
        place: Place,
    },
    /// A weight out of range.
    #[error("{place}: a weight of {weight} is not possible; give it 1 to {MAX_WEIGHT}")]
    Weight {
        /// Which VM.
        place: Place,
        /// The weight asked for.
        weight: u16,
    },
    /// A cap of nothing, or of more CPUs than the VM has vCPUs.
    #[error(
        "{place}: a cap of {cap} % is not possible with {vcpus} vCPUs; give it 1 to {}",
        100 * u32::from(*vcpus)
    )]
    Cap {
        /// Which VM.
        place: Place,
        /// Hundredths of one CPU.
        cap: u16,
        /// How many vCPUs the VM has.
        vcpus: u8,
    },
    /// A reservation's period out of range.
    #[error(
        "{place}: a period of {period} us is not possible; give it {} to {}",
        PERIOD_MICROS.start(), PERIOD_MICROS.end()
    )]
    Period {
        /// Which VM.
        place: Place,
        /// In microseconds.
        period: u32,
    },
    /// A reservation's budget out of range.
    #[error(
        "{place}: a budget of {budget} us is not possible; \
         give it {MIN_BUDGET_MICROS} to the period, {period}"
    )]
    Budget {
        /// Which VM.
        place: Place,
        /// In microseconds.
        budget: u32,
        /// In microseconds.
        period: u32,
    },
    /// What is typed to ask a guest to power off is nothing, or longer than [`MAX_SHUTDOWN`].
    #[error(
        "{place}: what is typed to shut it down is {length} bytes long; give it 1 to {MAX_SHUTDOWN}"
    )]
    Shutdown {
        /// Which VM.
        place: Place,
        /// Its length in bytes.
        length: usize,
    },
    /// The board's devices that are to be the VM's are too many, or one has no proper name.
    #[error(
        "{place}: assigned devices are named by nodes of the board's device tree: {MAX_ASSIGNED} at most, each \
         name 1 to {MAX_NODE} printable ASCII characters"
    )]
    Assign {
        /// Which VM.
        place: Place,
    },
    /// A device that this hypervisor does not have.
    #[error("{place}: there are no devices with the bits {bits:#x}; pack the bundle again")]
    Devices {
        /// Which VM.
        place: Place,
        /// The bits that stand for no device.
        bits: u32,
    },
    /// A network, or a network card, that cannot be.
    #[error("{0}")]
    Network(#[from] NetworkError),
    /// What is said of console ports cannot be.
    #[error("{0}")]
    Ports(#[from] PortsError),
    /// What is said of socket devices cannot be.
    #[error("{0}")]
    Vsock(#[from] VsockError),
    /// More disks than [`MAX_DISKS`].
    #[error("{place}: {count} disks are not possible; give it {MAX_DISKS} at most")]
    TooManyDisks {
        /// Which VM.
        place: Place,
        /// How many there are.
        count: usize,
    },
    /// A disk of zeros with no size, no whole pages, or too large.
    #[error(
        "{place}: disk {}: a size of {size} bytes is not possible; it is a multiple of 4096 up to {MAX_DISK}",
        disk + 1
    )]
    DiskSize {
        /// Which VM.
        place: Place,
        /// Which of its disks, counted from 0.
        disk: usize,
        /// The bytes asked for.
        size: u64,
    },
    /// Space of nothing, of no whole pages, or of more than any disk has.
    #[error(
        "{place}: disk {}: a space of {space} bytes is not possible; it is a multiple of 4096 up to {MAX_DISK}",
        disk + 1
    )]
    DiskSpace {
        /// Which VM.
        place: Place,
        /// Which of its disks, counted from 0.
        disk: usize,
        /// The bytes asked for.
        space: u64,
    },
    /// A disk that can only be read has space for what is written, or begins with nothing.
    #[error(
        "{place}: disk {}: one that is read-only has an image, and no space for what is written",
        disk + 1
    )]
    DiskReadOnly {
        /// Which VM.
        place: Place,
        /// Which of its disks, counted from 0.
        disk: usize,
    },
    /// There can be no such part of a machine's disk.
    #[error("{place}: disk {}: {why}", disk + 1)]
    DiskPart {
        /// Which VM.
        place: Place,
        /// Which of its disks, counted from 0.
        disk: usize,
        /// Why not.
        why: PartError,
    },
    /// Two have something of a machine's disk in common, and one of them can write to it.
    #[error(
        "{place}: disk {} and disk {} of {other} have something of a disk of the machine's in common, and not both are read-only",
        disk + 1, other_disk + 1
    )]
    DiskShared {
        /// Which VM.
        place: Place,
        /// Which of its disks, counted from 0.
        disk: usize,
        /// Which VM has it already.
        other: Place,
        /// As which of its disks, counted from 0.
        other_disk: usize,
    },
    /// A serial that is empty, too long, or not printable.
    #[error(
        "{place}: disk {}: a serial has 1 to {MAX_SERIAL} printable ASCII characters and no space",
        disk + 1
    )]
    DiskSerial {
        /// Which VM.
        place: Place,
        /// Which of its disks, counted from 0.
        disk: usize,
    },
    /// A command line is longer than [`MAX_CMDLINE`].
    #[error(
        "{place}: the command line is {length} bytes long, \
         arm64 Linux takes at most {MAX_CMDLINE}; shorten it"
    )]
    CmdlineTooLong {
        /// Which VM.
        place: Place,
        /// Its length in bytes.
        length: usize,
    },
    /// A command line has a control character.
    #[error("{place}: the command line has the control character {character:?}; remove it")]
    CmdlineControl {
        /// Which VM.
        place: Place,
        /// The first one.
        character: char,
    },
    /// A payload of no bytes.
    #[error("{place}: the {kind} is empty; check the file it was packed from")]
    PayloadEmpty {
        /// Which VM.
        place: Place,
        /// Which payload.
        kind: PayloadKind,
    },
    /// A payload does not start at a multiple of [`PAYLOAD_ALIGN`].
    #[error(
        "{place}: the {kind} starts at {offset:#x}, which is not a multiple of {PAYLOAD_ALIGN}; \
         pack the bundle again"
    )]
    PayloadUnaligned {
        /// Which VM.
        place: Place,
        /// Which payload.
        kind: PayloadKind,
        /// Its offset in the bundle.
        offset: u64,
    },
    /// A payload overlaps the header or the table, or ends beyond the bundle.
    #[error(
        "{place}: the {kind} ({size} bytes at {offset:#x}) lies outside the payloads \
         ({first:#x} up to {end:#x}); pack the bundle again"
    )]
    PayloadOutside {
        /// Which VM.
        place: Place,
        /// Which payload.
        kind: PayloadKind,
        /// Its offset in the bundle.
        offset: u64,
        /// Its length.
        size: u64,
        /// Where the table ends.
        first: u64,
        /// Where the bundle ends.
        end: u64,
    },
    /// Two payloads have some bytes in common, and others not.
    #[error("{place}: the {kind} overlaps the {other_kind} of {other}; pack the bundle again")]
    PayloadOverlap {
        /// Which VM.
        place: Place,
        /// Which payload.
        kind: PayloadKind,
        /// The VM whose payload lies there already; it may be the same one.
        other: Place,
        /// Which payload of that VM.
        other_kind: PayloadKind,
    },
}
