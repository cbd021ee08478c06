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
}

fuzz_target!(|steps: Vec<Step>| {
    let line = Arc::new(ScriptedLine::default());
    let mut uart = Pl011::new(Arc::clone(&line));
    let mut sent = 0;
    for step in steps {
        match step {
            Step::Access(access) => {
                sent += usize::from(access.offset == 0 && access.write.is_some());
                access.perform(&mut uart);
            }
            Step::Typed(bytes) => {
                line.type_in(&bytes);
                uart.advance(Ticks(0));
            }
            Step::Reset => uart.reset(),
            Step::Restore => uart = Pl011::restore(Arc::clone(&line), uart.state().clone()),
        }
        let masked = uart.read(UARTMIS, Width::Word, Ticks(0));
        assert_eq!(uart.irq_level(), masked != 0);
        let flags = uart.read(UARTFR, Width::Word, Ticks(0));
        assert_eq!(flags & 1 << 7, 1 << 7, "TXFE: nothing ever waits to be sent");
        assert_ne!(flags & (1 << 6 | 1 << 4), 1 << 6 | 1 << 4, "RXFF and RXFE");
    }
    assert_eq!(line.take_output().len(), sent);
});
