//! The hypervisor's own log: the `log` crate's messages as lines on the host's serial line.

use core::fmt::{self, Display};
use core::str::FromStr;
use core::time::Duration;

use ::log::{LevelFilter, Log, Metadata, Record};

use super::wire;

struct Logger;

static LOGGER: Logger = Logger;

/// How much is logged, as the bootargs say it: `off`, `error`, `warn`, `info`, `debug` or `trace`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Level(pub LevelFilter);

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

/// Log to the console at `level` from now on.
pub fn init(level: Level) {
    set_level(level.0);
    // Fails only when it was set before.
    let _ = ::log::set_logger(&LOGGER);
}

/// Log at `level` from now on.
pub fn set_level(level: LevelFilter) {
    ::log::set_max_level(level);
}

/// What stands before a line of the hypervisor: the time since the log began, and the level.
pub struct Stamp(pub Duration, pub ::log::Level);

impl Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, micros) = (self.0.as_secs(), self.0.subsec_micros());
        write!(f, "plinth [{secs:3}.{micros:06}] {:5}", self.1)
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let stamp = Stamp(wire::now(), record.level());
        wire::log(format_args!("{stamp} {}\n", record.args()));
    }

    fn flush(&self) {}
}
