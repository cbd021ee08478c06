//! A UART that never drains: what is sent to it is bounded, guests go on, and what was lost is said when it drains again.

use super::*;
use crate::console::port::LONGEST_PIECE;
use crate::platform::board::UartKind;
use crate::platform::driver::fake::FakePages;
use crate::testing::pick;

/// PL011 (DDI 0183): UARTFR, its TXFF; UARTDR; UARTIMSC, its TXIM.
const UARTFR: usize = 0x18;
const TXFF: u32 = 1 << 5;
const UARTDR: usize = 0;
const UARTIMSC: usize = 0x38;
const TXIM: u32 = 1 << 5;

const GUEST: VmId = VmId(0);

/// The console on a UART without room, and its registers.
fn stuck(interrupts: bool) -> (FakePages, Host) {
    let page = FakePages::new(0x1000);
    page.write(UARTFR, TXFF);
    let uart = Uart::new(UartKind::Pl011, page.mmio()).unwrap();
    let mut mux = Mux::new(Settings::default());
    mux.attach(GUEST, "one");
    let host = Host {
        uart: Some(uart),
        mux: Some(mux),
        interrupts: interrupts.then_some((true, false)),
        closed: false,
        stalled: 0,
        dropped: 0,
        column: 0,
    };
    (page, host)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn one_byte_in_some_thousand_is_waited_for_and_the_others_are_dropped() {
    let (page, mut host) = stuck(false);
    let each = u64::from(STALL) + 1;
    let bytes = 2 * each + 10;
    for _ in 0..bytes {
        host.put(b'x');
    }
    // Three were: the last is ten ago.
    assert_eq!((host.dropped, host.stalled), (bytes, STALL - 9));
    assert_eq!(page.word(UARTDR), 0, "none went out");
    // As soon as it is tried again they go out.
    page.write(UARTFR, 0u32);
    for _ in 0..STALL - 9 {
        host.put(b'y');
        assert_eq!(page.word(UARTDR), 0);
    }
    host.put(b'z');
    assert_eq!((page.word(UARTDR), host.stalled), (u32::from(b'z'), 0));
}

#[test]
fn what_was_dropped_is_said_once_the_line_drains() {
    let (page, mut host) = stuck(false);
    let log = |host: &mut Host, text: &str| {
        host.mux.as_mut().unwrap().log(format_args!("{text}\n"));
        host.drain(at(1));
    };
    log(&mut host, &"lost ".repeat(20));
    assert!(host.dropped > 100, "{}", host.dropped);
    page.write(UARTFR, 0u32);
    for _ in 0..pick(100, 40) {
        log(&mut host, &"x".repeat(100));
    }
    let mux = host.mux.as_ref().unwrap();
    assert_eq!((host.dropped, host.stalled, mux.has_log()), (0, 0, false));
}

#[test]
fn a_guest_goes_on_and_the_uart_is_asked_to_tell_when_it_has_room() {
    let (page, mut host) = stuck(true);
    let mut sent = 0;
    for second in 0..10 {
        for _ in 0..pick(10_000, 1000) {
            sent += usize::from(host.mux.as_mut().unwrap().send(GUEST, b'a', at(second)));
        }
        host.mux.as_mut().unwrap().log(format_args!("a line\n"));
        host.pump(at(second));
        assert_eq!((host.interrupts, page.word(UARTDR)), (Some((true, true)), 0));
    }
    assert_eq!(page.word(UARTIMSC) & TXIM, TXIM);
    // It is held up while the line may still move, and not once it has not for long.
    assert!(sent >= pick(80_000, 5000), "{sent}");
    page.write(UARTFR, 0u32);
    host.pump(at(11));
    assert_ne!(page.word(UARTDR), 0, "it goes on where it was");
}

#[test]
fn last_words_end_though_nobody_takes_them() {
    for interrupts in [false, true] {
        let (_page, mut host) = stuck(interrupts);
        for line in 0..200 {
            host.mux.as_mut().unwrap().log(format_args!("line {line}\n"));
        }
        host.take_over(at(1));
        host.text("the end\n");
        assert!(host.closed && !host.mux.as_ref().unwrap().has_log());
        assert!(host.dropped > 1500, "{}", host.dropped);
        // Nothing else is sent any more.
        let dropped = host.dropped;
        host.pump(at(2));
        assert_eq!(host.dropped, dropped);
    }
}

#[test]
fn pieces_of_which_nothing_shows_are_passed_over_one_by_one_and_all_are_drained() {
    let (page, mut host) = stuck(false);
    page.write(UARTFR, 0u32);
    let mux = host.mux.as_mut().unwrap();
    mux.attach(VmId(1), "two");
    let unshown = |mux: &Mux| mux.port(GUEST).unwrap().unshown();
    let fill = |mux: &mut Mux| {
        while mux.send(GUEST, 0x01, at(1)) {}
        assert!(unshown(mux) >= 4096);
    };
    fill(mux);
    let mut times = 0;
    while unshown(mux) > 0 {
        let before = unshown(mux);
        assert_eq!(mux.next(at(1)), None);
        assert!(before - unshown(mux) <= LONGEST_PIECE as u64);
        assert!(mux.again && mux.deadline(at(1)) == Some(at(1)), "who has looked comes back");
        times += 1;
    }
    assert!(times >= 16);
    fill(mux);
    host.drain(at(2));
    assert_eq!(unshown(host.mux.as_ref().unwrap()), 0);
}
