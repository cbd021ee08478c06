//! Any accesses to the PL011 and any bytes from its line. Its state can be saved at any time, no byte
//! is lost on its way out, and its interrupt output is what `UARTMIS` says.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use plinth::device::Device;
use plinth::device::pl011::Pl011;
use plinth::device::serial::ScriptedLine;
use plinth::exit::Width;
use plinth::time::Ticks;
use plinth_fuzz::Access;

const UARTFR: u64 = 0x018;
const UARTMIS: u64 = 0x040;

#[derive(Arbitrary, Debug)]
enum Step {
    Access(Access),
    Typed(Vec<u8>),
    Reset,
    Restore,
    Room(Option<u8>),
}

fuzz_target!(|steps: Vec<Step>| {
    let line = Arc::new(ScriptedLine::default());
    let mut uart = Pl011::new(Arc::clone(&line));
    let (mut sent, mut stuffed) = (0, false);
    for step in steps {
        match step {
            Step::Access(access) => {
                sent += usize::from(access.offset == 0 && access.write.is_some() && !stuffed);
                access.perform(&mut uart);
            }
            Step::Typed(bytes) => {
                line.type_in(&bytes);
                uart.advance(Ticks(0));
            }
            Step::Reset => {
                line.set_room(None);
                uart.advance(Ticks(0));
                uart.reset();
            }
            Step::Room(room) => line.set_room(room.map(usize::from)),
            Step::Restore => uart = Pl011::restore(Arc::clone(&line), uart.state().clone()),
        }
        let masked = uart.read(UARTMIS, Width::Word, Ticks(0));
        assert_eq!(uart.irq_level(), masked != 0);
        let flags = uart.read(UARTFR, Width::Word, Ticks(0));
        stuffed = flags & 1 << 5 != 0;
        assert_ne!(flags & 1 << 7 != 0, flags & 1 << 3 != 0, "TXFE or BUSY");
        assert_ne!(flags & (1 << 6 | 1 << 4), 1 << 6 | 1 << 4, "RXFF and RXFE");
    }
    line.set_room(None);
    uart.advance(Ticks(0));
    assert_eq!(line.take_output().len(), sent);
});
