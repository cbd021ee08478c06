//! What can be wrong with a guest's kernel or RAM disk: one variant for each mistake, whose text
//! says what is wrong and what to do.

use crate::addr::{Ipa, Region};

/// A write to a guest went past its RAM.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("outside the guest's RAM")]
pub struct OutOfRam;

/// Why a guest's kernel and RAM disk cannot be loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ImageError {
    /// The kernel file has no bytes.
    #[error("the kernel is an empty file; name another one")]
    Empty,
    /// The kernel file is something known that cannot be started.
    #[error(
        "the kernel is {format}; give it an arm64 Image (also with gzip), or an AArch64 ELF file"
    )]
    Foreign {
        /// What it is.
        format: &'static str,
    },
    /// The Image's flags say that the kernel is big-endian.
    #[error("the kernel is an arm64 Image for big-endian CPUs; build it for little-endian ones")]
    BigEndian,
    /// The Image wants to be loaded at an offset that is no multiple of 4 KiB.
    #[error(
        "the kernel's Image header asks for the load offset {text_offset:#x}, \
         which is not a multiple of 4096; the file may be damaged"
    )]
    TextOffset {
        /// What the header asks for.
        text_offset: u64,
    },
    /// The kernel, with its BSS, does not fit into RAM.
    #[error(
        "the kernel needs {needed} bytes from {start} on, which is more than the RAM {ram} has there; \
         give the VM more memory"
    )]
    KernelTooLarge {
        /// Where it is loaded.
        start: Ipa,
        /// The bytes it takes.
        needed: u64,
        /// The guest's RAM.
        ram: Region<Ipa>,
    },
    /// A gzip or zboot header is not what the format allows.
    #[error("the kernel's {part} is damaged; copy it again")]
    Damaged {
        /// What is damaged.
        part: &'static str,
    },
    /// The hypervisor's heap is full.
    #[error("the hypervisor has no memory left to unpack the kernel; start fewer guests at once")]
    NoRoomToUnpack,
    /// A compressed kernel ends too early.
    #[error("the compressed kernel is cut short; copy it again")]
    CutShort,
    /// A compressed kernel does not match its CRC-32.
    #[error(
        "the compressed kernel is damaged: its CRC-32 is {computed:#010x}, \
         the file says {stored:#010x}; copy it again"
    )]
    Checksum {
        /// What the file says.
        stored: u32,
        /// What its contents give.
        computed: u32,
    },
    /// A compressed kernel does not have the length it says.
    #[error(
        "the compressed kernel is damaged: it says it has {stored} bytes, modulo 4 GiB, and has {unpacked}"
    )]
    Length {
        /// What the file says: the length modulo 2^32.
        stored: u32,
        /// What came out.
        unpacked: u64,
    },
    /// An EFI zboot image is compressed with something else than gzip.
    #[error(
        "the kernel is an EFI zboot image whose payload is not gzip; unpack it, or use a gzip one"
    )]
    ZbootCompression,
    /// The ELF file is malformed.
    #[error("the kernel's ELF file is damaged in its {part}; copy or build it again")]
    ElfDamaged {
        /// What is damaged.
        part: &'static str,
    },
    /// The ELF file is for 32-bit machines.
    #[error("the kernel is a 32-bit ELF file; build it for AArch64")]
    Elf32,
    /// The ELF file is for big-endian machines.
    #[error("the kernel is a big-endian ELF file; build it for little-endian AArch64")]
    ElfBigEndian,
    /// The ELF file is for another architecture.
    #[error(
        "the kernel is an ELF file for another machine (e_machine {machine}); build it for AArch64"
    )]
    ElfMachine {
        /// Its `e_machine`.
        machine: u16,
    },
    /// The ELF file is no program.
    #[error("the kernel is an ELF file that is no program (e_type {kind}); link it")]
    ElfKind {
        /// Its `e_type`.
        kind: u16,
    },
    /// The ELF file has nothing to load.
    #[error("the kernel's ELF file has nothing to load; link it with loadable segments")]
    ElfNothingToLoad,
    /// The ELF file has more loadable segments than anybody needs.
    #[error("the kernel's ELF file has {count} loadable segments; link it with fewer")]
    ElfTooManySegments {
        /// How many it has.
        count: usize,
    },
    /// A segment does not lie in RAM.
    #[error(
        "the kernel's ELF file wants {size} bytes at {address}, outside the RAM {ram}; \
         link it for addresses there, or give the VM more memory"
    )]
    ElfSegmentOutsideRam {
        /// The segment's physical address.
        address: Ipa,
        /// Its size in memory.
        size: u64,
        /// The guest's RAM.
        ram: Region<Ipa>,
    },
    /// The entry point is in no segment, or no multiple of 4.
    #[error(
        "the kernel's ELF file has the entry point {entry:#x}, where there is no instruction; link it with one"
    )]
    ElfEntry {
        /// The `e_entry`.
        entry: u64,
    },
    /// The RAM disk has no bytes.
    #[error("the initrd is an empty file; name another one, or none")]
    InitrdEmpty,
    /// The RAM disk does not fit beside the kernel.
    #[error(
        "the initrd has {size} bytes, and {left} bytes of RAM are left above the kernel; \
         give the VM more memory"
    )]
    InitrdTooLarge {
        /// Its length.
        size: u64,
        /// The bytes of RAM above the kernel.
        left: u64,
    },
    /// No 2 MiB are left for the device tree.
    #[error("no 2 MiB of RAM are left for the device tree; give the VM more memory")]
    NoRoomForDeviceTree,
    /// Guest memory refused a write that lies within the RAM it was said to have.
    #[error("guest memory is smaller than the RAM it was said to have")]
    OutOfRam(#[from] OutOfRam),
}
