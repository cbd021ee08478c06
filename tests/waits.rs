//! Whole-hypervisor scenarios: whether the hypervisor sees a vCPU wait that has a CPU to itself.

use std::sync::{Arc, OnceLock};

use crate::common::*;
use plinth::cpu::Step;
use plinth::hypervisor::Phase;
use plinth::machine::CpuId;
use plinth::machine::fake::{OnPause, Op, Pause, World};
use plinth::sched::VmId;
use plinth::sched::policy::{Policy, Wfi};
use plinth::vcpu::VcpuId;
use plinth::vgic::GicVersion;
use plinth::vm::sysreg::names;
use plinth::vm::tally::Reason;

const NAP: u64 = 2000;

/// A guest with this policy, alone on so many CPUs, that finds `ops` behind the prologue.
fn room(gic: GicVersion, cpus: u8, wfi: Wfi, ops: &[Op]) -> Room {
    room_with(gic, cpus, wfi, ops, Box::new(|_, _| {}))
}

fn room_with(gic: GicVersion, cpus: u8, wfi: Wfi, ops: &[Op], on_pause: Box<OnPause>) -> Room {
    let policy = Policy { wfi, ..Policy::default() };
    let room = Room::with(gic, cpus, 4, &[Guest { policy, ..guest("lone", 1) }], on_pause);
    let (base, handler) = vectors();
    room.program(0, base, &handler).program(0, LOOP, &wait_loop());
    room.program(0, ENTRY, &after_prologue(gic, 0, ops));
    room
}

/// How often the guest came to EL2 for this.
fn exits(room: &Room, reason: Reason) -> u64 {
    room.vm(0).tally(VcpuId(0)).unwrap().exits(reason).count
}

/// `NAP` after `NAP`, by this timer, and a mark behind each.
fn naps(physical: bool, count: u64) -> Vec<Op> {
    let set = match physical {
        false => vec![Op::SetVirtualTimer(1, NAP)],
        true => vec![Op::Msr(names::CNTP_TVAL_EL0, NAP), Op::Msr(names::CNTP_CTL_EL0, 1)],
    };
    let nap = |mark| set.clone().into_iter().chain([Op::Wfi, Op::Mark(mark)]);
    (1..=count).flat_map(nap).chain([Op::Branch(LOOP)]).collect()
}

#[test]
fn a_lone_guests_waits_trap_if_its_policy_says_so_and_its_timers_end_them() {
    for gic in BOTH {
        for physical in [false, true] {
            for (wfi, traps) in [(Wfi::Auto, false), (Wfi::Trap, true)] {
                let mut room = room(gic, 1, wfi, &naps(physical, 3));
                assert!(room.run(300));
                assert_eq!(room.marks(0, 0), [1, 2, 3], "{gic:?}, {wfi:?}, physical {physical}");
                // Three naps, and the loop in the end.
                let trapped = exits(&room, Reason::Wfi);
                assert_eq!(trapped >= 4, traps, "{gic:?}, {wfi:?}: {trapped}");
                assert_eq!(trapped == 0, !traps);
                assert_eq!(room.loaded(0, 0).len(), 1, "its registers stay in the CPU");
            }
        }
    }
}

#[test]
fn time_in_which_a_trapped_guest_waits_is_the_cpus_idle_time() {
    for gic in BOTH {
        for (wfi, idle) in [(Wfi::Auto, 0..1), (Wfi::Trap, 3 * NAP - 100..3 * NAP + 100)] {
            let mut naps = naps(false, 3);
            naps.insert(naps.len() - 1, psci(SYSTEM_OFF));
            // Time passes while the CPU sleeps, not when it is looked at next.
            let world: Arc<OnceLock<Arc<World>>> = Arc::default();
            let sleeper = world.clone();
            let on_pause = move |_, pause| {
                if let (Pause::Asleep(Some(until)), Some(world)) = (pause, sleeper.get()) {
                    world.advance(until);
                }
            };
            let mut room = room_with(gic, 1, wfi, &naps, Box::new(on_pause));
            let _ = world.set(room.world.clone());
            assert!((0..300).any(|_| room.step(0) == Step::Finished));
            let clock = room.hypervisor.clock(CpuId(0));
            let spent = clock.spent(Phase::Idle, room.world.now()).0;
            assert!(idle.contains(&spent), "{gic:?}, {wfi:?}: {spent}");
        }
    }
}

#[test]
fn a_wfe_of_a_trapped_guest_comes_to_el2_and_goes_on_at_once() {
    for gic in BOTH {
        for (wfi, seen) in [(Wfi::Auto, 0), (Wfi::Trap, 2)] {
            let ops = [Op::Wfe, Op::Mark(1), Op::Wfe, Op::Mark(2), Op::Branch(LOOP)];
            let mut room = room(gic, 1, wfi, &ops);
            assert!(room.run(100));
            assert_eq!((room.marks(0, 0), exits(&room, Reason::Wfe)), (vec![1, 2], seen));
        }
    }
}

#[test]
fn a_change_of_policy_holds_from_the_next_wait_on_whoever_asks() {
    for gic in BOTH {
        // On the guest's own CPU, and on another one.
        for (cpus, asker) in [(1, 0), (2, 0), (2, 1)] {
            let set = prologue(gic, 0).len() as u64;
            let again = ENTRY + 4 * set;
            let timer = Op::SetVirtualTimer(1, 300);
            let nap = [Op::Mask, timer, Op::Wfi, Op::Unmask, Op::Branch(again)];
            let mut room = room(gic, cpus, Wfi::Auto, &nap);
            room.run(200);
            assert_eq!(exits(&room, Reason::Wfi), 0);
            let mut before = 0;
            for (wfi, traps) in [(Wfi::Trap, true), (Wfi::Auto, false), (Wfi::Trap, true)] {
                let policy = Policy { wfi, ..Policy::default() };
                room.ask(asker, |it, machine| it.set_policy(machine, VmId(0), policy)).unwrap();
                // The wait under way may be of either kind.
                room.run(20);
                let settled = exits(&room, Reason::Wfi);
                room.run(200);
                let after = exits(&room, Reason::Wfi);
                assert_eq!(after > settled, traps, "{gic:?}, {cpus} CPUs: {settled}, {after}");
                assert!(after >= before && room.took(0, 0).len() > 4);
                before = after;
            }
        }
    }
}
