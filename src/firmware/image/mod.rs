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

mod elf;
mod error;
mod gzip;
mod linux;
mod place;
mod zboot;

pub use error::{ImageError, OutOfRam};

use crate::addr::{Ipa, Region};

/// What the device tree may take, and what its slot is aligned to: 2 MiB ("Booting AArch64 Linux").
pub const DEVICE_TREE_SLOT: u64 = 2 << 20;
/// Where a flat binary is loaded, from the start of RAM; also where kernels older than Linux 3.17 are.
const FLAT_OFFSET: u64 = 0x8_0000;
/// What a kernel's base address is a multiple of.
const BASE_ALIGN: u64 = 2 << 20;

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

/// Loads a kernel and its RAM disk into a guest's memory, `ram`, which must be zero.
pub fn load(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    ram: Region<Ipa>,
    guest: &mut dyn GuestWrite,
) -> Result<Placement, ImageError> {
    if initrd.is_some_and(<[u8]>::is_empty) {
        return Err(ImageError::InitrdEmpty);
    }
    let Kernel { entry, region } = load_kernel(kernel, ram, guest)?;
    let (initrd_region, dtb) = place::beside(region, initrd.map(|bytes| bytes.len() as u64), ram)?;
    if let (Some(bytes), Some(region)) = (initrd, initrd_region) {
        guest.write(region.start(), bytes)?;
    }
    Ok(Placement { entry, kernel: region, initrd: initrd_region, dtb })
}

fn load_kernel(
    file: &[u8],
    ram: Region<Ipa>,
    guest: &mut dyn GuestWrite,
) -> Result<Kernel, ImageError> {
    if elf::is_elf(file) {
        return elf::load(file, ram, guest);
    }
    if let Some(payload) = zboot::payload(file)? {
        return unpack(payload, ram, guest);
    }
    if gzip::is_gzip(file) {
        return unpack(file, ram, guest);
    }
    let plan = plan(file, ram)?;
    let kernel = plan.kernel(file.len() as u64, ram)?;
    guest.write(plan.start, file)?;
    Ok(kernel)
}

/// Unpacks a gzip file straight into guest memory.
fn unpack(file: &[u8], ram: Region<Ipa>, guest: &mut dyn GuestWrite) -> Result<Kernel, ImageError> {
    let mut begun: Option<Plan> = None;
    let unpacked = gzip::unpack(file, |at, bytes| {
        let plan = match begun {
            Some(plan) => plan,
            None if elf::is_elf(bytes) => {
                return Err(ImageError::Foreign { format: "an ELF file packed with gzip" });
            }
            None if gzip::is_gzip(bytes) => {
                return Err(ImageError::Foreign { format: "packed with gzip twice" });
            }
            None => *begun.insert(plan(bytes, ram)?),
        };
        let end = at.saturating_add(bytes.len() as u64);
        // Also bounds how long a file that unpacks to ever more keeps us busy.
        let kernel = plan.kernel(end, ram)?;
        let here = kernel.region.start().checked_add(at).ok_or(OutOfRam)?;
        Ok(guest.write(here, bytes)?)
    })?;
    begun.ok_or(ImageError::Empty)?.kernel(unpacked, ram)
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

/// Where the Image or flat binary goes that begins with `head`; at least 64 bytes, or all of it.
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
