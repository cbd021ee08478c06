//! Any guest machine's device tree can be read by others, and says what it was asked to.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use plinth::addr::{Ipa, PhysAddr, Region};
use plinth::firmware::entropy::Entropy;
use plinth::firmware::fdt::{GuestMachine, Seeds, write};
use plinth::manifest::Devices;
use plinth::platform::board::{Board, UartKind};
use plinth::vgic::GicVersion;
use plinth::vm::layout;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    ram: (u64, u64),
    clock: bool,
    virtio: u16,
    vcpus: u8,
    v3: bool,
    cmdline: &'a str,
    initrd: Option<(u64, u64)>,
    seed: Option<[u8; 32]>,
}

fuzz_target!(|input: Input<'_>| {
    let Input { ram, clock, virtio, vcpus, v3, cmdline, initrd, seed } = input;
    let Some(ram) = Region::new(Ipa::new(ram.0), ram.1) else { return };
    let devices = if clock { Devices::RTC } else { Devices::NONE };
    let (vcpus, virtio) = (vcpus % 9, virtio % (layout::VIRTIO_SLOTS + 1));
    let gic = if v3 { GicVersion::V3 } else { GicVersion::V2 };
    let initrd = initrd.and_then(|(start, size)| Region::new(Ipa::new(start), size));
    let seeds = seed.and_then(|seed| Entropy::from_seed(&seed)).map(|mut e| Seeds::draw(&mut e));
    let machine =
        GuestMachine { ram, devices, virtio, vcpus, gic, cmdline, initrd, seeds, assigned: &[] };
    let dtb = write(&machine).expect("there is nothing to refuse");

    let cmdline = cmdline.split('\0').next().unwrap_or_default();
    let fdt = fdt::Fdt::new(&dtb).expect("the fdt crate reads it");
    assert_eq!(fdt.total_size(), dtb.len());
    assert_eq!(fdt.chosen().bootargs(), Some(cmdline));
    assert_eq!(fdt.cpus().count(), usize::from(vcpus));
    let other = dtoolkit::fdt::Fdt::new(&dtb).expect("dtoolkit reads it");
    let again = dtoolkit::model::DeviceTree::from_fdt(&other).to_dtb();
    let again = dtoolkit::fdt::Fdt::new(&again).expect("dtoolkit reads its own");
    assert_eq!(again.to_string(), other.to_string());

    // For the hypervisor's own reader it is no board, as no guest gets a maintenance interrupt; but
    // it has a UART.
    assert!(Board::read(&dtb, PhysAddr::new(0)).is_err());
    let uart = Board::read_uart(&dtb).expect("the hypervisor's own reader reads it");
    assert_eq!(uart.registers.start().raw(), layout::UART.base.raw());
    assert_eq!(uart.kind, UartKind::Pl011);
});
