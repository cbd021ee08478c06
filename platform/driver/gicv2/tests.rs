//! Claims about the GICv2 drivers, by the offsets of IHI 0048B.

use super::gicc::{Acknowledged, CpuInterface};
use super::gich::{HCR, VirtualInterface, decode, encode};
use super::*;
use crate::platform::Trigger;
use crate::platform::driver::fake::FakePages;
use crate::platform::driver::gic::DEFAULT_PRIORITY;
use crate::vgic::{Link, ListRegister, LrState};
use proptest::prelude::*;

/// A distributor of 64 interrupts, with each register full of ones.
fn distributor() -> (FakePages, Distributor) {
    let pages = FakePages::new(0x1000);
    for offset in (0x80..0x1000).step_by(4) {
        pages.write(offset, u32::MAX);
    }
    pages.write(0x004, 1u32); // GICD_TYPER.ITLinesNumber
    let distributor = Distributor::new(pages.mmio()).unwrap();
    (pages, distributor)
}

/// What the Non-secure view has of one: its interrupts' groups cannot be told.
fn non_secure(distributor: Distributor) -> Distributor {
    Distributor { has_groups: false, ..distributor }
}

#[test]
fn init_puts_every_spi_into_group_1_and_enables_what_there_is() {
    let (pages, distributor) = distributor();
    pages.write(0x800, 0x0404_0404u32); // GICD_ITARGETSR0: this is CPU interface 2
    pages.write(0x184, 0u32);
    pages.write(0x284, 0u32);
    pages.write(0x384, 0u32);
    non_secure(distributor).init();
    assert_eq!(pages.word(0x000), 1, "GICD_CTLR: EnableGrp1 in that view");
    pages.write(0x084, 0u32);
    distributor.init();
    assert_eq!(pages.word(0x000), 3, "GICD_CTLR: EnableGrp0, EnableGrp1");
    assert_eq!(pages.word(0x084), u32::MAX, "GICD_IGROUPR1");
    assert_eq!(pages.word(0x184), u32::MAX, "GICD_ICENABLER1");
    assert_eq!(pages.word(0x284), u32::MAX, "GICD_ICPENDR1");
    assert_eq!(pages.word(0x384), u32::MAX, "GICD_ICACTIVER1");
    assert_eq!(pages.word(0x420), 0xa0a0_a0a0, "GICD_IPRIORITYR8");
    assert_eq!(pages.word(0x820), 0x0404_0404, "GICD_ITARGETSR8");
    assert_eq!((pages.word(0xc08), pages.word(0xc0c)), (0, 0), "GICD_ICFGR2 and 3");
}

#[test]
fn init_touches_neither_another_cpus_interrupts_nor_absent_ones() {
    let (pages, distributor) = distributor();
    distributor.init();
    for absent in [0x088, 0x440, 0x840, 0xc10] {
        assert_eq!(pages.word(absent), u32::MAX, "{absent:#x}");
    }
    for private in [0x080, 0x400, 0x800, 0xc00, 0xc04] {
        assert_eq!(pages.word(private), u32::MAX, "{private:#x}");
    }
}

#[test]
fn init_cpu_quiets_the_private_interrupts_and_every_senders_sgis() {
    let (pages, distributor) = distributor();
    pages.write(0xf10, 0u32);
    distributor.init_cpu();
    assert_eq!(pages.word(0x080), u32::MAX, "GICD_IGROUPR0");
    assert_eq!(pages.word(0x180), u32::MAX, "GICD_ICENABLER0");
    assert_eq!(pages.word(0x400), 0xa0a0_a0a0, "GICD_IPRIORITYR0");
    assert_eq!(pages.word(0x41c), 0xa0a0_a0a0, "GICD_IPRIORITYR7");
    assert_eq!(pages.word(0xf10), u32::MAX, "GICD_CPENDSGIR0");
    assert_eq!(pages.word(0xf1c), u32::MAX, "GICD_CPENDSGIR3");
    assert_eq!(pages.word(0x084), u32::MAX, "GICD_IGROUPR1 is not this CPU's");
    assert_eq!(pages.word(0xc00), u32::MAX, "GICD_ICFGR0 is read-only");
    assert_eq!(pages.word(0xc04), 0, "GICD_ICFGR1: PPIs are levels");
}

#[test]
fn a_lone_cpu_has_interface_0_though_the_targets_read_as_zero() {
    let (pages, distributor) = distributor();
    pages.write(0x800, [0u32; 8]);
    assert_eq!(distributor.this_interface(), Interfaces(1));
}

#[test]
fn each_bit_of_an_interrupt_is_where_the_manual_has_it() {
    let (pages, distributor) = distributor();
    let lines = distributor.lines();
    let spi = IntId(42);
    for (act, offset) in [
        (Lines::enable as fn(&Lines, IntId) -> _, 0x104),
        (Lines::disable, 0x184),
        (Lines::set_pending, 0x204),
        (Lines::clear_pending, 0x284),
        (Lines::set_active, 0x304),
        (Lines::clear_active, 0x384),
    ] {
        act(lines, spi).unwrap();
        assert_eq!(pages.word(offset), 1 << 10, "{offset:#x}");
    }
    assert_eq!(lines.is_enabled(spi), Ok(true));
    assert_eq!(lines.is_pending(IntId(43)), Ok(false));
    assert_eq!(lines.is_active(spi), Ok(true));
}

#[test]
fn priority_and_target_of_one_interrupt_leave_its_neighbours_alone() {
    let (pages, distributor) = distributor();
    distributor.lines().set_priority(IntId(41), 0x20).unwrap();
    distributor.set_target(IntId(42), Interfaces(0b11)).unwrap();
    assert_eq!(pages.word(0x428), 0xffff_20ff);
    assert_eq!(pages.word(0x828), 0xff03_ffff);
    assert_eq!(DEFAULT_PRIORITY, 0xa0);
}

#[test]
fn the_trigger_is_the_upper_bit_of_two() {
    let (pages, distributor) = distributor();
    let lines = distributor.lines();
    lines.set_trigger(IntId(33), Trigger::Level).unwrap();
    assert_eq!(pages.word(0xc08), 0xffff_fff7);
    lines.set_trigger(IntId(33), Trigger::Edge).unwrap();
    assert_eq!(pages.word(0xc08), u32::MAX);
    lines.set_trigger(IntId(31), Trigger::Level).unwrap();
    assert_eq!(pages.word(0xc04), 0x7fff_ffff);
}

#[test]
fn interrupts_that_the_distributor_has_not_are_refused() {
    let (_pages, distributor) = distributor();
    let refused = |intid| Err(DriverError::NoSuchInterrupt(IntId(intid)));
    let lines = distributor.lines();
    assert_eq!(lines.limit(), 64);
    for intid in [64, 1019, 1023, u16::MAX] {
        assert_eq!(lines.enable(IntId(intid)), refused(intid));
        assert_eq!(lines.set_priority(IntId(intid), 0), refused(intid));
        assert_eq!(lines.set_trigger(IntId(intid), Trigger::Edge), refused(intid));
        assert_eq!(distributor.set_target(IntId(intid), Interfaces(1)), refused(intid));
    }
    assert_eq!(distributor.set_target(IntId(31), Interfaces(1)), refused(31));
    assert_eq!(lines.set_trigger(IntId(15), Trigger::Edge), refused(15));
    assert_eq!(distributor.send_sgi(IntId(16), Interfaces(1)), refused(16));
}

#[test]
fn a_distributor_of_1020_interrupts_is_used_to_the_last() {
    let pages = FakePages::new(0x1000);
    pages.write(0x004, 31u32);
    let distributor = Distributor::new(pages.mmio()).unwrap();
    distributor.init();
    distributor.lines().enable(IntId(1019)).unwrap();
    assert_eq!(pages.word(0x17c), 1 << 27);
    assert_eq!(pages.word(0x7f8), 0xa0a0_a0a0);
    assert!(distributor.lines().enable(IntId(1020)).is_err());
}

#[test]
fn an_sgi_names_its_targets_one_by_one() {
    let (pages, distributor) = distributor();
    distributor.send_sgi(IntId(3), Interfaces(0b1010)).unwrap();
    assert_eq!(pages.word(0xf00), 0x000a_8003, "NSATT: it is in group 1");
    non_secure(distributor).send_sgi(IntId(3), Interfaces(0b1010)).unwrap();
    assert_eq!(pages.word(0xf00), 0x000a_0003);
}

#[test]
fn one_of_the_private_interrupts_comes_as_fiq() {
    let (pages, distributor) = distributor();
    pages.write(0x080, 0u32);
    assert!(Distributor::new(pages.mmio()).unwrap().has_groups(), "ones stay");
    assert_eq!(pages.word(0x080), u32::MAX, "GICD_IGROUPR0");
    distributor.lines().set_group_0(IntId(30)).unwrap();
    assert_eq!(pages.word(0x080), !(1 << 30));
    let interface = FakePages::new(0x2000);
    CpuInterface::new(interface.mmio()).unwrap().init(true);
    assert_eq!(interface.word(0x000), 0x60f, "EnableGrp0 and 1, AckCtl, FIQEn, both EOImodes");
}

#[test]
fn the_cpu_interface_lets_all_through_and_splits_the_end_of_interrupt() {
    let pages = FakePages::new(0x2000);
    for active in [0x0d0, 0x0dc, 0x0e0, 0x0ec] {
        pages.write(active, u32::MAX);
    }
    let interface = CpuInterface::new(pages.mmio()).unwrap();
    interface.init(false);
    for active in [0x0d0, 0x0dc, 0x0e0, 0x0ec] {
        assert_eq!(pages.word(active), 0, "GICC_APRn, GICC_NSAPRn: nothing is being handled");
    }
    assert_eq!(pages.word(0x000), 0x601, "GICC_CTLR");
    assert_eq!(pages.word(0x004), 0xff, "GICC_PMR");

    pages.write(0x00c, 0xc05u32); // GICC_IAR: SGI 5 from interface 3
    let taken = interface.acknowledge().unwrap();
    assert_eq!(taken, Acknowledged { intid: IntId(5), source: 3 });
    interface.drop_priority(taken);
    assert_eq!(pages.word(0x010), 0xc05, "GICC_EOIR");
    assert_eq!(pages.word(0x1000), 0, "GICC_DIR");
    interface.deactivate(taken);
    assert_eq!(pages.word(0x1000), 0xc05, "GICC_DIR");
    for spurious in [1020u32, 1022, 1023] {
        pages.write(0x00c, spurious);
        assert_eq!(interface.acknowledge(), None);
    }
    assert!(CpuInterface::new(FakePages::new(0x1000).mmio()).is_err(), "no room for GICC_DIR");
}

#[test]
fn list_registers_beyond_the_last_are_neither_read_nor_written() {
    let pages = FakePages::new(0x1000);
    pages.write(0x004, 0x9000_0003u32); // GICH_VTR of a GIC-400
    pages.write(0x110, 0x5555u32);
    let virt = VirtualInterface::new(pages.mmio()).unwrap();
    assert_eq!(virt.count(), 4);
    for (index, value) in (0x1000_0000..0x1000_0046).enumerate() {
        virt.set_lr(index, value);
    }
    assert_eq!(pages.word(0x10c), 0x1000_0003);
    assert_eq!(pages.word(0x110), 0x5555);
    assert_eq!((virt.lr(3), virt.lr(4), virt.lr(99)), (0x1000_0003, 0, 0));
    virt.init();
    assert_eq!((pages.word(0x10c), pages.word(0x110)), (0, 0x5555));
}

#[test]
fn the_virtual_interfaces_registers_are_where_the_manual_has_them() {
    let pages = FakePages::new(0x1000);
    let virt = VirtualInterface::new(pages.mmio()).unwrap();
    virt.set_hcr(0x1);
    virt.set_maintenance(true, true);
    assert_eq!(pages.word(0x000), 0xd);
    virt.set_maintenance(false, true);
    assert_eq!(pages.word(0x000), 0x5);
    pages.write(0x000, 0x1800_0005u32);
    assert_eq!(virt.take_eoi_count(), 3);
    assert_eq!(pages.word(0x000), 0x5, "the count starts anew, all else stays");
    assert!(virt.hcr().is_set(HCR::En));
    virt.set_vmcr(0xf800_0001);
    virt.set_apr(0x8000_0000);
    assert_eq!((pages.word(0x008), pages.word(0x0f0)), (0xf800_0001, 0x8000_0000));
    pages.write(0x010, 0x2u32);
    pages.write(0x020, [1u32, 2]);
    pages.write(0x030, [4u32, 8]);
    assert_eq!(virt.misr().get(), 2);
    assert_eq!((virt.eisr(), virt.elrsr()), (0x2_0000_0001, 0x8_0000_0004));
}

#[test]
fn a_list_register_has_the_manuals_bits() {
    let timer = ListRegister {
        intid: IntId(27),
        state: LrState::Pending,
        priority: 0xa0,
        group1: true,
        link: Link::Hardware { physical: IntId(26) },
    };
    assert_eq!(encode(timer), 1 << 31 | 1 << 30 | 1 << 28 | 20 << 23 | 26 << 10 | 27);
    let sgi = ListRegister {
        intid: IntId(2),
        state: LrState::PendingActive,
        priority: 0xff, // five bits of it are kept
        group1: false,
        link: Link::Software { eoi_maintenance: true, source: 5 },
    };
    assert_eq!(encode(sgi), 3 << 28 | 31 << 23 | 1 << 19 | 5 << 10 | 2);
    assert_eq!(decode(encode(sgi)), Some(ListRegister { priority: 0xf8, ..sgi }));
    assert_eq!(decode(0xcfff_ffff), None, "state 0 is an empty one");
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]
    #[test]
    fn what_a_list_register_holds_survives_decoding_and_encoding(raw: u32) {
        if let Some(lr) = decode(raw) {
            // Bits 22 to 20 are reserved, and so are 18 to 13 without HW.
            let kept = if raw >> 31 == 1 { 0xff8f_ffff } else { 0xff88_1fff };
            prop_assert_eq!(encode(lr), raw & kept);
        } else {
            prop_assert_eq!(raw >> 28 & 3, 0);
        }
    }
}
