//! The hypervisor's own log: the `log` crate's messages as lines on the host's serial line.

use core::fmt::{self, Write};
use core::str::FromStr;
use core::sync::atomic::{AtomicU64, Ordering};

use ::log::{LevelFilter, Log, Metadata, Record};
use spin::Once;

use super::HOST;
use crate::platform::driver::uart::Uart;
use crate::time::{Frequency, Ticks};

static CLOCK: Once<Clock> = Once::new();
static EMERGENCY: Once<Uart> = Once::new();
/// The counter when the log began.
static START: AtomicU64 = AtomicU64::new(0);

struct Clock {
    now: fn() -> Ticks,
    frequency: Frequency,
}

struct Logger;

static LOGGER: Logger = Logger;

/// How much is logged, as the bootargs say it: `off`, `error`, `warn`, `info`, `debug` or `trace`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Level(LevelFilter);

impl Default for Level {
    fn default() -> Self {
        Self(LevelFilter::Info)
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().map(Self).map_err(|_| ())
    }
}

/// Log to the console at `level` from now on. `emergency` is a second handle on the UART, for when
/// the first is locked for good.
pub fn init(level: Level, emergency: Uart) {
    EMERGENCY.call_once(|| emergency);
    ::log::set_max_level(level.0);
    // Fails only when it was set before.
    let _ = ::log::set_logger(&LOGGER);
}

/// Put the time since now before every line.
pub fn set_clock(now: fn() -> Ticks, frequency: Frequency) {
    START.store(now().0, Ordering::Relaxed);
    CLOCK.call_once(|| Clock { now, frequency });
}

pub(super) fn emergency_uart() -> Option<&'static Uart> {
    EMERGENCY.get()
}

struct Line<'a>(&'a mut super::Host);

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.text(text);
        Ok(())
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut host = HOST.lock();
        host.begin_line();
        let mut line = Line(&mut host);
        let micros = CLOCK.get().map_or(0, |clock| {
            let start = Ticks(START.load(Ordering::Relaxed));
            clock.frequency.to_micros((clock.now)().since(start))
        });
        let (secs, micros) = (micros / 1_000_000, micros % 1_000_000);
        let _ =
            writeln!(line, "plinth [{secs:3}.{micros:06}] {:5} {}", record.level(), record.args());
    }

    fn flush(&self) {}
}
