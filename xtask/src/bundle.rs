//! Bundles: what a manifest's guests become, the one file that the boot loader passes on.
//!
//! `cargo xtask run` and `cargo xtask bundle` make them the same way, and check them as the
//! hypervisor will.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use plinth::manifest::{
    self as format, Devices, DiskConfig, DiskContents, Keys, MAGIC, MachineConfig, Manifest,
    NetworkConfig, Rights, Shutdown, VmConfig, VsockConfig,
};
use plinth::sched::policy::{Class, CpuSet, DEFAULT_WEIGHT, Wfi};
use plinth::virtio::block::base::Base;
use plinth::virtio::block::disk::Disk;
use plinth::virtio::block::image::Image;
use plinth::vm::layout::RAM_BASE;

use crate::guest::Payload;
use crate::{manifest, paths, size};

/// A bundle that the hypervisor will accept.
pub struct Bundle(Vec<u8>);

impl Bundle {
    /// The bundle in a file, or of a manifest: a bundle is known by its first bytes.
    pub fn load(path: &Path) -> Result<Self> {
        if !is_bundle(path) {
            let manifest::Described { machine, networks, guests } = manifest::load(path)?;
            return Self::pack_with(&machine, &networks, &guests);
        }
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        format::read(&bytes).with_context(|| path.display().to_string())?;
        Ok(Self(bytes))
    }

    /// The bundle of these guests, which are on no network.
    pub fn pack(machine: &MachineConfig, guests: &[Payload]) -> Result<Self> {
        Self::pack_with(machine, &[], guests)
    }

    /// The bundle of these guests, and of networks.
    pub fn pack_with(
        machine: &MachineConfig,
        networks: &[NetworkConfig],
        guests: &[Payload],
    ) -> Result<Self> {
        let networks: Vec<_> = networks.iter().map(NetworkConfig::source).collect();
        let sources: Vec<_> =
            guests.iter().map(|guest| guest.map(String::as_str, Vec::as_slice)).collect();
        Ok(Self(format::write(machine, &networks, &sources)?))
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The memory of the guests that start with the machine, and of their disks.
    pub fn memory_at_start(&self) -> Result<u64> {
        let manifest = self.manifest()?;
        let mut images = BTreeSet::new();
        let mut sum = 0u64;
        for vm in manifest.vms().iter().filter(|vm| vm.autostart) {
            sum = sum.saturating_add(vm.memory);
            for disk in vm.disks.iter().filter(|disk| disk.host().is_none()) {
                let size = disk_size(&manifest, disk)?;
                sum = sum.saturating_add(Disk::memory(size, disk.space_of(size)));
                // What disks begin with is there once, however many begin with it.
                if let Some(image) = disk.image()
                    && images.insert(image.offset())
                {
                    let image = Image::new(manifest.payload(*image))?;
                    sum = sum.saturating_add(Base::memory(&image));
                }
            }
        }
        Ok(sum)
    }

    /// What is in it.
    pub fn manifest(&self) -> Result<Manifest<'_>> {
        Ok(format::read(&self.0)?)
    }
}

/// A disk's size in bytes; of one of the machine's nothing is known, and it takes no memory.
fn disk_size(manifest: &Manifest<'_>, disk: &DiskConfig) -> Result<u64> {
    match disk.contents {
        DiskContents::Host(_) => Ok(0),
        DiskContents::Empty(size) => Ok(size),
        DiskContents::Image(image) => Ok(Image::new(manifest.payload(image))?.size()),
    }
}

/// Whether a file begins as bundles do. One that cannot be read does not.
fn is_bundle(path: &Path) -> bool {
    use std::io::Read;
    let mut first = [0; MAGIC.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && first == MAGIC
}

/// `cargo xtask bundle`: packs a manifest's guests into a file and says what is in it.
pub fn pack(manifest: &Path, output: &Path) -> Result<ExitCode> {
    paths::need_folder_of(output)?;
    let bundle = Bundle::load(manifest)?;
    if output
        .canonicalize()
        .is_ok_and(|output| manifest.canonicalize().is_ok_and(|it| it == output))
    {
        bail!("{} would be overwritten by its own bundle", manifest.display());
    }
    paths::write_if_changed(output, bundle.bytes())?;
    let size = size::show_rounded(bundle.bytes().len() as u64);
    print!("{}: {size}\n{}", output.display(), summary(&bundle.manifest()?)?);
    Ok(ExitCode::SUCCESS)
}

/// One line for each VM, and the total.
fn summary(manifest: &Manifest<'_>) -> Result<String> {
    let mut text = String::new();
    let vms = manifest.vms();
    let width = vms.iter().map(|vm| vm.name.len()).max().unwrap_or(0);
    for vm in vms {
        let initrd = vm.initrd.map_or_else(String::new, |initrd| {
            format!(", initrd {}", size::show_rounded(initrd.size()))
        });
        let (memory, kernel) = (size::show(vm.memory), size::show_rounded(vm.kernel.size()));
        let VmConfig { name, vcpus, .. } = vm;
        let mut rest = special(vm, manifest.networks());
        for disk in &vm.disks {
            write!(rest, ", {}", disk_in_words(manifest, disk)?)?;
        }
        writeln!(text, "  {name:width$}  {memory}, vcpus {vcpus}, kernel {kernel}{initrd}{rest}")?;
    }
    let memory = vms.iter().map(|vm| vm.memory).fold(0, u64::saturating_add);
    let noun = if vms.len() == 1 { "VM" } else { "VMs" };
    writeln!(text, "  {} {noun} with {} of memory", vms.len(), size::show(memory))?;
    Ok(text)
}

/// A disk, for people: its size, what is stored of it, and what can be written.
fn disk_in_words(manifest: &Manifest<'_>, disk: &DiskConfig) -> Result<String> {
    if let Some(host) = disk.host() {
        let kind = if disk.read_only { " read-only" } else { "" };
        return Ok(format!("{} on {host}{kind}", disk.serial));
    }
    let bytes = disk_size(manifest, disk)?;
    let mut text = format!("{} {}", disk.serial, size::show_rounded(bytes));
    if let Some(image) = disk.image() {
        write!(text, " of {} packed", size::show_rounded(image.size()))?;
    }
    match disk.space_of(bytes) {
        None => text += " read-only",
        Some(space) if space < bytes => write!(text, " with {} space", size::show_rounded(space))?,
        Some(_) => {}
    }
    Ok(text)
}

/// A socket device, for people: its CID, and whom it reaches.
fn vsock_in_words(vsock: &VsockConfig) -> String {
    let mut text = format!("vsock {}", vsock.cid);
    if vsock.monitor != Rights::None {
        text += &format!(" to the monitor ({})", vsock.monitor.name());
    }
    if let Some(group) = &vsock.group {
        text += &format!(" in group {group}");
    }
    text
}

/// What of a VM is not as it is by default.
fn special(vm: &VmConfig, networks: &[NetworkConfig]) -> String {
    let mut text = String::new();
    let mut say = |what: String| text.extend([", ", &what]);
    match vm.policy.class {
        Class::Fair { weight, cap } => {
            if weight != DEFAULT_WEIGHT {
                say(format!("weight {weight}"));
            }
            if let Some(cap) = cap {
                say(format!("cap {cap}%"));
            }
        }
        Class::Reserved { budget, period } => {
            let show = manifest::show_micros;
            say(format!("reservation {} in {}", show(budget), show(period)));
        }
    }
    if vm.policy.affinity != CpuSet::ALL {
        say("pinned".to_owned());
    }
    if vm.policy.wfi != Wfi::default() {
        say(format!("wfi {}", vm.policy.wfi.name()));
    }
    if vm.shutdown != Shutdown::Button {
        say(format!("shutdown by {}", vm.shutdown));
    }
    if let Some(min) = vm.balloon {
        say(format!("balloon down to {}", size::show(min)));
    }
    if vm.keys != Keys::default() {
        say("keys by virtio".to_owned());
    }
    for port in &vm.ports {
        say(format!("port {} to {}", port.name, port.to));
    }
    if vm.agent {
        say("agent".to_owned());
    }
    if let Some(vsock) = &vm.vsock {
        say(vsock_in_words(vsock));
    }
    if vm.ram_base != RAM_BASE {
        say(format!("RAM at {:#x}", vm.ram_base.raw()));
    }
    for (name, device) in Devices::NAMED {
        if !vm.devices.contains(device) {
            say(format!("no {name}"));
        }
    }
    for node in &vm.assign {
        say(format!("with {node}"));
    }
    for card in &vm.nets {
        let network = networks.get(usize::from(card.network)).map_or("", |network| &network.name);
        say(format!("{} on {network}", card.port.mac));
    }
    if !vm.autostart {
        say("not started".to_owned());
    }
    text
}

#[cfg(test)]
mod tests {
    use plinth::addr::Ipa;
    use plinth::manifest::{
        CardConfig, ConsolePort, Devices, Keys, MachineConfig, NetworkSource, Rights, Shutdown,
        VmSource, VsockConfig, read, write,
    };
    use plinth::net::{MacAddr, PortConfig};
    use plinth::sched::policy::{Class, CpuSet, Policy, Wfi};

    use super::{pack, summary};
    use crate::paths;

    #[test]
    fn a_folder_that_is_not_there_is_not_made() {
        let folder = paths::scratch("no-such-folder").expect("a place for tests");
        let why = pack("none.toml".as_ref(), &folder.join("x.bundle")).expect_err("no folder");
        assert!(why.to_string().contains("there is no folder"), "{why}");
        assert!(!folder.exists());
        let why = pack("none.toml".as_ref(), "x.bundle".as_ref()).expect_err("no manifest");
        assert!(why.to_string().contains("none.toml"), "{why}");
    }

    #[test]
    fn a_summary_has_a_line_for_each_vm_and_the_total() {
        let kernel = vec![0xd5; 3 << 19];
        let plain = VmSource {
            vcpus: 2,
            initrd: Some(&kernel[1..]),
            ports: vec![ConsolePort { name: "p", to: "control" }],
            vsock: Some(VsockConfig::new(3)),
            ..VmSource::new("a", &kernel)
        };
        let class = Class::Reserved { budget: 2000, period: 10_000 };
        let special = VmSource {
            memory: 64 << 20,
            policy: Policy {
                class,
                affinity: CpuSet::EMPTY.with(plinth::machine::CpuId(1)),
                wfi: Wfi::Trap,
            },
            ram_base: Ipa::new(0x8000_0000),
            shutdown: Shutdown::Console("halt\n"),
            balloon: Some(16 << 20),
            keys: Keys::Virtio,
            ports: vec![ConsolePort { name: "p", to: "a" }],
            agent: true,
            vsock: Some(VsockConfig { cid: 9, monitor: Rights::Read, group: Some("g") }),
            devices: Devices::NONE,
            nets: vec![CardConfig {
                network: 0,
                port: PortConfig::new(MacAddr([2, 0, 0, 0, 0, 1])),
            }],
            autostart: false,
            ..VmSource::new("control", &kernel)
        };
        let lan = NetworkSource { name: "lan", uplink: false };
        let bundle = write(&MachineConfig::default(), &[lan], &[plain, special]);
        let bundle = bundle.expect("good VMs");
        let text = summary(&read(&bundle).expect("a good bundle")).expect("memory takes it");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "  a        512M, vcpus 2, kernel 1.5M, initrd 1.4M, port p to control, vsock 3",
                "  control  64M, vcpus 1, kernel 1.5M, reservation 2ms in 10ms, pinned, \
             wfi trap, shutdown by console \"halt\\n\", balloon down to 16M, keys by virtio, port p to a, agent, \
             vsock 9 to the monitor (read) in group g, RAM at 0x80000000, no rtc, \
             02:00:00:00:00:01 on lan, not started",
                "  2 VMs with 576M of memory",
            ]
        );
    }
}
