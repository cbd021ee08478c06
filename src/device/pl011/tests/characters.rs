//! Characters through the FIFOs, and the flags.

use super::*;

#[test]
fn a_guest_that_never_enables_its_uart_prints_and_reads() {
    let mut bench = Bench::new();
    bench.write(0x030, 0);
    for byte in *b"hi" {
        assert_eq!(bench.read(0x018) & 1 << 5, 0, "TXFF");
        bench.write(0x000, byte.into());
    }
    assert_eq!(bench.line.take_output(), b"hi");
    bench.line.type_in(b"k");
    assert_eq!(bench.read(0x018) & 1 << 4, 0, "RXFE");
    assert_eq!(bench.read(0x000), u64::from(b'k'));
}

#[test]
fn a_store_of_any_width_sends_the_low_byte_once() {
    let mut bench = Bench::new();
    for width in [Width::Byte, Width::Half, Width::Word, Width::Double] {
        bench.uart.write(0x000, width, 0x4241, NOW);
        assert_eq!(bench.line.take_output(), b"A");
    }
}

#[test]
fn a_load_of_any_width_takes_one_character() {
    let mut bench = Bench::with_fifos();
    bench.type_in(b"abcd");
    for (width, byte) in
        [Width::Byte, Width::Half, Width::Word, Width::Double].into_iter().zip(b'a'..)
    {
        assert_eq!(bench.uart.read(0x000, width, NOW), byte.into());
    }
    assert_eq!(bench.read(0x018) & 1 << 4, 1 << 4);
}

#[test]
fn the_flags_follow_the_fifo_from_empty_to_full() {
    let mut bench = Bench::with_fifos();
    for count in 0..=16u8 {
        let (empty, full) = (u64::from(count == 0) << 4, u64::from(count == 16) << 6);
        assert_eq!(bench.read(0x018), 0x80 | empty | full);
        bench.type_in(&[count]);
    }
    assert_eq!(bench.line.waiting(), 1);
}

#[test]
fn with_the_fifos_disabled_the_holding_register_holds_one() {
    let mut bench = Bench::new();
    bench.type_in(b"ab");
    assert_eq!(bench.read(0x018), 0xc0);
    assert_eq!(bench.line.waiting(), 1);
    assert_eq!(bench.rx_and_rt(), (true, true));
    assert_eq!(bench.take(2), [u64::from(b'a'), u64::from(b'b')]);
    assert_eq!(bench.rx_and_rt(), (false, false));
    assert_eq!(bench.read(0x018), 0x90);
}

#[test]
fn a_line_without_room_fills_the_transmit_fifo_and_the_flags_say_so() {
    for (fen, depth) in [(FEN, 16), (0, 1)] {
        let mut bench = Bench::new();
        bench.write(0x02c, fen);
        bench.line.set_room(Some(0));
        for count in 0..depth {
            let (empty, busy) = (u64::from(count == 0) << 7, u64::from(count > 0) << 3);
            assert_eq!(bench.read(0x018) & 0xa8, empty | busy);
            bench.write(0x000, count);
        }
        assert_eq!(bench.read(0x018) & 0xa8, 0x28, "TXFF and BUSY");
        bench.write(0x000, 0xee);
        bench.line.set_room(None);
        assert_eq!(bench.read(0x018) & 0xa8, 0x80, "a poll finds that there is room");
        let sent: Vec<u64> = bench.line.take_output().into_iter().map(u64::from).collect();
        assert_eq!(sent, (0..depth).collect::<Vec<_>>(), "what a full FIFO was given is lost");
    }
}

#[test]
fn changing_fen_empties_the_fifo() {
    let mut bench = Bench::with_fifos();
    bench.type_in(b"abc");
    bench.write(0x02c, 0x70);
    assert_eq!(bench.read(0x018), 0x80, "FEN did not change");
    bench.write(0x02c, 0x60);
    assert_eq!(bench.read(0x018), 0x90);
    assert_eq!(bench.rx_and_rt(), (false, false));
}

#[test]
fn a_megabyte_typed_in_waits_on_the_line_and_arrives_in_order() {
    let size = crate::testing::pick(1 << 20, 1 << 8);
    let mut bench = Bench::with_fifos();
    let bytes: Vec<u8> =
        (0..size).map(|i: u32| i.wrapping_mul(0x9e37_79b1).to_le_bytes()[3]).collect();
    bench.type_in(&bytes);
    assert_eq!(bench.line.waiting(), bytes.len() - 16);
    let all_arrive = bytes.iter().all(|&byte| bench.read(0x000) == byte.into());
    assert!(all_arrive);
    assert_eq!(bench.read(0x018), 0x90);
}
