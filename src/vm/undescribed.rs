//! Accesses to devices of which the syndrome describes nothing (`ESR_EL2.ISS.ISV` = 0): pairs of registers, SIMD and
//! floating-point registers, write-back. What they are is decoded from the instruction ([`crate::a64`]), which is fetched
//! from the guest's RAM by the guest's own translation.
//!
//! Nothing is guessed: where the instruction does not do what the syndrome does tell, its address and whether it stores, as
//! another vCPU has changed it meanwhile, or where it is none that is decoded, the guest gets the abort.
//!
//! A device sees each register's bytes as one access, and those of a 128-bit register as two, from the lower address on. If
//! one of several is refused the guest gets the abort, and those before it have happened, as on a bus.

use super::Vm;
use super::mmio::Accessed;
use crate::a64::{Bank, Transfer};
use crate::addr::{Ipa, PAGE_SIZE};
use crate::exit::{Direction, FaultSource, Gpr, MmioAccess, StageTwoFault, Width};
use crate::machine::{Machine, NoAddress};
use crate::vcpu::{Vcpu, VcpuId, pstate};
use crate::vgic::Notify;

/// What came of an attempt.
pub(super) enum Attempt {
    /// It is done: the vCPUs that have to look at their interrupts, and whether the device is due earlier than before.
    Done(Notify, bool),
    /// The guest has to try again, as a translation was being changed.
    Again,
    /// It is none of those.
    Refused,
}

/// The most pieces of 8 bytes that an instruction moves.
const MOST_PIECES: usize = 4;

impl Vm {
    /// Carry out a vCPU's access to a device, if that is what has failed.
    pub(super) fn undescribed<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        fault: &StageTwoFault,
    ) -> Attempt {
        let (FaultSource::Data { write }, Some(ipa), Some(far), false) =
            (fault.source, fault.ipa, fault.far, fault.walk)
        else {
            return Attempt::Refused;
        };
        let is_device = self.bus.answers(ipa) || self.gic_frame(ipa, Width::Byte).is_some();
        if !is_device || vcpu.regs.pstate & pstate::AARCH32 != 0 {
            return Attempt::Refused;
        }
        let instruction = match machine.translate(vcpu.regs.pc) {
            Ok(at) => self.memory.get().and_then(|ram| ram.read::<u32>(at).ok()),
            Err(NoAddress::ForNow) => return Attempt::Again,
            Err(NoAddress::AtAll) => None,
        };
        let done = instruction
            .and_then(Transfer::decode)
            .filter(|transfer| transfer.store == write)
            .and_then(|transfer| {
                let at = first_byte(&transfer, vcpu, ipa, far)?;
                self.transfer(machine, me, vcpu, &transfer, at)
            });
        done.map_or(Attempt::Refused, |(notify, sooner)| Attempt::Done(notify, sooner))
    }

    /// Carry out `transfer`, whose first byte is at `ipa`. `None` when a device refuses; then no register has changed.
    fn transfer<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        transfer: &Transfer,
        ipa: Ipa,
    ) -> Option<(Notify, bool)> {
        let (width, pieces) = match transfer.scale {
            0 => (Width::Byte, 1),
            1 => (Width::Half, 1),
            2 => (Width::Word, 1),
            3 => (Width::Double, 1),
            _ => (Width::Double, 2),
        };
        let direction = match transfer.bank {
            _ if transfer.store => Direction::Write,
            Bank::General { sign_extend, sixty_four } => {
                Direction::Read { sign_extend, sixty_four }
            }
            Bank::Vector => Direction::Read { sign_extend: false, sixty_four: true },
        };
        let swapped = Self::is_big_endian(machine, &vcpu.regs);
        let access = MmioAccess { ipa, far: 0, width, direction, gpr: Gpr::ZERO, swapped };
        // A register of 128 bits is one number: in a big-endian guest its halves change places, too.
        let place = |piece: usize| if swapped { pieces - 1 - piece } else { piece };
        let vector = transfer.bank == Bank::Vector;
        let mut vectors = vector.then(|| machine.copy_fp());
        let mut values = [0; MOST_PIECES];
        if transfer.store {
            for (register, values) in transfer.registers().zip(values.chunks_mut(pieces)) {
                let held = match &vectors {
                    Some(vectors) => halves(*vectors.v.get(usize::from(register))?),
                    None => [vcpu.regs.read(Gpr::new(register.into())), 0],
                };
                for (piece, value) in values.iter_mut().enumerate() {
                    *value = access.stored(*held.get(place(piece))?);
                }
            }
        }
        let (mut notify, mut sooner, mut refused) = (Notify::NONE, false, false);
        let used = transfer.registers().count() * pieces;
        for (offset, value) in (0..).step_by(1 << width as usize).zip(values.iter_mut().take(used))
        {
            let stored = transfer.store.then_some(*value);
            let accessed = ipa
                .checked_add(offset)
                .and_then(|at| self.access::<M, false>(machine, me, vcpu, at, width, stored));
            let Some(Accessed { notify: more, loaded, sooner: is_sooner }) = accessed else {
                refused = true;
                break;
            };
            *value = loaded;
            (notify, sooner) = (notify | more, sooner | is_sooner);
        }
        notify = notify | self.catch_up(machine, me);
        if refused {
            return None;
        }
        let base = transfer.write_back(|gpr| vcpu.regs.read(gpr));
        if !transfer.store {
            for (register, values) in transfer.registers().zip(values.chunks(pieces)) {
                let mut held = [0; 2];
                for (piece, value) in values.iter().enumerate() {
                    *held.get_mut(place(piece))? = access.extend(*value);
                }
                match &mut vectors {
                    Some(vectors) => *vectors.v.get_mut(usize::from(register))? = whole(held),
                    None => vcpu.regs.write(Gpr::new(register.into()), held[0]),
                }
            }
            if let Some(vectors) = &vectors {
                machine.write_fp(vectors);
            }
        }
        if let Some(base) = base {
            vcpu.regs.write(transfer.base, base);
        }
        vcpu.regs.skip_instruction();
        Some((notify, sooner))
    }
}

/// Where the first byte of a transfer is, of which the byte at `far` and `ipa` has failed; `None` when the registers lead
/// elsewhere, or not all of it is in that page.
fn first_byte(transfer: &Transfer, vcpu: &Vcpu, ipa: Ipa, far: u64) -> Option<Ipa> {
    /// An address may have a tag, and `FAR_EL2` may have it or not (Arm ARM, "Address tagging").
    const TAG: u64 = 0xff << 56;
    let address = transfer.address(|gpr| vcpu.regs.read(gpr));
    let before = far.wrapping_sub(address) & !TAG;
    let at = ipa.page_offset().checked_sub(before).filter(|_| before < transfer.size())?;
    let first = ipa.page().checked_add(at)?;
    (at + transfer.size() <= PAGE_SIZE).then_some(first)
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of a number")]
const fn halves(value: u128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}

const fn whole([low, high]: [u64; 2]) -> u128 {
    low as u128 | (high as u128) << 64
}
