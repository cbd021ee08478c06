//! This CPU's list registers.

use aarch64_cpu::asm::barrier;
use tock_registers::LocalRegisterCopy;

use super::v3::ICH_HCR;
use super::{Gic, Hardware, low_word, v3};
use crate::arch::regs::{
    ICC_DIR_EL1, ICH_EISR_EL2, ICH_ELRSR_EL2, ICH_HCR_EL2, read_ich_lr, write_ich_lr,
};
use crate::platform::driver::gicv2::gicc::Acknowledged;
use crate::platform::driver::gicv2::gich;
use crate::vgic::{IntId, ListRegister, ListRegisters};

impl Gic {
    /// What a list register is to be repeated with, as it stands there.
    fn remember(&mut self, index: usize, lr: Option<ListRegister>) -> u64 {
        let value = lr.map_or(0, |lr| match &self.hardware {
            Hardware::V2 { .. } => gich::encode(lr).into(),
            Hardware::V3 { .. } => v3::encode(lr),
        });
        let Some(written) = self.written.get_mut(index) else { return value };
        *written = value;
        value
    }

    #[inline(always)]
    fn set_list_register(&self, index: usize, value: u64) {
        match &self.hardware {
            Hardware::V2 { virt, .. } => {
                virt.set_lr(index, low_word(value));
                // It has arrived before the guest runs, and asks for nothing any more before interrupts are let through.
                barrier::dsb(barrier::SY);
            }
            Hardware::V3 { .. } => {
                write_ich_lr(index, value);
                // Before `ICH_ELRSR_EL2` or `ICH_EISR_EL2` is read again.
                barrier::isb(barrier::SY);
            }
        }
    }
}

impl ListRegisters for Gic {
    fn count(&self) -> usize {
        match &self.hardware {
            Hardware::V2 { virt, .. } => virt.count(),
            Hardware::V3 { features, .. } => features.list_registers,
        }
    }

    #[inline]
    fn read(&self, index: usize) -> Option<ListRegister> {
        match &self.hardware {
            Hardware::V2 { virt, .. } => gich::decode(virt.lr(index)),
            Hardware::V3 { .. } => v3::decode(read_ich_lr(index)),
        }
    }

    #[inline(always)]
    fn is_empty(&self, index: usize) -> bool {
        match &self.hardware {
            Hardware::V2 { virt, .. } => gich::is_empty(virt.lr(index)),
            // One register for all: which list register is read need not be found out.
            Hardware::V3 { .. } => ICH_ELRSR_EL2.get() >> (index & 15) & 1 != 0,
        }
    }

    #[inline]
    fn write(&mut self, index: usize, lr: Option<ListRegister>) {
        let value = self.remember(index, lr);
        self.set_list_register(index, value);
    }

    #[inline]
    fn keep(&mut self, index: usize, lr: ListRegister) {
        self.remember(index, Some(lr));
    }

    #[inline(always)]
    fn repeat(&mut self, index: usize) {
        let Some(written) = self.written.get(index) else { return };
        self.set_list_register(index, *written);
    }

    #[inline(always)]
    fn clear(&mut self, index: usize) {
        self.set_list_register(index, 0);
    }

    #[inline(always)]
    fn ended(&self) -> u32 {
        match &self.hardware {
            Hardware::V2 { virt, .. } => low_word(virt.eisr()),
            Hardware::V3 { .. } => low_word(ICH_EISR_EL2.get()),
        }
    }

    #[inline(always)]
    fn forgets_levels(&self) -> bool {
        self.forgets_levels
    }

    #[inline]
    fn take_eoi_count(&mut self) -> u32 {
        match &self.hardware {
            Hardware::V2 { virt, .. } => virt.take_eoi_count(),
            Hardware::V3 { .. } => {
                let mut hcr = LocalRegisterCopy::<u64, ICH_HCR::Register>::new(ICH_HCR_EL2.get());
                let count = hcr.read(ICH_HCR::EOIcount);
                if count != 0 {
                    hcr.modify(ICH_HCR::EOIcount.val(0));
                    ICH_HCR_EL2.set(hcr.get());
                }
                low_word(count)
            }
        }
    }

    #[inline]
    fn set_maintenance(&mut self, no_pending: bool, entry_not_present: bool) {
        if self.asked == (no_pending, entry_not_present) {
            return;
        }
        self.asked = (no_pending, entry_not_present);
        match &self.hardware {
            Hardware::V2 { virt, .. } => virt.set_maintenance(no_pending, entry_not_present),
            Hardware::V3 { .. } => {
                let mut hcr = LocalRegisterCopy::<u64, ICH_HCR::Register>::new(ICH_HCR_EL2.get());
                hcr.modify(
                    ICH_HCR::NPIE.val(no_pending.into())
                        + ICH_HCR::LRENPIE.val(entry_not_present.into()),
                );
                ICH_HCR_EL2.set(hcr.get());
            }
        }
    }

    fn deactivate(&mut self, physical: IntId) {
        match &self.hardware {
            Hardware::V2 { interface, .. } => {
                interface.deactivate(Acknowledged { intid: physical, source: 0 });
            }
            Hardware::V3 { .. } => ICC_DIR_EL1.set(physical.0.into()),
        }
    }
}
