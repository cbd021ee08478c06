//! A VM is taken apart, a step at a time: what it has depends on its size, and interrupts wait for each step.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::disks::VmDisk;
use super::{VcpuSlot, Vm};
use crate::device::Device;
use crate::device::bus::Bus;
use crate::memory::stage2::Teardown;
use crate::memory::{Dirty, FramePool, Frames, GuestMemory, Maintenance, Stage2, Store, Vmids};
use crate::sched::VmId;
use crate::sync::{Once, TicketMutex};
use crate::virtio::ram::SharedRam;

/// What is left to be given back of a VM that no CPU has any more, or that could not be built.
#[must_use = "its frames and its VMID are lost unless it is gone through"]
pub(crate) struct Remains {
    id: VmId,
    /// What it was called, if it was there.
    name: Option<String>,
    pub(super) bus: Option<Bus>,
    /// Devices that are not on the bus yet.
    pub(super) virtio: Vec<(Box<dyn Device>, String)>,
    pub(super) vcpus: Vec<VcpuSlot>,
    /// Its devices share the memory, and the memory the translation.
    shared: Option<SharedRam>,
    memory: Option<GuestMemory>,
    pub(super) translation: Option<Translation>,
    tables: Option<Teardown>,
    /// Those that were not its RAM yet.
    pub(super) frames: Option<Frames<Dirty>>,
    /// Where its guest is told of stolen time.
    pub(super) page: GuestMemory,
    disks: Vec<VmDisk>,
    /// Of the disk that is given back at the moment.
    stores: [Store; 4],
}

/// A VM's stage 2.
pub(super) enum Translation {
    /// Of one that was there.
    Shared(Arc<TicketMutex<Stage2>>),
    /// Of one that was being built.
    Own(Stage2),
}

impl Translation {
    /// It alone, if nobody else has it any more.
    fn into_stage2(self) -> Option<Stage2> {
        match self {
            Self::Shared(shared) => Some(Arc::into_inner(shared)?.into_inner()),
            Self::Own(stage2) => Some(stage2),
        }
    }
}

impl Vm {
    /// Take the VM apart: no CPU has any of it.
    pub(crate) fn dismantle(self) -> Remains {
        let mut remains = Remains::new(self.id, self.memory, self.disks);
        remains.name = Some(self.name);
        remains.bus = Some(self.bus);
        remains.vcpus = self.vcpus.into_vec();
        remains.translation = Some(Translation::Shared(self.stage2));
        remains.frames = self.loading.into_inner().abandon();
        remains.page = self.stolen.into_page();
        remains
    }
}

impl Remains {
    /// A VM that has nothing but this memory and these disks.
    pub(super) fn new(id: VmId, memory: SharedRam, disks: Vec<VmDisk>) -> Self {
        Self {
            id,
            name: None,
            bus: None,
            virtio: Vec::new(),
            vcpus: Vec::new(),
            shared: Some(memory),
            memory: None,
            translation: None,
            tables: None,
            frames: None,
            page: GuestMemory::new(),
            disks,
            stores: Default::default(),
        }
    }

    /// Whose they are.
    pub(crate) const fn id(&self) -> VmId {
        self.id
    }

    /// What it was called, if it was there.
    pub(crate) fn into_name(self) -> Option<String> {
        self.name
    }

    /// Gives some of it back: some thousand instructions. Returns whether that was all.
    pub(crate) fn step(
        &mut self,
        frames: &mut FramePool,
        vmids: &mut Vmids,
        cpu: &impl Maintenance,
    ) -> bool {
        let device = self.bus.as_mut().and_then(Bus::take_one);
        if device.is_some() || self.virtio.pop().is_some() || self.vcpus.pop().is_some() {
            return false;
        }
        if let Some(shared) = self.shared.take() {
            self.memory = Arc::into_inner(shared).and_then(Once::try_into_inner);
            if let Some(memory) = &mut self.memory {
                memory.close();
            }
        }
        if let Some(translation) = self.translation.take() {
            self.tables = translation.into_stage2().map(|stage2| stage2.tear_down(cpu));
        }
        // The tables first: nothing translates to frames that others can have.
        if let Some(tables) = &mut self.tables {
            if tables.step(vmids, frames) {
                self.tables = None;
            }
            return false;
        }
        let all = self.frames.as_mut().is_none_or(|left| frames.free_some(left))
            && self.memory.as_mut().is_none_or(|memory| memory.release_some(frames))
            && self.stores.iter_mut().all(|store| store.release_some(frames));
        if !all {
            return false;
        }
        match self.disks.pop() {
            Some(disk) => {
                self.stores = disk.into_stores().unwrap_or_default();
                false
            }
            None => self.page.release_some(frames),
        }
    }
}
