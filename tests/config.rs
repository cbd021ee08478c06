//! Whole-hypervisor scenarios: a guest machine is the one that its manifest describes.

use std::sync::Arc;

use crate::common::*;
use plinth::addr::Ipa;
use plinth::device::serial::ScriptedLine;
use plinth::exit::Width;
use plinth::machine::fake::{Op, SYNC_VECTOR};
use plinth::manifest::{self, Devices, MachineConfig, Manifest, VmSource};
use plinth::memory::{Geometry, PaRange, Recorder, Vmids};
use plinth::vgic::GicVersion::V3;
use plinth::vm::Vm;
use plinth::vm::create::{CreateError, Host};
use plinth::vm::layout;

/// UARTPeriphID0 and its fellow of the clock.
const PERIPH_ID0: u64 = 0xfe0;

fn bundle_of(source: VmSource<'_>) -> Manifest<'static> {
    let bundle = manifest::write(&MachineConfig::default(), &[], &[source]).unwrap();
    manifest::read(Box::leak(bundle.into_boxed_slice())).unwrap()
}

/// The VM that `source` describes.
fn on(host: &Host, source: VmSource<'_>) -> Result<(Vm, Arc<ScriptedLine>), CreateError> {
    let (mut frames, mut vmids) = (pool(source.memory + (128 << 10)), Vmids::new());
    create(&bundle_of(source), 0, 0, host, &mut frames, &mut vmids, &Recorder::default())
}

/// A room with the VM that `source` describes, which does `ops` at `entry`.
fn room(source: VmSource<'_>, entry: u64, ops: &[Op]) -> Result<Room, CreateError> {
    on(&host(V3, 1), source.clone())?;
    let memory = source.memory + (128 << 10);
    let room = Room::of(V3, 1, 4, &bundle_of(source), memory, Box::new(|_, _| {}));
    room.program(0, VECTORS + SYNC_VECTOR, &[psci(SYSTEM_OFF)]).program(0, entry, ops);
    Ok(room)
}

#[test]
fn ram_image_and_device_tree_are_where_the_manifest_has_ram() {
    const BASE: u64 = 0x2_8000_0000;
    let kernel = elf(BASE + (2 << 20), &[0x5a; 64], 0x2000);
    let source =
        VmSource { memory: RAM, ram_base: Ipa::new(BASE), ..VmSource::new("far", &kernel) };
    let ops = [
        Op::SetVector(VECTORS),
        Op::BranchUnless(0, BASE, THIRD),
        Op::Mark(1),
        // Where RAM usually is there is nothing.
        Op::Load(layout::RAM_BASE.raw(), Width::Word, 5),
        psci(SYSTEM_OFF),
    ];
    let mut room = room(source, BASE + (2 << 20), &ops).unwrap();
    assert!(room.run(100));
    assert_eq!(room.marks(0, 0), [1]);
    assert_eq!(room.injected(0, 0).len(), 1);
}

#[test]
fn an_image_for_the_usual_ram_does_not_fit_elsewhere() {
    let kernel = elf(ENTRY, &[0x5a; 64], 0x2000);
    let ram_base = Ipa::new(0x8000_0000);
    let source = VmSource { memory: RAM, ram_base, ..VmSource::new("far", &kernel) };
    assert!(matches!(room(source, ENTRY, &[]), Err(CreateError::Boot(_))));
}

#[test]
fn ram_beyond_the_guest_addresses_of_this_machine_is_refused() {
    let kernel = elf(ENTRY, &[0x5a; 64], 0x2000);
    let ram_base = Ipa::new(manifest::RAM_LIMIT - (4 << 20));
    let source = VmSource { memory: RAM, ram_base, ..VmSource::new("far", &kernel) };
    // 39 bits are enough for whatever a manifest may ask, 36 are not.
    let usual = host(V3, 1);
    let small = Host { geometry: Geometry::new(36, PaRange::from_field(5)).unwrap(), ..usual };
    let error = on(&small, source.clone()).err().unwrap();
    assert!(matches!(error, CreateError::AddressSpace { .. }), "{error}");
    assert!(matches!(on(&host(V3, 1), source).err().unwrap(), CreateError::Boot(_)));
}

#[test]
fn a_guest_has_a_clock_exactly_when_its_manifest_says_so() {
    let kernel = elf(ENTRY, &[0x5a; 64], 0x2000);
    for (devices, aborts) in [(Devices::RTC, 0), (Devices::NONE, 1)] {
        let source = VmSource { memory: RAM, devices, ..VmSource::new("one", &kernel) };
        let ops = [
            Op::SetVector(VECTORS),
            Op::Load(layout::UART.base.raw() + PERIPH_ID0, Width::Word, 5),
            Op::Load(layout::RTC.base.raw() + PERIPH_ID0, Width::Word, 6),
            psci(SYSTEM_OFF),
        ];
        let mut room = room(source, ENTRY, &ops).unwrap();
        assert!(room.run(100));
        assert_eq!(room.injected(0, 0).len(), aborts, "{devices:?}");
    }
}
