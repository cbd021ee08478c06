//! What a manifest says: of the machine as a whole, and of each VM.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::host_disk::HostDiskConfig;
use super::network::CardConfig;
use super::port::{ConsolePort, Keys};
use super::vsock::VsockConfig;
use crate::addr::Ipa;
use crate::sched::policy::Policy;
use crate::vm::layout;

/// Some bytes of the bundle.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Payload {
    /// Where it starts, counted from the start of the bundle.
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// How many bytes.
    pub const fn size(self) -> u64 {
        self.size
    }
}

/// What is said of the machine as a whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// The console's escape key: see [`crate::console::keys::EscapeKey::of_letter`].
    pub escape: u8,
    /// Whose output the console shows.
    pub view: View,
    /// How many bytes of each guest's output are kept, within [`super::SCROLLBACK`].
    pub scrollback: u32,
    /// What happens when the last guest has stopped.
    pub when_idle: WhenIdle,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            escape: 1,
            view: View::default(),
            scrollback: super::DEFAULT_SCROLLBACK,
            when_idle: WhenIdle::default(),
        }
    }
}

/// Whose output the console shows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum View {
    /// Every guest's, line by line, each with its guest's name.
    #[default]
    All,
    /// The focused guest's alone.
    Focus,
}

/// What happens when the last guest has stopped.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum WhenIdle {
    /// The machine powers off.
    #[default]
    PowerOff,
    /// The monitor goes on: guests can be started again.
    Wait,
}

/// What happens to a guest that has crashed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum OnCrash {
    /// It stays as it is, to be looked at.
    #[default]
    Preserve,
    /// It starts again.
    Restart,
    /// Its memory is given back.
    Destroy,
}

/// What happens when a guest asks for a reset.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum OnReboot {
    /// It starts again.
    #[default]
    Restart,
    /// It stops, as if it had powered off.
    Stop,
    /// Its memory is given back.
    Destroy,
}

/// What happens when a guest makes an access that cannot be carried out: nothing is there, or it is not allowed, or
/// it is to a device and its instruction is none that can be emulated.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum OnBadAccess {
    /// It gets an external abort, as from an empty place on a bus.
    #[default]
    Abort,
    /// It has crashed.
    Crash,
}

/// How a guest is asked to power off. `T` as in [`VmConfig`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Shutdown<T = String> {
    /// By its power button.
    #[default]
    Button,
    /// By this, typed on its console: 1 to [`super::MAX_SHUTDOWN`] bytes.
    Console(T),
    /// Through its agent, which it has then.
    Agent,
}

impl<T> Shutdown<T> {
    fn map<'a, U>(&'a self, text: impl FnOnce(&'a T) -> U) -> Shutdown<U> {
        match self {
            Self::Button => Shutdown::Button,
            Self::Console(typed) => Shutdown::Console(text(typed)),
            Self::Agent => Shutdown::Agent,
        }
    }
}

impl<T: fmt::Debug> fmt::Display for Shutdown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Button => f.write_str("button"),
            Self::Console(text) => write!(f, "console {text:?}"),
            Self::Agent => f.write_str("agent"),
        }
    }
}

/// A set of the devices that a guest may have or not. What every guest has (the UART, the interrupt
/// controller, empty virtio slots) is not among them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Devices(u32);

impl Devices {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// The PL031 real-time clock.
    pub const RTC: Self = Self(1 << 0);
    /// Each device with the name that manifests have for it.
    pub const NAMED: [(&'static str, Self); 1] = [("rtc", Self::RTC)];

    const ALL: Self = Self::RTC;

    /// The devices of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits that stand for no device.
    pub(super) const fn unknown(self) -> u32 {
        self.0 & !Self::ALL.0
    }

    #[cfg(test)]
    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::RTC
    }
}

/// What a disk begins with, in memory, or where it is. `P` and `T` as in [`VmConfig`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum DiskContents<P = Payload, T = String> {
    /// Zeros: so many bytes, a multiple of 4 KiB, at most [`MAX_DISK`](crate::virtio::block::image::MAX_DISK).
    Empty(u64),
    /// What is in an image: see [`crate::virtio::block::image`].
    Image(P),
    /// It is on a disk of the machine's.
    Host(HostDiskConfig<T>),
}

/// A disk. `P` and `T` as in [`VmConfig`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct DiskConfig<P = Payload, T = String> {
    /// What it begins with, or where it is.
    pub contents: DiskContents<P, T>,
    /// How much of it the guest can have written to at a time, in bytes, a multiple of 4 KiB and not 0; `None`: all of it.
    /// One of the machine's has none.
    pub space: Option<u64>,
    /// Whether nothing can be written. It has no `space` then, and does not begin with zeros.
    pub read_only: bool,
    /// What it calls itself: 1 to [`super::MAX_SERIAL`] printable ASCII characters.
    pub serial: T,
}

impl<P, T> DiskConfig<P, T> {
    /// What it begins with, where that is not zeros.
    pub const fn image(&self) -> Option<&P> {
        match &self.contents {
            DiskContents::Empty(_) | DiskContents::Host(_) => None,
            DiskContents::Image(image) => Some(image),
        }
    }

    /// What of the machine's disks it is, where it is.
    pub const fn host(&self) -> Option<&HostDiskConfig<T>> {
        match &self.contents {
            DiskContents::Host(host) => Some(host),
            DiskContents::Empty(_) | DiskContents::Image(_) => None,
        }
    }

    /// How much of a disk of `size` bytes can have been written to at a time, in bytes; `None` where nothing can.
    pub fn space_of(&self, size: u64) -> Option<u64> {
        let space = self.space.unwrap_or(size).min(size);
        (!self.read_only).then_some(space)
    }

    fn map<'a, Q, U>(
        &'a self,
        mut text: impl FnMut(&'a T) -> U,
        payload: impl FnOnce(&'a P) -> Q,
    ) -> DiskConfig<Q, U> {
        DiskConfig {
            contents: match &self.contents {
                DiskContents::Empty(size) => DiskContents::Empty(*size),
                DiskContents::Image(image) => DiskContents::Image(payload(image)),
                DiskContents::Host(host) => DiskContents::Host(host.map(&mut text)),
            },
            space: self.space,
            read_only: self.read_only,
            serial: text(&self.serial),
        }
    }
}

/// What one VM is made from. `P` stands for its payloads, `T` for its texts: a bundle's table has their places
/// and the texts, as by default; what a bundle is written from, a [`VmSource`], has them all by reference.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VmConfig<P = Payload, T = String> {
    /// Its name: 1 to [`super::MAX_NAME`] printable ASCII characters, unique in the manifest.
    pub name: T,
    /// Its RAM in bytes, a multiple of 4 KiB.
    pub memory: u64,
    /// It has a balloon, and keeps so many bytes whatever is in it: a multiple of 2 MiB, at most its RAM.
    pub balloon: Option<u64>,
    /// Where its RAM starts: a multiple of [`super::RAM_BASE_ALIGN`] from [`layout::RAM_BASE`] on, such
    /// that RAM ends at [`super::RAM_LIMIT`] at most.
    pub ram_base: Ipa,
    /// How many vCPUs, 1 to [`crate::vcpu::MAX_VCPUS`].
    pub vcpus: u8,
    /// How its vCPUs share the CPUs. The affinity is not empty, the numbers are in range.
    pub policy: Policy,
    /// Whether it starts with the machine.
    pub autostart: bool,
    /// What happens when it crashes.
    pub on_crash: OnCrash,
    /// What happens when it asks for a reset.
    pub on_reboot: OnReboot,
    /// What happens when it makes an access that cannot be carried out.
    pub on_bad_access: OnBadAccess,
    /// How it is asked to power off.
    pub shutdown: Shutdown<T>,
    /// The devices it has beside those that all have.
    pub devices: Devices,
    /// The board's devices that are its own: nodes of the board's device tree, at most
    /// [`super::MAX_ASSIGNED`], each of 1 to [`super::MAX_NODE`] printable ASCII characters.
    pub assign: Vec<T>,
    /// Its network cards, at most [`super::MAX_CARDS`].
    pub nets: Vec<CardConfig>,
    /// Where it gets what is typed.
    pub keys: Keys,
    /// The named ports of its virtio console, at most [`crate::virtio::console::MAX_PORTS`].
    pub ports: Vec<ConsolePort<T>>,
    /// Whether its virtio console, which it has then, has a port by which the monitor asks its
    /// [agent](crate::monitor::agent).
    pub agent: bool,
    /// Its socket device, where it has one.
    pub vsock: Option<VsockConfig<T>>,
    /// The kernel image, not empty.
    pub kernel: P,
    /// The initial RAM disk, not empty when there is one.
    pub initrd: Option<P>,
    /// The kernel's command line, at most [`super::MAX_CMDLINE`] bytes without control characters.
    pub cmdline: T,
    /// Its disks, at most [`super::MAX_DISKS`].
    pub disks: Vec<DiskConfig<P, T>>,
}

/// What [`super::write()`] makes a [`VmConfig`] and its payloads from.
pub type VmSource<'a> = VmConfig<&'a [u8], &'a str>;

impl<P, T> VmConfig<P, T> {
    /// A VM of this name and kernel, for which nothing else was asked.
    pub fn new(name: T, kernel: P) -> Self
    where
        T: Default,
    {
        Self {
            name,
            memory: super::DEFAULT_MEMORY,
            balloon: None,
            ram_base: layout::RAM_BASE,
            vcpus: 1,
            policy: Policy::default(),
            autostart: true,
            on_crash: OnCrash::default(),
            on_reboot: OnReboot::default(),
            on_bad_access: OnBadAccess::default(),
            shutdown: Shutdown::default(),
            devices: Devices::default(),
            assign: Vec::new(),
            nets: Vec::new(),
            keys: Keys::default(),
            ports: Vec::new(),
            agent: false,
            vsock: None,
            kernel,
            initrd: None,
            cmdline: T::default(),
            disks: Vec::new(),
        }
    }

    /// The same VM with its texts and payloads as these functions give them, the kernel first.
    pub fn map<'a, Q, U>(
        &'a self,
        mut text: impl FnMut(&'a T) -> U,
        mut payload: impl FnMut(&'a P) -> Q,
    ) -> VmConfig<Q, U> {
        VmConfig {
            name: text(&self.name),
            memory: self.memory,
            balloon: self.balloon,
            ram_base: self.ram_base,
            vcpus: self.vcpus,
            policy: self.policy,
            autostart: self.autostart,
            on_crash: self.on_crash,
            on_reboot: self.on_reboot,
            on_bad_access: self.on_bad_access,
            shutdown: self.shutdown.map(&mut text),
            devices: self.devices,
            assign: self.assign.iter().map(&mut text).collect(),
            nets: self.nets.clone(),
            keys: self.keys,
            ports: self.ports.iter().map(|port| port.map(&mut text)).collect(),
            agent: self.agent,
            vsock: self.vsock.as_ref().map(|vsock| vsock.map(&mut text)),
            kernel: payload(&self.kernel),
            initrd: self.initrd.as_ref().map(&mut payload),
            cmdline: text(&self.cmdline),
            disks: self.disks.iter().map(|disk| disk.map(&mut text, &mut payload)).collect(),
        }
    }
}
