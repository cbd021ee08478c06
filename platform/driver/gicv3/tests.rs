//! Claims about the GICv3 drivers, by the offsets of IHI 0069H.

use super::redistributor::Redistributor;
use super::*;
use crate::platform::driver::fake::FakePages;

const BOOT_CPU: u64 = 0x12_0003_0201;

fn distributor() -> (FakePages, Distributor) {
    let pages = FakePages::new(0x1_0000);
    pages.write(0x004, 1u32); // GICD_TYPER: 64 interrupts
    let distributor = Distributor::new(pages.mmio()).unwrap();
    (pages, distributor)
}

#[test]
fn init_routes_every_spi_to_the_boot_cpu_and_enables_group_1() {
    let (pages, distributor) = distributor();
    pages.write(0xc08, u32::MAX);
    distributor.init(BOOT_CPU | 0x8000_0000).unwrap();
    assert_eq!(pages.word(0x000), 0x12, "GICD_CTLR: ARE_NS and EnableGrp1A");
    distributor.enable_group_0().unwrap();
    assert_eq!(pages.word(0x000), 0x13, "GICD_CTLR: EnableGrp0, too");
    assert_eq!(pages.word(0x084), u32::MAX, "GICD_IGROUPR1");
    assert_eq!(pages.word(0x184), u32::MAX, "GICD_ICENABLER1");
    assert_eq!(pages.word(0x284), u32::MAX, "GICD_ICPENDR1");
    assert_eq!(pages.word(0x384), u32::MAX, "GICD_ICACTIVER1");
    assert_eq!(pages.word(0x420), 0xa0a0_a0a0, "GICD_IPRIORITYR8");
    assert_eq!(pages.word(0xc08), 0, "GICD_ICFGR2");
    assert_eq!(pages.read::<u64>(0x6100), BOOT_CPU, "GICD_IROUTER32");
    assert_eq!(pages.read::<u64>(0x61f8), BOOT_CPU, "GICD_IROUTER63");
    assert_eq!(pages.read::<u64>(0x6200), 0, "GICD_IROUTER64 is not there");
    assert_eq!((pages.word(0x080), pages.word(0x180)), (0, 0), "the first 32 are not here");
}

#[test]
fn a_distributor_whose_writes_never_end_is_an_error() {
    let (pages, distributor) = distributor();
    pages.write(0x000, 0x8000_0000u32); // RWP
    assert_eq!(distributor.wait(), Err(DriverError::Timeout));
}

#[test]
fn a_private_or_absent_interrupt_has_no_route() {
    let (_pages, distributor) = distributor();
    for intid in [0, 31, 64, 1023].map(IntId) {
        let refused = Err(DriverError::NoSuchInterrupt(intid));
        assert_eq!(distributor.set_route(intid, BOOT_CPU), refused);
    }
}

/// Regions of redistributors; each takes an affinity value and other bits of GICR_TYPER.
fn redistributors(step: usize, typers: &[(u32, u32)]) -> FakePages {
    let pages = FakePages::new(step * typers.len());
    for (n, (affinity, bits)) in typers.iter().enumerate() {
        pages.write(n * step + 0x8, u64::from(*affinity) << 32 | u64::from(*bits));
        pages.write(n * step + 0x14, 2u32); // GICR_WAKER.ProcessorSleep
    }
    pages
}

const LAST: u32 = 1 << 4;
const VLPIS: u32 = 1 << 1;

/// Sets the CPU's redistributor up and returns where it lies, by what it wrote.
fn found_at(pages: &FakePages, stride: Option<u64>, mpidr: u64) -> Result<usize, DriverError> {
    let redistributor = Redistributor::find(&[pages.mmio()], stride, mpidr)?;
    redistributor.init()?;
    let size = pages.mmio().size();
    let awake = (0..size).step_by(0x1_0000).find(|at| pages.word(at + 0x1_0180) == u32::MAX);
    Ok(awake.unwrap())
}

#[test]
fn a_redistributor_is_found_by_affinity_whatever_the_order() {
    let typers = [(0x0000_0001, 0), (0x1203_0201, 0), (0x0000_0000, LAST)];
    for (mpidr, at) in [(1, 0), (BOOT_CPU, 0x2_0000), (0, 0x4_0000)] {
        assert_eq!(found_at(&redistributors(0x2_0000, &typers), None, mpidr), Ok(at));
    }
}

#[test]
fn redistributors_with_virtual_lpis_are_twice_as_far_apart() {
    let pages = redistributors(0x4_0000, &[(0, VLPIS), (1, VLPIS | LAST)]);
    assert_eq!(found_at(&pages, None, 1), Ok(0x4_0000));
}

#[test]
fn the_device_trees_stride_wins() {
    let pages = redistributors(0x8_0000, &[(0, 0), (1, LAST)]);
    assert_eq!(found_at(&pages, Some(0x8_0000), 1), Ok(0x8_0000));
    for stride in [0, 0x1_0000, 0x2_1000, u64::MAX] {
        let refused = Err(DriverError::NoRegisters);
        assert_eq!(found_at(&pages, Some(stride), 0), refused, "{stride:#x}");
    }
}

#[test]
fn the_search_ends_with_the_region_though_none_is_the_last() {
    let pages = redistributors(0x2_0000, &[(0, 0), (1, 0)]);
    assert_eq!(found_at(&pages, None, 2), Err(DriverError::NoRedistributor(2)));
}

#[test]
fn the_last_of_a_region_leads_to_the_next_region() {
    let first = redistributors(0x2_0000, &[(0, LAST), (7, 0)]);
    let second = redistributors(0x2_0000, &[(1, LAST)]);
    let regions = [first.mmio(), second.mmio()];
    Redistributor::find(&regions, None, 1).unwrap().init().unwrap();
    assert_eq!(second.word(0x1_0180), u32::MAX);
    let beyond = Redistributor::find(&regions, None, 7).err();
    assert_eq!(beyond, Some(DriverError::NoRedistributor(7)), "it is after the last one");
}

#[test]
fn init_wakes_the_redistributor_and_quiets_its_interrupts() {
    let pages = redistributors(0x2_0000, &[(0, LAST)]);
    pages.write(0x1_0c04, 0xaaaa_aaaau32);
    let redistributor = Redistributor::find(&[pages.mmio()], None, 0).unwrap();
    redistributor.init().unwrap();
    assert_eq!(pages.word(0x0_0014), 0, "GICR_WAKER");
    assert_eq!(pages.word(0x1_0080), u32::MAX, "GICR_IGROUPR0");
    assert_eq!(pages.word(0x1_0180), u32::MAX, "GICR_ICENABLER0");
    assert_eq!(pages.word(0x1_0280), u32::MAX, "GICR_ICPENDR0");
    assert_eq!(pages.word(0x1_0380), u32::MAX, "GICR_ICACTIVER0");
    assert_eq!(pages.word(0x1_041c), 0xa0a0_a0a0, "GICR_IPRIORITYR7");
    assert_eq!(pages.word(0x1_0c04), 0, "GICR_ICFGR1: PPIs are levels");

    let lines = redistributor.lines();
    lines.enable(IntId(26)).unwrap();
    assert_eq!(pages.word(0x1_0100), 1 << 26, "GICR_ISENABLER0");
    lines.set_active(IntId(27)).unwrap();
    assert_eq!(pages.word(0x1_0300), 1 << 27, "GICR_ISACTIVER0");
    assert_eq!(lines.enable(IntId(32)), Err(DriverError::NoSuchInterrupt(IntId(32))));
    assert!(lines.has_groups());
    lines.set_group_0(IntId(30)).unwrap();
    assert_eq!(pages.word(0x1_0080), !(1 << 30), "GICR_IGROUPR0");
}

#[test]
fn a_redistributor_that_stays_asleep_is_an_error() {
    let pages = redistributors(0x2_0000, &[(0, LAST)]);
    pages.write(0x14, 6u32); // ChildrenAsleep too
    let redistributor = Redistributor::find(&[pages.mmio()], None, 0).unwrap();
    assert_eq!(redistributor.init(), Err(DriverError::Timeout));
}

#[test]
fn a_redistributor_whose_writes_never_end_is_an_error() {
    let pages = redistributors(0x2_0000, &[(0, LAST)]);
    pages.write(0x0, 8u32); // GICR_CTLR.RWP
    let redistributor = Redistributor::find(&[pages.mmio()], None, 0).unwrap();
    assert_eq!(redistributor.init(), Err(DriverError::Timeout));
}
