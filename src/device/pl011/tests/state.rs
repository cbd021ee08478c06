//! The state, saved, restored and reset.

use super::*;

#[test]
fn what_waits_to_be_sent_is_saved_with_the_uart() {
    let mut bench = Bench::with_fifos();
    bench.line.set_room(Some(1));
    for byte in b"abc" {
        bench.write(0x000, u64::from(*byte));
    }
    let saved = postcard::to_allocvec(bench.uart.state()).unwrap();
    bench.uart = Pl011::restore(bench.line.clone(), postcard::from_bytes(&saved).unwrap());
    bench.line.set_room(None);
    bench.uart.advance(NOW);
    assert_eq!(bench.line.take_output(), b"abc");
}

#[test]
fn a_reset_returns_to_the_state_of_a_new_uart() {
    let mut bench = Bench::with_fifos();
    bench.write(0x038, 0x7ff);
    bench.type_in(b"abc");
    assert!(bench.uart.irq_level());
    bench.line.type_in(b"def");
    bench.uart.reset();
    bench.uart.advance(NOW);
    assert!(!bench.uart.irq_level(), "what was typed was for the guest before");
    assert_eq!(*bench.uart.state(), *Bench::new().uart.state());
}

#[test]
fn a_saved_uart_goes_on_where_it_was() {
    let mut bench = Bench::with_fifos();
    bench.write(0x038, 0x050);
    bench.type_in(b"abcdefghijklmnopqrst");
    let saved = postcard::to_allocvec(bench.uart.state()).unwrap();
    let state: State = postcard::from_bytes(&saved).unwrap();
    assert_eq!(state, *bench.uart.state());
    bench.uart = Pl011::restore(bench.line.clone(), state);
    assert!(bench.uart.irq_level());
    assert_eq!(bench.take(20), b"abcdefghijklmnopqrst".map(u64::from));
}

#[test]
fn a_saved_state_with_more_characters_than_fit_is_refused() {
    let saved = |len| postcard::to_allocvec(&vec![1u16; len]).unwrap();
    assert!(postcard::from_bytes::<Fifo>(&saved(16)).is_ok());
    assert!(postcard::from_bytes::<Fifo>(&saved(17)).is_err());
}
