//! Claims about the boot bundle.

mod damage;
mod exhaustive;
mod layout;
mod mistakes;
mod networks;
mod ports;
mod property;
mod vsock;

use alloc::format;
use alloc::string::ToString;
use alloc::vec;

use alloc::string::String;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::addr::Ipa;
use crate::machine::CpuId;
use crate::net::{MacAddr, PortConfig, PortError, Rate, Vlans};
use crate::sched::policy::{Class, CpuSet, MAX_WEIGHT, Policy, Wfi};

const KERNEL: &[u8] = &[0xaa; 5000];
const INITRD: &[u8] = b"a small initrd";

fn source(name: &str) -> VmSource<'_> {
    VmSource {
        memory: 256 << 20,
        vcpus: 2,
        initrd: Some(INITRD),
        cmdline: "console=ttyAMA0",
        ..VmSource::new(name, KERNEL)
    }
}

/// A bundle of VMs on a machine of which nothing is asked.
fn pack(vms: &[VmSource<'_>]) -> Result<Vec<u8>, ManifestError> {
    write(&MachineConfig::default(), &[], vms)
}

fn config(name: &str) -> VmConfig {
    let source = VmSource { memory: 256 << 20, vcpus: 2, ..VmSource::new(name, b"file") };
    source.map(|text| String::from(*text), |_| Payload { offset: 4096, size: 4 })
}

/// A disk that begins so, with space for all of it.
fn on_host(disk: DiskName, part: DiskPart) -> DiskConfig {
    super::tests::disk(DiskContents::Host(HostDiskConfig { disk, part }), "d".into())
}

fn disk<P, T>(contents: DiskContents<P, T>, serial: T) -> DiskConfig<P, T> {
    DiskConfig { contents, space: None, read_only: false, serial }
}

/// A bundle as a stranger might write it: `table` unchecked, then one page of payload.
fn forge(table: &[u8]) -> Vec<u8> {
    let mut bundle = [&MAGIC[..], &FORMAT_VERSION.to_le_bytes(), &[0; 4]].concat();
    bundle.extend((8192u64).to_le_bytes());
    bundle.extend((table.len() as u64).to_le_bytes());
    bundle.extend(table);
    bundle.resize(8192, 0);
    seal(&mut bundle);
    bundle
}

fn forge_vm(change: impl Fn(&mut VmConfig)) -> Vec<u8> {
    let mut vm = config("forged");
    change(&mut vm);
    forge_table(MachineConfig::default(), &[vm])
}

fn forge_table(machine: MachineConfig, vms: &[VmConfig]) -> Vec<u8> {
    forge_networks(machine, &[], vms)
}

fn forge_networks(machine: MachineConfig, networks: &[NetworkConfig], vms: &[VmConfig]) -> Vec<u8> {
    forge(&postcard::to_allocvec(&(machine, networks, vms)).unwrap())
}

fn seal(bundle: &mut [u8]) {
    let crc = crc32fast::hash(&bundle[16..]);
    bundle[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn refusal(bundle: &[u8]) -> ManifestError {
    read(bundle).expect_err("this bundle must be refused")
}
