//! Claims about the bus: who answers, and in which order levels are told.

use super::*;
use crate::device::pl011::Pl011;
use crate::device::pl031::Pl031;
use crate::device::pl061::{Button, Pl061};
use crate::device::serial::ScriptedLine;
use crate::sync::atomic::AtomicU32;
use crate::time::Frequency;
use crate::virtio::slot::EmptySlots;
use crate::vm::layout;
use alloc::sync::Arc;
use alloc::vec;
use core::num::NonZeroU32;
use core::time::Duration;
use proptest::prelude::*;
use std::sync::mpsc;
use std::thread;

/// Holds its interrupt high, but for a moment at each write.
struct Impatient {
    fallen: bool,
}

impl Device for Impatient {
    fn read(&mut self, _offset: u64, _width: Width, _now: Ticks) -> u64 {
        0
    }

    fn write(&mut self, _offset: u64, _width: Width, _value: u64, _now: Ticks) {
        self.fallen = true;
    }

    fn irq_level(&self) -> bool {
        true
    }

    fn has_fallen(&mut self) -> bool {
        core::mem::take(&mut self.fallen)
    }

    fn reset(&mut self) {}
}

/// Is raised from outside by another CPU just when its level is looked at.
#[derive(Default)]
struct Raised(AtomicU32);

impl Device for Raised {
    fn read(&mut self, _offset: u64, _width: Width, _now: Ticks) -> u64 {
        self.0.load(Ordering::Relaxed).into()
    }

    fn polled(&self) -> Option<(u64, u32)> {
        Some((0, self.0.load(Ordering::Relaxed)))
    }

    fn write(&mut self, _offset: u64, _width: Width, _value: u64, _now: Ticks) {}

    fn irq_level(&self) -> bool {
        self.0.store(1, Ordering::Relaxed);
        true
    }

    fn reset(&mut self) {}
}

#[test]
fn who_is_interrupted_finds_out_why() {
    let at = Ipa::new(0x1000);
    let device = Box::new(Raised::default());
    let raised = Peripheral::new(Region::new(at, 0x1000).unwrap(), device).with_irq(IntId(40));
    let bus = Bus::new(vec![raised]).ok().unwrap();
    assert_eq!(bus.peek(at), Some(0));
    let mut seen = None;
    // The driver is on another CPU, and looks as soon as it is told.
    bus.write(at, Width::Word, 1, NOW, |_, level| seen = Some((level, bus.peek(at))));
    assert_eq!(seen, Some((true, Some(1))));
}

/// Answers with its tag and the offset, and holds its interrupt at the last bit written.
struct Probe {
    tag: u64,
    level: bool,
    deadline: Option<Ticks>,
}

impl Device for Probe {
    fn read(&mut self, offset: u64, _width: Width, _now: Ticks) -> u64 {
        self.tag << 56 | 0xffff_0000 | offset
    }

    fn write(&mut self, _offset: u64, _width: Width, value: u64, _now: Ticks) {
        assert_eq!(value & !1, 0, "the bus clears what the access does not move");
        self.level = value == 1;
    }

    fn irq_level(&self) -> bool {
        self.level
    }

    fn advance(&mut self, now: Ticks) {
        self.level |= self.deadline.is_some_and(|deadline| deadline <= now);
    }

    fn deadline(&self) -> Option<Ticks> {
        self.deadline.filter(|_| !self.level)
    }

    fn reset(&mut self) {
        self.level = false;
    }
}

const NOW: Ticks = Ticks(0);
const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];

fn probe(tag: u64, start: u64, size: u64, deadline: Option<u64>) -> Peripheral {
    let window = Region::new(Ipa::new(start), size).unwrap();
    let device = Probe { tag, level: false, deadline: deadline.map(Ticks) };
    Peripheral::new(window, Box::new(device))
}

fn unwired(_: IntId, _: bool) {
    panic!("no interrupt is connected");
}

/// What a call reports to `line`.
fn lines(call: impl FnOnce(&mut dyn FnMut(IntId, bool))) -> Vec<(IntId, bool)> {
    let mut seen = Vec::new();
    call(&mut |irq, level| seen.push((irq, level)));
    seen
}

#[test]
fn an_access_reaches_the_device_whose_window_holds_it() {
    let bus = Bus::new(vec![probe(2, 0x2000, 0x1000, None), probe(1, 0x1000, 0x1000, None)]);
    let bus = bus.ok().unwrap();
    let read = |ipa, width| Some(bus.read(Ipa::new(ipa), width, NOW, unwired)?.0);
    assert_eq!(read(0x1008, Width::Double), Some(1 << 56 | 0xffff_0008));
    assert_eq!(read(0x1ff8, Width::Double), Some(1 << 56 | 0xffff_0ff8));
    assert_eq!(read(0x2000, Width::Double), Some(2 << 56 | 0xffff_0000));
    assert_eq!(read(0x0ff8, Width::Double), None);
    assert_eq!(read(0x3000, Width::Byte), None);
    assert_eq!(read(u64::MAX - 7, Width::Double), None);
}

#[test]
fn a_value_is_zero_extended_from_the_width_of_the_access() {
    let bus = Bus::new(vec![probe(1, 0x1000, 0x1000, None)]).ok().unwrap();
    let read = |width| Some(bus.read(Ipa::new(0x1010), width, NOW, unwired)?.0);
    assert_eq!(read(Width::Byte), Some(0x10));
    assert_eq!(read(Width::Half), Some(0x0010));
    assert_eq!(read(Width::Word), Some(0xffff_0010));
    assert_eq!(bus.write(Ipa::new(0x1000), Width::Byte, u64::MAX << 8, NOW, unwired), Some(false));
}

#[test]
fn an_access_that_is_misaligned_or_crosses_the_windows_end_reaches_nothing() {
    let bus = Bus::new(vec![probe(1, 0x1000, 0x1004, None)]).ok().unwrap();
    for width in WIDTHS {
        for offset in 0..0x10 {
            let ipa = Ipa::new(0x1000 + offset);
            let answers = offset.is_multiple_of(width.bytes());
            assert_eq!(bus.read(ipa, width, NOW, unwired).is_some(), answers);
            assert_eq!(bus.write(ipa, width, 0, NOW, unwired).is_some(), answers);
        }
    }
    assert!(bus.read(Ipa::new(0x2000), Width::Word, NOW, unwired).is_some());
    assert!(bus.read(Ipa::new(0x2000), Width::Double, NOW, unwired).is_none());
}

#[test]
fn a_window_may_touch_the_top_of_the_address_space() {
    let bus = Bus::new(vec![probe(1, u64::MAX - 7, 8, None)]).ok().unwrap();
    assert_eq!(bus.read(Ipa::new(u64::MAX), Width::Byte, NOW, unwired), Some((7, false)));
    assert!(bus.read(Ipa::new(u64::MAX - 7), Width::Double, NOW, unwired).is_some());
}

#[test]
fn devices_that_overlap_are_refused() {
    let region = |start, size| Region::new(Ipa::new(start), size).unwrap();
    let outer = probe(1, 0x1000, 0x3000, None);
    let inner = probe(2, 0x2000, 0x1000, None);
    let conflict = Bus::new(vec![inner, outer]).err().unwrap();
    assert_eq!(conflict, Conflict::Overlap(region(0x1000, 0x3000), region(0x2000, 0x1000)));
}

#[test]
fn devices_that_share_an_interrupt_are_refused() {
    let irq = IntId::spi(3);
    let [a, b, c] = [0x1000, 0x2000, 0x3000].map(|start| probe(1, start, 0x1000, None));
    let conflict = Bus::new(vec![a.with_irq(irq), b, c.with_irq(irq)]).err();
    assert_eq!(conflict, Some(Conflict::SharedIrq(irq)));
}

#[test]
fn an_access_reports_the_level_it_leaves_if_that_is_another_than_before() {
    let irq = IntId::spi(3);
    let bus = Bus::new(vec![probe(1, 0x1000, 0x1000, None).with_irq(irq)]).ok().unwrap();
    let ipa = Ipa::new(0x1000);
    let write = |value| {
        lines(|line| assert_eq!(bus.write(ipa, Width::Word, value, NOW, line), Some(false)))
    };
    let read = |ipa| {
        lines(|line| {
            let _ = bus.read(ipa, Width::Word, NOW, line);
        })
    };
    assert_eq!(read(ipa), [(irq, false)]);
    assert_eq!(write(1), [(irq, true)]);
    assert_eq!(write(1), []);
    assert_eq!(read(ipa), []);
    assert_eq!(write(0), [(irq, false)]);
    assert_eq!(read(Ipa::new(0)), []);
}

#[test]
fn an_output_that_was_low_only_between_two_looks_is_reported_as_an_edge() {
    let window = Region::new(Ipa::new(0), 0x1000).unwrap();
    let device = Peripheral::new(window, Box::new(Impatient { fallen: false }));
    let bus = Bus::new(vec![device.with_irq(IntId(40))]).unwrap();
    let read = || lines(|line| assert!(bus.read(Ipa::new(0), Width::Word, NOW, line).is_some()));
    let write =
        || lines(|line| assert!(bus.write(Ipa::new(0), Width::Word, 1, NOW, line).is_some()));
    assert_eq!(read(), [(IntId(40), true)]);
    assert_eq!(read(), []);
    assert_eq!(write(), [(IntId(40), false), (IntId(40), true)]);
    assert_eq!(read(), []);
}

#[test]
fn a_poll_at_the_earliest_deadline_raises_that_devices_interrupt() {
    let [early, late] = [IntId::spi(1), IntId::spi(2)];
    let bus = Bus::new(vec![
        probe(1, 0x1000, 0x1000, Some(900)).with_irq(late),
        probe(2, 0x2000, 0x1000, Some(400)).with_irq(early),
        probe(3, 0x3000, 0x1000, None),
    ]);
    let bus = bus.ok().unwrap();
    assert_eq!(bus.deadline(), Some(Ticks(400)));
    let poll = |now| lines(|line| bus.poll(Ticks(now), line));
    let signal = |irq, line: &mut dyn FnMut(IntId, bool)| {
        assert!(!bus.signal(irq, Signal::Input, Ticks(900), line));
    };
    assert_eq!(poll(399), []);
    assert_eq!(poll(400), [(early, true)]);
    assert_eq!(bus.deadline(), Some(Ticks(900)));
    assert_eq!(lines(|line| signal(late, line)), [(late, true)]);
    assert_eq!(lines(|line| signal(IntId::spi(9), line)), []);
    assert_eq!(bus.deadline(), None);
    assert_eq!(lines(|line| bus.reset(line)), [(late, false), (early, false)]);
    // Also when nothing has changed: who is told begins anew.
    assert_eq!(lines(|line| bus.reset(line)), [(late, false), (early, false)]);
}

#[test]
fn who_makes_a_device_due_earlier_is_told_so() {
    let clock = Pl031::new(Frequency(NonZeroU32::new(1000).unwrap()), Ticks(0), 0);
    let bus = Bus::new(vec![Peripheral::new(layout::RTC.region(), Box::new(clock))]).unwrap();
    let set = |offset: u64, value| {
        let ipa = Ipa::new(layout::RTC.base.raw() + offset);
        bus.write(ipa, Width::Word, value, NOW, |_, _| {})
    };
    let (match_register, mask) = (0x4, 0x10);
    assert_eq!((set(match_register, 9), bus.deadline()), (Some(false), None));
    assert_eq!((set(mask, 1), bus.deadline()), (Some(true), Some(Ticks(9000))));
    assert_eq!((set(match_register, 12), bus.deadline()), (Some(false), Some(Ticks(12000))));
    assert_eq!((set(match_register, 3), bus.deadline()), (Some(true), Some(Ticks(3000))));
    assert_eq!((set(mask, 0), bus.deadline()), (Some(false), None));
}

#[test]
fn a_level_is_reported_before_another_vcpu_reaches_the_device() {
    let bus = Bus::new(vec![probe(1, 0x1000, 0x1000, None).with_irq(IntId::spi(3))]).ok().unwrap();
    let (reports, reported) = mpsc::channel();
    let write = |value, line: &dyn Fn(bool)| {
        bus.write(Ipa::new(0x1000), Width::Word, value, NOW, |_, level| line(level)).unwrap();
    };
    thread::scope(|scope| {
        write(1, &|level| {
            scope.spawn(|| write(0, &|level| reports.send(level).unwrap()));
            // Time enough for the other one, were the device free.
            thread::sleep(Duration::from_millis(50));
            reports.send(level).unwrap();
        });
    });
    assert_eq!(reported.try_iter().collect::<Vec<_>>(), [true, false]);
}

#[test]
fn the_guest_machines_devices_answer_on_one_bus() {
    let uart = Box::new(Pl011::new(Arc::new(ScriptedLine::default())));
    let frequency = Frequency(NonZeroU32::new(62_500_000).unwrap());
    let clock = Box::new(Pl031::new(frequency, NOW, 0));
    let gpio = Box::new(Pl061::new(Button { pin: 3, hold: Ticks(5) }));
    let bus = Bus::new(vec![
        Peripheral::new(layout::VIRTIO.region(), Box::new(EmptySlots)),
        Peripheral::new(layout::UART.region(), uart).with_irq(layout::UART_IRQ),
        Peripheral::new(layout::RTC.region(), clock).with_irq(layout::RTC_IRQ),
        Peripheral::new(layout::GPIO.region(), gpio).with_irq(layout::GPIO_IRQ),
    ]);
    let bus = bus.ok().unwrap();
    let read = |ipa| Some(bus.read(Ipa::new(ipa), Width::Word, NOW, |_, level| assert!(!level))?.0);
    assert_eq!(read(0x0900_0fe0), Some(0x11));
    assert_eq!(read(0x0901_0fe0), Some(0x31));
    assert_eq!(read(0x0903_0fe0), Some(0x61));
    assert_eq!(read(0x0a00_3e00), Some(0x7472_6976));
    assert_eq!(read(0x0a00_4000), None);
    assert_eq!(bus.deadline(), None);
    let sent = lines(|line| {
        let imsc = Ipa::new(layout::UART.base.raw() + 0x38);
        bus.write(imsc, Width::Word, 1 << 5, NOW, |_, _| {}).unwrap();
        bus.write(layout::UART.base, Width::Byte, 0x41, NOW, line).unwrap();
    });
    assert_eq!(sent, [(layout::UART_IRQ, true)]);
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    #[test]
    fn the_bus_finds_what_a_search_of_all_windows_finds(
        sizes in prop::collection::vec((1u64..0x20, 0u64..0x10), 0..8),
        ipa in 0u64..0x180,
        width in prop::sample::select(&WIDTHS[..]),
    ) {
        let mut start = 0;
        let mut windows = Vec::new();
        for (tag, (size, gap)) in sizes.into_iter().enumerate() {
            windows.push((tag as u64, start + gap, size));
            start += gap + size;
        }
        let peripherals = windows.iter().map(|&(tag, start, size)| probe(tag, start, size, None));
        let bus = Bus::new(peripherals.rev().collect()).ok().unwrap();
        let bytes = width.bytes();
        let expected = windows
            .iter()
            .find(|&&(_, start, size)| start <= ipa && ipa + bytes <= start + size)
            .filter(|_| ipa % bytes == 0)
            .map(|&(tag, start, _)| (tag << 56 | 0xffff_0000 | (ipa - start)) & width.mask());
        let read = bus.read(Ipa::new(ipa), width, NOW, unwired);
        prop_assert_eq!(read, expected.map(|value| (value, false)));
    }
}

/// Whatever is done to a UART, what its polled register reads as is known without asking.
#[test]
fn a_peek_is_what_a_read_gives() {
    const FR: u64 = 0x18;
    let line = Arc::new(ScriptedLine::default());
    let uart = Peripheral::new(layout::UART.region(), Box::new(Pl011::new(line.clone())));
    let bus = Bus::new(vec![uart.with_irq(layout::UART_IRQ)]).unwrap();
    let at = |offset: u64| Ipa::new(layout::UART.base.raw() + offset);
    let told = |_: IntId, _: bool| {};
    let (mut peeked, mut left) = (0, 0);
    for (offset, value) in
        [(0x30, 0x301), (0x2c, 0x70), (0, 0x41), (0x30, 0x381), (0, 0x42), (0x2c, 0)]
    {
        bus.write(at(offset), Width::Word, value, NOW, told).unwrap();
        line.type_in(b"x");
        // The line says by itself that something came.
        bus.signal(layout::UART_IRQ, Signal::Input, NOW, told);
        match bus.peek(at(FR)) {
            Some(flags) => {
                let read = bus.read(at(FR), Width::Word, NOW, told).unwrap();
                assert_eq!(u64::from(flags), read.0);
                peeked += 1;
            }
            None => left += 1,
        }
    }
    assert!(peeked > 0, "{left} were left");
    assert_eq!((bus.peek(at(0)), bus.peek(at(0x1000))), (None, None));
}
