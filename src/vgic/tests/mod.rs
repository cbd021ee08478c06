//! What a guest may rely on, through the offsets of the manuals and a fake CPU interface.

mod again;
mod crowd;
mod delivery;
mod exhaustive;
mod file;
mod linked;
mod property;
mod reference;
mod registers;
mod sgi;
mod spi;

use super::fake::CpuInterface;
use super::{Frame, GicVersion, IntId, ListRegisters, LrState, Notify, SgiRegister, Vgic};
use crate::exit::Width;
use crate::vcpu::VcpuId;
use alloc::vec::Vec;

const UART: IntId = IntId::spi(1);
const DISK: IntId = IntId::spi(16);
const TIMER: IntId = IntId::ppi(11);

const fn vcpu(n: u8) -> VcpuId {
    VcpuId(n)
}

fn set(vcpus: &[u8]) -> Vec<VcpuId> {
    vcpus.iter().copied().map(VcpuId).collect()
}

fn told(notify: Notify) -> Vec<VcpuId> {
    notify.iter().collect()
}

/// A VM whose vCPUs all run, each on a CPU of its own.
#[derive(Clone)]
struct Machine {
    vgic: Vgic,
    cpus: Vec<CpuInterface>,
}

impl Machine {
    fn new(version: GicVersion, vcpus: u8, list_registers: usize) -> Self {
        let mut interface = CpuInterface::new(list_registers);
        interface.ends_by_priority = version == GicVersion::V3;
        let cpus = (0..vcpus).map(|_| interface.clone()).collect();
        let mut machine = Self { vgic: Vgic::new(version, vcpus.into()), cpus };
        machine.write(0, 0x000, 0b11); // GICD_CTLR: both groups
        machine
    }

    /// A GICv2 with everything about the UART (level), the disk (edge) and the timer (level) enabled.
    fn v2(vcpus: u8, list_registers: usize) -> Self {
        let mut machine = Self::new(GicVersion::V2, vcpus, list_registers);
        machine.write(0, 0x104, u32::MAX); // GICD_ISENABLER1
        machine.write(0, 0xc0c, 0b10); // GICD_ICFGR3: INTID 48 is an edge
        for n in 0..vcpus {
            machine.write(n, 0x100, 1 << 27); // GICD_ISENABLER0
        }
        machine
    }

    /// The same machine, whose interrupt controller [forgets levels](ListRegisters::forgets_levels).
    fn forgetful(mut self) -> Self {
        self.cpus.iter_mut().for_each(|cpu| cpu.forgets_levels = true);
        self
    }

    fn cpu(&mut self, n: u8) -> &mut CpuInterface {
        &mut self.cpus[usize::from(n)]
    }

    /// Kicks whoever is to be told, until nobody is.
    fn settle(&mut self, mut notify: Notify) {
        while let Some(next) = notify.iter().next() {
            let more = self.cpus[usize::from(next.0)].settle(&mut self.vgic, next);
            notify = notify.without(next) | more;
        }
    }

    fn sync(&mut self, n: u8) {
        let notify = self.cpus[usize::from(n)].settle(&mut self.vgic, vcpu(n));
        self.settle(notify);
    }

    fn fold(&mut self, n: u8) {
        let notify = self.vgic.fold(vcpu(n), &mut self.cpus[usize::from(n)]);
        self.settle(notify);
    }

    /// vCPU `n` waits, if there is nothing for it.
    fn rest(&mut self, n: u8) {
        let cpu = &mut self.cpus[usize::from(n)];
        let notify = self.vgic.fold(vcpu(n), cpu);
        let more = if self.vgic.has_pending(vcpu(n)) {
            self.vgic.sync(vcpu(n), cpu)
        } else {
            self.vgic.rest(vcpu(n), cpu)
        };
        assert!(!cpu.maintenance(), "it asks for attention while it waits");
        self.settle(notify | more);
    }

    fn unload(&mut self, n: u8) {
        let notify = self.vgic.unload(vcpu(n), &mut self.cpus[usize::from(n)]);
        self.settle(notify);
    }

    fn access(
        &mut self,
        n: u8,
        frame: Frame,
        offset: u64,
        width: Width,
        value: Option<u64>,
    ) -> u64 {
        if Vgic::is_live(frame, offset) {
            self.fold(n);
        }
        let mut read = 0;
        match value {
            Some(value) => {
                let notify = self.vgic.write(vcpu(n), frame, offset, width, value);
                self.settle(notify);
            }
            None => read = self.vgic.read(vcpu(n), frame, offset, width),
        }
        self.sync(n);
        read
    }

    /// vCPU `n` writes a word of the distributor.
    fn write(&mut self, n: u8, offset: u64, value: u32) {
        self.access(n, Frame::Distributor, offset, Width::Word, Some(value.into()));
    }

    /// vCPU `n` reads a word of the distributor.
    fn read(&mut self, n: u8, offset: u64) -> u64 {
        self.access(n, Frame::Distributor, offset, Width::Word, None)
    }

    /// As the run loop does it: the quick way first, where there is one.
    fn set_level(&mut self, n: u8, intid: IntId, high: bool) {
        let private = &self.vgic.private[usize::from(n)].bank;
        let linked = intid.0 < 32 && private.linked & 1 << intid.0 != 0;
        if high && linked && self.vgic.refire(vcpu(n), intid, &mut self.cpus[usize::from(n)]) {
            return;
        }
        let notify = self.vgic.set_level(vcpu(n), intid, high);
        self.settle(notify);
        self.sync(n);
    }

    fn raise(&mut self, n: u8, intid: IntId) {
        let notify = self.vgic.raise(vcpu(n), intid);
        self.settle(notify);
    }

    fn ack(&mut self, n: u8) -> Option<IntId> {
        self.cpu(n).acknowledge().map(|(intid, _)| intid)
    }

    /// The guest ends `intid`, and its CPU takes the maintenance interrupt if there is one.
    fn end(&mut self, n: u8, intid: IntId) -> bool {
        self.cpu(n).end(intid, 0);
        let exit = self.cpu(n).maintenance();
        if exit {
            self.sync(n);
        }
        exit
    }
}
