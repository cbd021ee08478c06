//! Both register views, by the manuals' offsets.

use super::*;

fn read(vgic: &mut Vgic, frame: Frame, offset: u64, width: Width) -> u64 {
    vgic.read(vcpu(0), frame, offset, width)
}

fn gicd(vgic: &mut Vgic, offset: u64) -> u64 {
    read(vgic, Frame::Distributor, offset, Width::Word)
}

fn gicr(vgic: &mut Vgic, n: u8, offset: u64) -> u64 {
    read(vgic, Frame::Redistributor(vcpu(n)), offset, Width::Word)
}

fn put(vgic: &mut Vgic, offset: u64, width: Width, value: u64) {
    let _ = vgic.write(vcpu(0), Frame::Distributor, offset, width, value);
}

#[test]
fn writing_zero_to_isenabler_disables_nothing() {
    let mut vgic = Vgic::new(GicVersion::V2, 1);
    put(&mut vgic, 0x104, Width::Word, 0x11);
    put(&mut vgic, 0x104, Width::Word, 0);
    assert_eq!(gicd(&mut vgic, 0x104), 0x11);
    put(&mut vgic, 0x184, Width::Word, 0x10);
    assert_eq!((gicd(&mut vgic, 0x104), gicd(&mut vgic, 0x184)), (1, 1));
}

#[test]
fn gicv2_says_how_many_interrupts_and_vcpus_there_are() {
    let mut vgic = Vgic::new(GicVersion::V2, 4);
    assert_eq!(gicd(&mut vgic, 0x004), 3 << 5 | 7);
    assert_eq!(gicd(&mut vgic, 0x008), 0x43b);
    assert_eq!(gicd(&mut vgic, 0xfe8), 0x2b); // ICPIDR2: architecture 2
}

#[test]
fn gicv3_says_that_affinity_routing_is_on_and_security_is_not() {
    let mut vgic = Vgic::new(GicVersion::V3, 4);
    assert_eq!(gicd(&mut vgic, 0x000), 0x50);
    put(&mut vgic, 0x000, Width::Word, u64::MAX);
    assert_eq!(gicd(&mut vgic, 0x000), 0x53);
    assert_eq!(gicd(&mut vgic, 0x004), 1 << 25 | 9 << 19 | 7);
    assert_eq!(gicd(&mut vgic, 0xffe8), 0x3b);
    assert_eq!(gicr(&mut vgic, 3, 0xffe8), 0x3b);
}

#[test]
fn the_last_redistributor_says_so_and_each_has_its_affinity() {
    let mut vgic = Vgic::new(GicVersion::V3, 3);
    for n in 0..3 {
        let last = u64::from(n == 2) << 4;
        let typer = u64::from(n) << 32 | u64::from(n) << 8 | last;
        assert_eq!(read(&mut vgic, Frame::Redistributor(vcpu(n)), 0x8, Width::Double), typer);
        assert_eq!(gicr(&mut vgic, n, 0x8), typer & 0xffff_ffff);
        assert_eq!(gicr(&mut vgic, n, 0xc), typer >> 32);
    }
    assert_eq!(read(&mut vgic, Frame::Redistributor(vcpu(3)), 0x8, Width::Double), 0);
}

#[test]
fn the_children_of_a_redistributor_sleep_with_it() {
    let mut vgic = Vgic::new(GicVersion::V3, 2);
    assert_eq!(gicr(&mut vgic, 1, 0x14), 0);
    let _ = vgic.write(vcpu(0), Frame::Redistributor(vcpu(1)), 0x14, Width::Word, 0b010);
    assert_eq!((gicr(&mut vgic, 1, 0x14), gicr(&mut vgic, 0, 0x14)), (0b110, 0));
    let _ = vgic.write(vcpu(1), Frame::Redistributor(vcpu(1)), 0x14, Width::Word, 0);
    assert_eq!(gicr(&mut vgic, 1, 0x14), 0);
}

#[test]
fn after_reset_gicv2_has_all_in_group_0_and_gicv3_all_in_group_1() {
    let mut two = Vgic::new(GicVersion::V2, 1);
    assert_eq!((gicd(&mut two, 0x080), gicd(&mut two, 0x084)), (0, 0));
    assert_eq!((gicd(&mut two, 0x100), gicd(&mut two, 0xc00)), (0xffff, 0xaaaa_aaaa));
    let mut three = Vgic::new(GicVersion::V3, 1);
    assert_eq!(gicd(&mut three, 0x084), 0xffff_ffff);
    assert_eq!(gicr(&mut three, 0, 0x1_0080), 0xffff_ffff);
    assert_eq!(gicr(&mut three, 0, 0x1_0100), 0xffff);
    assert_eq!(gicr(&mut three, 0, 0x1_0c00), 0xaaaa_aaaa);
}

#[test]
fn a_byte_of_ipriorityr_leaves_its_neighbours_alone() {
    let mut vgic = Vgic::new(GicVersion::V2, 1);
    put(&mut vgic, 0x420, Width::Word, 0xffff_ffff);
    assert_eq!(gicd(&mut vgic, 0x420), 0xf8f8_f8f8); // five bits exist
    put(&mut vgic, 0x421, Width::Byte, 0x10);
    assert_eq!(gicd(&mut vgic, 0x420), 0xf8f8_10f8);
    assert_eq!(read(&mut vgic, Frame::Distributor, 0x421, Width::Byte), 0x10);
}

#[test]
fn a_byte_of_itargetsr_leaves_its_neighbours_alone() {
    let mut vgic = Vgic::new(GicVersion::V2, 2);
    put(&mut vgic, 0x820, Width::Word, 0xffff_ffff);
    assert_eq!(gicd(&mut vgic, 0x820), 0x0303_0303); // only existing vCPUs
    put(&mut vgic, 0x822, Width::Byte, 0x02);
    assert_eq!(gicd(&mut vgic, 0x820), 0x0302_0303);
}

#[test]
fn itargetsr_of_private_interrupts_names_the_reader() {
    let mut vgic = Vgic::new(GicVersion::V2, 4);
    put(&mut vgic, 0x800, Width::Word, 0);
    for n in 0..4 {
        let value = vgic.read(vcpu(n), Frame::Distributor, 0x81c, Width::Word);
        assert_eq!(value, 0x0101_0101 << n);
    }
}

#[test]
fn the_trigger_of_sgis_and_ppis_is_read_only() {
    let mut vgic = Vgic::new(GicVersion::V2, 1);
    for offset in [0xc00, 0xc04, 0xc08] {
        put(&mut vgic, offset, Width::Word, 0x5555_5557);
    }
    assert_eq!(gicd(&mut vgic, 0xc00), 0xaaaa_aaaa);
    assert_eq!(gicd(&mut vgic, 0xc04), 0);
    assert_eq!(gicd(&mut vgic, 0xc08), 0b10); // the lower bit of each pair is reserved
}

#[test]
fn irouter_has_an_affinity_of_three_levels_in_either_width() {
    let mut vgic = Vgic::new(GicVersion::V3, 2);
    put(&mut vgic, 0x6100, Width::Double, u64::MAX);
    assert_eq!(read(&mut vgic, Frame::Distributor, 0x6100, Width::Double), 0x00ff_ffff);
    put(&mut vgic, 0x6104, Width::Word, 1);
    assert_eq!(gicd(&mut vgic, 0x6104), 0);
    put(&mut vgic, 0x6100, Width::Word, 1);
    assert_eq!(gicd(&mut vgic, 0x6100), 1);
    assert_eq!(gicd(&mut vgic, 0x60f8), 0); // no IROUTER for PPIs
    assert_eq!(gicd(&mut vgic, 0x6800), 0); // INTID 256
}

#[test]
fn with_affinity_routing_the_distributor_has_no_private_bank_and_no_targets() {
    let mut vgic = Vgic::new(GicVersion::V3, 1);
    for offset in [0x080, 0x100, 0x200, 0x300, 0x400, 0xc00, 0x820, 0xf00, 0xf10] {
        put(&mut vgic, offset, Width::Word, u64::MAX);
        assert_eq!(gicd(&mut vgic, offset), 0, "{offset:#x}");
    }
}

#[test]
fn a_vcpu_may_set_up_another_ones_private_interrupts() {
    let mut vgic = Vgic::new(GicVersion::V3, 2);
    let _ = vgic.write(vcpu(0), Frame::Redistributor(vcpu(1)), 0x1_0100, Width::Word, 1 << 27);
    assert_eq!(gicr(&mut vgic, 1, 0x1_0100), 1 << 27 | 0xffff);
    assert_eq!(gicr(&mut vgic, 0, 0x1_0100), 0xffff);
}

#[test]
fn gicv2_private_registers_are_banked() {
    let mut vgic = Vgic::new(GicVersion::V2, 2);
    let _ = vgic.write(vcpu(1), Frame::Distributor, 0x100, Width::Word, 1 << 27);
    assert_eq!(vgic.read(vcpu(1), Frame::Distributor, 0x100, Width::Word), 1 << 27 | 0xffff);
    assert_eq!(vgic.read(vcpu(0), Frame::Distributor, 0x100, Width::Word), 0xffff);
}

#[test]
fn an_access_of_a_width_the_register_does_not_have_is_ignored() {
    let mut vgic = Vgic::new(GicVersion::V2, 1);
    put(&mut vgic, 0x104, Width::Byte, 0xff);
    put(&mut vgic, 0x104, Width::Half, 0xffff);
    put(&mut vgic, 0x100, Width::Double, u64::MAX);
    put(&mut vgic, 0x106, Width::Word, 0xff);
    put(&mut vgic, 0x420, Width::Half, 0xffff);
    assert_eq!((gicd(&mut vgic, 0x104), gicd(&mut vgic, 0x420)), (0, 0));
    assert_eq!(read(&mut vgic, Frame::Distributor, 0x004, Width::Half), 0);
}

#[test]
fn there_is_no_redistributor_on_gicv2_and_none_for_a_vcpu_that_does_not_exist() {
    let mut two = Vgic::new(GicVersion::V2, 2);
    assert_eq!(gicr(&mut two, 0, 0xffe8), 0);
    let mut three = Vgic::new(GicVersion::V3, 2);
    for n in [2, 7, 8, 255] {
        assert_eq!(gicr(&mut three, n, 0xffe8), 0);
        assert!(
            three
                .write(vcpu(0), Frame::Redistributor(vcpu(n)), 0x1_0200, Width::Word, 1)
                .is_empty()
        );
        assert_eq!(three.read(vcpu(n), Frame::Distributor, 0xffe8, Width::Word), 0);
    }
}

/// Every offset of every frame, with every width and some values; and what comes of it is not more
/// than a value. (Every eighth page only under Miri.)
#[test]
fn no_access_panics() {
    let widths = [Width::Byte, Width::Half, Width::Word, Width::Double];
    let values = [0, 1, u64::MAX, 0x0302_0100_8040_2010];
    let step = if cfg!(miri) { 509 } else { 1 };
    for version in [GicVersion::V2, GicVersion::V3] {
        let mut machine = Machine::new(version, 2, 2);
        let frames = [Frame::Distributor, Frame::Redistributor(vcpu(1))];
        for (frame, end) in frames.into_iter().zip([0x1_0010, 0x2_0010]) {
            for offset in (0..end).step_by(step) {
                for width in widths {
                    for value in values {
                        let _ = machine.vgic.write(vcpu(1), frame, offset, width, value);
                    }
                    machine.vgic.read(vcpu(0), frame, offset, width);
                }
                if offset % 64 == 0 {
                    machine.sync(0);
                    machine.sync(1);
                    machine.ack(1);
                }
            }
            for offset in [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 32] {
                for width in widths {
                    let _ = machine.vgic.write(vcpu(1), frame, offset, width, u64::MAX);
                    machine.vgic.read(vcpu(0), frame, offset, width);
                }
            }
        }
        for intid in (0..=u16::MAX).step_by(step) {
            for n in [0, 1, 2, 255] {
                let _ = machine.vgic.set_level(vcpu(n), IntId(intid), true);
                let _ = machine.vgic.raise(vcpu(n), IntId(intid));
                machine.vgic.is_active(vcpu(n), IntId(intid));
            }
        }
    }
}

#[test]
fn a_snapshot_is_the_same_controller_and_a_spoilt_one_is_noticed() {
    let mut machine = Machine::v2(2, 4);
    machine.set_level(0, UART, true);
    machine.raise(0, DISK);
    machine.write(1, 0xf00, 1 << 16 | 3);
    machine.ack(0);
    assert!(!machine.vgic.is_sound(), "an interrupt is in hardware");
    machine.unload(0);
    machine.unload(1);
    assert!(machine.vgic.is_sound());
    let bytes = postcard::to_allocvec(&machine.vgic).unwrap();
    let mut again: Vgic = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(again, machine.vgic);
    again.shared[0].owned = [u32::MAX; 8];
    assert!(!again.is_sound());
    again = machine.vgic.clone();
    again.vcpus = 9;
    assert!(!again.is_sound());
}

#[test]
fn a_peek_is_what_a_read_gives() {
    for version in [GicVersion::V2, GicVersion::V3] {
        let mut machine = Machine::new(version, 2, 4);
        machine.write(0, 0x100, 0x0ff0_0000);
        machine.write(1, 0x100, 0x00f0_0000);
        machine.write(0, 0x104, 0x1234_5678);
        machine.write(0, 0x11c, 0x8000_0001);
        let mut peeked = 0;
        for (n, offset) in (0..2).flat_map(|n| (0..0x1000).map(move |offset| (n, offset))) {
            let peek = Vgic::identity(offset).or_else(|| machine.vgic.peek(vcpu(n), offset));
            let Some(peek) = peek else { continue };
            assert_eq!(u64::from(peek), machine.read(n, offset), "{version:?} {n} {offset:#x}");
            peeked += 1;
        }
        assert!(peeked > 0);
    }
}
