//! The virtio devices of a VM, by slot.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::balloon::VmBalloon;
use super::disks::VmDisk;
use crate::device::Device;
use crate::device::doorbell::{Doorbell, Doorbells};
use crate::device::serial::SerialLine;
use crate::firmware::entropy::Entropy;
use crate::manifest::{Keys, VmConfig};
use crate::memory::SharedPool;
use crate::sched::VmId;
use crate::sync::atomic::AtomicU64;
use crate::time::Ticks;
use crate::virtio::backend::Backend;
use crate::virtio::balloon::Balloon;
use crate::virtio::block::BlockDevice;
use crate::virtio::block::host::HostBlockDevice;
use crate::virtio::console::ConsoleDevice;
use crate::virtio::console::channel::Channels;
use crate::virtio::entropy::EntropyDevice;
use crate::virtio::net::NetDevice;
use crate::virtio::net::cabling::{Cabling, Card};
use crate::virtio::net::socket::Plug;
use crate::virtio::ram::SharedRam;
use crate::virtio::transport::Transport;
use crate::virtio::vsock::VsockDevice;
use crate::virtio::vsock::sockets::{Plugged, Sockets};

/// The guest's virtio devices and what they are called, each for the slot with its number.
pub(super) struct Slots<'a> {
    pub memory: &'a SharedRam,
    /// The VM's name.
    pub vm: &'a str,
    pub devices: Vec<(Box<dyn Device>, String)>,
}

impl Slots<'_> {
    /// The slot that the next device gets.
    fn next(&self) -> u16 {
        u16::try_from(self.devices.len()).unwrap_or(u16::MAX)
    }

    fn transport<B: Backend>(&self, backend: B, what: &str) -> Transport<B, SharedRam> {
        Transport::new(backend, self.memory.clone(), format!("{}: {what}", self.vm))
    }

    /// An entropy device, where there is entropy.
    pub fn add_entropy(&mut self, entropy: Option<&mut Entropy>) {
        if let Some(entropy) = entropy {
            let device = EntropyDevice::new(entropy.fork());
            let device = self.transport(device, "the entropy device");
            self.devices.push((Box::new(device), "virtio-rng".into()));
        }
    }

    /// Its balloon, if it is to have one.
    pub fn add_balloon(
        &mut self,
        config: &VmConfig,
        doorbells: &Arc<Doorbells>,
        vm: VmId,
        pool: &Arc<SharedPool>,
        patience: Ticks,
    ) -> Option<VmBalloon> {
        let keep = config.balloon?;
        let bell = Doorbell::new(doorbells.clone(), vm, self.next());
        let (pool, state) = (pool.clone(), Arc::default());
        let silent_until = AtomicU64::new(0);
        let balloon = VmBalloon { keep, patience, silent_until, bell, pool, state };
        let device = Balloon::new(config.memory, balloon.state.clone());
        let device = self.transport(device, "the balloon");
        self.devices.push((Box::new(device), "virtio-balloon".into()));
        Some(balloon)
    }

    /// Its disk of this number, from 0.
    pub fn add_disk(
        &mut self,
        vm: VmId,
        number: usize,
        disk: &VmDisk,
        vcpus: u8,
        doorbells: &Arc<Doorbells>,
    ) {
        let what = format!("disk {}", number + 1);
        let device: Box<dyn Device> = match disk {
            VmDisk::Memory(disk) => {
                Box::new(self.transport(BlockDevice::new(disk.clone(), vcpus), &what))
            }
            VmDisk::Host(part, serial) => {
                let (part, memory) = (part.clone(), self.memory.clone());
                let device = HostBlockDevice::new(part, memory, serial.clone(), vcpus);
                Box::new(self.transport(device, &what))
            }
        };
        disk.set_bell(Doorbell::new(doorbells.clone(), vm, self.next()));
        self.devices.push((device, disk.device_name()));
    }

    /// Its network card of this number, from 0, plugged in.
    pub fn add_card(
        &mut self,
        vm: VmId,
        number: usize,
        card: &Card,
        vcpus: u8,
        cabling: &Cabling,
        doorbells: &Arc<Doorbells>,
    ) {
        let device = NetDevice::new(cabling.lan().clone(), card.port, card.mac, vcpus);
        let steering = device.steering().clone();
        let device = self.transport(device, &format!("network card {}", number + 1));
        let bell = Doorbell::new(doorbells.clone(), vm, self.next());
        let plug = Plug { queues: device.queues().clone(), bell, steering };
        cabling.lan().plug(card.port, Some(plug));
        self.devices.push((Box::new(device), "virtio-net".into()));
    }

    /// Its console device, where it has ports, an agent, or gets what is typed there: whom to tell when the line has something new.
    pub fn add_console<L: SerialLine + 'static>(
        &mut self,
        vm: VmId,
        config: &VmConfig,
        line: &Arc<L>,
        channels: &Channels,
        doorbells: &Arc<Doorbells>,
    ) -> Option<Doorbell> {
        let has_keys = config.keys == Keys::Virtio;
        if config.ports.is_empty() && !config.agent && !has_keys {
            return None;
        }
        let bell = Doorbell::new(doorbells.clone(), vm, self.next());
        let device = ConsoleDevice::new(line.clone(), has_keys, channels.of(vm), bell.clone());
        let device = self.transport(device, "the console");
        self.devices.push((Box::new(device), "virtio-console".into()));
        Some(bell)
    }

    /// Its socket device, where it has one: that device, for who answers.
    pub fn add_vsock(
        &mut self,
        vm: VmId,
        sockets: &Sockets,
        doorbells: &Arc<Doorbells>,
    ) -> Option<Plugged> {
        let socket = sockets.of(vm)?.clone();
        let bell = Doorbell::new(doorbells.clone(), vm, self.next());
        let device = VsockDevice::new(socket.clone(), bell.clone());
        let device = self.transport(device, "the socket device");
        self.devices.push((Box::new(device), "virtio-vsock".into()));
        Some(Plugged { socket, bell })
    }
}
