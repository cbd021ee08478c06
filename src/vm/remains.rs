//! A VM is taken apart, a step at a time: what it has depends on its size, and interrupts wait for each step.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Vm;
use super::disks::VmDisk;
use crate::memory::stage2::Teardown;
use crate::memory::{Dirty, FramePool, Frames, GuestMemory, Maintenance, Store, Vmids};
use crate::sched::VmId;
use crate::sync::Once;

/// What is left to be given back of a VM that no CPU has any more.
#[must_use = "its frames and its VMID are lost unless it is gone through"]
pub(crate) struct Remains {
    id: VmId,
    name: String,
    tables: Option<Teardown>,
    /// Those that were not its RAM yet.
    frames: Option<Frames<Dirty>>,
    memory: Option<GuestMemory>,
    /// Where its guest is told of stolen time.
    page: GuestMemory,
    disks: Vec<VmDisk>,
    /// Of the disk that is given back at the moment.
    stores: [Store; 4],
}

impl Vm {
    /// Take the VM apart: no CPU has any of it. Its devices are no more when this returns.
    pub(crate) fn dismantle(self, cpu: &impl Maintenance) -> Remains {
        drop(self.bus); // its devices share the memory, and the disks
        let mut memory = Arc::into_inner(self.memory).and_then(Once::try_into_inner);
        if let Some(memory) = &mut memory {
            memory.close(); // it shares the translation
        }
        Remains {
            id: self.id,
            name: self.name,
            tables: Arc::into_inner(self.stage2).map(|stage2| stage2.into_inner().tear_down(cpu)),
            frames: self.loading.into_inner().abandon(),
            memory,
            page: self.stolen.into_page(),
            disks: self.disks,
            stores: Default::default(),
        }
    }
}

impl Remains {
    /// Whose they are.
    pub(crate) const fn id(&self) -> VmId {
        self.id
    }

    /// What it was called.
    pub(crate) fn into_name(self) -> String {
        self.name
    }

    /// Gives some of it back: some thousand instructions. Returns whether that was all.
    pub(crate) fn step(&mut self, frames: &mut FramePool, vmids: &mut Vmids) -> bool {
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
