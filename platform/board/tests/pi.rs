//! Boards with buses of their own, as the Raspberry Pi 4.

use super::*;

#[test]
fn a_pi_is_read_through_the_ranges_of_its_bus() {
    let tree = pi();
    let board = read(&tree).unwrap();
    assert!(board.is_compatible("brcm,bcm2711"));
    assert_eq!(
        board.gic,
        Gic::V2 {
            gicd: region(0xff84_1000, 0x1000),
            gicc: region(0xff84_2000, 0x2000),
            gich: region(0xff84_4000, 0x2000),
            gicv: region(0xff84_6000, 0x2000),
            maintenance: level(25),
        }
    );
    assert_eq!(
        board.uart,
        BoardUart {
            kind: UartKind::MiniUart,
            registers: region(0xfe21_5040, 0x40),
            interrupt: Some(level(125)),
            clock: None,
        }
    );
    assert_eq!(board.psci, None);
    assert_eq!(board.rtc, None);
    let slots: Vec<_> = board.cpus.iter().map(|cpu| (cpu.mpidr, cpu.enable)).collect();
    let spin = |at| EnableMethod::SpinTable { release_addr: PhysAddr::new(at) };
    assert_eq!(slots, [(0, spin(0xd8)), (1, spin(0xe0)), (2, spin(0xe8)), (3, spin(0xf0))]);
    assert_eq!(board.chosen.bootargs, "console=ttyS0");
    assert_eq!(board.chosen.initrd, Some(region(0x2df3_6000, 0x800)));
    assert_eq!(
        board.reserved,
        [
            region(0, 0x1000),
            region(0x3b3f_f000, 0x400),
            region(AT.raw(), tree.to_dtb().len() as u64),
            region(0x2df3_6000, 0x800),
        ]
    );
    assert_eq!(
        board.usable_memory(&[region(0x20_0000, 0x10_0000)])[..3],
        [
            region(0x1000, 0x1f_f000),
            region(0x30_0000, 0x2dc3_6000),
            region(0x2df3_7000, 0x3b3f_f000 - 0x2df3_7000),
        ]
    );
}

#[test]
fn a_pis_pl011_runs_on_the_firmwares_48_megahertz() {
    let mut tree = pi();
    set(&mut tree, "/chosen", "stdout-path", "serial0");
    let uart = read(&tree).unwrap().uart;
    assert_eq!(uart.kind, UartKind::Pl011);
    assert_eq!(uart.registers, region(0xfe20_1000, 0x200));
    assert_eq!(uart.clock, NonZeroU32::new(48_000_000));
}

#[test]
fn a_console_that_is_not_named_or_not_known_is_the_first_uart() {
    for name in
        some(["", "serial7", "/soc/no-such", "/soc/interrupt-controller@40041000", "serial1/x"])
    {
        let mut tree = pi();
        set(&mut tree, "/chosen", "stdout-path", name);
        assert_eq!(read(&tree).unwrap().uart.kind, UartKind::Pl011, "{name:?}");
    }
    let mut tree = pi();
    set(&mut tree, "/soc/serial@7e215040", "status", "disabled");
    assert_eq!(read(&tree).unwrap().uart.kind, UartKind::Pl011);
}

#[test]
fn a_device_its_bus_does_not_pass_on_is_unreachable() {
    let unreachable = |path: &str| Err(BoardError::Unreachable { path: path.into() });
    let mut tree = pi();
    set(&mut tree, "/soc/serial@7e215040", "reg", [0x7f7f_fff0u32, 0x40]);
    assert_eq!(read(&tree), unreachable("/soc/serial@7e215040"));
    let mut tree = pi();
    at(&mut tree, "/soc").remove_property("ranges");
    assert_eq!(read(&tree), unreachable("/soc/interrupt-controller@40041000"));
}

#[test]
fn a_failed_cpu_and_disabled_memory_are_left_out() {
    let mut tree = pi();
    set(&mut tree, "/cpus/cpu@1", "status", "disabled");
    set(&mut tree, "/cpus/cpu@2", "status", "fail-sss");
    set(&mut tree, "/memory@0", "status", "disabled");
    // The bundle was in it.
    at(&mut tree, "/chosen").remove_property("linux,initrd-start");
    at(&mut tree, "/chosen").remove_property("linux,initrd-end");
    let board = read(&tree).unwrap();
    assert_eq!(board.cpus.iter().map(|cpu| cpu.mpidr).collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!(board.memory, [region(0x1_0000_0000, 0x8000_0000)]);
}

/// QEMU overwrites with `FDT_NOP` the nodes of the Raspberry Pi's tree that it has no device for.
#[test]
fn nodes_that_firmware_overwrote_with_nops_are_skipped() {
    let blob = VIRT_GICV2.to_vec();
    let structure = word(&blob, 8)..word(&blob, 8) + word(&blob, 36);
    let name = blob.windows(13).position(|bytes| bytes == b"pl031@9010000").unwrap();
    let mut without = blob.clone();
    // Its end is followed by the next node's begin.
    let mut words = (name..structure.end).step_by(4);
    let end = words.find(|at| (word(&blob, *at), word(&blob, at + 4)) == (2, 1)).unwrap() + 4;
    for nop in (name - 4..end).step_by(4) {
        without[nop..nop + 4].copy_from_slice(&4u32.to_be_bytes());
    }
    let board = Board::read(&without, AT).unwrap();
    assert_eq!(board.rtc, None);
    assert_eq!(
        Board { rtc: Some(region(0x901_0000, 0x1000)), ..board },
        Board::read(&blob, AT).unwrap()
    );
}
