//! All interrupts at once, ends where and when nobody expects them, and redistributors of vCPUs that are not there.

use super::*;
use crate::testing::pick;
use std::collections::BTreeSet;

const SPIS: u16 = pick(224, 32);

fn is_edge(intid: u16) -> bool {
    intid.is_multiple_of(2)
}

/// vCPU 0 writes what is about an SPI: whether it is enabled, its priority, where it goes.
fn enable(machine: &mut Machine, intid: u16, on: bool) {
    let base = if on { 0x100 } else { 0x180 };
    machine.write(0, base + u64::from(intid / 32) * 4, 1 << (intid % 32));
}

fn prioritise(machine: &mut Machine, intid: u16, priority: u8) {
    let offset = 0x400 + u64::from(intid);
    machine.access(0, Frame::Distributor, offset, Width::Byte, Some(priority.into()));
}

fn route(machine: &mut Machine, intid: u16, to: u8) {
    let (offset, width, value) = match machine.vgic.version() {
        GicVersion::V2 => (0x800 + u64::from(intid), Width::Byte, 1 << to),
        GicVersion::V3 => (0x6000 + 8 * u64::from(intid), Width::Double, u64::from(to)),
    };
    machine.access(0, Frame::Distributor, offset, width, Some(value));
}

/// Two vCPUs take all SPIs, edges and levels of all priorities, while those in list registers are disabled, sent elsewhere and
/// given other priorities, active ones too.
fn take_all(version: GicVersion, list_registers: usize) {
    let mut machine = Machine::new(version, 2, list_registers);
    for intid in 32..32 + SPIS {
        prioritise(&mut machine, intid, (intid * 37 % 32) as u8 * 8);
        route(&mut machine, intid, (intid % 3 == 0).into());
    }
    for sixteen in 2..16u64 {
        machine.write(0, 0xc00 + sixteen * 4, 0x2222_2222); // every second is an edge
    }
    for intid in 32..32 + SPIS {
        if is_edge(intid) {
            machine.raise(0, IntId(intid));
        } else {
            machine.set_level(0, IntId(intid), true);
        }
    }
    for word in 1..8 {
        machine.write(0, 0x100 + word * 4, u32::MAX);
    }
    let (mut taken, mut disabled) = (vec![0; usize::from(SPIS)], Vec::new());
    for round in 0..4 * SPIS {
        let v = (round % 2) as u8;
        let held: Vec<_> = machine.cpu(v).held().map(|lr| lr.intid.0).collect();
        let some = held.get(usize::from(round) % held.len().max(1)).copied();
        match (round % 5, some) {
            (0, Some(intid)) => {
                enable(&mut machine, intid, false);
                disabled.push(intid);
            }
            (1, _) => disabled.drain(..).for_each(|intid| enable(&mut machine, intid, true)),
            (2, Some(intid)) => route(&mut machine, intid, 1 - v),
            (3, Some(intid)) => prioritise(&mut machine, intid, (round % 32) as u8 * 8),
            _ => {}
        }
        let Some(intid) = machine.ack(v) else { continue };
        let count = &mut taken[usize::from(intid.0 - 32)];
        *count += 1;
        assert!(is_edge(intid.0) || *count == 1, "{intid:?} comes again though its line is low");
        // Its handler has something to do with it, and another comes meanwhile.
        prioritise(&mut machine, intid.0, (round % 31) as u8 * 8);
        if !is_edge(intid.0) {
            machine.set_level(v, intid, false);
        }
        machine.end(v, intid);
        machine.sync(v);
    }
    assert_eq!(taken, vec![1; usize::from(SPIS)], "{version:?}, {list_registers}");
    for v in 0..2 {
        machine.fold(v);
        assert_eq!(machine.cpu(v).held().count(), 0);
        assert!(!machine.vgic.has_pending(vcpu(v)));
    }
}

#[test]
fn each_of_224_interrupts_that_are_pending_at_once_is_taken_once_whatever_is_changed_meanwhile() {
    let versions = [GicVersion::V3, GicVersion::V2];
    for version in versions.into_iter().take(pick(2, 1)) {
        for list_registers in [4, 1, 2, 16].into_iter().take(pick(4, 1)) {
            take_all(version, list_registers);
        }
    }
}

/// Three handlers within each other, which end in every order that there is.
#[test]
fn handlers_that_end_in_any_order_leave_nothing_active() {
    let order = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (ends, eoi_mode) in order.into_iter().flat_map(|ends| [(ends, false), (ends, true)]) {
        let mut machine = Machine::v2(1, 4);
        machine.cpu(0).eoi_mode = eoi_mode;
        let nested = [(48, 0x80), (49, 0x40), (50, 0)].map(|(intid, priority)| {
            machine.write(0, 0xc0c, 0b10_1010);
            prioritise(&mut machine, intid, priority);
            machine.raise(0, IntId(intid));
            machine.sync(0);
            assert_eq!(machine.ack(0), Some(IntId(intid)));
            IntId(intid)
        });
        for which in ends {
            machine.end(0, nested[which]);
        }
        if eoi_mode {
            assert!(nested.iter().all(|intid| machine.cpu(0).holding(*intid).is_some()));
            ends.iter()
                .rev()
                .for_each(|which| machine.cpu(0).deactivate_interrupt(nested[*which], 0));
        }
        machine.sync(0);
        assert_eq!(machine.read(0, 0x304), 0, "{ends:?} {eoi_mode}");
        // Each comes again.
        for intid in nested {
            machine.raise(0, intid);
            machine.sync(0);
            assert_eq!(machine.ack(0), Some(intid));
            machine.end(0, intid);
            machine.cpu(0).deactivate_interrupt(intid, 0);
        }
    }
}

/// `DIR` on a vCPU that has not taken it: that one's own stay active, and so does what it named, until its own vCPU, or
/// `ICACTIVER`, ends it.
#[test]
fn a_deactivation_by_another_vcpu_ends_none_of_that_ones() {
    for by_register in [false, true] {
        let mut machine = Machine::v2(2, 2);
        machine.cpus.iter_mut().for_each(|cpu| cpu.eoi_mode = true);
        route(&mut machine, 49, 1);
        machine.write(0, 0xc0c, 0b1010);
        machine.raise(0, DISK);
        machine.raise(0, IntId(49));
        machine.sync(1);
        assert_eq!((machine.ack(0), machine.ack(1)), (Some(DISK), Some(IntId(49))));
        machine.end(0, DISK);
        for other in [DISK, IntId(1020), IntId(1023), IntId(0x3ff), IntId(3)] {
            machine.cpu(1).deactivate_interrupt(other, 0);
            machine.sync(1);
        }
        machine.fold(1);
        assert_eq!(machine.read(0, 0x304), 0b11 << 16);
        assert!(machine.vgic.is_active(vcpu(1), IntId(49)));
        if by_register {
            machine.write(1, 0x384, 1 << 16); // ICACTIVER1
        } else {
            machine.cpu(0).deactivate_interrupt(DISK, 0);
        }
        machine.fold(0);
        assert_eq!(machine.read(1, 0x304), 0b10 << 16);
        machine.raise(0, DISK);
        machine.sync(0);
        assert_eq!(machine.ack(0), Some(DISK));
    }
}

/// `ISACTIVER` makes no physical interrupt active, and what the device does then arrives when that has been undone.
#[test]
fn a_linked_interrupt_that_the_guest_makes_active_itself_has_no_physical_one() {
    for by_register in [false, true] {
        let mut machine = Machine::v2(1, 4);
        machine.vgic.link(vcpu(0), TIMER, Some(TIMER));
        machine.write(0, 0x300, 1 << 27); // ISACTIVER0
        assert!(machine.vgic.is_active(vcpu(0), TIMER));
        assert!(!machine.vgic.holds_physical(vcpu(0), TIMER));
        // The device asserts its line: at EL2 the physical interrupt was taken, and is active now.
        machine.set_level(0, TIMER, true);
        assert_eq!(machine.ack(0), None, "it is active already");
        assert!(machine.cpu(0).deactivated.is_empty());
        if by_register {
            machine.write(0, 0x380, 1 << 27); // ICACTIVER0
        } else {
            machine.end(0, TIMER);
        }
        // It has come, and its end is the physical one's; or the end gave the physical one back, and it comes again.
        machine.sync(0);
        if machine.cpu(0).deactivated.is_empty() {
            assert_eq!(machine.ack(0), Some(TIMER));
            machine.end(0, TIMER);
        }
        machine.sync(0);
        assert_eq!(machine.cpu(0).deactivated, [TIMER], "{by_register}");
        assert!(!machine.vgic.holds_physical(vcpu(0), TIMER));
        // The next one.
        machine.set_level(0, TIMER, true);
        assert_eq!(machine.ack(0), Some(TIMER));
        machine.end(0, TIMER);
        assert_eq!(machine.cpu(0).deactivated, [TIMER, TIMER]);
    }
}

/// vCPU 0 reads and writes the frame of vCPU 1 while that one runs with interrupts in hand, while it is off, and after a reset.
#[test]
fn a_redistributor_is_the_same_whatever_its_vcpu_does_meanwhile() {
    let of = Frame::Redistributor(vcpu(1));
    let read = |machine: &mut Machine, offset: u64| {
        // Who holds what is asked for is made to look.
        machine.access(0, of, 0x1_0000 + offset, Width::Word, None);
        let stale: BTreeSet<_> = told(machine.vgic.take_stale()).into_iter().collect();
        stale.into_iter().for_each(|who| machine.sync(who.0));
        machine.access(0, of, 0x1_0000 + offset, Width::Word, None)
    };
    let mut machine = Machine::new(GicVersion::V3, 2, 2);
    for running in [true, false] {
        machine.access(0, of, 0x1_0100, Width::Word, Some(0b1100 | 1 << 27));
        machine.access(0, of, 0x1_0200, Width::Word, Some(0b1100)); // ISPENDR0
        machine.set_level(1, TIMER, true);
        let mut pending = 0b1100 | 1 << 27;
        if running {
            machine.sync(1);
            let taken = machine.ack(1).unwrap();
            machine.sync(1);
            let bit = 1u64 << taken.0;
            pending &= if taken == TIMER { u64::MAX } else { !bit };
            assert_eq!(read(&mut machine, 0x300), bit, "ISACTIVER0 of a vCPU that handles it");
            assert_eq!(read(&mut machine, 0x200), pending);
            machine.end(1, taken);
        } else {
            machine.unload(1);
            assert_eq!(read(&mut machine, 0x200), pending, "it is off");
            assert_eq!(read(&mut machine, 0x300), 0);
        }
        machine.access(0, of, 0x1_0280, Width::Word, Some(u32::MAX.into()));
        assert_eq!(read(&mut machine, 0x200), 1 << 27, "its line is high");
        machine.access(0, of, 0x1_0180, Width::Word, Some(u32::MAX.into()));
        machine.sync(1);
        assert_eq!(machine.ack(1), None, "all are disabled");
        machine.set_level(1, TIMER, false);
        machine.unload(1);
        assert_eq!((read(&mut machine, 0x200), read(&mut machine, 0x100)), (0, 0));
    }
    // All of it is gone, and the frame is there for who comes next.
    machine.unload(0);
    machine.vgic.reset();
    assert_eq!(read(&mut machine, 0x100), 0xffff);
    assert_eq!(machine.access(0, of, 0x14, Width::Word, None), 0);
}
