//! Shared interrupts between vCPUs.

use super::*;

/// Writes the byte of GICD_ITARGETSR of the disk.
fn retarget(machine: &mut Machine, by: u8, targets: u64) -> Notify {
    let at = 0x800 + u64::from(DISK.0);
    machine.vgic.write(vcpu(by), Frame::Distributor, at, Width::Byte, targets)
}

fn word(machine: &mut Machine, by: u8, offset: u64, value: u64) -> Notify {
    machine.vgic.write(vcpu(by), Frame::Distributor, offset, Width::Word, value)
}

#[test]
fn only_the_target_is_notified() {
    let mut machine = Machine::v2(4, 4);
    let notify = retarget(&mut machine, 0, 0b0100);
    assert!(notify.is_empty());
    assert_eq!(told(machine.vgic.raise(vcpu(0), DISK)), set(&[2]));
    assert!(machine.vgic.raise(vcpu(0), DISK).is_empty(), "it is pending already");
    machine.sync(2);
    assert_eq!(machine.ack(2), Some(DISK));
}

#[test]
fn of_several_targets_the_lowest_gets_it_and_without_any_nobody() {
    let mut machine = Machine::v2(4, 4);
    let _ = retarget(&mut machine, 0, 0b1100);
    assert_eq!(told(machine.vgic.raise(vcpu(0), DISK)), set(&[2]));
    let notify = retarget(&mut machine, 0, 0);
    machine.settle(notify);
    assert!((0..4).all(|n| machine.ack(n).is_none()));
    let notify = retarget(&mut machine, 0, 0b0001);
    assert_eq!(told(notify), set(&[0]));
    machine.settle(notify);
    assert_eq!(machine.ack(0), Some(DISK));
}

#[test]
fn irouter_names_a_vcpu_and_one_that_does_not_exist_is_nobody() {
    let mut machine = Machine::new(GicVersion::V3, 2, 4);
    machine.write(0, 0x104, u32::MAX);
    for (route, expected) in [(0, Some(0)), (1, Some(1)), (2, None), (0x100, None)] {
        let router = 0x6000 + 8 * u64::from(DISK.0);
        machine.access(0, Frame::Distributor, router, Width::Double, Some(route));
        machine.raise(0, DISK);
        let taker = (0..2).find(|&n| machine.ack(n) == Some(DISK));
        assert_eq!(taker, expected, "{route:#x}");
        if let Some(taker) = taker {
            machine.end(taker, DISK);
        }
    }
}

#[test]
fn a_pending_spi_moves_to_its_new_target_once_the_old_one_has_folded() {
    let mut machine = Machine::v2(2, 4);
    machine.raise(0, DISK);
    let notify = retarget(&mut machine, 1, 0b10);
    assert_eq!(told(notify), set(&[0, 1]));
    let (vgic, cpus) = (&mut machine.vgic, &mut machine.cpus);
    assert!(vgic.sync(vcpu(1), &mut cpus[1]).is_empty());
    assert!(cpus[1].holding(DISK).is_none(), "vCPU 0 still has it");
    assert_eq!(told(vgic.sync(vcpu(0), &mut cpus[0])), set(&[1]));
    assert!(vgic.sync(vcpu(1), &mut cpus[1]).is_empty());
    assert_eq!((machine.ack(0), machine.ack(1)), (None, Some(DISK)));
}

#[test]
fn an_active_spi_stays_where_it_is_and_its_next_edge_goes_to_the_new_target() {
    let mut machine = Machine::v2(2, 4);
    machine.raise(0, DISK);
    machine.ack(0);
    let notify = retarget(&mut machine, 1, 0b10);
    machine.settle(notify);
    machine.raise(0, DISK);
    assert_eq!(machine.ack(1), None);
    assert!(machine.end(0, DISK), "somebody waits for this end");
    assert_eq!((machine.ack(0), machine.ack(1)), (None, Some(DISK)));
}

#[test]
fn clearing_pending_reaches_another_vcpus_list_register() {
    let mut machine = Machine::v2(2, 4);
    machine.raise(0, DISK);
    let notify = word(&mut machine, 1, 0x284, 1 << 16); // ICPENDR1
    assert_eq!(told(notify), set(&[0]));
    assert_eq!(machine.read(1, 0x204), 0);
    machine.settle(notify);
    assert_eq!(machine.ack(0), None);
}

#[test]
fn an_edge_after_a_remembered_clear_is_not_lost() {
    let mut machine = Machine::v2(2, 4);
    machine.raise(0, DISK);
    let notify = word(&mut machine, 1, 0x284, 1 << 16) | machine.vgic.raise(vcpu(0), DISK);
    machine.settle(notify);
    assert_eq!(machine.ack(0), Some(DISK));
}

#[test]
fn clearing_and_setting_active_reach_another_vcpus_list_register() {
    let mut machine = Machine::v2(2, 4);
    machine.raise(0, DISK);
    machine.ack(0);
    let notify = word(&mut machine, 1, 0x384, 1 << 16); // ICACTIVER1
    assert_eq!(told(notify), set(&[0]));
    machine.settle(notify);
    assert!(machine.cpu(0).holding(DISK).is_none());

    machine.raise(0, DISK);
    let notify = word(&mut machine, 1, 0x304, 1 << 16); // ISACTIVER1
    machine.settle(notify);
    assert_eq!(machine.cpu(0).holding(DISK).unwrap().state, LrState::PendingActive);

    let clear_then_set =
        word(&mut machine, 1, 0x384, 1 << 16) | word(&mut machine, 1, 0x304, 1 << 16);
    machine.settle(clear_then_set);
    assert_eq!(machine.cpu(0).holding(DISK).unwrap().state, LrState::PendingActive);
}

#[test]
fn disabling_reaches_another_vcpus_list_register() {
    let mut machine = Machine::v2(2, 4);
    machine.raise(0, DISK);
    let notify = word(&mut machine, 1, 0x184, 1 << 16); // ICENABLER1
    assert_eq!(told(notify), set(&[0]));
    machine.settle(notify);
    assert_eq!(machine.ack(0), None);
}

#[test]
fn a_poll_of_the_active_state_makes_its_holder_fold() {
    let mut machine = Machine::v2(2, 4);
    machine.raise(0, DISK);
    machine.ack(0);
    machine.end(0, DISK); // no exit
    machine.read(1, 0x304); // ISACTIVER1
    let stale = machine.vgic.take_stale();
    assert_eq!(told(stale), set(&[0]));
    assert!(machine.vgic.take_stale().is_empty());
    machine.settle(stale);
    assert_eq!(machine.read(1, 0x304), 0);
    assert!(machine.vgic.take_stale().is_empty());
}

#[test]
fn a_priority_change_reaches_a_list_register() {
    let mut machine = Machine::v2(2, 4);
    machine.raise(0, DISK);
    let notify = machine.vgic.write(vcpu(1), Frame::Distributor, 0x430, Width::Byte, 0x50);
    assert_eq!(told(notify), set(&[0]));
    machine.settle(notify);
    assert_eq!(machine.cpu(0).holding(DISK).unwrap().priority, 0x50);
}
