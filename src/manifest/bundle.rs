//! Bundles, written and read. [The module's page](super) has the format.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::check;
use super::config::{MachineConfig, Payload, VmConfig, VmSource};
use super::error::ManifestError;
use super::network::{NetworkConfig, NetworkSource};
use super::{FORMAT_VERSION, MAGIC, MAX_TABLE, PAYLOAD_ALIGN};
use crate::crc32::CRC32;

const HEADER_SIZE: usize = 32;
/// The first byte the checksum covers.
const CHECKED_FROM: usize = 16;

/// The table.
#[derive(Debug, Serialize, Deserialize)]
struct Table {
    machine: MachineConfig,
    networks: Vec<NetworkConfig>,
    vms: Vec<VmConfig>,
}

/// A bundle that has been checked.
#[derive(Clone, Debug)]
pub struct Manifest<'a> {
    bundle: &'a [u8],
    machine: MachineConfig,
    networks: Vec<NetworkConfig>,
    vms: Vec<VmConfig>,
}

impl<'a> Manifest<'a> {
    /// What is said of the machine as a whole.
    pub const fn machine(&self) -> &MachineConfig {
        &self.machine
    }

    /// The networks.
    pub fn networks(&self) -> &[NetworkConfig] {
        &self.networks
    }

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
///
/// # Errors
/// [`ManifestError`], for the first mistake that is found.
pub fn read(bundle: &[u8]) -> Result<Manifest<'_>, ManifestError> {
    read_with(bundle, checksum)
}

/// The CRC-32 of `bytes`.
pub fn checksum(bytes: &[u8]) -> u32 {
    CRC32.checksum(bytes)
}

/// As [`read`], for who has a quicker [`checksum`].
///
/// # Errors
/// As [`read`].
pub fn read_with(bundle: &[u8], checksum: fn(&[u8]) -> u32) -> Result<Manifest<'_>, ManifestError> {
    let have = bundle.len() as u64;
    let cut_short = |want| ManifestError::Truncated { have, want };
    let header_cut_short = || cut_short(HEADER_SIZE as u64);
    let magic = field::<8>(bundle, 0).ok_or_else(header_cut_short)?;
    if magic != MAGIC {
        return Err(ManifestError::Magic { found: magic });
    }
    let version = field(bundle, 8).map(u32::from_le_bytes).ok_or_else(header_cut_short)?;
    if version != FORMAT_VERSION {
        return Err(ManifestError::Version { found: version });
    }
    let stored = field(bundle, 12).map(u32::from_le_bytes).ok_or_else(header_cut_short)?;
    let total = field(bundle, 16).map(u64::from_le_bytes).ok_or_else(header_cut_short)?;
    let table = field(bundle, 24).map(u64::from_le_bytes).ok_or_else(header_cut_short)?;

    let bundle = usize::try_from(total).ok().and_then(|total| bundle.get(..total));
    let bundle = bundle.ok_or_else(|| cut_short(total))?;
    let wrong_table = || ManifestError::TableSize { table, total };
    let checked = bundle.get(CHECKED_FROM..).ok_or_else(wrong_table)?;
    let computed = checksum(checked);
    if computed != stored {
        return Err(ManifestError::Checksum { stored, computed });
    }

    if table > MAX_TABLE {
        return Err(wrong_table());
    }
    let table_at = Payload { offset: HEADER_SIZE as u64, size: table };
    let bytes = bytes_of(bundle, table_at).ok_or_else(wrong_table)?;
    let Ok((Table { machine, networks, vms }, [])) = postcard::take_from_bytes(bytes) else {
        return Err(ManifestError::Table);
    };
    check::whole(&machine, &networks, &vms, HEADER_SIZE as u64 + table, total)?;
    Ok(Manifest { bundle, machine, networks, vms })
}

/// Makes a bundle. What [`read`] would refuse is refused here already.
///
/// # Errors
/// [`ManifestError`], for the first mistake that is found.
pub fn write(
    machine: &MachineConfig,
    networks: &[NetworkSource<'_>],
    vms: &[VmSource<'_>],
) -> Result<Vec<u8>, ManifestError> {
    let named =
        |one: &NetworkSource<'_>| NetworkConfig { name: one.name.into(), uplink: one.uplink };
    let networks: Vec<_> = networks.iter().map(named).collect();

    // An offset's size in the table depends on its value, so first see how long the table is when
    // every offset is as long as offsets get.
    let (draft, _) = lay_out(vms, u64::MAX >> 1);
    check::facts(machine, &networks, &draft)?;
    let mut contents = Table { machine: *machine, networks, vms: draft };
    let longest = HEADER_SIZE as u64 + serialise(&contents)?.len() as u64;

    let first = longest.next_multiple_of(PAYLOAD_ALIGN);
    let (configs, payloads) = lay_out(vms, first);
    contents.vms = configs;
    let table = serialise(&contents)?;
    let total = payloads.last().map_or(first, |(at, bytes)| at.offset + bytes.len() as u64);
    let Table { networks, vms, .. } = &contents;
    check::whole(machine, networks, vms, HEADER_SIZE as u64 + table.len() as u64, total)?;

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
    let crc = checksum(bundle.get(CHECKED_FROM..).unwrap_or_default());
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

fn serialise(table: &Table) -> Result<Vec<u8>, ManifestError> {
    postcard::to_allocvec(table).map_err(|_| ManifestError::Table)
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
    let config = |vm: &VmSource<'a>| vm.map(|text| String::from(*text), |bytes| place(bytes));
    let configs = vms.iter().map(config).collect();
    (configs, stored)
}
