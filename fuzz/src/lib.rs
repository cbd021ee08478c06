//! What the fuzz targets share: the library's types as a fuzzer draws them, and drivers of virtio devices.

pub mod driver;

use std::num::NonZeroU32;

use arbitrary::{Arbitrary, Result, Unstructured};
use plinth::addr::{Ipa, Region};
use plinth::device::Device;
use plinth::exit::Width;
use plinth::manifest::Manifest;
use plinth::memory::{FramePool, GuestMemory, Ram, Recorder};
use plinth::net::Plan;
use plinth::time::{Frequency, Ticks};
use plinth::vgic::GicVersion;
use plinth::virtio::ram::SharedRam;

/// The start of every guest's RAM.
pub const RAM: u64 = 0x4000_0000;

/// One of a few values where they matter, or any.
pub fn often(u: &mut Unstructured<'_>, usual: &[u64]) -> Result<u64> {
    if u.ratio(3, 4)? { Ok(*u.choose(usual)?) } else { u.arbitrary() }
}

/// The width of an access.
pub fn width(u: &mut Unstructured<'_>) -> Result<Width> {
    Ok(*u.choose(&[Width::Byte, Width::Half, Width::Word, Width::Double])?)
}

/// The version of a guest's interrupt controller.
pub fn gic(u: &mut Unstructured<'_>) -> Result<GicVersion> {
    Ok(*u.choose(&[GicVersion::V2, GicVersion::V3])?)
}

/// A guest's RAM: up to 1 GiB, in any number of bytes.
pub fn ram(u: &mut Unstructured<'_>) -> Result<Region<Ipa>> {
    let size = u.int_in_range(1..=1 << 30)?;
    Ok(Region::new(Ipa::new(RAM), size).expect("1 GiB from 1 GiB on"))
}

/// A guest's memory from [`RAM`] on, of `size` bytes, a power of two of pages. What it takes of the heap is never given back: once for each
/// thread is enough.
pub fn shared_ram(size: u64) -> SharedRam {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(size, size).expect("a heap"), &[]);
    let frames = pool.allocate(size).expect("it is all there").scrub().clean(&Recorder::default());
    let mut memory = GuestMemory::new();
    memory.add(Ipa::new(RAM), frames).expect("the first");
    let ram = SharedRam::default();
    ram.call_once(|| memory);
    ram
}

/// One access to a device's window of 4 KiB, as the bus lets it through: aligned, and inside.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Where.
    pub offset: u64,
    /// How wide.
    pub width: Width,
    /// What is written; `None` for a read.
    pub write: Option<u64>,
    /// When.
    pub now: Ticks,
}

impl<'a> Arbitrary<'a> for Access {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let width = width(u)?;
        // Registers are at both ends of the window.
        let offset = *u.choose(&[0, 0, 0, 0xf80, 0xfc0])? + u64::from(u.arbitrary::<u8>()? & 0x7f);
        let offset = offset.min(0xff8) / width.bytes() * width.bytes();
        Ok(Self { offset, width, write: u.arbitrary()?, now: Ticks(u.arbitrary()?) })
    }
}

impl Access {
    /// Makes the access; returns what a read gave.
    pub fn perform(self, device: &mut impl Device) -> Option<u64> {
        let Self { offset, width, write, now } = self;
        if let Some(value) = write {
            device.write(offset, width, value & width.mask(), now);
            return None;
        }
        let value = device.read(offset, width, now);
        assert_eq!(value & !width.mask(), 0, "{self:x?} read {value:#x}");
        Some(value)
    }
}

/// What every manifest that was read promises.
pub fn check_manifest(manifest: &Manifest<'_>) {
    use plinth::manifest::{
        MAX_CARDS, MAX_CMDLINE, MAX_NAME, MAX_VMS, NetworkConfig, RAM_LIMIT, SCROLLBACK, VmConfig,
        VmSource, read, write,
    };
    let (machine, vms) = (manifest.machine(), manifest.vms());
    assert!(
        plinth::console::keys::EscapeKey::of_letter(machine.escape).is_some()
            && SCROLLBACK.contains(&machine.scrollback)
    );
    assert!((1..=MAX_VMS).contains(&vms.len()));
    let networks = manifest.networks();
    let mut plan = Plan::default();
    for network in networks {
        plan.network(network.uplink).expect("a good network");
    }
    for vm in vms {
        assert!(vm.nets.len() <= MAX_CARDS);
        for card in &vm.nets {
            plan.join(card.network.into(), card.port.clone()).expect("a good port");
        }
        assert!((1..=MAX_NAME).contains(&vm.name.len()) && vm.cmdline.len() <= MAX_CMDLINE);
        assert!(vm.memory > 0 && (1..=8).contains(&vm.vcpus) && !vm.policy.affinity.is_empty());
        let ram = Region::new(vm.ram_base, vm.memory).expect("RAM is a region");
        assert!(ram.start().raw() >= RAM && ram.last().raw() < RAM_LIMIT);
        for payload in [Some(vm.kernel), vm.initrd].into_iter().flatten() {
            assert!(payload.size() > 0);
            assert_eq!(manifest.payload(payload).len() as u64, payload.size());
        }
    }
    plan.build(Frequency(NonZeroU32::MAX)).expect("a switch for it");
    // What can be read can be written, and is the same again.
    let bytes = |payload| manifest.payload(payload);
    let sources: Vec<VmSource<'_>> =
        vms.iter().map(|vm| vm.map(String::as_str, |payload| bytes(*payload))).collect();
    let named: Vec<_> = networks.iter().map(NetworkConfig::source).collect();
    let bundle = write(machine, &named, &sources).expect("what was read can be written");
    let again = read(&bundle).expect("what was written can be read");
    assert_eq!((again.machine(), again.networks()), (machine, networks));
    assert_eq!(again.vms().len(), vms.len());
    for (vm, before) in again.vms().iter().zip(vms) {
        assert_eq!(again.payload(vm.kernel), bytes(before.kernel));
        assert_eq!(vm.initrd.map(|initrd| again.payload(initrd)), before.initrd.map(bytes));
        let (kernel, initrd) = (before.kernel, before.initrd);
        assert_eq!(&VmConfig { kernel, initrd, ..vm.clone() }, before);
    }
}
