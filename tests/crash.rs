//! Whole-hypervisor scenarios: guests that can never go on are told from those that only wait long.

use crate::common::*;
use plinth::addr::Ipa;
use plinth::exit::{Exit, FaultSource, StageTwoFault};
use plinth::machine::El1Register;
use plinth::machine::fake::Op;
use plinth::manifest::{OnBadAccess, OnCrash};
use plinth::vgic::GicVersion::V3;
use plinth::vm::{Status, Stop, layout};

/// The vector for a fault at EL1, and the syndrome of a fetch that faults there (Arm ARM, "ESR_EL1").
const VECTOR: u64 = VECTORS + 0x200;
const FETCH_ABORT: u64 = 0x21 << 26 | 1 << 25 | 7;

/// A guest whose vector's page is not mapped, as its registers and a loop at that place tell it, beside one
/// that shares its CPU. `elr` and `syndrome` are what the last exception left.
fn faulting(elr: u64, syndrome: u64, on_crash: OnCrash) -> Room {
    let guests = [Guest { on_crash, ..guest("lost", 1) }, guest("busy", 1)];
    let room = Room::new(V3, 1, &guests);
    let set = [
        Op::Mark(1),
        Op::SetVector(VECTORS),
        Op::SetEl1(El1Register::Elr, elr),
        Op::SetEl1(El1Register::Far, VECTOR),
        Op::SetEl1(El1Register::Esr, syndrome),
        Op::Branch(VECTOR),
    ];
    room.program(0, ENTRY, &set).program(0, VECTOR, &[Op::Work(1 << 40)]);
    room.program(1, ENTRY, &[Op::Work(100), Op::Branch(ENTRY)]);
    room
}

#[test]
fn a_guest_whose_vector_cannot_be_fetched_has_crashed() {
    let mut room = faulting(VECTOR, FETCH_ABORT, OnCrash::Preserve);
    room.run(300);
    assert_eq!(room.vm(0).status(), Status::Stopped(Stop::Crashed));
    assert_eq!(room.vm(1).status(), Status::Running);
    // What it had in hand can be looked at.
    let registers = room.vm(0).registers(plinth::vcpu::VcpuId(0));
    assert_eq!(registers.map(|it| it.regs.pc), Some(VECTOR));
}

#[test]
fn such_a_crash_follows_the_policy() {
    let mut room = faulting(VECTOR, FETCH_ABORT, OnCrash::Restart);
    room.run(3000);
    assert!(room.marks(0, 0).len() > 1, "it began again");
    let mut room = faulting(VECTOR, FETCH_ABORT, OnCrash::Destroy);
    room.run(300);
    assert!(room.hypervisor.vm(plinth::sched::VmId(0)).is_none());
}

#[test]
fn a_handler_that_takes_long_has_not_crashed() {
    // It handles a fault of other code, and another exception than a fetch.
    for (elr, syndrome) in [(ENTRY, FETCH_ABORT), (VECTOR, 0x25 << 26)] {
        let mut room = faulting(elr, syndrome, OnCrash::Preserve);
        assert!(!room.run(1000));
        assert_eq!(room.vm(0).status(), Status::Running);
    }
}

/// A guest that makes an access, and goes on in its vector if it is told, beside one that is busy.
fn reaching(exit: Exit, on_bad_access: OnBadAccess, on_crash: OnCrash) -> Room {
    let guests = [Guest { on_bad_access, on_crash, ..guest("lost", 1) }, guest("busy", 1)];
    let room = Room::new(V3, 1, &guests);
    let set = [Op::Mark(1), Op::SetVector(VECTORS), Op::Exit(exit), Op::Mark(2), Op::Work(1 << 40)];
    room.program(0, ENTRY, &set).program(0, VECTOR, &[Op::Mark(3), Op::Work(1 << 40)]);
    room.program(1, ENTRY, &[Op::Work(100), Op::Branch(ENTRY)]);
    room
}

/// A data access whose syndrome does not tell the instruction, and a fetch.
fn accesses() -> [Exit; 4] {
    let fault = |ipa: u64, source, walk| {
        let (ipa, far) = (Some(Ipa::new(ipa)), Some(ipa));
        Exit::Fault(StageTwoFault { ipa, far, source, walk })
    };
    let data = |write| FaultSource::Data { write };
    let uart = layout::UART.base.raw();
    [
        fault(uart, data(false), false),
        fault(uart, data(true), false),
        fault(0x10_0000_0000, FaultSource::Fetch, false),
        fault(0x10_0000_0000, data(false), true),
    ]
}

#[test]
fn an_access_that_cannot_be_carried_out_is_the_guests_business_by_default() {
    for access in accesses() {
        let mut room = reaching(access, OnBadAccess::Abort, OnCrash::Destroy);
        room.run(300);
        assert_eq!(room.vm(0).status(), Status::Running, "{access:?}");
        assert_eq!(room.marks(0, 0), [1, 3], "{access:?}");
    }
}

#[test]
fn it_is_a_crash_where_the_manifest_says_so_and_follows_the_policy() {
    for access in accesses() {
        let mut room = reaching(access, OnBadAccess::Crash, OnCrash::Preserve);
        room.run(300);
        assert_eq!(room.vm(0).status(), Status::Stopped(Stop::Crashed), "{access:?}");
        assert_eq!(room.vm(1).status(), Status::Running);
        assert_eq!(room.marks(0, 0), [1], "{access:?}");
        let at = room.vm(0).registers(plinth::vcpu::VcpuId(0)).map(|it| it.regs.pc);
        assert_eq!(at, Some(ENTRY + 8), "where it was: {access:?}");

        let mut room = reaching(access, OnBadAccess::Crash, OnCrash::Restart);
        room.run(3000);
        assert!(room.marks(0, 0).len() > 1, "it began again");
        let mut room = reaching(access, OnBadAccess::Crash, OnCrash::Destroy);
        room.run(300);
        assert!(room.hypervisor.vm(plinth::sched::VmId(0)).is_none());
    }
}
