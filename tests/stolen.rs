//! Whole-hypervisor scenarios: the page of stolen time.

use crate::common::*;
use plinth::exit::{Exit, FaultSource, StageTwoFault, Width};
use plinth::machine::fake::{Op, SYNC_VECTOR};
use plinth::sched::VmId;
use plinth::vcpu::VcpuId;
use plinth::vgic::GicVersion::V3;
use plinth::vm::Stop;

const PV_TIME_ST: u64 = 0xc500_0021;
const PAGE: u64 = 0x090a_0000;

/// `ESR_EL1` of an abort taken without a change of level: a synchronous external abort.
const DATA_ABORT: u64 = 0x25 << 26 | 1 << 25 | 0b01_0000;
const FETCH_ABORT: u64 = 0x21 << 26 | 1 << 25 | 0b01_0000;
const WNR: u64 = 1 << 6;

#[test]
fn each_vcpu_asks_for_its_own_structure() {
    let mut room = Room::new(V3, 1, &[guest("one", 2)]);
    let ask = |vcpu: u64| {
        let own = PAGE + 64 * vcpu;
        [psci(PV_TIME_ST), Op::BranchUnless(0, own, LOOP), Op::Mark(own), Op::Branch(LOOP)]
    };
    let first: Vec<_> = [cpu_on(1, SECOND)].into_iter().chain(ask(0)).collect();
    room.program(0, ENTRY, &first).program(0, SECOND, &ask(1)).program(0, LOOP, &wait_loop());
    assert!(room.run(300));
    assert_eq!((room.marks(0, 0), room.marks(0, 1)), (vec![PAGE], vec![PAGE + 64]));
}

/// What a guest is given that does `op`, which is not allowed.
fn refused(op: Op) -> Vec<u64> {
    let mut room = Room::new(V3, 1, &[guest("one", 1)]);
    room.program(0, ENTRY, &[Op::SetVector(VECTORS), op]);
    room.program(0, VECTORS + SYNC_VECTOR, &[Op::Mark(9), psci(SYSTEM_OFF)]);
    assert!(room.run(100), "it does not try for ever");
    assert_eq!(room.marks(0, 0), [9]);
    room.injected(0, 0)
}

#[test]
fn a_guest_that_writes_to_the_page_gets_an_external_abort() {
    for offset in [0, 8, 0xff8] {
        assert_eq!(refused(Op::Store(PAGE + offset, Width::Double, 1)), [DATA_ABORT | WNR]);
    }
    // As a permission fault comes from the hardware: without an IPA. A store pair has no syndrome either.
    let source = FaultSource::Data { write: true };
    for ipa in [None, Some(plinth::addr::Ipa::new(PAGE))] {
        let fault = StageTwoFault { ipa, far: Some(PAGE), source, walk: false };
        assert_eq!(refused(Op::Exit(Exit::Fault(fault))), [DATA_ABORT | WNR]);
    }
}

#[test]
fn a_guest_that_executes_the_page_gets_an_external_abort() {
    assert_eq!(refused(Op::Branch(PAGE)), [FETCH_ABORT]);
}

#[test]
fn what_the_scheduler_kept_from_a_vcpu_is_read_and_begins_at_zero_after_a_reset() {
    let mut room = Room::new(V3, 1, &[guest("one", 1), guest("two", 1)]);
    for vm in 0..2 {
        room.program(vm, ENTRY, &[Op::Work(64), Op::Branch(ENTRY)]);
    }
    let vm = room.vm(0);
    let (start, mut last) = (room.world.now(), 0);
    for _ in 0..2000 {
        room.step(0);
        let now = vm.stolen_nanos(VcpuId(0));
        assert!(now >= last, "it never decreases");
        last = now;
    }
    let elapsed = room.world.now().since(start).0 * 1_000_000_000 / u64::from(HZ);
    assert!((elapsed * 4 / 10..elapsed * 6 / 10).contains(&last), "{last} of {elapsed}");
    let restart = Stop::Restart;
    room.ask(0, |hypervisor, machine| hypervisor.stop(machine, VmId(0), restart)).unwrap();
    while vm.resets() == 0 {
        room.step(0);
    }
    assert_eq!(vm.stolen_nanos(VcpuId(0)), 0);
}
