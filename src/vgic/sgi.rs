//! Software generated interrupts: `GICD_SGIR` (IHI 0048), and `ICC_SGI1R_EL1` and its siblings (IHI
//! 0069).

use super::fields::{GICD_SGIR, ICC_SGIR};
use super::{GicVersion, Notify, Vgic, bits};
use crate::vcpu::VcpuId;
use tock_registers::LocalRegisterCopy;
use tock_registers::fields::Field;

/// `GICD_SGIR`, GICv2.
pub const GICD_SGIR_OFFSET: u64 = 0xf00;

/// The bits of `ICC_SGI1R_EL1` that name a CPU no guest has: all but Aff0.
const ELSEWHERE: u64 =
    mask(ICC_SGIR::Aff3) | mask(ICC_SGIR::Aff2) | mask(ICC_SGIR::Aff1) | mask(ICC_SGIR::RS);

const fn mask(field: Field<u64, ICC_SGIR::Register>) -> u64 {
    field.mask << field.shift
}

/// Which of the system registers that send an SGI. All have the same fields.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SgiRegister {
    /// `ICC_SGI0R_EL1`: group 0 only.
    Sgi0r,
    /// `ICC_SGI1R_EL1`: either group, the target's `GICR_IGROUPR0` says which.
    Sgi1r,
    /// `ICC_ASGI1R_EL1`: the other security state's group 1. There is none, so group 0 only.
    Asgi1r,
}

impl Vgic {
    /// `caller` writes `value` to one of the `ICC_SGI*R_EL1` registers. Targets that do not exist are
    /// ignored, and so is everything on GICv2, where the registers do not exist.
    #[inline(always)]
    pub fn send_sgi(&mut self, caller: VcpuId, register: SgiRegister, value: u64) -> Notify {
        let Some(v) = self.index(caller) else { return Notify::NONE };
        if self.version == GicVersion::V2 {
            return Notify::NONE;
        }
        let write = LocalRegisterCopy::<u64, ICC_SGIR::Register>::new(value);
        let exist = u32::from(mask_of(self.vcpus));
        let targets = if write.is_set(ICC_SGIR::IRM) {
            exist & !(1 << v)
        } else if value & ELSEWHERE == 0 {
            exist & (write.read(ICC_SGIR::TargetList) & 0xffff) as u32
        } else {
            0
        };
        let sgi = 1 << narrow(write.read(ICC_SGIR::INTID));
        let mut notify = Notify::NONE;
        for w in bits(targets) {
            let bank = &mut self.private[w].bank;
            let group1 = bank.group & sgi != 0;
            if (register == SgiRegister::Sgi1r || !group1) && bank.set_pending(sgi) != 0 {
                self.fire(w, sgi);
                notify = notify | Notify::bit(w);
            }
        }
        notify
    }

    /// `caller` writes `value` to `GICD_SGIR`. Ignored on GICv3, where affinity routing has replaced it.
    #[inline(always)]
    pub fn send_sgir(&mut self, caller: VcpuId, value: u64) -> Notify {
        let Some(v) = self.index(caller).filter(|_| self.version == GicVersion::V2) else {
            return Notify::NONE;
        };
        #[expect(clippy::cast_possible_truncation, reason = "a register of 32 bits")]
        let write = LocalRegisterCopy::<u32, GICD_SGIR::Register>::new(value as u32);
        let sgi = narrow(write.read(GICD_SGIR::SGIINTID).into());
        let exist = u32::from(mask_of(self.vcpus));
        let targets = match write.read_as_enum(GICD_SGIR::TargetListFilter) {
            Some(GICD_SGIR::TargetListFilter::Value::List) => {
                exist & write.read(GICD_SGIR::CPUTargetList)
            }
            Some(GICD_SGIR::TargetListFilter::Value::AllOthers) => exist & !(1 << v),
            Some(GICD_SGIR::TargetListFilter::Value::Sender) => 1 << v,
            None => 0,
        };
        let mut notify = Notify::NONE;
        for w in bits(targets) {
            notify = notify | self.add_sources(w, sgi, 1 << v);
        }
        notify
    }

    /// `GICD_SPENDSGIR`: SGI `sgi` of `w` is pending from `sources` too.
    #[inline(always)]
    pub(super) fn add_sources(&mut self, w: usize, sgi: usize, sources: u8) -> Notify {
        let private = &mut self.private[w];
        let sources = sources & mask_of(self.vcpus);
        if sources & !private.sources[sgi] == 0 {
            return Notify::NONE;
        }
        private.sources[sgi] |= sources;
        // The latch may be set already: another source may still be a new reason for a maintenance
        // interrupt.
        let _ = private.bank.set_pending(1 << sgi);
        if private.bank.enabled & (1 << sgi) == 0 {
            return Notify::NONE;
        }
        self.fire(w, 1 << sgi);
        Notify::bit(w)
    }

    /// `GICD_CPENDSGIR`: SGI `sgi` of `v` is no longer pending from `sources`.
    pub(super) fn remove_sources(&mut self, v: usize, sgi: usize, sources: u8) {
        let private = &mut self.private[v];
        private.sources[sgi] &= !sources;
        if private.sources[sgi] == 0 {
            private.bank.latch &= !(1 << sgi);
        }
    }
}

/// A bit for each vCPU.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "there are at most 8")]
pub(super) const fn mask_of(vcpus: u8) -> u8 {
    ((1u32 << vcpus) - 1) as u8
}

/// A field's value, as an index; fields are narrow.
fn narrow(field: u64) -> usize {
    usize::try_from(field & 0xf).unwrap_or(0)
}
