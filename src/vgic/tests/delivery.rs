//! From a pending interrupt to its deactivation.

use super::*;
use crate::vgic::Link;

/// Counts what is asked of the hardware, and has none.
struct Untouched;

impl ListRegisters for Untouched {
    fn keep(&mut self, _: usize, _: crate::vgic::ListRegister) {
        panic!("nothing has changed")
    }
    fn repeat(&mut self, _: usize) {
        panic!("nothing has fired");
    }
    fn clear(&mut self, _: usize) {
        panic!("nothing has ended");
    }
    fn ended(&self) -> u32 {
        panic!("nothing has ended");
    }
    fn forgets_levels(&self) -> bool {
        panic!("nothing is given anew");
    }
    fn count(&self) -> usize {
        panic!("nothing has changed")
    }
    fn read(&self, _: usize) -> Option<crate::vgic::ListRegister> {
        panic!("nothing has changed")
    }
    fn write(&mut self, _: usize, _: Option<crate::vgic::ListRegister>) {
        panic!("nothing has changed")
    }
    fn take_eoi_count(&mut self) -> u32 {
        panic!("nothing has changed")
    }
    fn set_maintenance(&mut self, _: bool, _: bool) {
        panic!("nothing has changed")
    }
    fn deactivate(&mut self, _: IntId) {
        panic!("nothing has changed")
    }
}

fn eoi_maintenance(machine: &mut Machine, intid: IntId) -> bool {
    let link = machine.cpu(0).holding(intid).unwrap().link;
    matches!(link, Link::Software { eoi_maintenance: true, .. })
}

fn state(machine: &mut Machine, intid: IntId) -> Option<LrState> {
    machine.cpu(0).holding(intid).map(|lr| lr.state)
}

#[test]
fn a_sync_without_news_does_not_touch_the_hardware() {
    let mut machine = Machine::v2(1, 4);
    machine.raise(0, DISK);
    assert!(machine.vgic.sync(vcpu(0), &mut Untouched).is_empty());
    assert_eq!(machine.ack(0), Some(DISK));
    assert!(machine.vgic.sync(vcpu(0), &mut Untouched).is_empty());
}

#[test]
fn an_edge_is_delivered_once_without_a_maintenance_interrupt() {
    let mut machine = Machine::v2(1, 4);
    machine.raise(0, DISK);
    machine.raise(0, DISK);
    assert_eq!(machine.ack(0), Some(DISK));
    assert!(!machine.end(0, DISK));
    machine.sync(0);
    assert_eq!(machine.ack(0), None);
}

#[test]
fn an_edge_while_its_predecessor_is_active_is_delivered_after_it() {
    let mut machine = Machine::v2(1, 4);
    machine.raise(0, DISK);
    machine.ack(0);
    machine.raise(0, DISK);
    assert_eq!(state(&mut machine, DISK), Some(LrState::PendingActive));
    assert!(!machine.end(0, DISK));
    assert_eq!(machine.ack(0), Some(DISK));
    machine.end(0, DISK);
    machine.sync(0);
    assert_eq!(machine.ack(0), None);
}

#[test]
fn a_rising_input_of_an_edge_interrupt_is_one_edge() {
    let mut machine = Machine::v2(1, 4);
    machine.set_level(0, DISK, true);
    machine.set_level(0, DISK, true);
    machine.set_level(0, DISK, false);
    assert_eq!(machine.ack(0), Some(DISK));
    machine.end(0, DISK);
    machine.sync(0);
    assert_eq!(machine.ack(0), None);
}

#[test]
fn an_interrupt_waits_for_its_enable_its_group_and_the_distributor() {
    let mut machine = Machine::new(GicVersion::V2, 1, 4);
    machine.write(0, 0x000, 0);
    machine.raise(0, DISK);
    machine.write(0, 0x000, 0b01);
    assert_eq!(machine.ack(0), None);
    machine.write(0, 0x084, 1 << 16); // IGROUPR1: group 1
    machine.write(0, 0x104, 1 << 16); // ISENABLER1
    assert_eq!(machine.ack(0), None);
    assert!(!machine.vgic.has_pending(vcpu(0)));
    machine.write(0, 0x000, 0b10);
    assert!(machine.cpu(0).holding(DISK).unwrap().group1);
    assert_eq!(machine.ack(0), Some(DISK));
}

#[test]
fn disabling_a_pending_interrupt_keeps_it_for_later() {
    let mut machine = Machine::v2(1, 4);
    machine.raise(0, DISK);
    machine.write(0, 0x184, 1 << 16); // ICENABLER1
    assert_eq!(machine.ack(0), None);
    assert_eq!(machine.read(0, 0x204), 1 << 16); // ISPENDR1
    machine.write(0, 0x104, 1 << 16);
    assert_eq!(machine.ack(0), Some(DISK));
}

#[test]
fn clearing_a_pending_interrupt_takes_it_back() {
    let mut machine = Machine::v2(1, 4);
    machine.raise(0, DISK);
    machine.write(0, 0x284, 1 << 16); // ICPENDR1
    assert_eq!(machine.ack(0), None);
}

#[test]
fn clearing_a_level_interrupt_does_not_lower_its_input() {
    let mut machine = Machine::v2(1, 4);
    machine.set_level(0, UART, true);
    machine.write(0, 0x284, 1 << 1); // ICPENDR1
    assert_eq!(machine.ack(0), Some(UART));
}

#[test]
fn a_level_that_stays_high_interrupts_again() {
    let mut machine = Machine::v2(1, 4);
    machine.set_level(0, UART, true);
    for _ in 0..3 {
        assert_eq!(machine.ack(0), Some(UART));
        assert!(machine.end(0, UART), "an end without any other exit has to be noticed");
    }
}

#[test]
fn a_level_that_falls_in_the_handler_needs_no_maintenance_interrupt() {
    let mut machine = Machine::v2(1, 4);
    machine.set_level(0, UART, true);
    assert!(eoi_maintenance(&mut machine, UART));
    machine.ack(0);
    machine.set_level(0, UART, false); // the guest has read the device
    assert!(!eoi_maintenance(&mut machine, UART));
    assert!(!machine.end(0, UART));
    assert_eq!(machine.ack(0), None);
}

#[test]
fn a_level_still_high_at_another_exit_is_pending_and_active() {
    let mut machine = Machine::v2(1, 4);
    machine.set_level(0, UART, true);
    machine.ack(0);
    machine.sync(0);
    assert_eq!(state(&mut machine, UART), Some(LrState::PendingActive));
    assert!(!machine.end(0, UART));
    assert_eq!(machine.ack(0), Some(UART));
    machine.sync(0);
    machine.set_level(0, UART, false);
    assert_eq!(state(&mut machine, UART), Some(LrState::Active));
}

#[test]
fn a_level_that_falls_before_it_is_taken_is_withdrawn() {
    let mut machine = Machine::v2(1, 4);
    machine.set_level(0, UART, true);
    machine.set_level(0, UART, false);
    assert_eq!(machine.ack(0), None);
    assert!(!machine.vgic.is_pending(vcpu(0), UART));
}

#[test]
fn a_level_made_pending_by_the_guest_is_delivered_once() {
    let mut machine = Machine::v2(1, 4);
    machine.write(0, 0x204, 1 << 1); // ISPENDR1
    assert_eq!(machine.ack(0), Some(UART));
    machine.end(0, UART);
    machine.sync(0);
    assert_eq!(machine.ack(0), None);
}

#[test]
fn the_guest_sees_and_changes_the_active_state() {
    let mut machine = Machine::v2(1, 4);
    machine.raise(0, DISK);
    machine.ack(0);
    assert_eq!(machine.read(0, 0x304), 1 << 16); // ISACTIVER1
    machine.write(0, 0x384, 1 << 16); // ICACTIVER1
    assert_eq!(machine.read(0, 0x384), 0);
    assert_eq!(machine.cpu(0).held().count(), 0);
    machine.write(0, 0x304, 1 << 16);
    machine.raise(0, DISK);
    assert!(!machine.vgic.has_pending(vcpu(0)));
    assert_eq!(state(&mut machine, DISK), Some(LrState::PendingActive));
}

#[test]
fn a_vcpu_that_waits_is_woken_by_what_it_masks() {
    let mut machine = Machine::v2(1, 4);
    machine.write(0, 0x430, 0xf8); // the lowest priority: PMR would mask it
    machine.raise(0, DISK);
    machine.fold(0);
    assert!(machine.vgic.has_pending(vcpu(0)));
    machine.sync(0);
    machine.ack(0);
    machine.fold(0);
    assert!(!machine.vgic.has_pending(vcpu(0)));
}

/// Enables `count` edges, INTID 64 and on, the later the more urgent, and raises them all.
fn storm(machine: &mut Machine, count: u16) {
    machine.write(0, 0x108, u32::MAX); // ISENABLER2
    machine.write(0, 0xc10, 0xaaaa_aaaa); // ICFGR4
    for n in 0..count {
        let priority = 0x80 - 8 * u64::from(n);
        let offset = 0x440 + u64::from(n);
        machine.access(0, Frame::Distributor, offset, Width::Byte, Some(priority));
        machine.raise(0, IntId(64 + n));
    }
}

#[test]
fn more_interrupts_than_list_registers_come_by_priority() {
    for list_registers in [1, 2, 4, 16] {
        let mut machine = Machine::v2(1, list_registers);
        storm(&mut machine, 10);
        for n in (0..10).rev() {
            let taken = machine.ack(0);
            assert_eq!(taken, Some(IntId(64 + n)), "{list_registers} list registers");
            if machine.cpu(0).maintenance() {
                machine.sync(0);
            }
            machine.end(0, IntId(64 + n));
        }
        machine.sync(0);
        assert_eq!(machine.ack(0), None);
        assert_eq!(machine.cpu(0).held().count(), 0);
    }
}

#[test]
fn a_more_urgent_newcomer_pushes_a_pending_one_out() {
    let mut machine = Machine::v2(1, 2);
    storm(&mut machine, 3);
    assert!(machine.cpu(0).holding(IntId(64)).is_none());
    assert!(machine.cpu(0).holding(IntId(66)).is_some());
}

#[test]
fn handlers_nest_deeper_than_there_are_list_registers() {
    for list_registers in [1, 2, 4] {
        let mut machine = Machine::v2(1, list_registers);
        storm(&mut machine, 0);
        for n in 0..8 {
            let offset = 0x440 + u64::from(n);
            let priority = 0x80 - 8 * u64::from(n);
            machine.access(0, Frame::Distributor, offset, Width::Byte, Some(priority));
            machine.raise(0, IntId(64 + n));
            assert_eq!(machine.ack(0), Some(IntId(64 + n)));
        }
        for n in (0..8).rev() {
            assert_eq!(machine.read(0, 0x308), (2 << n) - 1); // ISACTIVER2
            machine.end(0, IntId(64 + n));
        }
        assert_eq!(machine.read(0, 0x308), 0);
    }
}

#[test]
fn long_active_interrupts_do_not_keep_others_out() {
    let mut machine = Machine::v2(1, 4);
    machine.cpu(0).eoi_mode = true;
    storm(&mut machine, 8);
    let mut taken = Vec::new();
    while let Some(intid) = machine.ack(0) {
        machine.end(0, intid); // only drops the priority
        if machine.cpu(0).maintenance() {
            machine.sync(0);
        }
        taken.push(intid);
    }
    assert_eq!(taken.len(), 8);
    for intid in taken {
        machine.cpu(0).deactivate_interrupt(intid, 0);
        machine.sync(0);
    }
    assert_eq!(machine.read(0, 0x308), 0);
}

#[test]
fn ends_of_interrupts_that_are_not_active_end_no_others() {
    let mut machine = Machine::v2(1, 1);
    storm(&mut machine, 0);
    for _ in 0..3 {
        machine.cpu(0).end(IntId(1019), 0);
    }
    machine.raise(0, IntId(64));
    machine.ack(0);
    machine.access(0, Frame::Distributor, 0x440, Width::Byte, Some(0x80));
    machine.raise(0, IntId(65));
    assert_eq!(machine.read(0, 0x308), 1);
    assert!(machine.vgic.is_active(vcpu(0), IntId(64)));
}

#[test]
fn an_unloaded_vcpu_takes_its_state_along() {
    let mut machine = Machine::v2(1, 4);
    machine.raise(0, DISK);
    machine.set_level(0, UART, true);
    assert_eq!(machine.ack(0), Some(UART));
    machine.unload(0);
    assert_eq!(machine.cpu(0).held().count(), 0);
    machine.sync(0);
    assert_eq!(state(&mut machine, UART), Some(LrState::PendingActive));
    machine.end(0, UART);
    machine.set_level(0, UART, false);
    assert_eq!(machine.ack(0), Some(DISK));
}

#[test]
fn reset_forgets_everything_but_the_wiring() {
    let mut machine = Machine::v2(1, 4);
    machine.set_level(0, UART, true);
    machine.raise(0, DISK);
    machine.ack(0);
    machine.unload(0);
    machine.vgic.reset();
    machine.sync(0);
    assert_eq!(machine.cpu(0).held().count(), 0);
    assert_eq!((machine.read(0, 0x000), machine.read(0, 0x104)), (0, 0));
    assert_eq!(machine.read(0, 0x204), 1 << 1); // the UART's line is still high
}
