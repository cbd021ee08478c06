//! A redistributor's two frames, GICv3: `RD_base`, and `SGI_base` after it. No LPIs.

use super::fields::{GICR_TYPER, GICR_WAKER, IIDR, identification};
use super::{Notify, Vgic};
use crate::exit::Width;
use tock_registers::LocalRegisterCopy;

/// Where `SGI_base` starts, counted from `RD_base`.
pub(super) const SGI_BASE: u64 = 0x1_0000;
const GICR_WAKER_OFFSET: u64 = 0x14;

impl Vgic {
    /// `reader` reads the redistributor of `v`.
    pub(super) fn read_redistributor(
        &mut self,
        reader: usize,
        v: usize,
        offset: u64,
        width: Width,
    ) -> u64 {
        if let Some(offset) = offset.checked_sub(SGI_BASE) {
            return self.read_bank_register(reader, v, 0..1, offset, width);
        }
        match (offset, width) {
            (0x04, Width::Word) => IIDR.into(),
            (0x08, Width::Double) => self.typer(v),
            (0x08, Width::Word) => self.typer(v) & Width::Word.mask(),
            (0x0c, Width::Word) => self.typer(v) >> 32,
            (GICR_WAKER_OFFSET, Width::Word) => {
                let asleep = self.private[v].asleep.into();
                // There is nothing to quiesce: the children are asleep as soon as the parent is.
                let waker =
                    GICR_WAKER::ProcessorSleep.val(asleep) + GICR_WAKER::ChildrenAsleep.val(asleep);
                waker.value.into()
            }
            (0xffd0..SGI_BASE, Width::Word) => identification(3, (offset - 0xffd0) / 4).into(),
            // GICR_CTLR: without LPIs nothing to enable. GICR_STATUSR: nothing reported.
            _ => 0,
        }
    }

    fn typer(&self, v: usize) -> u64 {
        let number = v as u64;
        let last = v + 1 == usize::from(self.vcpus);
        (GICR_TYPER::Last.val(last.into())
            + GICR_TYPER::Processor_Number.val(number)
            + GICR_TYPER::Affinity_Value.val(number))
        .value
    }

    /// Somebody writes the redistributor of `v`.
    pub(super) fn write_redistributor(
        &mut self,
        v: usize,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Notify {
        if let Some(offset) = offset.checked_sub(SGI_BASE) {
            return self.write_bank_register(v, 0..1, offset, width, value);
        }
        if let (GICR_WAKER_OFFSET, Width::Word, Ok(value)) = (offset, width, u32::try_from(value)) {
            let write = LocalRegisterCopy::<u32, GICR_WAKER::Register>::new(value);
            self.private[v].asleep = write.is_set(GICR_WAKER::ProcessorSleep);
        }
        Notify::NONE
    }
}
