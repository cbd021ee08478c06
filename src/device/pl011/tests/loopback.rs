//! The loopback mode.

use super::*;

#[test]
fn a_loopback_receives_what_is_sent_and_leaves_the_line_alone() {
    let mut bench = Bench::with_fifos();
    bench.write(0x030, ENABLED | LBE);
    bench.type_in(b"outside");
    bench.write(0x000, 0x55);
    assert_eq!(bench.take(2), [0x55, 0]);
    assert_eq!(bench.line.waiting(), 7);
    bench.write(0x030, ENABLED);
    assert_eq!(bench.take(7), b"outside".map(u64::from));
}

#[test]
fn a_loopback_that_overruns_keeps_the_fifo_and_says_what_it_lost() {
    let mut bench = Bench::with_fifos();
    bench.write(0x030, ENABLED | LBE);
    for byte in 0..18 {
        bench.write(0x000, byte);
    }
    assert_eq!(bench.read(0x004), 1 << 3);
    assert_eq!(bench.read(0x03c) & 1 << 10, 1 << 10);
    assert_eq!(bench.read(0x000), 0);
    bench.write(0x000, 0x42);
    assert_eq!(bench.take(16), (1..16).chain([0x842]).collect::<Vec<_>>());
    bench.write(0x000, 0x43);
    assert_eq!(bench.read(0x000), 0x43, "said once");
    assert_eq!(bench.read(0x004), 1 << 3, "until the error clear register is written");
    bench.write(0x004, 0);
    assert_eq!(bench.read(0x004), 0);
    bench.write(0x044, 1 << 10);
    assert_eq!(bench.read(0x03c) & 1 << 10, 0);
}

#[test]
fn a_loopback_receives_a_break_as_one_zero_with_its_error() {
    let mut bench = Bench::with_fifos();
    bench.write(0x030, ENABLED | LBE);
    bench.write(0x02c, FEN | 1);
    bench.write(0x02c, FEN | 1);
    bench.write(0x000, 0x41);
    assert_eq!(bench.read(0x03c) & 1 << 9, 1 << 9);
    assert_eq!(bench.read(0x000), 0x400);
    assert_eq!(bench.read(0x004), 1 << 2);
    assert_eq!(bench.read(0x000), 0x41);
    assert_eq!(bench.read(0x004), 0);
}

#[test]
fn a_loopback_connects_the_modem_lines_and_raises_their_changes() {
    // UARTCR's output, UARTFR's input, the interrupt.
    for (output, input, interrupt) in [
        (1 << 11, 1 << 0, 1 << 1),
        (1 << 10, 1 << 1, 1 << 3),
        (1 << 12, 1 << 2, 1 << 2),
        (1 << 13, 1 << 8, 1 << 0),
    ] {
        let mut bench = Bench::new();
        bench.write(0x030, ENABLED | output);
        assert_eq!((bench.read(0x018), bench.read(0x03c)), (0x90, 0));
        for control in [ENABLED | LBE | output, ENABLED | output] {
            bench.write(0x030, control);
            let expected = if control & LBE != 0 { 0x90 | input } else { 0x90 };
            assert_eq!((bench.read(0x018), bench.read(0x03c)), (expected, interrupt));
            bench.write(0x030, control);
            bench.write(0x044, interrupt);
            assert_eq!(bench.read(0x03c), 0);
        }
    }
}
