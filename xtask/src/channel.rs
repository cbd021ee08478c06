//! The monitor's channel on the PC: frames on the machine's serial line at one end, a Unix socket for
//! any number of programs at the other.
//!
//! | module | what it is |
//! |---|---|
//! | [`frames`] | frames are taken out of the console's output |
//! | [`exchange`] | whose request is whose |
//! | [`outbox`] | what waits for a client that may be slow |
//! | [`server`] | `cargo xtask run`'s end of the socket |
//! | [`socket`] | where the socket is, and whose is alive |
//! | [`client`] | the other end: `cargo xtask ctl` and `top` |

pub mod client;
pub mod exchange;
pub mod frames;
mod outbox;
pub mod server;
pub mod socket;

#[cfg(test)]
mod tests;
