//! What comes before a VM's first instruction, at its first start and after each reset: RAM without what
//! others left in it, disks, the image, the device tree.
//!
//! It goes in steps of some ten thousand instructions, which the boot vCPU's CPU does in the boot vCPU's
//! own time, as if the guest did it: with its share, on its CPUs, and interrupted like it.

use alloc::boxed::Box;
use alloc::string::String;

use super::Vm;
use crate::addr::{Ipa, Region};
use crate::firmware::fdt::{self, GuestMachine, Seeds};
use crate::firmware::image::{
    DEVICE_TREE_SLOT, GuestWrite, ImageError, Loader, OutOfRam, Placement,
};
use crate::firmware::psci::Power;
use crate::manifest::Devices;
use crate::memory::elastic::Filled;
use crate::memory::scrub::Scrubbing;
use crate::memory::{
    Clean, Dirty, Frames, GuestMemory, Maintenance, MapError, OutsideRam, Perms, TableFrames,
};

use crate::virtio::block::image::ImageError as DiskImageError;

/// How much one step zeroes or cleans at most, in bytes: some thousand instructions.
const STEP: u64 = 64 << 10;

/// Why an image cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel or the RAM disk.
    #[error("image: {0}")]
    Image(#[from] ImageError),
    /// The device tree has no place.
    #[error("device tree: {0}")]
    DeviceTree(#[from] OutsideRam),
    /// The device tree cannot be written.
    #[error("device tree: {0}")]
    Tree(#[from] fdt::TreeError),
    /// A disk's image, the disks counted from 0.
    #[error("disk {}: {why}", disk + 1)]
    Disk {
        /// Which.
        disk: usize,
        /// What is wrong with it.
        why: DiskImageError,
    },
    /// RAM cannot be mapped.
    #[error("stage 2: {0}")]
    Map(#[from] MapError),
    /// The hypervisor's heap is full.
    #[error("the hypervisor has no memory left; start fewer guests")]
    Heap,
}

/// What a VM is started from, again after each reset.
pub(super) struct Source {
    pub(super) kernel: &'static [u8],
    pub(super) initrd: Option<&'static [u8]>,
    pub(super) cmdline: String,
    pub(super) ram: Region<Ipa>,
    pub(super) devices: Devices,
    /// How many virtio-mmio slots have a device.
    pub(super) virtio: u16,
}

impl Source {
    /// What loads kernel and RAM disk. It says at once what is wrong with them, as far as their first
    /// bytes show it.
    pub(super) fn loader(&self) -> Result<Loader<'static>, ImageError> {
        Loader::new(self.kernel, self.initrd, self.ram)
    }
}

/// How far it is.
pub(super) enum Loading {
    /// RAM is being zeroed.
    Scrub(Scrubbing),
    /// RAM has not been given to the VM yet.
    Give(Frames<Clean>),
    /// RAM has not been mapped yet.
    Map,
    /// Disks are being made ready; so many are.
    Disks(usize),
    /// The guest has run, and may have given memory up: what is written to has to be there again.
    Fill(Placement),
    /// The guest has run: where the kernel goes there have to be zeroes again.
    Zero(Region<Ipa>),
    /// Where the kernel goes there are zeroes, or what it will put there itself.
    Begin,
    /// Kernel and RAM disk are being written.
    Write(Box<Loader<'static>>),
    /// The device tree is being written.
    Tree(Box<Tree>),
    /// All is written, and where a guest with its caches off reads it.
    Finish(Placement),
    /// The boot vCPU may start, or has.
    Done(Placement),
}

/// The device tree, as far as it is written.
pub(super) struct Tree {
    writing: fdt::Writing,
    placement: Placement,
    seeds: Option<Seeds>,
}

impl Loading {
    /// The frames that are not the VM's yet, to be given back.
    pub(super) fn abandon(self) -> Option<Frames<Dirty>> {
        match self {
            Self::Scrub(scrubbing) => Some(scrubbing.abandon()),
            Self::Give(clean) => Some(clean.into_dirty()),
            Self::Map
            | Self::Disks(_)
            | Self::Fill(_)
            | Self::Zero(_)
            | Self::Begin
            | Self::Write(_)
            | Self::Tree(_)
            | Self::Finish(_)
            | Self::Done(_) => None,
        }
    }

    /// The VM is to start anew, whatever it has got to.
    pub(super) fn rewind(&mut self) {
        match self {
            Self::Scrub(_)
            | Self::Give(_)
            | Self::Map
            | Self::Disks(_)
            | Self::Fill(_)
            | Self::Zero(_)
            | Self::Begin => {}
            // The guest has not run, so whatever is there will be written again, the same.
            Self::Write(_) | Self::Tree(_) | Self::Finish(_) => *self = Self::Begin,
            Self::Done(placement) => *self = Self::Fill(*placement),
        }
    }
}

/// What a step of loading came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LoadStep {
    /// There is more to do.
    More,
    /// [`Vm::map_ram`] has to come first.
    NeedsTables,
    /// Memory that the guest had given up is wanted for its image, and others have it.
    NoFrames,
    /// The boot vCPU may start.
    Done,
}

impl Vm {
    /// Whether something has to be done yet before the boot vCPU can start.
    pub fn is_loading(&self) -> bool {
        !matches!(*self.loading.lock(), Loading::Done(_))
    }

    /// Whether the next step takes some of the heap.
    pub(crate) fn loading_takes_heap(&self) -> bool {
        match *self.loading.lock() {
            Loading::Give(_) | Loading::Begin | Loading::Write(_) | Loading::Tree(_) => true,
            Loading::Scrub(_)
            | Loading::Map
            | Loading::Disks(_)
            | Loading::Fill(_)
            | Loading::Zero(_)
            | Loading::Finish(_)
            | Loading::Done(_) => false,
        }
    }

    /// One step of what has to be done before the boot vCPU can start. No vCPU is on.
    pub(crate) fn load_step(&self, cpu: &impl Maintenance) -> Result<LoadStep, BootError> {
        let mut loading = self.loading.lock();
        // Most steps are of this kind: all stays where it is.
        if let Loading::Scrub(scrubbing) = &mut *loading
            && !scrubbing.step(cpu)
        {
            return Ok(LoadStep::More);
        }
        match core::mem::replace(&mut *loading, Loading::Begin) {
            Loading::Scrub(scrubbing) => {
                *loading = match scrubbing.finish() {
                    Ok(clean) => Loading::Give(clean),
                    Err(scrubbing) => Loading::Scrub(scrubbing),
                };
            }
            Loading::Give(clean) => {
                let mut memory = GuestMemory::new();
                if let Err(overlap) = memory.add(self.source.ram.start(), clean) {
                    *loading = Loading::Give(overlap.0);
                    return Err(BootError::Heap);
                }
                let elastic = self.means().map_or(Ok(()), |means| memory.make_elastic(means));
                // Also if it has no heap for that: its frames go back with it.
                self.memory.call_once(|| memory);
                elastic.map_err(|_| BootError::Heap)?;
                *loading = Loading::Map;
            }
            Loading::Map => {
                *loading = Loading::Map;
                return Ok(LoadStep::NeedsTables);
            }
            Loading::Disks(disk) => {
                *loading = match self.disk_step(disk) {
                    None => Loading::Begin,
                    Some(Ok(ready)) => Loading::Disks(disk + usize::from(ready)),
                    Some(Err(why)) => return Err(BootError::Disk { disk, why }),
                };
            }
            Loading::Fill(placement) => {
                let filled = self.fill_image(&placement);
                *loading = match filled {
                    Filled::There => Loading::Zero(placement.kernel),
                    Filled::More | Filled::NoFrames => Loading::Fill(placement),
                };
                if filled == Filled::NoFrames {
                    return Ok(LoadStep::NoFrames);
                }
            }
            Loading::Zero(region) => {
                let (now, rest) = region.split_front(STEP);
                self.ram()?.zero(now)?;
                self.ram()?.clean_invalidate_to_poc(now, cpu)?;
                *loading = rest.map_or(Loading::Begin, Loading::Zero);
            }
            Loading::Begin => *loading = Loading::Write(Box::new(self.source.loader()?)),
            Loading::Write(mut loader) => {
                *loading = match loader.step(&mut Writer { ram: self.ram()?, cpu })? {
                    None => Loading::Write(loader),
                    Some(placement) => Loading::Tree(Box::new(self.begin_tree(placement)?)),
                };
            }
            Loading::Tree(mut tree) => {
                *loading = if tree.writing.step(&self.described(&tree))? {
                    let Tree { writing, placement, .. } = *tree;
                    let bytes = writing.finish()?;
                    Writer { ram: self.ram()?, cpu }.put(placement.dtb, &bytes)?;
                    Loading::Finish(placement)
                } else {
                    Loading::Tree(tree)
                };
            }
            Loading::Finish(placement) => {
                let Placement { entry, dtb, .. } = placement;
                cpu.invalidate_instructions();
                self.lifecycle.lock().power[0] = Power::OnPending { entry, context_id: dtb.raw() };
                *loading = Loading::Done(placement);
                return Ok(LoadStep::Done);
            }
            Loading::Done(placement) => {
                *loading = Loading::Done(placement);
                return Ok(LoadStep::Done);
            }
        }
        Ok(LoadStep::More)
    }

    /// Map the VM's RAM, once it has it. All of it or, with an error, nothing.
    pub(crate) fn map_ram(
        &self,
        frames: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<(), BootError> {
        let mut loading = self.loading.lock();
        if matches!(*loading, Loading::Map) {
            self.ram()?.map(&mut self.stage2.lock(), Perms::RWX, frames, cpu)?;
            *loading = Loading::Disks(0);
        }
        Ok(())
    }

    /// Lets what is written to at `placement` be RAM, some more of it.
    fn fill_image(&self, placement: &Placement) -> Filled {
        let tree = Region::new(placement.dtb, DEVICE_TREE_SLOT);
        let all = [Some(placement.kernel), placement.initrd, tree];
        let hole = self.elastic().and_then(|elastic| {
            let mut all = all.iter().flatten();
            all.find_map(|region| elastic.first_hole(region)).map(|hole| elastic.ipas(hole))
        });
        hole.flatten().and_then(|hole| self.fill(hole.start())).map_or(Filled::There, |filled| {
            // There may be more holes.
            if filled == Filled::There { Filled::More } else { filled }
        })
    }

    /// The VM's RAM, once it has it.
    fn ram(&self) -> Result<&GuestMemory, OutsideRam> {
        let ram = self.source.ram;
        self.memory.get().ok_or(OutsideRam { ipa: ram.start(), size: ram.size() })
    }

    fn begin_tree(&self, placement: Placement) -> Result<Tree, BootError> {
        let seeds = self.entropy.lock().as_mut().map(Seeds::draw);
        Ok(Tree { writing: fdt::Writing::begin()?, placement, seeds })
    }

    /// What the device tree is to say.
    fn described(&self, tree: &Tree) -> GuestMachine<'_> {
        GuestMachine {
            ram: self.source.ram,
            devices: self.source.devices,
            virtio: self.source.virtio,
            vcpus: self.vcpu_count(),
            gic: self.gic_version,
            cmdline: &self.source.cmdline,
            initrd: tree.placement.initrd,
            seeds: tree.seeds,
            assigned: &self.assigned,
        }
    }
}

/// Guest memory as the image loader writes it: no line of what was written stays in a cache, as the guest reads,
/// and may write, with its caches off.
struct Writer<'a, C> {
    ram: &'a GuestMemory,
    cpu: &'a C,
}

impl<C: Maintenance> Writer<'_, C> {
    fn put(&self, ipa: Ipa, bytes: &[u8]) -> Result<(), OutsideRam> {
        self.ram.write_from(ipa, bytes)?;
        match Region::new(ipa, bytes.len() as u64) {
            Some(written) => self.ram.clean_invalidate_to_poc(written, self.cpu),
            None => Ok(()),
        }
    }
}

impl<C: Maintenance> GuestWrite for Writer<'_, C> {
    fn write(&mut self, ipa: Ipa, bytes: &[u8]) -> Result<(), OutOfRam> {
        self.put(ipa, bytes).map_err(|_| OutOfRam)
    }
}
