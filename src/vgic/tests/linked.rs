//! Interrupts that stand for physical ones.

use super::*;
use crate::vgic::Link;

const PHYSICAL: IntId = IntId::ppi(11);

fn timer() -> Machine {
    let mut machine = Machine::v2(2, 4);
    machine.vgic.link(vcpu(0), TIMER, Some(PHYSICAL));
    machine
}

/// The same where the hardware's deactivation is not to be relied on.
fn forgetful() -> Machine {
    timer().forgetful()
}

fn deactivated(machine: &mut Machine) -> usize {
    machine.cpu(0).deactivated.len()
}

#[test]
fn the_guests_end_deactivates_the_physical_interrupt_without_an_exit() {
    let mut machine = timer();
    for n in 1..4 {
        machine.set_level(0, TIMER, true);
        let lr = machine.cpu(0).holding(TIMER).unwrap();
        assert_eq!((lr.state, lr.link), (LrState::Pending, Link::Hardware { physical: PHYSICAL }));
        assert_eq!(machine.ack(0), Some(TIMER));
        assert!(!machine.end(0, TIMER));
        assert_eq!(machine.ack(0), None);
        assert_eq!(deactivated(&mut machine), n);
    }
    machine.sync(0);
    machine.fold(0);
    assert!(!machine.vgic.holds_physical(vcpu(0), TIMER));
}

#[test]
fn a_linked_interrupt_is_never_pending_and_active() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.ack(0);
    machine.raise(0, DISK);
    machine.sync(0);
    assert_eq!(machine.cpu(0).holding(TIMER).unwrap().state, LrState::Active);
}

#[test]
fn the_next_physical_interrupt_may_arrive_before_the_end_is_folded() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.ack(0);
    machine.end(0, TIMER);
    machine.set_level(0, TIMER, true);
    assert_eq!(machine.ack(0), Some(TIMER));
    machine.end(0, TIMER);
    assert_eq!(deactivated(&mut machine), 2);
}

#[test]
fn a_linked_input_that_falls_before_it_is_taken_is_withdrawn_and_deactivated() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.set_level(0, TIMER, false);
    assert_eq!(machine.ack(0), None);
    assert_eq!(deactivated(&mut machine), 1);
    // And the same where it had no list register yet.
    machine.write(0, 0x180, 1 << 27);
    machine.set_level(0, TIMER, true);
    assert_eq!(deactivated(&mut machine), 1);
    machine.set_level(0, TIMER, false);
    assert_eq!(deactivated(&mut machine), 2);
}

#[test]
fn a_linked_input_that_falls_after_it_was_taken_is_left_to_the_guest() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.ack(0);
    machine.set_level(0, TIMER, false);
    assert_eq!(deactivated(&mut machine), 0);
    machine.end(0, TIMER);
    assert_eq!(deactivated(&mut machine), 1);
    machine.sync(0);
    assert_eq!(deactivated(&mut machine), 1);
}

#[test]
fn clearing_the_active_state_of_a_linked_interrupt_clears_the_physical_one() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.ack(0);
    machine.write(0, 0x380, 1 << 27); // ICACTIVER0
    assert_eq!(machine.cpu(0).deactivated, [PHYSICAL]);
    assert!(machine.cpu(0).holding(TIMER).is_none());
}

#[test]
fn clearing_a_pending_linked_interrupt_lets_the_physical_one_fire_again() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.write(0, 0x280, 1 << 27); // ICPENDR0
    assert_eq!(machine.ack(0), None);
    assert_eq!(machine.cpu(0).deactivated, [PHYSICAL]);
}

#[test]
fn what_the_guest_makes_pending_itself_is_not_linked() {
    let mut machine = timer();
    machine.write(0, 0x200, 1 << 27); // ISPENDR0
    assert_eq!(machine.ack(0), Some(TIMER));
    machine.end(0, TIMER);
    machine.sync(0);
    assert_eq!(deactivated(&mut machine), 0);
}

#[test]
fn a_linked_interrupt_made_pending_while_active_comes_again_and_ends_once_physically() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.ack(0);
    machine.write(0, 0x200, 1 << 27); // ISPENDR0
    assert_eq!(machine.cpu(0).holding(TIMER).unwrap().state, LrState::PendingActive);
    machine.end(0, TIMER);
    assert_eq!(machine.ack(0), Some(TIMER));
    machine.end(0, TIMER);
    assert_eq!(machine.cpu(0).deactivated, [PHYSICAL]);
}

#[test]
fn an_unloaded_vcpu_still_holds_its_physical_interrupt() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.ack(0);
    machine.unload(0);
    assert!(machine.vgic.holds_physical(vcpu(0), TIMER));
    assert!(machine.vgic.is_active(vcpu(0), TIMER));
    assert_eq!(deactivated(&mut machine), 0);
    machine.sync(0);
    let lr = machine.cpu(0).holding(TIMER).unwrap();
    assert_eq!((lr.state, lr.link), (LrState::Active, Link::Hardware { physical: PHYSICAL }));
    machine.end(0, TIMER);
    assert_eq!(machine.cpu(0).deactivated, [PHYSICAL]);
}

#[test]
fn a_linked_interrupt_without_a_list_register_is_deactivated_when_its_end_is_counted() {
    let mut machine = Machine::v2(1, 1);
    machine.vgic.link(vcpu(0), TIMER, Some(PHYSICAL));
    machine.access(0, Frame::Distributor, 0x41b, Width::Byte, Some(0x80));
    machine.set_level(0, TIMER, true);
    machine.ack(0);
    machine.raise(0, DISK); // of priority 0: it takes the only list register
    assert_eq!(machine.ack(0), Some(DISK));
    machine.end(0, DISK);
    assert!(machine.end(0, TIMER));
    assert_eq!(machine.cpu(0).deactivated, [PHYSICAL]);
}

#[test]
fn reset_gives_the_physical_interrupt_back() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.ack(0);
    machine.unload(0);
    machine.vgic.reset();
    machine.sync(0);
    assert_eq!(machine.cpu(0).deactivated, [PHYSICAL]);
    machine.sync(0);
    assert_eq!(deactivated(&mut machine), 1);
}

#[test]
fn unlinking_gives_the_physical_interrupt_back() {
    let mut machine = timer();
    machine.set_level(0, TIMER, true);
    machine.ack(0);
    machine.vgic.link(vcpu(0), TIMER, None);
    machine.sync(0);
    assert_eq!(machine.cpu(0).deactivated, [PHYSICAL]);
    assert_eq!(machine.cpu(0).holding(TIMER).unwrap().state, LrState::Active);
}

#[test]
fn an_assigned_devices_edge_is_deactivated_where_it_is_taken() {
    let mut machine = Machine::v2(2, 4);
    let physical = IntId(77);
    machine.vgic.link(vcpu(0), DISK, Some(physical));
    machine.write(0, 0x830, 0b10); // ITARGETSR: vCPU 1
    machine.raise(0, DISK);
    assert_eq!(machine.ack(0), None);
    assert_eq!(machine.ack(1), Some(DISK));
    machine.end(1, DISK);
    assert_eq!(machine.cpu(1).deactivated, [physical]);
}

#[test]
fn where_levels_are_forgotten_the_end_of_a_linked_interrupt_is_told_and_deactivates_it() {
    let mut machine = forgetful();
    for n in 1..4 {
        machine.set_level(0, TIMER, true);
        assert_eq!(machine.ack(0), Some(TIMER));
        assert_eq!(deactivated(&mut machine), n - 1);
        assert!(machine.end(0, TIMER), "its end asks for maintenance");
        assert_eq!(machine.cpu(0).deactivated, vec![PHYSICAL; n]);
    }
    machine.fold(0);
    assert!(!machine.vgic.holds_physical(vcpu(0), TIMER));
}

#[test]
fn the_end_of_a_linked_interrupt_is_two_writes_where_levels_are_forgotten() {
    let mut machine = forgetful();
    for n in 0..3 {
        let before = machine.cpu(0).writes;
        machine.set_level(0, TIMER, true);
        machine.ack(0);
        machine.end(0, TIMER);
        assert!(n == 0 || machine.cpu(0).writes == before + 2);
    }
}

#[test]
fn the_end_at_once_leaves_what_the_long_way_leaves() {
    let (mut quick, mut slow) = (forgetful(), forgetful());
    for _ in 0..4 {
        for (machine, quickly) in [(&mut quick, true), (&mut slow, false)] {
            let news = if quickly { Notify::NONE } else { Notify::bit(0) };
            machine.vgic.dirty = machine.vgic.dirty | news;
            machine.set_level(0, TIMER, true);
            assert_eq!(machine.ack(0), Some(TIMER));
            machine.vgic.dirty = machine.vgic.dirty | news;
            assert!(machine.end(0, TIMER));
        }
        assert_eq!(quick.cpu(0).deactivated, slow.cpu(0).deactivated);
    }
    for machine in [&mut quick, &mut slow] {
        machine.unload(0);
    }
    assert!(quick.vgic == slow.vgic);
}

#[test]
fn what_else_asks_for_attention_is_seen_where_levels_are_forgotten() {
    let mut machine = forgetful();
    machine.set_level(0, TIMER, true);
    machine.set_level(0, UART, true);
    for intid in [TIMER, UART] {
        assert_eq!(machine.ack(0), Some(intid));
        assert!(machine.end(0, intid));
    }
    assert_eq!(machine.ack(0), Some(UART), "its input is still high");
    assert_eq!(machine.cpu(0).deactivated, [PHYSICAL]);
}

/// A disk that is the guest's own: whatever happens to it between two of its interrupts, the quick way gives what the long
/// way gives.
#[test]
fn an_assigned_devices_interrupt_comes_again_by_the_quick_way_as_by_the_long_one() {
    let physical = IntId(77);
    for forgets in [false, true] {
        let disk = || {
            let mut machine = Machine::v2(2, 4);
            machine.vgic.link(vcpu(0), DISK, Some(physical));
            if forgets { machine.forgetful() } else { machine }
        };
        let fire = |machine: &mut Machine, quickly: bool| {
            let cpu = &mut machine.cpus[0];
            let again = quickly && machine.vgic.refire(vcpu(0), DISK, cpu);
            if !again {
                machine.raise(0, DISK);
            }
            again
        };
        let changes: [(u64, u32); 5] =
            [(0x84, 1 << 16), (0x84, 0), (0x430, 0x40), (0x104, 1 << 16), (0x830, 1)];
        let (mut quick, mut slow) = (disk(), disk());
        let mut quickly = 0;
        for round in 0..12 {
            for (machine, quick) in [(&mut quick, true), (&mut slow, false)] {
                quickly += usize::from(fire(machine, quick));
                assert_eq!(machine.ack(0), Some(DISK), "round {round}");
                assert_eq!(machine.ack(0), None);
                machine.end(0, DISK);
                if let Some((offset, value)) = changes.get(round / 2).filter(|_| round % 2 == 1) {
                    machine.write(0, *offset, *value);
                }
            }
            assert_eq!(quick.cpu(0).deactivated, slow.cpu(0).deactivated);
            assert_eq!(quick.cpu(0).deactivated, vec![physical; round + 1]);
        }
        assert!((4..12).contains(&quickly), "{quickly} of 12");
        for machine in [&mut quick, &mut slow] {
            machine.unload(0);
        }
        assert!(quick.vgic == slow.vgic);
    }
}

#[test]
fn an_assigned_interrupt_that_goes_elsewhere_now_is_not_given_again() {
    let mut machine = Machine::v2(2, 4);
    machine.vgic.link(vcpu(0), DISK, Some(IntId(77)));
    machine.raise(0, DISK);
    assert_eq!(machine.ack(0), Some(DISK));
    machine.end(0, DISK);
    machine.write(0, 0x830, 0b10); // ITARGETSR: vCPU 1
    for n in 0..2 {
        assert!(!machine.vgic.refire(vcpu(n), DISK, &mut machine.cpus[usize::from(n)]));
    }
    machine.raise(0, DISK);
    assert_eq!((machine.ack(0), machine.ack(1)), (None, Some(DISK)));
}
