//! The console: one serial line that the log, the guests and the monitor share.
//!
//! | module | what it is |
//! |---|---|
//! | [`mux`] | who may put the next bytes on the line |
//! | `compose` | what those bytes are |
//! | [`input`] | where what is typed goes |
//! | [`port`] | one guest's end: scrollback and what was typed to it |
//! | [`sequence`] | where an escape sequence ends |
//! | [`text`] | what of a guest's output may stand on a shared line |
//! | `terminal` | what a guest may have made of the terminal |
//! | [`keys`] | the escape key |
//! | [`frame`] | requests and answers among the text |
//! | [`settings`] | the boot arguments about the console |
//! | [`mod@tail`] | a guest's output for programs |
//! | [`wire`] | all of it on the host's UART; the one part with statics |

mod compose;
pub mod frame;
pub mod input;
pub mod keys;
mod log;
pub mod mux;
pub mod port;
pub mod ring;
pub mod sequence;
pub mod settings;
pub mod tail;
mod terminal;
pub mod text;
pub mod wire;

pub use self::log::{Level, set_level};
pub use mux::{End, View};
pub use settings::Settings;
pub use wire::{
    Emergency, GuestLine, Work, answer, deadline, end, flush, init, leave_monitor, leave_the_dead,
    listen, reply, ripen, select, set_clock, set_names, set_settings, tail, take_work, tell_keys,
    type_to, visit,
};
