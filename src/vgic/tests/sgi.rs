//! Software generated interrupts.

use super::*;

fn sgir(filter: u32, list: u32, sgi: u32) -> u32 {
    filter << 24 | list << 16 | sgi
}

/// Who has SGI 5 pending from vCPU 1 after it writes `value` to GICD_SGIR.
fn targets_of(value: u32) -> Vec<u8> {
    let mut vgic = Vgic::new(GicVersion::V2, 4);
    let notify = vgic.write(vcpu(1), Frame::Distributor, 0xf00, Width::Word, value.into());
    let pending: Vec<u8> = (0..4)
        .filter(|&n| vgic.read(vcpu(n), Frame::Distributor, 0xf25, Width::Byte) == 0b10)
        .collect();
    assert_eq!(told(notify), set(&pending));
    pending
}

#[test]
fn gicd_sgir_goes_to_the_list_all_others_or_the_sender() {
    assert_eq!(targets_of(sgir(0, 0b0101, 5)), [0, 2]);
    assert_eq!(targets_of(sgir(0, 0b0010, 5)), [1]);
    assert_eq!(targets_of(sgir(1, 0, 5)), [0, 2, 3]);
    assert_eq!(targets_of(sgir(2, 0xff, 5)), [1]);
}

#[test]
fn gicd_sgir_with_a_reserved_filter_or_absent_targets_is_ignored() {
    assert_eq!(targets_of(sgir(3, 0xff, 5)), []);
    assert_eq!(targets_of(sgir(0, 0, 5)), []);
    assert_eq!(targets_of(sgir(0, 0xf0, 5)), []);
}

#[test]
fn each_source_of_a_gicv2_sgi_is_delivered_once() {
    let mut machine = Machine::v2(4, 4);
    for n in 0..4 {
        machine.write(n, 0xf00, sgir(0, 1, 3));
        machine.write(n, 0xf00, sgir(0, 1, 3));
    }
    let mut sources = Vec::new();
    while let Some((intid, source)) = machine.cpu(0).acknowledge() {
        assert_eq!(intid, IntId(3));
        sources.push(source);
        machine.cpu(0).end(intid, source);
        assert_eq!(machine.cpu(0).maintenance(), source != 3, "while further sources wait");
        machine.sync(0);
    }
    assert_eq!(sources, [0, 1, 2, 3]);
}

#[test]
fn a_gicv2_sgi_sent_again_while_active_is_delivered_again() {
    let mut machine = Machine::v2(2, 4);
    machine.write(1, 0xf00, sgir(0, 1, 3));
    assert_eq!(machine.cpu(0).acknowledge(), Some((IntId(3), 1)));
    machine.write(1, 0xf00, sgir(0, 1, 3));
    assert_eq!(machine.cpu(0).holding(IntId(3)).unwrap().state, LrState::PendingActive);
    machine.cpu(0).end(IntId(3), 1);
    assert_eq!(machine.cpu(0).acknowledge(), Some((IntId(3), 1)));
    machine.cpu(0).end(IntId(3), 1);
    assert_eq!(machine.cpu(0).acknowledge(), None);
}

#[test]
fn a_gicv2_sgi_keeps_its_source_while_the_vcpu_is_elsewhere() {
    let mut machine = Machine::v2(3, 4);
    machine.write(2, 0xf00, sgir(0, 1, 3));
    assert_eq!(machine.cpu(0).acknowledge(), Some((IntId(3), 2)));
    machine.unload(0);
    assert_eq!(machine.cpu(0).held().count(), 0);
    machine.sync(0);
    machine.cpu(0).end(IntId(3), 2);
    machine.fold(0);
    assert!(!machine.vgic.is_active(vcpu(0), IntId(3)));
}

#[test]
fn spendsgir_and_cpendsgir_are_bytes_of_sources() {
    let mut machine = Machine::v2(4, 4);
    machine.write(0, 0x180, 0xffff); // keep them where they are
    machine.write(0, 0xf24, 0x0f00_ff03);
    assert_eq!(machine.read(0, 0xf24), 0x0f00_0f03); // four vCPUs exist
    assert_eq!(machine.read(0, 0xf14), 0x0f00_0f03);
    machine.access(0, Frame::Distributor, 0xf17, Width::Byte, Some(0x05));
    assert_eq!(machine.read(0, 0xf24), 0x0a00_0f03);
    assert_eq!(machine.read(0, 0x200), 0b1011 << 4); // GICD_ISPENDR0
    machine.write(0, 0xf14, 0x0000_000f);
    assert_eq!(machine.read(0, 0x200), 0b1010 << 4);
}

#[test]
fn on_gicv2_ispendr_and_icpendr_do_not_touch_sgis() {
    let mut machine = Machine::v2(1, 4);
    machine.write(0, 0x180, 0xffff);
    machine.write(0, 0x200, 0xffff);
    assert_eq!(machine.read(0, 0x200), 0);
    machine.write(0, 0xf20, 1);
    machine.write(0, 0x280, 0xffff);
    assert_eq!(machine.read(0, 0x200), 1);
}

fn send(register: SgiRegister, vcpus: usize, value: u64) -> Vec<VcpuId> {
    let mut vgic = Vgic::new(GicVersion::V3, vcpus);
    told(vgic.send_sgi(vcpu(1), register, value))
}

#[test]
fn icc_sgi1r_goes_to_its_target_list_or_to_all_but_the_sender() {
    assert_eq!(send(SgiRegister::Sgi1r, 4, 0b1101 | 7 << 24), set(&[0, 2, 3]));
    assert_eq!(send(SgiRegister::Sgi1r, 4, 0b0010 | 7 << 24), set(&[1]));
    assert_eq!(send(SgiRegister::Sgi1r, 4, 1 << 40), set(&[0, 2, 3]));
}

#[test]
fn icc_sgi1r_to_a_vcpu_that_does_not_exist_is_ignored() {
    assert_eq!(send(SgiRegister::Sgi1r, 4, 0xfff0), set(&[]));
    for field in [1 << 16, 1 << 32, 1 << 44, 1 << 48] {
        assert_eq!(send(SgiRegister::Sgi1r, 4, 0xf | field), set(&[]), "{field:#x}");
    }
    assert_eq!(send(SgiRegister::Sgi1r, 1, u64::MAX), set(&[]));
}

#[test]
fn icc_sgi0r_and_asgi1r_reach_group_0_only() {
    for register in [SgiRegister::Sgi0r, SgiRegister::Asgi1r] {
        assert_eq!(send(register, 2, 1), set(&[]));
        let mut vgic = Vgic::new(GicVersion::V3, 2);
        let _ = vgic.write(vcpu(0), Frame::Redistributor(vcpu(0)), 0x1_0080, Width::Word, 0);
        assert_eq!(told(vgic.send_sgi(vcpu(1), register, 1)), set(&[0]));
    }
}

#[test]
fn gicv2_has_no_system_registers_to_send_sgis_with() {
    let mut vgic = Vgic::new(GicVersion::V2, 2);
    assert!(vgic.send_sgi(vcpu(0), SgiRegister::Sgi1r, 0b11).is_empty());
    assert!(!vgic.is_pending(vcpu(1), IntId(0)));
}

#[test]
fn an_sgi_sent_twice_before_it_is_taken_is_taken_once() {
    let mut machine = Machine::new(GicVersion::V3, 2, 4);
    for _ in 0..2 {
        let notify = machine.vgic.send_sgi(vcpu(1), SgiRegister::Sgi1r, 1);
        machine.settle(notify);
    }
    assert_eq!(machine.ack(0), Some(IntId(0)));
    assert!(!machine.end(0, IntId(0)));
    machine.sync(0);
    assert_eq!(machine.ack(0), None);
}
