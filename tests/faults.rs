//! Whole-hypervisor scenarios: faults of stage 2 at which there is nothing to do, or nothing any more.

use crate::common::*;
use plinth::addr::Ipa;
use plinth::exit::{Direction, Exit, FaultSource, Gpr, MmioAccess, StageTwoFault, Width};
use plinth::machine::fake::{Op, SYNC_VECTOR};
use plinth::machine::{El1Register, Machine};
use plinth::manifest::OnBadAccess;
use plinth::vgic::GicVersion::V3;
use plinth::vm::layout;

/// Where nothing is in a guest machine, within its addresses and beyond them.
const NOTHING: [u64; 3] = [0x2000_0000, 0x3f_ffff_f000, 0xffff_ffff_ffff_ffc0];
/// Devices: with registers, without (an empty slot), and the interrupt controller.
const DEVICES: [u64; 4] = [
    layout::UART.base.raw(),
    layout::VIRTIO.base.raw() + 0x1000,
    layout::GICD.base.raw(),
    layout::GICR.base.raw(),
];

fn fault(ipa: Option<u64>, far: u64, source: FaultSource, walk: bool) -> StageTwoFault {
    StageTwoFault { ipa: ipa.map(Ipa::new), far: Some(far), source, walk }
}

/// Cache maintenance by address that fails: on nothing, on devices, on memory that may only be read (a permission fault comes without
/// an IPA), and where the bus has refused it.
fn maintenance() -> Vec<Exit> {
    let there = |at: &u64| {
        Exit::Fault(fault(Some(*at & 0xff_ffff_ffff), *at, FaultSource::Maintenance, false))
    };
    let mut exits: Vec<_> = NOTHING.iter().chain(&DEVICES).map(there).collect();
    let read_only = layout::STOLEN_TIME.base.raw();
    exits.push(Exit::Fault(fault(None, read_only, FaultSource::Maintenance, false)));
    exits.push(Exit::ExternalAbort(fault(None, NOTHING[0], FaultSource::Maintenance, false)));
    exits
}

#[test]
fn maintenance_where_there_is_nothing_to_maintain_is_skipped_once() {
    for on_bad_access in [OnBadAccess::Abort, OnBadAccess::Crash] {
        let mut room = Room::new(V3, 1, &[Guest { on_bad_access, ..guest("one", 1) }]);
        let mut ops = vec![Op::SetVector(VECTORS)];
        let exits = maintenance();
        for (mark, exit) in (0..).zip(&exits) {
            // If it were skipped twice the mark would be missing; if it were repeated, all that follows.
            ops.extend([Op::Exit(*exit), Op::Mark(mark)]);
        }
        ops.push(psci(SYSTEM_OFF));
        room.program(0, ENTRY, &ops);
        room.program(0, VECTORS + SYNC_VECTOR, &[Op::Mark(0xdead), psci(SYSTEM_OFF)]);
        assert!(room.run(200), "it comes to an end");
        let marks: Vec<_> = (0..exits.len() as u64).collect();
        assert_eq!((room.marks(0, 0), room.injected(0, 0)), (marks, vec![]), "{on_bad_access:?}");
    }
}

/// The guest's own tables are where nothing is: that is no maintenance any more, and stepping over it would hide it.
#[test]
fn maintenance_whose_walk_leads_nowhere_is_an_abort_on_a_write() {
    // "External abort on translation table walk", level 0; a write, as the manual has it for maintenance.
    const ABORT: u64 = 0x25 << 26 | 1 << 25 | 1 << 6 | 0b01_0100;
    let mut room = Room::new(V3, 1, &[guest("one", 1)]);
    let walk = fault(Some(NOTHING[0]), 0x1000, FaultSource::Maintenance, true);
    room.program(0, ENTRY, &[Op::SetVector(VECTORS), Op::Exit(Exit::Fault(walk)), Op::Mark(1)]);
    room.program(0, VECTORS + SYNC_VECTOR, &[Op::Mark(2), psci(SYSTEM_OFF)]);
    assert!(room.run(100), "it comes to an end");
    assert_eq!((room.marks(0, 0), room.injected(0, 0)), (vec![2], vec![ABORT]));
}

/// Another vCPU has mapped it by now, or its mapping was being changed: the guest tries again, at the same instruction, and notices nothing.
#[test]
fn a_fault_on_what_is_mapped_by_now_is_tried_again() {
    let at = ENTRY + 0x1800;
    let data = |write| FaultSource::Data { write };
    let all = [data(false), data(true), FaultSource::Fetch, FaultSource::Maintenance];
    let faults = all.map(|source| Exit::Fault(fault(Some(at), at, source, false)));
    let walks = [data(false), FaultSource::Fetch, FaultSource::Maintenance];
    let walks = walks.map(|source| Exit::Fault(fault(Some(at), 0x1000, source, true)));
    let described = [Direction::Read { sign_extend: false, sixty_four: true }, Direction::Write];
    let described = described.map(|direction| {
        let (ipa, width, gpr) = (Ipa::new(at), Width::Double, Gpr::new(3));
        Exit::Mmio(MmioAccess { ipa, far: at, width, direction, gpr, swapped: false })
    });
    let exits: Vec<_> = faults.into_iter().chain(walks).chain(described).collect();
    for on_bad_access in [OnBadAccess::Abort, OnBadAccess::Crash] {
        let mut room = Room::new(V3, 1, &[Guest { on_bad_access, ..guest("one", 1) }]);
        room.program(0, ENTRY, &[Op::SetVector(VECTORS), Op::Mov(3, 7)]);
        room.program(0, VECTORS + SYNC_VECTOR, &[Op::Mark(0xdead), psci(SYSTEM_OFF)]);
        let ops: Vec<_> = exits.iter().map(|exit| Op::Exit(*exit)).collect();
        room.program(0, ENTRY + 8, &ops);
        for (turn, exit) in (0..).zip(&exits) {
            let tries = room.world.now().0;
            assert!(!room.run(if turn == 0 { 100 } else { 3 }), "it goes on trying: {exit:?}");
            assert!(room.world.now().0 > tries + 10);
            let expected: Vec<u64> = (0..turn).collect();
            assert_eq!((room.marks(0, 0), room.injected(0, 0)), (expected, vec![]), "{exit:?}");
            // The access comes through.
            room.program(0, ENTRY + 8 + 4 * turn, &[Op::Mark(turn)]);
        }
        let end = ENTRY + 8 + 4 * exits.len() as u64;
        room.program(0, end, &[Op::BranchUnless(3, 7, VECTORS + SYNC_VECTOR), psci(SYSTEM_OFF)]);
        assert!(room.run(100), "it comes to an end");
        assert_eq!(room.marks(0, 0).len(), exits.len());
    }
}

/// What is mapped and does not allow it would be tried for ever.
#[test]
fn a_fault_on_what_is_mapped_and_does_not_allow_it_is_an_abort() {
    let at = layout::STOLEN_TIME.base.raw();
    let write = FaultSource::Data { write: true };
    let walk = (FaultSource::Data { write: false }, true);
    for (source, walk) in [(write, false), (FaultSource::Fetch, false), walk] {
        let exit = Exit::Fault(fault(Some(at), at, source, walk));
        let mut room = Room::new(V3, 1, &[guest("one", 1)]);
        room.program(0, ENTRY, &[Op::SetVector(VECTORS), Op::Exit(exit), Op::Mark(1)]);
        room.program(0, VECTORS + SYNC_VECTOR, &[Op::Mark(2), psci(SYSTEM_OFF)]);
        assert!(room.run(100), "it comes to an end: {exit:?}");
        assert_eq!(room.marks(0, 0), [2], "{exit:?}");
    }
}

/// The bus has refused it: there is nothing to be tried again, wherever it was.
#[test]
fn an_access_that_the_bus_refuses_is_an_abort_at_its_instruction() {
    const WNR: u64 = 1 << 6;
    let data = |write| FaultSource::Data { write };
    let data_abort = 0x25 << 26 | 1 << 25;
    for (source, walk, syndrome) in [
        (data(false), false, data_abort | 0b01_0000),
        (data(true), false, data_abort | WNR | 0b01_0000),
        (data(false), true, data_abort | 0b01_0100),
        (FaultSource::Fetch, false, 0x21 << 26 | 1 << 25 | 0b01_0000),
    ] {
        let exit = Exit::ExternalAbort(fault(None, ENTRY, source, walk));
        let mut room = Room::new(V3, 1, &[guest("one", 1)]);
        room.program(0, ENTRY, &[Op::SetVector(VECTORS), Op::Exit(exit), Op::Mark(1)]);
        let spin = VECTORS + SYNC_VECTOR + 4;
        room.program(0, VECTORS + SYNC_VECTOR, &[Op::Mark(2), Op::Branch(spin)]);
        assert!(!room.run(100));
        assert_eq!((room.marks(0, 0), room.injected(0, 0)), (vec![2], vec![syndrome]), "{exit:?}");
        let elr = room.cpus[0].machine().read_el1(El1Register::Elr);
        assert_eq!(elr, ENTRY + 4, "where it was");
    }
}
