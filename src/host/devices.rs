//! All devices of the machine's that the hypervisor drives, by their interrupts.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::disk::HostDisk;
use super::session::StartError;
use super::uplink::Uplink;
use crate::addr::PhysAddr;
use crate::sync::Once;
use crate::vgic::IntId;

/// What there are drivers for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeviceKind {
    /// A network card.
    Nic,
    /// A disk.
    Disk,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nic => "network card",
            Self::Disk => "disk",
        })
    }
}

/// Why a device that is there cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// It does not see what is in the caches.
    #[error("it is not coherent with the CPUs' caches")]
    NotCoherent,
    /// It cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Why the machine has not the device that is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Missing {
    /// The board has no place for any: it is no virtual machine.
    #[error("this machine has no virtio {0}: its device tree has no place for one")]
    NoPlace(DeviceKind),
    /// There are fewer.
    #[error("this machine has no virtio {kind} {index}: it has {count}")]
    TooFew {
        /// Of what.
        kind: DeviceKind,
        /// Which is wanted, from 0 on.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// It is there, and cannot be used.
    #[error("the machine's virtio {kind} {index} cannot be used: {why}")]
    Unusable {
        /// Of what.
        kind: DeviceKind,
        /// Which is wanted.
        index: usize,
        /// Why not.
        why: Unusable,
    },
}

/// Gets each frame that has arrived.
pub type OnFrame = Box<dyn Fn(&[u8]) + Send + Sync>;
/// Is called when a disk has completed something.
pub type OnCompleted = Box<dyn Fn() + Send + Sync>;

/// A device in its place.
struct Placed<D: ?Sized, L> {
    at: PhysAddr,
    interrupt: IntId,
    device: Result<Arc<D>, Unusable>,
    /// Who is told what its interrupt was for.
    listener: Once<L>,
}

/// The devices of the machine's that the hypervisor drives: those of a kind are numbered from 0, in the order in which they
/// were added.
#[derive(Default)]
pub struct Devices {
    /// How many places for devices the board has.
    places: usize,
    nics: Vec<Placed<dyn Uplink, OnFrame>>,
    disks: Vec<Placed<dyn HostDisk, OnCompleted>>,
}

impl Devices {
    /// None yet, on a board with so many places for them.
    pub fn new(places: usize) -> Self {
        Self { places, ..Self::default() }
    }

    /// Adds a network card whose registers are at `at`.
    pub fn add_nic(
        &mut self,
        at: PhysAddr,
        interrupt: IntId,
        device: Result<Arc<dyn Uplink>, Unusable>,
    ) {
        self.nics.push(Placed { at, interrupt, device, listener: Once::new() });
    }

    /// Adds a disk whose registers are at `at`.
    pub fn add_disk(
        &mut self,
        at: PhysAddr,
        interrupt: IntId,
        device: Result<Arc<dyn HostDisk>, Unusable>,
    ) {
        self.disks.push(Placed { at, interrupt, device, listener: Once::new() });
    }

    /// Network card `index`.
    ///
    /// # Errors
    /// The machine has none such, or it cannot be used.
    pub fn nic(&self, index: usize) -> Result<Arc<dyn Uplink>, Missing> {
        self.find(DeviceKind::Nic, &self.nics, index)
    }

    /// Disk `index`.
    ///
    /// # Errors
    /// The machine has none such, or it cannot be used.
    pub fn disk(&self, index: usize) -> Result<Arc<dyn HostDisk>, Missing> {
        self.find(DeviceKind::Disk, &self.disks, index)
    }

    /// How many disks there are, of use or not.
    pub fn disk_count(&self) -> usize {
        self.disks.len()
    }

    fn find<D: ?Sized, L>(
        &self,
        kind: DeviceKind,
        all: &[Placed<D, L>],
        index: usize,
    ) -> Result<Arc<D>, Missing> {
        match all.get(index).map(|placed| &placed.device) {
            Some(Ok(device)) => Ok(device.clone()),
            Some(Err(why)) => Err(Missing::Unusable { kind, index, why: *why }),
            None if self.places == 0 => Err(Missing::NoPlace(kind)),
            None => Err(Missing::TooFew { kind, index, count: all.len() }),
        }
    }

    /// Each frame that arrives at network card `index` goes to `listener` from now on, on the CPU that takes interrupts;
    /// before, they are dropped. Only the first listener stays.
    pub fn on_frame(&self, index: usize, listener: OnFrame) {
        if let Some(nic) = self.nics.get(index) {
            nic.listener.call_once(|| listener);
        }
    }

    /// `listener` is called from now on when disk `index` has completed something, on the CPU that takes interrupts: it rings
    /// the doorbells of those who then ask [`HostDisk::completed`]. Only the first listener stays.
    pub fn on_completed(&self, index: usize, listener: OnCompleted) {
        if let Some(disk) = self.disks.get(index) {
            disk.listener.call_once(|| listener);
        }
    }

    /// An interrupt was taken. Returns whether it is one of these devices'.
    pub fn attend(&self, interrupt: IntId) -> bool {
        let mut is_ours = false;
        for nic in self.nics.iter().filter(|nic| nic.interrupt == interrupt) {
            is_ours = true;
            if let Ok(device) = &nic.device {
                device.attend(&mut |frame| {
                    if let Some(listener) = nic.listener.get() {
                        listener(frame);
                    }
                });
            }
        }
        for disk in self.disks.iter().filter(|disk| disk.interrupt == interrupt) {
            is_ours = true;
            if let Ok(device) = &disk.device {
                device.attend();
                if let Some(listener) = disk.listener.get() {
                    listener();
                }
            }
        }
        is_ours
    }

    /// The interrupts of the devices that are in use.
    pub fn interrupts(&self) -> impl Iterator<Item = IntId> {
        let nics = self.nics.iter().filter(|nic| nic.device.is_ok()).map(|nic| nic.interrupt);
        let disks = self.disks.iter().filter(|disk| disk.device.is_ok());
        nics.chain(disks.map(|disk| disk.interrupt))
    }

    /// One line for each device: what it is, and where; or one that there is none.
    pub fn describe(&self, mut line: impl FnMut(fmt::Arguments<'_>)) {
        if self.nics.is_empty() && self.disks.is_empty() {
            line(format_args!("no virtio network card and no disk, {} places", self.places));
        }
        for (index, Placed { at, interrupt, device, .. }) in self.nics.iter().enumerate() {
            let head = format_args!("network card {index} at {at}, interrupt {}: ", interrupt.0);
            match device {
                Ok(nic) => line(format_args!("{head}{}", nic.mac())),
                Err(why) => line(format_args!("{head}{why}")),
            }
        }
        for (index, Placed { at, interrupt, device, .. }) in self.disks.iter().enumerate() {
            let head = format_args!("disk {index} at {at}, interrupt {}: ", interrupt.0);
            match device {
                Ok(disk) => {
                    let only = if disk.is_read_only() { ", read-only" } else { "" };
                    line(format_args!("{head}{} sectors{only}", disk.sectors()));
                }
                Err(why) => line(format_args!("{head}{why}")),
            }
        }
    }
}
