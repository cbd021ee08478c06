//! When the UART interrupts.

use super::*;

#[test]
fn the_receive_interrupt_follows_the_trigger_level() {
    for (select, trigger) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14), (5, 14), (6, 14), (7, 14)] {
        let mut bench = Bench::with_fifos();
        bench.write(0x034, select << 3);
        for count in 1..=16 {
            bench.type_in(b"x");
            assert_eq!(bench.rx_and_rt(), (count >= trigger, true), "{count} of {trigger}");
        }
        for count in (0..16).rev() {
            bench.read(0x000);
            assert_eq!(bench.rx_and_rt(), (count >= trigger, count > 0), "{count} of {trigger}");
        }
    }
}

#[test]
fn characters_that_wait_on_the_line_raise_the_receive_interrupt_again() {
    let mut bench = Bench::with_fifos();
    bench.type_in(&[b'x'; 100]);
    for left in (0..100).rev() {
        bench.read(0x000);
        assert_eq!(bench.rx_and_rt(), (left >= 8, left > 0));
    }
}

#[test]
fn a_guest_that_takes_one_character_for_each_timeout_gets_them_all() {
    let mut bench = Bench::with_fifos();
    bench.write(0x038, 1 << 6);
    bench.type_in(b"abc");
    let mut seen = Vec::new();
    while bench.uart.irq_level() {
        bench.write(0x044, 0x7ff);
        assert!(!bench.uart.irq_level());
        seen.push(bench.read(0x000));
    }
    assert_eq!(seen, b"abc".map(u64::from));
}

#[test]
fn the_transmit_interrupt_rises_after_each_write_until_it_is_cleared() {
    let mut bench = Bench::new();
    bench.write(0x038, 1 << 5);
    assert!(!bench.uart.irq_level());
    bench.write(0x000, 0x41);
    assert!(bench.uart.irq_level());
    assert_eq!((bench.read(0x03c), bench.read(0x040)), (0x20, 0x20));
    bench.write(0x044, 0x20);
    assert!(!bench.uart.irq_level());
    bench.write(0x000, 0x42);
    assert!(bench.uart.irq_level());
}

#[test]
fn the_transmit_interrupt_comes_back_when_the_fifo_has_drained_to_its_level() {
    for (select, trigger) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14), (7, 14)] {
        let mut bench = Bench::with_fifos();
        bench.write(0x034, select);
        bench.write(0x038, 1 << 5);
        bench.line.set_room(Some(0));
        for _ in 0..16 {
            bench.write(0x000, 0x41);
        }
        assert!(!bench.uart.irq_level(), "the FIFO is above its level");
        for left in (0..16).rev() {
            bench.line.set_room(Some(1));
            bench.uart.advance(NOW);
            assert_eq!(bench.uart.irq_level(), left <= trigger, "{left} of {trigger}");
        }
    }
}

#[test]
fn a_masked_interrupt_shows_only_in_the_raw_status() {
    let mut bench = Bench::new();
    bench.write(0x000, 0x41);
    assert_eq!((bench.read(0x03c), bench.read(0x040)), (0x20, 0));
    assert!(!bench.uart.irq_level());
    bench.write(0x038, 0x7ff);
    assert_eq!(bench.read(0x040), 0x20);
    assert!(bench.uart.irq_level());
}
