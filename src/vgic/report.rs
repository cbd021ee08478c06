//! What a look from outside sees of the controller: for the monitor.

use super::bank::{BANKS, bits};
use super::{IntId, Place, Vgic};
use crate::vcpu::VcpuId;

/// An interrupt as it is. What a list register holds is as it was when it was last folded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Line {
    /// Which.
    pub intid: IntId,
    /// The vCPU that it belongs to, or that it is routed to.
    pub vcpu: Option<VcpuId>,
    /// It may be delivered.
    pub enabled: bool,
    /// It waits.
    pub pending: bool,
    /// It is being handled.
    pub active: bool,
    /// Lower is more urgent.
    pub priority: u8,
}

impl Vgic {
    /// The interrupts that are enabled, pending or active: each vCPU's own, then the shared ones. SGIs
    /// that merely may come are left out.
    pub fn lines(&self) -> impl Iterator<Item = Line> {
        let own = (0..self.vcpus).map(|vcpu| (vcpu, 0));
        let shared = (1..BANKS).map(|bank| (0, bank));
        own.chain(shared).flat_map(|(vcpu, bank)| self.lines_of(vcpu, bank))
    }

    fn lines_of(&self, vcpu: u8, bank: usize) -> impl Iterator<Item = Line> {
        let v = usize::from(vcpu);
        let state = self.bank(v, bank);
        let always = if bank == 0 { 0xffff } else { 0 };
        let (pending, active) = (state.pending(), state.active);
        bits(state.enabled & !always | pending | active).map(move |index| {
            let place = Place { bank, index };
            let is = |word: u32| word & place.bit() != 0;
            let routed = bank.checked_sub(1).map(|shared| {
                let to = self.shared[shared].routed.iter().position(|routed| is(*routed));
                to.and_then(|to| u8::try_from(to).ok()).map(VcpuId)
            });
            Line {
                intid: place.intid(),
                vcpu: routed.unwrap_or(Some(VcpuId(vcpu))),
                enabled: is(state.enabled),
                pending: is(pending),
                active: is(active),
                priority: state.priority[index],
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, GicVersion};
    use super::*;
    use crate::exit::Width;

    #[test]
    fn what_is_enabled_or_waits_is_listed_once_with_its_target() {
        let mut vgic = Vgic::new(GicVersion::V2, 2);
        assert_eq!(vgic.lines().count(), 0);
        let caller = VcpuId(1);
        let mut write = |offset, width, value| {
            let _ = vgic.write(caller, Frame::Distributor, offset, width, value);
        };
        write(0x100, Width::Word, 1 << 27); // GICD_ISENABLER0
        write(0x104, Width::Word, 1 << 1); // GICD_ISENABLER1: INTID 33
        write(0x421, Width::Byte, 0x40); // its GICD_IPRIORITYR
        write(0x821, Width::Byte, 0b10); // its GICD_ITARGETSR
        let _ = vgic.set_level(VcpuId(0), IntId(35), true);
        let lines: Vec<_> = vgic.lines().collect();
        let line = |intid, vcpu, enabled, pending, priority| Line {
            intid: IntId(intid),
            vcpu: Some(VcpuId(vcpu)),
            enabled,
            pending,
            active: false,
            priority,
        };
        assert_eq!(
            lines,
            [
                line(27, 1, true, false, 0),
                line(33, 1, true, false, 0x40),
                line(35, 0, false, true, 0)
            ]
        );
    }
}
