//! QEMU's `virt` boards, as QEMU describes them.

use super::*;

#[test]
fn qemus_virt_board_with_gicv2_is_read_whole() {
    let board = Board::read(VIRT_GICV2, AT).unwrap();
    assert_eq!(board.model, "linux,dummy-virt");
    assert_eq!(board.compatible, ["linux,dummy-virt"]);
    assert_eq!(board.memory, [region(0x4000_0000, 0x8000_0000)]);
    assert_eq!(board.reserved, [region(AT.raw(), VIRT_GICV2.len() as u64)]);
    let cpu = |mpidr| BoardCpu { mpidr, enable: EnableMethod::Psci };
    assert_eq!(board.cpus, [cpu(0), cpu(1)]);
    assert_eq!(board.psci, Some(Conduit::Smc));
    assert_eq!(
        board.gic,
        Gic::V2 {
            gicd: region(0x800_0000, 0x1_0000),
            gicc: region(0x801_0000, 0x1_0000),
            gich: region(0x803_0000, 0x1_0000),
            gicv: region(0x804_0000, 0x1_0000),
            maintenance: level(25),
        }
    );
    let timer = board.timer;
    assert_eq!((timer.physical, timer.virt, timer.hypervisor), (level(30), level(27), level(26)));
    assert_eq!(
        board.uart,
        BoardUart {
            kind: UartKind::Pl011,
            registers: region(0x900_0000, 0x1000),
            interrupt: Some(level(33)),
            clock: NonZeroU32::new(24_000_000),
        }
    );
    assert_eq!(board.rtc, Some(region(0x901_0000, 0x1000)));
    assert_eq!(board.chosen.rng_seed.len(), 32);
    assert!(board.chosen.kaslr_seed.is_some());
    assert_eq!(board.chosen.initrd, None);
    let taken = region(AT.raw(), 0x2000);
    let free =
        [Some(region(0x4000_0000, 0x800_0000)), Region::new(taken.end().unwrap(), 0x77ff_e000)];
    assert_eq!(board.usable_memory(&[]), free.map(Option::unwrap));
}

#[test]
fn qemus_virt_board_with_gicv3_has_one_region_of_redistributors() {
    let board = Board::read(VIRT_GICV3, AT).unwrap();
    assert_eq!(board.cpus.len(), 4);
    assert_eq!(
        board.gic,
        Gic::V3 {
            gicd: region(0x800_0000, 0x1_0000),
            redistributors: vec![region(0x80a_0000, 0xf6_0000)],
            stride: None,
            maintenance: level(25),
        }
    );
}

#[test]
fn the_uart_can_be_read_when_nothing_else_can() {
    let mut tree = virt(VIRT_GICV2);
    for name in ["intc@8000000", "memory@40000000", "cpus", "timer", "chosen", "psci"] {
        tree.root.remove_child(name).unwrap();
    }
    let uart = Board::read_uart(&tree.to_dtb()).unwrap();
    assert_eq!(uart.registers, region(0x900_0000, 0x1000));
    assert_eq!(uart.interrupt, None);
}

#[test]
fn what_is_optional_may_be_absent() {
    let mut tree = virt(VIRT_GICV2);
    for name in ["chosen", "aliases", "pl031@9010000", "apb-pclk"] {
        tree.root.remove_child(name).unwrap();
    }
    let board = read(&tree).unwrap();
    assert_eq!(board.chosen, Chosen::default());
    assert_eq!((board.rtc, board.uart.clock), (None, None));
}

#[test]
fn the_timers_interrupts_are_found_by_name_where_there_are_names() {
    let mut tree = virt(VIRT_GICV2);
    set(&mut tree, "/timer", "interrupt-names", "hyp-phys\0virt\0phys");
    let timer = read(&tree).unwrap().timer;
    assert_eq!((timer.hypervisor, timer.virt, timer.physical), (level(29), level(30), level(27)));
}
