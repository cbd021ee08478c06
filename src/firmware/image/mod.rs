//! Guest images: what a kernel file is, and where it, its RAM disk and its device tree go.
//!
//! | file | loaded |
//! |---|---|
//! | arm64 Linux `Image` | where its header asks, from the start of RAM |
//! | gzip of an `Image` or a flat binary | the same, unpacked straight into guest memory |
//! | EFI zboot `Image` with a gzip payload | the same |
//! | AArch64 ELF | at its segments' physical addresses |
//! | what is known to be something else | refused by its name |
//! | anything else | a flat binary, 512 KiB into RAM, as QEMU does |
//!
//! Sources: Linux's "Booting AArch64 Linux", RFC 1952 (gzip), the System V ABI (ELF).
//!
//! Everything a file says is checked against the guest's RAM before it is followed. RAM is expected
//! to be zero before: what an image leaves out (BSS) is not written.
//!
//! Loading goes in steps of some ten thousand instructions, so that nobody waits for it.

mod elf;
mod error;
mod gzip;
mod linux;
mod place;
mod zboot;

pub use error::{ImageError, OutOfRam};

use alloc::vec;
use alloc::vec::Vec;

use crate::addr::{Ipa, Region};
use gzip::Unpacker;

/// What the device tree may take, and what its slot is aligned to: 2 MiB ("Booting AArch64 Linux").
pub const DEVICE_TREE_SLOT: u64 = 2 << 20;
/// Where a flat binary is loaded, from the start of RAM; also where kernels older than Linux 3.17 are.
const FLAT_OFFSET: u64 = 0x8_0000;
/// What a kernel's base address is a multiple of.
const BASE_ALIGN: u64 = 2 << 20;
/// What a file is can be told from so many of its bytes.
const HEAD: u64 = 1 << 10;
/// How many steps show the first bytes of any compressed kernel but a strange one.
const FIRST_STEPS: usize = 4;
/// How much one step copies at most, in bytes.
const STEP: usize = 16 << 10;

/// Writing to a guest's memory.
pub trait GuestWrite {
    /// Copies `bytes` to the guest's memory from `ipa` on.
    fn write(&mut self, ipa: Ipa, bytes: &[u8]) -> Result<(), OutOfRam>;
}

/// Where everything is, and how the boot vCPU starts: at `entry`, with `dtb` in x0 and zero in x1 to
/// x3.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Placement {
    /// The first instruction.
    pub entry: Ipa,
    /// What the kernel takes, its BSS included.
    pub kernel: Region<Ipa>,
    /// The RAM disk.
    pub initrd: Option<Region<Ipa>>,
    /// Where the device tree has to be written: [`DEVICE_TREE_SLOT`] bytes of RAM from here on are
    /// free.
    pub dtb: Ipa,
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Kernel {
    entry: Ipa,
    region: Region<Ipa>,
}

/// Some bytes of a file and where they go.
struct Copy<'f> {
    to: Ipa,
    from: &'f [u8],
}

/// A kernel and its RAM disk on the way into a guest's memory, which must be zero.
pub struct Loader<'f> {
    ram: Region<Ipa>,
    initrd: Option<&'f [u8]>,
    state: State<'f>,
}

enum State<'f> {
    Unpack(Unpack<'f>),
    /// What is left to be copied; the last goes first.
    Copy(Placement, Vec<Copy<'f>>),
}

impl<'f> Loader<'f> {
    /// Nothing is written yet.
    ///
    /// # Errors
    /// The files cannot be loaded. What is wrong with a compressed kernel is known only when it is
    /// unpacked, apart from what its first bytes show.
    pub fn new(
        kernel: &'f [u8],
        initrd: Option<&'f [u8]>,
        ram: Region<Ipa>,
    ) -> Result<Self, ImageError> {
        if initrd.is_some_and(<[u8]>::is_empty) {
            return Err(ImageError::InitrdEmpty);
        }
        let packed = zboot::payload(kernel)?.or_else(|| gzip::is_gzip(kernel).then_some(kernel));
        let state = match packed {
            Some(packed) => State::Unpack(Unpack::new(packed, ram)?),
            None => {
                let (kernel, copies) = unpacked(kernel, ram)?;
                arrange(kernel, copies, initrd, ram)?
            }
        };
        Ok(Self { ram, initrd, state })
    }

    /// Writes some more. Returns where everything is once all is written.
    ///
    /// # Errors
    /// The files cannot be loaded.
    pub fn step(&mut self, guest: &mut dyn GuestWrite) -> Result<Option<Placement>, ImageError> {
        match &mut self.state {
            State::Unpack(unpack) => {
                if let Some(kernel) = unpack.step(self.ram, guest)? {
                    self.state = arrange(kernel, Vec::new(), self.initrd, self.ram)?;
                }
                Ok(None)
            }
            State::Copy(placement, copies) => {
                let Some(Copy { to, from }) = copies.pop() else { return Ok(Some(*placement)) };
                let (now, later) = from.split_at(STEP.min(from.len()));
                guest.write(to, now)?;
                if !later.is_empty() {
                    let to = to.checked_add(now.len() as u64).ok_or(OutOfRam)?;
                    copies.push(Copy { to, from: later });
                }
                Ok(None)
            }
        }
    }
}

/// What remains to be copied once it is known where the kernel is.
fn arrange<'f>(
    kernel: Kernel,
    mut copies: Vec<Copy<'f>>,
    initrd: Option<&'f [u8]>,
    ram: Region<Ipa>,
) -> Result<State<'f>, ImageError> {
    let Kernel { entry, region } = kernel;
    let size = initrd.map(|bytes| bytes.len() as u64);
    let (initrd_region, dtb) = place::beside(region, size, ram)?;
    copies.extend(initrd.zip(initrd_region).map(|(from, to)| Copy { to: to.start(), from }));
    Ok(State::Copy(Placement { entry, kernel: region, initrd: initrd_region, dtb }, copies))
}

/// What of a kernel that is not compressed goes where.
fn unpacked(file: &[u8], ram: Region<Ipa>) -> Result<(Kernel, Vec<Copy<'_>>), ImageError> {
    if elf::is_elf(file) {
        return elf::plan(file, ram);
    }
    let plan = plan(file, ram)?;
    let kernel = plan.kernel(file.len() as u64, ram)?;
    Ok((kernel, vec![Copy { to: plan.start, from: file }]))
}

/// A gzip file that is unpacked straight into guest memory.
struct Unpack<'f> {
    unpacker: Unpacker<'f>,
    plan: Option<Plan>,
    /// How much of it is in guest memory.
    written: u64,
    /// All of it has been unpacked.
    done: bool,
}

impl<'f> Unpack<'f> {
    /// With its first bytes unpacked and looked at, if they come at once.
    fn new(file: &'f [u8], ram: Region<Ipa>) -> Result<Self, ImageError> {
        let mut unpack =
            Self { unpacker: Unpacker::new(file)?, plan: None, written: 0, done: false };
        for _ in 0..FIRST_STEPS {
            if unpack.plan.is_none() {
                unpack.advance(ram)?;
            }
        }
        Ok(unpack)
    }

    /// Unpacks some more, and sees what it is.
    fn advance(&mut self, ram: Region<Ipa>) -> Result<(), ImageError> {
        if !self.done {
            self.done = self.unpacker.step()?;
        }
        if self.plan.is_none() && (self.unpacker.unpacked() >= HEAD || self.done) {
            let head = self.unpacker.since(0);
            if elf::is_elf(head) {
                return Err(ImageError::Foreign { format: "an ELF file packed with gzip" });
            }
            if gzip::is_gzip(head) {
                return Err(ImageError::Foreign { format: "packed with gzip twice" });
            }
            self.plan = Some(plan(head, ram)?);
        }
        Ok(())
    }

    fn step(
        &mut self,
        ram: Region<Ipa>,
        guest: &mut dyn GuestWrite,
    ) -> Result<Option<Kernel>, ImageError> {
        self.advance(ram)?;
        let Some(plan) = self.plan else { return Ok(None) };
        // Also bounds how long a file that unpacks to ever more keeps us busy.
        let kernel = plan.kernel(self.unpacker.unpacked(), ram)?;
        let here = plan.start.checked_add(self.written).ok_or(OutOfRam)?;
        guest.write(here, self.unpacker.since(self.written))?;
        self.written = self.unpacker.unpacked();
        Ok(self.done.then_some(kernel))
    }
}

/// Where a file that is copied as it is goes, told by its first bytes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    start: Ipa,
    /// What the file says it takes in memory; it takes at least its own length.
    claimed: u64,
}

impl Plan {
    /// The kernel, once its file is known to have `length` bytes.
    fn kernel(self, length: u64, ram: Region<Ipa>) -> Result<Kernel, ImageError> {
        let needed = self.claimed.max(length);
        let region = Region::new(self.start, needed).filter(|region| ram.contains_region(region));
        let too_large = ImageError::KernelTooLarge { start: self.start, needed, ram };
        Ok(Kernel { entry: self.start, region: region.ok_or(too_large)? })
    }
}

/// Where the Image or flat binary goes that begins with `head`: at least [`HEAD`] bytes, or all of it.
fn plan(head: &[u8], ram: Region<Ipa>) -> Result<Plan, ImageError> {
    if head.is_empty() {
        return Err(ImageError::Empty);
    }
    let header = linux::Header::parse(head)?;
    if header.is_none()
        && let Some(format) = foreign(head)
    {
        return Err(ImageError::Foreign { format });
    }
    let (offset, claimed) = match header {
        Some(header) => (header.text_offset, header.image_size),
        None => (FLAT_OFFSET, 0),
    };
    let base = ram.start().align_up(BASE_ALIGN);
    let start = base.and_then(|base| base.checked_add(offset));
    let too_large = ImageError::KernelTooLarge { start: ram.start(), needed: offset, ram };
    Ok(Plan { start: start.ok_or(too_large)?, claimed })
}

/// The name of what a file is when it is no kernel for this machine, by its magic number.
fn foreign(head: &[u8]) -> Option<&'static str> {
    const KNOWN: [(usize, &[u8], &str); 12] = [
        (0, b"\x28\xb5\x2f\xfd", "packed with zstd"),
        (0, b"\xfd7zXZ\0", "packed with xz"),
        (0, b"BZh", "packed with bzip2"),
        (0, b"\x02\x21\x4c\x18", "packed with lz4"),
        (0, b"\x04\x22\x4d\x18", "packed with lz4"),
        (0, b"\x89LZO\0", "packed with lzo"),
        (0, b"\xd0\x0d\xfe\xed", "a device tree or a FIT image"),
        (0, b"\x27\x05\x19\x56", "a U-Boot legacy image"),
        (0, b"070701", "a cpio archive, perhaps the initrd"),
        (0x24, b"\x18\x28\x6f\x01", "a 32-bit Arm zImage"),
        (0x202, b"HdrS", "an x86 bzImage"),
        (0, b"MZ", "an EFI program, but no arm64 Image"),
    ];
    let is = |(offset, magic, _): &&(usize, &[u8], &str)| {
        head.get(*offset..).is_some_and(|bytes| bytes.starts_with(magic))
    };
    KNOWN.iter().find(is).map(|(_, _, format)| *format)
}

#[cfg(test)]
mod tests;
