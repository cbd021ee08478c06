//! Whole-hypervisor scenarios: interrupts between vCPUs, and timers.

use crate::common::*;
use plinth::machine::fake::{Op, Seen};
use plinth::vgic::GicVersion;
use plinth::vm::sysreg::names;

fn room(gic: GicVersion, cpus: u8, guests: &[Guest]) -> Room {
    let room = Room::new(gic, cpus, guests);
    let (base, handler) = vectors();
    for vm in 0..u8::try_from(guests.len()).unwrap() {
        room.program(vm, base, &handler).program(vm, LOOP, &wait_loop());
    }
    room
}

/// CNTP fires so many ticks from now.
fn physical_timer(ticks: u64) -> [Op; 2] {
    [Op::Msr(names::CNTP_TVAL_EL0, ticks), Op::Msr(names::CNTP_CTL_EL0, 1)]
}

#[test]
fn an_sgi_wakes_a_waiting_vcpu_exactly_once() {
    // With a CPU of its own a vCPU waits untrapped, else trapped.
    for (cpus, vcpus) in [(2, 2), (2, 4), (1, 2), (3, 2)] {
        for gic in BOTH {
            let mut room = room(gic, cpus, &[guest("one", vcpus)]);
            let ops = [cpu_on(1, SECOND), Op::Work(20_000), sgi(gic, 5, 0b10), Op::Branch(LOOP)];
            room.program(0, ENTRY, &after_prologue(gic, 0, &ops));
            room.program(0, SECOND, &after_prologue(gic, 1, &[Op::Branch(LOOP)]));
            assert!(room.run(400), "everybody waits in the end");
            assert_eq!(room.took(0, 1), [5], "{gic:?}, {vcpus} vCPUs on {cpus} CPUs");
            assert!(room.took(0, 0).is_empty());
            if cpus > 1 {
                assert_eq!(room.kicks(), [(0, 1); 2]);
            }
        }
    }
}

#[test]
fn wfi_with_a_masked_interrupt_pending_does_not_wait() {
    for gic in BOTH {
        for cpus in [1, 2] {
            let mut room = room(gic, cpus, &[guest("one", 2)]);
            let ops =
                [Op::Mask, sgi(gic, 3, 0b01), Op::Wfi, Op::Mark(1), Op::Unmask, Op::Branch(LOOP)];
            room.program(0, ENTRY, &after_prologue(gic, 0, &ops));
            assert!(room.run(100));
            assert_eq!((room.marks(0, 0), room.took(0, 0)), (vec![1], vec![3]));
        }
    }
}

#[test]
fn the_virtual_timer_fires_once_each_time_and_is_inactive_after_the_guests_eoi() {
    for gic in BOTH {
        for vcpus in [1, 2] {
            let mut room = room(gic, 1, &[guest("one", vcpus)]);
            let timer = Op::SetVirtualTimer(1, 2000);
            let ops = [
                timer.clone(),
                Op::Wfi,
                Op::Mark(1),
                timer,
                Op::Wfi,
                Op::Mark(2),
                Op::Branch(LOOP),
            ];
            room.program(0, ENTRY, &after_prologue(gic, 0, &ops));
            assert!(room.run(300));
            assert_eq!(room.took(0, 0), [27, 27], "{gic:?}");
            assert_eq!(room.marks(0, 0), [1, 2]);
            assert!(!room.cpus[0].machine().timer_active());
            assert!(room.world.now().0 > 4000);
        }
    }
}

/// Its line is high again, or still, when the guest ends the interrupt: the end is told, and it comes again at once.
#[test]
fn a_controller_that_forgets_levels_gives_a_timer_that_is_set_in_the_past_again() {
    for forgets in [true, false] {
        let mut room = Room::new(GicVersion::V2, 1, &[guest("one", 1)]);
        if forgets {
            room.world.forget_levels();
        }
        let (base, _) = vectors();
        let handler = [
            Op::Acknowledge,
            Op::BranchUnless(20, 0, base + 24),
            Op::Mov(20, 1),
            Op::SetVirtualTimer(1, 0), // it stays asserted
            Op::EndOfInterrupt,
            Op::Eret,
            Op::SetVirtualTimer(0, 0),
            Op::EndOfInterrupt,
            Op::Eret,
        ];
        let body = [Op::Mov(20, 0), Op::SetVirtualTimer(1, 300), Op::Branch(LOOP)];
        room.program(0, base, &handler).program(0, LOOP, &wait_loop()).program(
            0,
            ENTRY,
            &after_prologue(GicVersion::V2, 0, &body),
        );
        assert!(room.run(500), "it goes on for ever");
        assert_eq!(room.took(0, 0), [27, 27]);
        assert!(!room.cpus[0].machine().timer_active());
        let maintenance = room.hypervisor.clock(plinth::machine::CpuId(0)).counts()[3];
        assert_eq!(maintenance, if forgets { 2 } else { 0 });
    }
}

#[test]
fn the_emulated_physical_timer_fires_once_each_time() {
    for gic in BOTH {
        for vcpus in [1, 2] {
            let mut room = room(gic, 1, &[guest("one", vcpus)]);
            let mut ops = prologue(gic, 0);
            for mark in 1..=2 {
                ops.extend(physical_timer(2000));
                ops.extend([Op::Wfi, Op::Mark(mark)]);
            }
            ops.push(Op::Branch(LOOP));
            room.program(0, ENTRY, &ops);
            assert!(room.run(300));
            assert_eq!(room.took(0, 0), [30, 30], "{gic:?}");
            assert_eq!(room.marks(0, 0), [1, 2]);
            assert!(room.world.now().0 > 4000);
        }
    }
}

#[test]
fn a_timer_of_a_vcpu_that_is_off_its_cpu_wakes_it_in_time() {
    for gic in BOTH {
        for physical in [false, true] {
            let mut room = room(gic, 1, &[guest("waits", 1), guest("spins", 1)]);
            let timer = match physical {
                false => vec![Op::SetVirtualTimer(1, 3000)],
                true => physical_timer(3000).to_vec(),
            };
            let ops: Vec<_> = timer.into_iter().chain([Op::Wfi, Op::Branch(LOOP)]).collect();
            room.program(0, ENTRY, &after_prologue(gic, 0, &ops));
            room.program(1, ENTRY, &[Op::Branch(ENTRY)]);
            room.run(300);
            let id = if physical { 30 } else { 27 };
            assert_eq!(room.took(0, 0), [id]);
            let record = room.world.record();
            let took = record.iter().find(|event| matches!(event.seen, Seen::Took(_))).unwrap();
            // Who wakes up waits for the end of the spinner's slice at most.
            assert!((4000..4800).contains(&took.at.0), "{took:?}");
            assert!(room.loaded(0, 0).len() >= 2, "it was off the CPU");
        }
    }
}

#[test]
fn the_timers_of_two_guests_on_one_cpu_do_not_disturb_each_other() {
    for gic in BOTH {
        let mut room = room(gic, 1, &[guest("one", 1), guest("two", 1)]);
        for (vm, period) in [(0, 300), (1, 170)] {
            let again = ENTRY + 4 * 4;
            let ops = [Op::SetVirtualTimer(1, period), Op::Wfi, Op::Work(40), Op::Branch(again)];
            room.program(vm, ENTRY, &after_prologue(gic, 0, &ops));
        }
        room.run(3000);
        let ticks = room.world.now().0 - 1000;
        for (vm, period) in [(0, 300u64), (1, 170)] {
            let took = room.took(vm, 0);
            assert!(took.iter().all(|id| *id == 27));
            let most = ticks / period;
            let count = took.len() as u64;
            assert!(count <= most && count * 2 > most, "{count} of {most} in {ticks}");
        }
    }
}

#[test]
fn an_interrupt_handler_that_loses_its_cpu_goes_on_with_its_priority() {
    for gic in BOTH {
        let mut room = room(gic, 1, &[guest("handles", 1), guest("spins", 1)]);
        let base = VECTORS + plinth::machine::fake::IRQ_VECTOR;
        // A second SGI of the same priority must not preempt the handler of the first.
        let handler = [
            Op::Acknowledge,
            sgi(gic, 9, 1),
            Op::Work(1500),
            Op::Mark(1),
            Op::EndOfInterrupt,
            Op::Eret,
        ];
        room.program(0, base, &handler);
        let ops = [sgi(gic, 8, 1), Op::Wfi, Op::Branch(LOOP)];
        room.program(0, ENTRY, &after_prologue(gic, 0, &ops));
        room.program(1, ENTRY, &[Op::Branch(ENTRY)]);
        room.run(900);
        assert_eq!(room.took(0, 0)[..2], [8, 9]);
        assert!(room.loaded(0, 0).len() > 2);
    }
}
