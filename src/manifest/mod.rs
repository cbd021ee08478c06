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
//! | 32 | … | the table: a sequence of [`VmConfig`], as postcard (format 1) serialises it |
//! | … | … | payloads, each at a multiple of [`PAYLOAD_ALIGN`]; the gaps are zero |
//!
//! Bytes after the bundle's length are not looked at: boot loaders round an initrd up. Payloads with
//! the same contents are stored once.
//!
//! Reading trusts nothing: what [`read`] returns has been checked, each payload lies inside the
//! bundle, and every mistake is its own [`ManifestError`]. What a payload *is* (a kernel image,
//! say) is not looked at here; that is for `firmware::image`.

mod error;

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

pub use error::{ManifestError, PayloadKind, Place};

use crate::vcpu::MAX_VCPUS;

/// The first bytes of every bundle.
pub const MAGIC: [u8; 8] = *b"PLBUNDLE";
/// The format this file reads and writes.
pub const FORMAT_VERSION: u32 = 1;
/// What a payload's offset is a multiple of.
pub const PAYLOAD_ALIGN: u64 = 4096;
/// The most VMs one manifest may name.
pub const MAX_VMS: usize = 64;
/// The longest name, in bytes.
pub const MAX_NAME: usize = 32;
/// The longest command line, in bytes: arm64 Linux's `COMMAND_LINE_SIZE` without the final NUL.
pub const MAX_CMDLINE: usize = 2047;
/// The most memory one VM can have: what QEMU's `virt` memory map keeps for RAM below 256 GiB.
pub const MAX_MEMORY: u64 = 255 << 30;
/// The longest table: [`MAX_VMS`] entries of at most 4 KiB.
pub const MAX_TABLE: u64 = 4096 * MAX_VMS as u64;

const HEADER_SIZE: usize = 32;
/// The first byte the checksum covers.
const CHECKED_FROM: usize = 16;

/// Some bytes of the bundle.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    offset: u64,
    size: u64,
}

impl Payload {
    /// Where it starts, counted from the start of the bundle.
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// How many bytes.
    pub const fn size(self) -> u64 {
        self.size
    }
}

/// What one VM is made from.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Its name: 1 to [`MAX_NAME`] printable ASCII characters, unique in the manifest.
    pub name: String,
    /// Its RAM in bytes, a multiple of 4 KiB.
    pub memory: u64,
    /// How many vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// The kernel image, not empty.
    pub kernel: Payload,
    /// The initial RAM disk, not empty when there is one.
    pub initrd: Option<Payload>,
    /// The kernel's command line, at most [`MAX_CMDLINE`] bytes without control characters.
    pub cmdline: String,
}

/// What [`write()`] makes a [`VmConfig`] and its payloads from.
#[derive(Clone, Copy, Debug)]
pub struct VmSource<'a> {
    /// See [`VmConfig::name`].
    pub name: &'a str,
    /// See [`VmConfig::memory`].
    pub memory: u64,
    /// See [`VmConfig::vcpus`].
    pub vcpus: u8,
    /// The kernel image.
    pub kernel: &'a [u8],
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// See [`VmConfig::cmdline`].
    pub cmdline: &'a str,
}

/// A bundle that has been checked.
#[derive(Clone, Debug)]
pub struct Manifest<'a> {
    bundle: &'a [u8],
    vms: Vec<VmConfig>,
}

impl<'a> Manifest<'a> {
    /// The VMs, at least one.
    pub fn vms(&self) -> &[VmConfig] {
        &self.vms
    }

    /// The bytes of a payload of this manifest. A payload of another manifest may lie outside this
    /// one's bundle and then has no bytes.
    pub fn payload(&self, payload: Payload) -> &'a [u8] {
        bytes_of(self.bundle, payload).unwrap_or_default()
    }
}

/// Reads a bundle in place.
pub fn read(bundle: &[u8]) -> Result<Manifest<'_>, ManifestError> {
    let have = bundle.len() as u64;
    let cut_short = |want| ManifestError::Truncated { have, want };
    let header_cut_short = cut_short(HEADER_SIZE as u64);
    let magic = field::<8>(bundle, 0).ok_or(header_cut_short.clone())?;
    if magic != MAGIC {
        return Err(ManifestError::Magic { found: magic });
    }
    let version = field(bundle, 8).map(u32::from_le_bytes).ok_or(header_cut_short.clone())?;
    if version != FORMAT_VERSION {
        return Err(ManifestError::Version { found: version });
    }
    let stored = field(bundle, 12).map(u32::from_le_bytes).ok_or(header_cut_short.clone())?;
    let total = field(bundle, 16).map(u64::from_le_bytes).ok_or(header_cut_short.clone())?;
    let table = field(bundle, 24).map(u64::from_le_bytes).ok_or(header_cut_short)?;

    let bundle = usize::try_from(total).ok().and_then(|total| bundle.get(..total));
    let bundle = bundle.ok_or(cut_short(total))?;
    let wrong_table = ManifestError::TableSize { table, total };
    let checked = bundle.get(CHECKED_FROM..).ok_or(wrong_table.clone())?;
    let computed = crc32fast::hash(checked);
    if computed != stored {
        return Err(ManifestError::Checksum { stored, computed });
    }

    if table > MAX_TABLE {
        return Err(wrong_table);
    }
    let table = Payload { offset: HEADER_SIZE as u64, size: table };
    let bytes = bytes_of(bundle, table).ok_or(wrong_table)?;
    let vms = match postcard::take_from_bytes::<Vec<VmConfig>>(bytes) {
        Ok((vms, [])) => vms,
        _ => return Err(ManifestError::Table),
    };
    check(&vms, HEADER_SIZE as u64 + table.size, total)?;
    Ok(Manifest { bundle, vms })
}

/// Makes a bundle. What [`read`] would refuse is refused here already.
pub fn write(vms: &[VmSource<'_>]) -> Result<Vec<u8>, ManifestError> {
    // An offset's size in the table depends on its value, so first see how long the table is when
    // every offset is as long as offsets get.
    let (draft, _) = lay_out(vms, u64::MAX >> 1);
    check_facts(&draft)?;
    let longest = HEADER_SIZE as u64 + serialise(&draft)?.len() as u64;

    let first = longest.next_multiple_of(PAYLOAD_ALIGN);
    let (configs, payloads) = lay_out(vms, first);
    let table = serialise(&configs)?;
    let total = payloads.last().map_or(first, |(at, bytes)| at.offset + bytes.len() as u64);
    check(&configs, HEADER_SIZE as u64 + table.len() as u64, total)?;

    let mut bundle = Vec::with_capacity(usize::try_from(total).unwrap_or_default());
    bundle.extend_from_slice(&MAGIC);
    bundle.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bundle.extend_from_slice(&[0; 4]);
    bundle.extend_from_slice(&total.to_le_bytes());
    bundle.extend_from_slice(&(table.len() as u64).to_le_bytes());
    bundle.extend_from_slice(&table);
    for (at, bytes) in payloads {
        let gap = at.offset.saturating_sub(bundle.len() as u64);
        bundle.extend((0..gap).map(|_| 0));
        bundle.extend_from_slice(bytes);
    }
    let crc = crc32fast::hash(bundle.get(CHECKED_FROM..).unwrap_or_default());
    if let Some(field) = bundle.get_mut(12..16) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    Ok(bundle)
}

fn field<const N: usize>(bundle: &[u8], offset: usize) -> Option<[u8; N]> {
    bundle.get(offset..)?.first_chunk().copied()
}

fn bytes_of(bundle: &[u8], payload: Payload) -> Option<&[u8]> {
    let start = usize::try_from(payload.offset).ok()?;
    let size = usize::try_from(payload.size).ok()?;
    bundle.get(start..start.checked_add(size)?)
}

fn serialise(vms: &[VmConfig]) -> Result<Vec<u8>, ManifestError> {
    postcard::to_allocvec(vms).map_err(|_| ManifestError::Table)
}

/// A payload that is stored, and where.
type Stored<'a> = (Payload, &'a [u8]);

/// Gives each payload a place from `first` on, one place to those with the same contents.
fn lay_out<'a>(vms: &[VmSource<'a>], first: u64) -> (Vec<VmConfig>, Vec<Stored<'a>>) {
    let mut stored: Vec<Stored<'a>> = Vec::new();
    let mut next = first;
    let mut place = |bytes: &'a [u8]| {
        if let Some((at, _)) = stored.iter().find(|(_, other)| *other == bytes) {
            return *at;
        }
        let at = Payload { offset: next, size: bytes.len() as u64 };
        next = (next + at.size).next_multiple_of(PAYLOAD_ALIGN);
        stored.push((at, bytes));
        at
    };
    let configs = vms.iter().map(|vm| VmConfig {
        name: vm.name.into(),
        memory: vm.memory,
        vcpus: vm.vcpus,
        kernel: place(vm.kernel),
        initrd: vm.initrd.map(&mut place),
        cmdline: vm.cmdline.into(),
    });
    let configs = configs.collect();
    (configs, stored)
}

fn check(vms: &[VmConfig], first: u64, end: u64) -> Result<(), ManifestError> {
    check_facts(vms)?;
    for (index, vm) in vms.iter().enumerate() {
        let place = || Place::new(index, vm);
        check_payload(place, PayloadKind::Kernel, vm.kernel, first, end)?;
        if let Some(initrd) = vm.initrd {
            check_payload(place, PayloadKind::Initrd, initrd, first, end)?;
        }
    }
    Ok(())
}

/// Everything that does not depend on where payloads lie.
fn check_facts(vms: &[VmConfig]) -> Result<(), ManifestError> {
    if vms.is_empty() {
        return Err(ManifestError::NoVm);
    }
    if vms.len() > MAX_VMS {
        return Err(ManifestError::TooManyVms { count: vms.len() });
    }
    for (index, vm) in vms.iter().enumerate() {
        let place = || Place::new(index, vm);
        check_name(&vm.name, index, place)?;
        let earlier = vms.iter().take(index).position(|other| other.name == vm.name);
        if let Some(first) = earlier {
            return Err(ManifestError::NameDuplicate { place: place(), first });
        }
        check_machine(vm, place)?;
    }
    Ok(())
}

fn check_name(
    name: &str,
    index: usize,
    place: impl Fn() -> Place + Copy,
) -> Result<(), ManifestError> {
    if name.is_empty() {
        return Err(ManifestError::NameEmpty { index });
    }
    if name.len() > MAX_NAME {
        return Err(ManifestError::NameTooLong { place: place(), length: name.len() });
    }
    if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ManifestError::NameNotPrintable { place: place() });
    }
    Ok(())
}

fn check_machine(vm: &VmConfig, place: impl Fn() -> Place + Copy) -> Result<(), ManifestError> {
    let memory = vm.memory;
    if memory == 0 {
        return Err(ManifestError::MemoryZero { place: place() });
    }
    if !memory.is_multiple_of(crate::addr::PAGE_SIZE) {
        return Err(ManifestError::MemoryUnaligned { place: place(), memory });
    }
    if memory > MAX_MEMORY {
        return Err(ManifestError::MemoryTooLarge { place: place(), memory });
    }
    if vm.vcpus == 0 || usize::from(vm.vcpus) > MAX_VCPUS {
        return Err(ManifestError::Vcpus { place: place(), vcpus: vm.vcpus });
    }
    if vm.cmdline.len() > MAX_CMDLINE {
        return Err(ManifestError::CmdlineTooLong { place: place(), length: vm.cmdline.len() });
    }
    match vm.cmdline.chars().find(|character| character.is_control()) {
        Some(character) => Err(ManifestError::CmdlineControl { place: place(), character }),
        None => Ok(()),
    }
}

fn check_payload(
    place: impl Fn() -> Place,
    kind: PayloadKind,
    payload: Payload,
    first: u64,
    end: u64,
) -> Result<(), ManifestError> {
    let Payload { offset, size } = payload;
    if size == 0 {
        return Err(ManifestError::PayloadEmpty { place: place(), kind });
    }
    if !offset.is_multiple_of(PAYLOAD_ALIGN) {
        return Err(ManifestError::PayloadUnaligned { place: place(), kind, offset });
    }
    let inside = offset >= first && offset.checked_add(size).is_some_and(|last| last <= end);
    if !inside {
        return Err(ManifestError::PayloadOutside {
            place: place(),
            kind,
            offset,
            size,
            first,
            end,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
