//! The distributor's frame: `GICD_*` of GICv2 and GICv3.

use super::bank::BANKS;
use super::fields::{GICD_CTLR, GICD_TYPER, IIDR, identification};
use super::{GicVersion, Notify, Vgic};
use crate::exit::Width;
use crate::speculation;
use crate::vcpu::VcpuId;
use tock_registers::LocalRegisterCopy;

/// The bits of `GICD_IROUTER` that exist: Aff2, Aff1 and Aff0. `GICD_TYPER.A3V` is 0, so no Aff3, and
/// `No1N` is 1, so no `Interrupt_Routing_Mode`.
const AFFINITY: u32 = 0x00ff_ffff;

impl Vgic {
    pub(super) fn read_distributor(&mut self, v: usize, offset: u64, width: Width) -> u64 {
        match (self.version, offset, width) {
            (_, 0x000..0x080, Width::Word) => self.read_control(offset).into(),
            (GicVersion::V2, 0xf10..0xf30, Width::Byte | Width::Word) => {
                // Set and clear registers read the same; four SGIs a word.
                let first = usize::try_from(offset % 16).unwrap_or(0);
                let sources = self.private[v].sources.iter().skip(first);
                let count = usize::try_from(width.bytes()).unwrap_or(0);
                sources.take(count).rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
            }
            (GicVersion::V2, 0xfd0..0x1000, Width::Word) => {
                identification(2, (offset - 0xfd0) / 4).into()
            }
            (GicVersion::V2, ..) => self.read_bank_register(v, v, 0..BANKS, offset, width),
            (GicVersion::V3, 0x6100..0x8000, _) => self.read_router(offset, width),
            (GicVersion::V3, 0xffd0..0x1_0000, Width::Word) => {
                identification(3, (offset - 0xffd0) / 4).into()
            }
            // Affinity routing moves the private bank to the redistributors.
            (GicVersion::V3, ..) => self.read_bank_register(v, v, 1..BANKS, offset, width),
        }
    }

    /// What is read at `offset` of the distributor as a word, where that is the same for every guest.
    #[inline(always)]
    pub const fn identity(offset: u64) -> Option<u32> {
        if offset == 0x8 { Some(IIDR) } else { None }
    }

    /// What `caller` reads at `offset` of the distributor as a word, where that does not depend on what list
    /// registers hold: the enables. `None` where [`read`](Self::read) has to be asked.
    #[inline(always)]
    pub fn peek(&self, caller: VcpuId, offset: u64) -> Option<u32> {
        if !(0x100..0x200).contains(&offset) || !offset.is_multiple_of(4) {
            return None;
        }
        let bank = usize::try_from(offset % 0x80 / 4).ok().filter(|bank| *bank < BANKS)?;
        match speculation::below(bank, BANKS).checked_sub(1) {
            Some(shared) => Some(self.shared[shared].bank.enabled),
            // GICv3 has them in the redistributors.
            None if self.version == GicVersion::V3 => Some(0),
            None => Some(self.private[self.index(caller)?].bank.enabled),
        }
    }

    /// `GICD_CTLR`, `GICD_TYPER`, `GICD_IIDR`; `GICD_TYPER2` and `GICD_STATUSR` are zero.
    fn read_control(&self, offset: u64) -> u32 {
        match (offset, self.version) {
            (0x0, version) => {
                let enables = GICD_CTLR::EnableGrp0.val(self.group0.into())
                    + GICD_CTLR::EnableGrp1.val(self.group1.into());
                match version {
                    GicVersion::V2 => enables.value,
                    GicVersion::V3 => {
                        (enables + GICD_CTLR::ARE.val(1) + GICD_CTLR::DS.val(1)).value
                    }
                }
            }
            (0x4, version) => {
                let lines = GICD_TYPER::ITLinesNumber.val((super::INTERRUPTS / 32 - 1).into());
                let rest = match version {
                    GicVersion::V2 => GICD_TYPER::CPUNumber.val(u32::from(self.vcpus) - 1),
                    GicVersion::V3 => GICD_TYPER::IDbits.val(9) + GICD_TYPER::No1N.val(1),
                };
                (lines + rest).value
            }
            (0x8, _) => IIDR,
            _ => 0,
        }
    }

    pub(super) fn write_distributor(
        &mut self,
        v: usize,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Notify {
        let low = u32::try_from(value & Width::Word.mask()).unwrap_or(0);
        match (self.version, offset, width) {
            (_, 0x000, Width::Word) => {
                let write = LocalRegisterCopy::<u32, GICD_CTLR::Register>::new(low);
                let enables =
                    (write.is_set(GICD_CTLR::EnableGrp0), write.is_set(GICD_CTLR::EnableGrp1));
                if enables == (self.group0, self.group1) {
                    return Notify::NONE;
                }
                (self.group0, self.group1) = enables;
                Notify::first(self.vcpus.into())
            }
            (GicVersion::V2, 0xf10..0xf30, Width::Byte | Width::Word) => {
                let first = usize::try_from(offset % 16).unwrap_or(0);
                let count = usize::try_from(width.bytes()).unwrap_or(0);
                let mut notify = Notify::NONE;
                for (n, byte) in value.to_le_bytes().into_iter().enumerate().take(count) {
                    if offset < 0xf20 {
                        self.remove_sources(v, first + n, byte);
                    } else {
                        notify = notify | self.add_sources(v, first + n, byte);
                    }
                }
                notify
            }
            (GicVersion::V2, ..) => self.write_bank_register(v, 0..BANKS, offset, width, value),
            (GicVersion::V3, 0x6100..0x8000, _) => self.write_router(offset, width, low),
            (GicVersion::V3, ..) => self.write_bank_register(v, 1..BANKS, offset, width, value),
        }
    }

    /// `GICD_IROUTER<n>`: of 64 bits, or either half of them. The upper half is zero.
    fn read_router(&self, offset: u64, width: Width) -> u64 {
        match spi_of_router(offset) {
            Some((shared, index)) if is_lower_half(offset, width) => {
                self.shared[shared].affinity[index].into()
            }
            _ => 0,
        }
    }

    fn write_router(&mut self, offset: u64, width: Width, low: u32) -> Notify {
        match spi_of_router(offset) {
            Some((shared, index)) if is_lower_half(offset, width) => {
                let affinity = low & AFFINITY;
                self.reroute(shared, index, |spis, at| {
                    core::mem::replace(&mut spis.affinity[at], affinity) != affinity
                })
            }
            _ => Notify::NONE,
        }
    }
}

/// The shared bank, and the interrupt in it, that a `GICD_IROUTER` is about.
fn spi_of_router(offset: u64) -> Option<(usize, usize)> {
    let intid = usize::try_from((offset - 0x6000) / 8).ok()?;
    if intid >= super::INTERRUPTS.into() {
        return None;
    }
    let bank = speculation::below(intid / 32, BANKS);
    Some((bank - 1, intid % 32))
}

const fn is_lower_half(offset: u64, width: Width) -> bool {
    matches!(width, Width::Word | Width::Double) && offset.is_multiple_of(8)
}
