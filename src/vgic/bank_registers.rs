//! The registers with a bit or a byte for each interrupt. The distributors of both versions and a
//! redistributor's `SGI_base` have them at the same offsets (IHI 0048, "Distributor register map";
//! IHI 0069, "GICR_SGI_base").

use super::bank::{BANKS, PRIORITY_BITS};
use super::sgi::mask_of;
use super::{Bank, GicVersion, Notify, Vgic, bits};
use crate::exit::Width;
use crate::speculation;
use core::ops::Range;

/// Which register, and which interrupts of it.
#[derive(Clone, Copy)]
enum Register {
    /// A word with a bit for each interrupt of a bank.
    Bits { of: BitRegister, bank: usize },
    /// `IPRIORITYR`: the byte of one interrupt, or of four.
    Priority { bank: usize, index: usize, bytes: usize },
    /// `ITARGETSR`, likewise.
    Targets { bank: usize, index: usize, bytes: usize },
    /// `ICFGR`: two bits for each of sixteen interrupts.
    Config { bank: usize, index: usize },
}

#[derive(Clone, Copy)]
enum BitRegister {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

impl Register {
    /// The register at `offset`, if it has a part of that width and is about one of `banks`.
    fn at(offset: u64, width: Width, banks: Range<usize>) -> Option<Self> {
        let offset = usize::try_from(offset).ok()?;
        let of = match offset / 0x80 {
            1 => Some(BitRegister::Group),
            2 => Some(BitRegister::SetEnable),
            3 => Some(BitRegister::ClearEnable),
            4 => Some(BitRegister::SetPending),
            5 => Some(BitRegister::ClearPending),
            6 => Some(BitRegister::SetActive),
            7 => Some(BitRegister::ClearActive),
            _ => None,
        };
        let bytes = match width {
            Width::Byte => 1,
            Width::Word => 4,
            Width::Half | Width::Double => return None,
        };
        let of_these = |bank: usize| {
            let known = banks.contains(&bank) && bank < BANKS;
            known.then(|| speculation::below(bank, BANKS))
        };
        Some(match (offset, of) {
            (_, Some(of)) if bytes == 4 => Self::Bits { of, bank: of_these(offset % 0x80 / 4)? },
            (0x400..0x800, _) => {
                let bank = of_these(offset % 0x400 / 32)?;
                Self::Priority { bank, index: offset % 32, bytes }
            }
            (0x800..0xc00, _) => {
                let bank = of_these(offset % 0x400 / 32)?;
                Self::Targets { bank, index: offset % 32, bytes }
            }
            (0xc00..0xd00, _) if bytes == 4 => {
                let bank = of_these(offset % 0x100 / 8)?;
                Self::Config { bank, index: offset % 8 * 4 }
            }
            _ => return None,
        })
    }
}

impl Vgic {
    /// `reader` reads the register at `offset` that is about `banks`, of `v` where it is banked.
    pub(super) fn read_bank_register(
        &mut self,
        reader: usize,
        v: usize,
        banks: Range<usize>,
        offset: u64,
        width: Width,
    ) -> u64 {
        let Some(register) = Register::at(offset, width, banks) else { return 0 };
        match register {
            Register::Bits { of, bank } => self.read_bits(reader, v, of, bank).into(),
            Register::Priority { bank, index, bytes } => {
                let priorities = self.bank(v, bank).priority;
                word(bytes, |n| priorities.get(index + n).copied().unwrap_or(0))
            }
            Register::Targets { bank, index, bytes } => match (self.version, bank.checked_sub(1)) {
                (GicVersion::V3, _) => 0,
                (GicVersion::V2, None) => word(bytes, |_| 1 << v),
                (GicVersion::V2, Some(shared)) => {
                    let targets = self.shared[shared].targets;
                    word(bytes, |n| targets.get(index + n).copied().unwrap_or(0))
                }
            },
            Register::Config { bank, index } => {
                let edge = self.bank(v, bank).edge >> index & 0xffff;
                bits(edge).fold(0, |value, n| value | 0b10 << (2 * n))
            }
        }
    }

    fn read_bits(&mut self, reader: usize, v: usize, of: BitRegister, bank: usize) -> u32 {
        let words = self.bank(v, bank);
        let held = words.held;
        match of {
            BitRegister::Group => words.group,
            BitRegister::SetEnable | BitRegister::ClearEnable => words.enabled,
            BitRegister::SetPending | BitRegister::ClearPending => {
                // Held by somebody else: as it was moved there, unless that was undone since.
                let value = words.pending() | words.carried & !words.drop_pending;
                self.ask(reader, v, bank, held);
                value
            }
            BitRegister::SetActive | BitRegister::ClearActive => {
                let value = words.active;
                self.ask(reader, v, bank, held);
                value
            }
        }
    }

    /// The interrupts `held` are of interest to `reader`: their holders are to fold.
    fn ask(&mut self, reader: usize, v: usize, bank: usize, held: u32) {
        let holders = self.owners(v, bank, held).but(reader);
        self.stale = self.stale | holders;
        self.dirty = self.dirty | holders;
    }

    /// `writer` writes the register at `offset` that is about `banks`, of `v` where it is banked.
    pub(super) fn write_bank_register(
        &mut self,
        v: usize,
        banks: Range<usize>,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Notify {
        let Some(register) = Register::at(offset, width, banks) else { return Notify::NONE };
        match register {
            Register::Bits { of, bank } => {
                let ones = u32::try_from(value).unwrap_or(0);
                self.write_bits(v, of, bank, ones)
            }
            Register::Priority { bank, index, bytes } => {
                let words = self.bank_mut(v, bank);
                let mut changed = 0;
                for (n, byte) in value.to_le_bytes().into_iter().enumerate().take(bytes) {
                    let Some(priority) = words.priority.get_mut(index + n) else { break };
                    if *priority != byte & PRIORITY_BITS {
                        *priority = byte & PRIORITY_BITS;
                        changed |= 1 << (index + n);
                    }
                }
                let moved = changed & words.somewhere();
                self.concerned(v, bank, moved)
            }
            Register::Targets { bank, index, bytes } => {
                match (self.version, bank.checked_sub(1)) {
                    (GicVersion::V2, Some(shared)) => {
                        let exist = mask_of(self.vcpus);
                        let bytes = value.to_le_bytes().into_iter().take(bytes).enumerate();
                        bytes.fold(Notify::NONE, |all, (n, byte)| {
                            all | self.reroute(shared, index + n, |spis, at| {
                                core::mem::replace(&mut spis.targets[at], byte & exist)
                                    != byte & exist
                            })
                        })
                    }
                    // GICv2: read-only for SGIs and PPIs. GICv3: affinity routing has replaced them.
                    _ => Notify::NONE,
                }
            }
            // SGIs are edge-triggered, and PPIs are wired: all of ours are levels.
            Register::Config { bank: 0, .. } => Notify::NONE,
            Register::Config { bank, index } => {
                let edge = upper_bits(value) << index;
                let words = self.bank_mut(v, bank);
                let changed = (words.edge ^ edge) & 0xffff << index;
                let before = words.somewhere();
                words.edge ^= changed;
                let moved = changed & (before | words.somewhere());
                self.concerned(v, bank, moved)
            }
        }
    }

    fn write_bits(&mut self, v: usize, of: BitRegister, bank: usize, ones: u32) -> Notify {
        // IHI 0048, "GICD_ISPENDRn": SGIs are made pending by GICD_SGIR and GICD_SPENDSGIR only.
        let no_sgis = match (self.version, bank) {
            (GicVersion::V2, 0) => ones & !0xffff,
            _ => ones,
        };
        match of {
            BitRegister::SetActive => return self.activate(v, bank, ones),
            BitRegister::ClearActive => return self.deactivate(v, bank, ones),
            _ => {}
        }
        let words = self.bank_mut(v, bank);
        let moved = match of {
            BitRegister::Group => {
                let changed = words.group ^ ones;
                words.group = ones;
                changed & words.somewhere()
            }
            BitRegister::SetEnable => {
                let changed = ones & !words.enabled;
                words.enabled |= ones;
                changed & words.somewhere()
            }
            BitRegister::ClearEnable => {
                let changed = ones & words.enabled;
                words.enabled &= !ones;
                changed & words.held
            }
            BitRegister::SetPending => words.set_pending(no_sgis),
            BitRegister::ClearPending => words.clear_pending(no_sgis),
            BitRegister::SetActive | BitRegister::ClearActive => 0,
        };
        self.concerned(v, bank, moved)
    }

    /// A write of ones to `ISACTIVER`.
    fn activate(&mut self, v: usize, bank: usize, ones: u32) -> Notify {
        let words = self.bank_mut(v, bank);
        let held = ones & words.held;
        words.add_active |= held;
        words.drop_active &= !held;
        let new = ones & !words.active & !held;
        words.active |= ones;
        bits(new).for_each(|index| words.running[index] = words.priority[index]);
        if let Some(shared) = bank.checked_sub(1) {
            // Nobody has taken it: it is active where it would be delivered.
            let spis = &mut self.shared[shared];
            let mut left = new;
            for (routed, owned) in spis.routed.iter().zip(&mut spis.owned) {
                *owned |= left & routed;
                left &= !routed;
            }
            spis.owned[v] |= left;
        }
        self.concerned(v, bank, new | held)
    }

    /// A write of ones to `ICACTIVER`.
    fn deactivate(&mut self, v: usize, bank: usize, ones: u32) -> Notify {
        let words = self.bank_mut(v, bank);
        let held = ones & words.held;
        words.drop_active |= held;
        words.add_active &= !held;
        let ended = ones & words.active & !held;
        words.active &= !ones;
        let moved = held | ended & (words.pending() | words.forwarded);
        let notify = self.concerned(v, bank, moved);
        if let Some(shared) = bank.checked_sub(1) {
            self.shared[shared].owned.iter_mut().for_each(|owned| *owned &= !ended);
        }
        notify
    }

    /// Changes the routing of SPI `index` of a shared bank, and tells both ends if it matters. `change` says whether it is
    /// another than before.
    pub(super) fn reroute(
        &mut self,
        shared: usize,
        index: usize,
        change: impl FnOnce(&mut super::Shared, usize) -> bool,
    ) -> Notify {
        if index >= 32 || !change(&mut self.shared[shared], index) {
            return Notify::NONE;
        }
        let which = 1 << index & self.shared[shared].bank.somewhere();
        // By the summary, which still has the old routing.
        let before = self.concerned(0, shared + 1, which);
        self.shared[shared].route(self.version, self.vcpus.into(), index);
        before | self.concerned(0, shared + 1, which)
    }
}

impl Bank {
    /// Those that are anything but inactive: a change of how they are delivered matters.
    #[inline]
    fn somewhere(&self) -> u32 {
        self.pending() | self.active | self.held
    }
}

/// The upper bit of each of the sixteen pairs of a word.
const fn upper_bits(pairs: u64) -> u32 {
    // Pairs, then fours, eights and sixteens move together.
    let mut bits = (pairs >> 1 & 0x5555_5555) as u32;
    bits = (bits | bits >> 1) & 0x3333_3333;
    bits = (bits | bits >> 2) & 0x0f0f_0f0f;
    bits = (bits | bits >> 4) & 0x00ff_00ff;
    (bits | bits >> 8) & 0xffff
}

/// A register of `bytes` bytes, each from `byte`.
fn word(bytes: usize, byte: impl Fn(usize) -> u8) -> u64 {
    (0..bytes).fold(0, |value, n| value | u64::from(byte(n)) << (8 * n))
}
