//! Stage 1 of the payloads: one level-1 table of 1 GiB blocks, the same for all CPUs.
//!
//! The first GiB is devices, the next three are RAM, the rest up to 512 GiB is devices that are not
//! there, except where a payload asks for an alias with other attributes.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::instruction;

/// How memory is seen through a block: an index into `MAIR_EL1` as entry.rs sets it.
#[derive(Clone, Copy)]
pub enum Memory {
    /// Device-nGnRE.
    Device = 0,
    /// Normal, non-cacheable.
    NonCacheable = 1,
    /// Normal, write-back.
    WriteBack = 2,
}

/// A translation table of the 4 KiB granule.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; 512]);

const GIB: u64 = 1 << 30;
const VALID: u64 = 1;
const ACCESSED: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 3 << 8;
const EXECUTE_NEVER: u64 = 3 << 53;

const fn block(address: u64, memory: Memory, executable: bool) -> u64 {
    let never = if executable { 0 } else { EXECUTE_NEVER };
    address | never | ACCESSED | INNER_SHAREABLE | ((memory as u64) << 2) | VALID
}

/// `AP[1]`: EL0 may read and write it too.
const USER: u64 = 1 << 6;
/// The first GiB as EL0 reaches it, and the one where RAM begins, executable there.
pub const USER_DEVICES: u64 = 257 * GIB;
/// See [`USER_DEVICES`].
pub const USER_RAM: u64 = 258 * GIB;
/// Whether the payload's own code can be at an address: in RAM, as EL1 or as EL0 reaches it.
pub const fn is_code(address: u64) -> bool {
    matches!(address / GIB, 1..4) || address / GIB == USER_RAM / GIB
}

const PRIVILEGED_NEVER: u64 = 1 << 53;

/// The level-1 table that `TTBR0_EL1` points to.
pub static LEVEL1: Table = {
    let mut table = [const { AtomicU64::new(0) }; 512];
    let mut i = 0;
    while i < 512 {
        let ram = i >= 1 && i < 4;
        let memory = if ram { Memory::WriteBack } else { Memory::Device };
        table[i] = AtomicU64::new(block(i as u64 * GIB, memory, ram));
        i += 1;
    }
    let devices = block(0, Memory::Device, false) | USER;
    table[(USER_DEVICES / GIB) as usize] = AtomicU64::new(devices);
    let ram = block(GIB, Memory::WriteBack, true) | USER | PRIVILEGED_NEVER;
    table[(USER_RAM / GIB) as usize] = AtomicU64::new(ram);
    Table(table)
};

/// Where EL0 in AArch32, which reaches 4 GiB, finds the devices once [`map_low`] was called.
pub const LOW_DEVICES: u64 = 2 * GIB;
/// The same for the GiB where RAM begins.
pub const LOW_RAM: u64 = 3 * GIB;

/// Maps [`LOW_DEVICES`] and [`LOW_RAM`], for a machine with a GiB of RAM at most.
pub fn map_low() {
    for (low, high) in [(LOW_DEVICES, USER_DEVICES), (LOW_RAM, USER_RAM)] {
        let [to, from] = [low, high].map(|at| &LEVEL1.0[(at / GIB) as usize]);
        replace(to, from.load(Ordering::Relaxed));
    }
}

/// Break, then make.
fn replace(entry: &AtomicU64, with: u64) {
    entry.store(0, Ordering::Relaxed);
    instruction!("dsb ishst");
    instruction!("tlbi vmalle1is");
    instruction!("dsb ish");
    entry.store(with, Ordering::Relaxed);
    instruction!("dsb ishst");
    instruction!("isb");
}

/// The first address of the GiB that [`alias`] maps.
pub const ALIAS: u64 = 256 * GIB;

/// Maps the GiB at [`ALIAS`] to the one that holds `address`, executable, as `memory`; returns where
/// `address` is to be found there.
pub fn alias(address: u64, memory: Memory) -> u64 {
    let entry = &LEVEL1.0[(ALIAS / GIB) as usize];
    replace(entry, block(address & !(GIB - 1), memory, true));
    ALIAS + (address & (GIB - 1))
}
