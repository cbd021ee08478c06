//! Counts the lines that this thread logs.

use std::cell::Cell;
use std::sync::Once;

thread_local! {
    static LINES: Cell<u64> = const { Cell::new(0) };
}

/// The logger.
struct Counting;

impl log::Log for Counting {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        assert!(!format!("{}", record.args()).contains('\n'), "lines are counted");
        LINES.set(LINES.get() + 1);
    }

    fn flush(&self) {}
}

/// How many lines were logged meanwhile.
pub fn during(act: impl FnOnce()) -> u64 {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| log::set_logger(&Counting).unwrap());
    log::set_max_level(log::LevelFilter::Info);
    let before = LINES.get();
    act();
    LINES.get() - before
}
