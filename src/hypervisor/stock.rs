//! What VMs are made from, and what goes back to it when they are taken apart: memory, VMIDs, the
//! bundle.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::device::serial::SerialLine;
use crate::firmware::entropy::Entropy;
use crate::manifest::{MachineConfig, Manifest, VmConfig};
use crate::memory::{FramePool, Maintenance, Vmids};
use crate::sched::VmId;
use crate::time::Ticks;
use crate::vm::Vm;
use crate::vm::create::{CreateError, Creation, Host};
use crate::vm::loading::BootError;

/// Makes the serial line of a VM.
pub type MakeLine = dyn Fn(VmId, &str) -> Arc<dyn SerialLine> + Send;

/// The hypervisor's heap, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HeapReport {
    /// All of it.
    pub total: u64,
    /// What nobody has.
    pub free: u64,
}

/// The memory for VMs, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryReport {
    /// All of it.
    pub total: u64,
    /// What no VM has.
    pub free: u64,
    /// The largest block of that.
    pub largest_free: u64,
}

/// What VMs are made from.
pub struct Stock {
    host: Host,
    manifest: Manifest<'static>,
    frames: FramePool,
    vmids: Vmids,
    entropy: Option<Entropy>,
    line: Box<MakeLine>,
}

impl Stock {
    /// The VMs of `manifest`, from `frames`, for the machine `host`. Their generators are seeded from
    /// `entropy`.
    pub fn new(
        host: Host,
        manifest: Manifest<'static>,
        frames: FramePool,
        entropy: Option<Entropy>,
        line: Box<MakeLine>,
    ) -> Self {
        Self { host, manifest, frames, vmids: Vmids::new(), entropy, line }
    }

    /// The machine.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// What the bundle says of the machine.
    pub const fn machine(&self) -> &MachineConfig {
        self.manifest.machine()
    }

    /// What the bundle says of each VM.
    pub fn configs(&self) -> &[VmConfig] {
        self.manifest.vms()
    }

    /// The memory for VMs.
    pub fn memory(&mut self) -> MemoryReport {
        MemoryReport {
            total: self.frames.total_bytes(),
            free: self.frames.free_bytes(),
            largest_free: self.frames.largest_block(),
        }
    }

    /// Build the VM with the number `id`; `None` when the bundle has none such.
    pub(super) fn create(
        &mut self,
        id: VmId,
        now: Ticks,
        cpu: &impl Maintenance,
    ) -> Option<Result<Vm, CreateError>> {
        let config = self.manifest.vms().get(id.index())?;
        let creation = Creation {
            id,
            config,
            manifest: &self.manifest,
            host: &self.host,
            entropy: self.entropy.as_mut().map(Entropy::fork),
            now,
        };
        let line = (self.line)(id, &config.name);
        let before = self.frames.free_bytes();
        let created = Vm::create(creation, line, &mut self.frames, &mut self.vmids, cpu);
        if let Ok(vm) = &created {
            let taken = before.saturating_sub(self.frames.free_bytes());
            vm.add_tables(taken.saturating_sub(vm.memory_size()));
        }
        Some(created)
    }

    /// Map a VM's RAM.
    pub(super) fn map_ram(&mut self, vm: &Vm, cpu: &impl Maintenance) -> Result<(), BootError> {
        let before = self.frames.free_bytes();
        vm.map_ram(&mut self.frames, cpu)?;
        vm.add_tables(before.saturating_sub(self.frames.free_bytes()));
        Ok(())
    }

    /// Take a VM apart that nobody uses any more.
    pub(super) fn destroy(&mut self, vm: Vm, cpu: &impl Maintenance) {
        vm.destroy(&mut self.frames, &mut self.vmids, cpu);
    }
}
