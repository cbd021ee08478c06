//! An interrupt that fires again is given quickly, and that makes no difference to a guest or to the model.

use super::*;
use crate::vgic::SgiRegister;

const ITSELF: u64 = 3 << 24 | 1;

/// A machine whose guest has taken and ended the timer once.
fn timer(version: GicVersion) -> Machine {
    let mut machine = Machine::new(version, 2, 4);
    let enable = match version {
        GicVersion::V2 => Frame::Distributor,
        GicVersion::V3 => Frame::Redistributor(vcpu(0)),
    };
    let base = if version == GicVersion::V3 { 0x1_0000 } else { 0 };
    machine.access(0, enable, base + 0x100, Width::Word, Some(1 << 27));
    machine.vgic.link(vcpu(0), TIMER, Some(TIMER));
    machine.sync(0);
    fire(&mut machine);
    machine
}

fn fire(machine: &mut Machine) {
    machine.set_level(0, TIMER, true);
    assert_eq!(machine.ack(0), Some(TIMER));
    assert!(!machine.end(0, TIMER));
}

/// The same by the long way.
fn fire_slowly(machine: &mut Machine) {
    let notify = machine.vgic.set_level(vcpu(0), TIMER, true);
    machine.vgic.dirty = machine.vgic.dirty | notify;
    machine.sync(0);
    assert_eq!(machine.ack(0), Some(TIMER));
    assert!(!machine.end(0, TIMER));
}

#[test]
fn a_timer_that_fires_again_is_one_write_of_a_list_register() {
    for version in [GicVersion::V2, GicVersion::V3] {
        let mut machine = timer(version);
        let before = machine.cpu(0).writes;
        fire(&mut machine);
        assert_eq!(machine.cpu(0).writes, before + 1);
    }
}

#[test]
fn the_quick_way_leaves_what_the_long_way_leaves() {
    for version in [GicVersion::V2, GicVersion::V3] {
        let (mut quick, mut slow) = (timer(version), timer(version));
        for _ in 0..3 {
            fire(&mut quick);
            fire_slowly(&mut slow);
        }
        for machine in [&mut quick, &mut slow] {
            machine.unload(0);
        }
        assert_eq!(quick.vgic, slow.vgic);
        let ended = |machine: &mut Machine| machine.cpu(0).deactivated.clone();
        assert_eq!(ended(&mut quick), ended(&mut slow));
    }
}

#[test]
fn what_fires_while_a_vcpu_is_away_is_in_the_saved_state_alone() {
    let mut machine = timer(GicVersion::V3);
    machine.unload(0);
    let notify = machine.vgic.send_sgi(vcpu(0), SgiRegister::Sgi1r, ITSELF);
    assert!(notify.contains(vcpu(0)) && machine.vgic.is_sound());
    machine.sync(0);
    assert_eq!(machine.ack(0), Some(IntId(3)));
}

#[test]
fn a_timer_that_was_disabled_is_not_given_again() {
    let mut machine = timer(GicVersion::V2);
    machine.write(0, 0x180, 1 << 27); // GICD_ICENABLER0
    machine.set_level(0, TIMER, true);
    assert_eq!(machine.ack(0), None);
    machine.write(0, 0x100, 1 << 27);
    assert_eq!(machine.ack(0), Some(TIMER));
}

#[test]
fn a_priority_that_has_changed_is_in_the_list_register() {
    let mut machine = timer(GicVersion::V2);
    machine.access(0, Frame::Distributor, 0x400 + 27, Width::Byte, Some(0x40));
    machine.set_level(0, TIMER, true);
    assert_eq!(machine.cpu(0).holding(TIMER).map(|lr| lr.priority), Some(0x40));
}

#[test]
fn an_sgi_to_itself_comes_as_often_as_it_is_sent_and_taken() {
    let mut machine = Machine::new(GicVersion::V3, 2, 4);
    for _ in 0..4 {
        let notify = machine.vgic.send_sgi(vcpu(0), SgiRegister::Sgi1r, ITSELF);
        assert!(notify.contains(vcpu(0)));
        machine.settle(notify);
        assert_eq!(machine.ack(0), Some(IntId(3)));
        assert_eq!(machine.ack(0), None);
        machine.end(0, IntId(3));
    }
}

/// GICv2 tells the sender, so an SGI of another vCPU is not the same again.
#[test]
fn an_sgi_of_another_sender_is_told_from_the_last_one() {
    let mut machine = Machine::new(GicVersion::V2, 2, 4);
    for sender in [0, 1, 1, 0] {
        let notify = machine.vgic.send_sgir(vcpu(sender), 1 << 16 | 3);
        machine.settle(notify);
        assert_eq!(machine.cpu(0).acknowledge(), Some((IntId(3), sender)));
        machine.cpu(0).end(IntId(3), sender);
    }
}

#[test]
fn an_sgi_that_was_taken_back_is_not_given() {
    let mut machine = Machine::new(GicVersion::V2, 2, 4);
    let send = |machine: &mut Machine| machine.vgic.send_sgir(vcpu(1), 1 << 16 | 3);
    let notify = send(&mut machine);
    machine.settle(notify);
    assert_eq!(machine.ack(0), Some(IntId(3)));
    machine.cpu(0).end(IntId(3), 1);
    let _ = send(&mut machine); // its CPU has not been kicked yet
    machine.access(0, Frame::Distributor, 0xf10, Width::Word, Some(0xff << 24)); // GICD_CPENDSGIR0
    machine.sync(0);
    assert_eq!(machine.ack(0), None);
}

/// A device's line, edge-triggered: whatever happens to it between two of its interrupts, the quick way gives what the long
/// way gives.
#[test]
fn a_devices_interrupt_comes_again_by_the_quick_way_as_by_the_long_one() {
    let changes: [(u64, u32); 6] = [
        (0x184, 1 << 16), // ICENABLER: off,
        (0x104, 1 << 16), // and on again
        (0x430, 0x40),    // IPRIORITYR
        (0x284, 1 << 16), // ICPENDR
        (0x204, 1 << 16), // ISPENDR
        (0xc0c, 0),       // ICFGR: by level
    ];
    let disk = || {
        let mut machine = Machine::v2(2, 4);
        machine.write(0, 0xc0c, 0b10); // ICFGR: by edges
        machine
    };
    let (mut quick, mut slow) = (disk(), disk());
    let mut quickly = 0;
    for round in 0..18 {
        let mut seen = Vec::new();
        for (machine, quick) in [(&mut quick, true), (&mut slow, false)] {
            let notify = machine.vgic.set_level(vcpu(0), DISK, true);
            if quick {
                quickly += usize::from(!machine.vgic.dirty.has(0) && !notify.is_empty());
            } else {
                machine.vgic.dirty = machine.vgic.dirty | notify;
            }
            machine.settle(notify);
            machine.sync(0);
            let taken = machine.ack(0);
            machine.set_level(0, DISK, false);
            seen.push((taken, machine.ack(0)));
            if taken.is_some() {
                machine.end(0, DISK);
            }
            if let Some((offset, value)) = changes.get(round / 3).filter(|_| round % 3 == 2) {
                machine.write(0, *offset, *value);
            }
        }
        assert_eq!(seen[0], seen[1], "round {round}");
    }
    assert!((6..18).contains(&quickly), "{quickly} of 18");
    for machine in [&mut quick, &mut slow] {
        machine.unload(0);
    }
    assert!(quick.vgic == slow.vgic);
}

#[test]
fn a_devices_interrupt_that_comes_while_the_last_one_is_active_is_not_lost() {
    let mut machine = Machine::v2(2, 4);
    machine.write(0, 0xc0c, 0b10); // ICFGR: by edges
    for _ in 0..3 {
        machine.set_level(0, DISK, true);
        assert_eq!(machine.ack(0), Some(DISK));
        machine.set_level(0, DISK, false);
        machine.set_level(0, DISK, true);
        machine.set_level(0, DISK, false);
        machine.end(0, DISK);
        assert_eq!(machine.ack(0), Some(DISK));
        machine.end(0, DISK);
        assert_eq!(machine.ack(0), None);
    }
}

/// What the guest's end has made of a list register is what is in it, not what was written.
#[test]
fn what_came_while_it_was_active_does_not_come_active_again() {
    let mut machine = Machine::v2(2, 4);
    machine.write(0, 0xc0c, 0b10); // ICFGR: by edges
    let edge = |machine: &mut Machine| {
        machine.set_level(0, DISK, true);
        machine.set_level(0, DISK, false);
    };
    for round in 0..3 {
        edge(&mut machine);
        assert_eq!(machine.ack(0), Some(DISK), "round {round}");
        edge(&mut machine); // pending and active in one register
        machine.end(0, DISK);
        // All is looked at, and it stays where it is.
        machine.vgic.dirty = machine.vgic.dirty | Notify::bit(0);
        machine.sync(0);
        assert_eq!(machine.ack(0), Some(DISK), "round {round}");
        machine.end(0, DISK);
    }
}

/// A register that was given for an edge asks nothing at its end, and one for a level has to.
#[test]
fn a_level_is_not_given_as_the_edge_before_it_was() {
    let mut machine = Machine::v2(1, 2);
    machine.write(0, 0xc0c, 0); // ICFGR: by levels
    for round in 0..3 {
        machine.raise(0, DISK);
        assert_eq!(machine.ack(0), Some(DISK), "round {round}");
        machine.end(0, DISK);
        machine.set_level(0, DISK, true);
        for time in 0..2 {
            assert_eq!(machine.ack(0), Some(DISK), "round {round}, time {time}");
            assert!(machine.end(0, DISK), "round {round}, time {time}: its end is asked for");
        }
        machine.set_level(0, DISK, false);
    }
}
