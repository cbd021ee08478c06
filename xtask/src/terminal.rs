//! The user's terminal: raw while a guest has it, and given back on every way out.

use std::io::IsTerminal;
use std::sync::Mutex;

use anyhow::{Context, Result};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};

/// The key that ends a run: Ctrl-].
pub const ESCAPE: u8 = 0x1d;

/// How the terminal was before we touched it. Static, because a panic and a signal must find it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal in raw mode, until this is dropped.
pub struct Raw(());

impl Raw {
    /// Hands keys on one by one and unchanged. `None` when standard input is no terminal, or is
    /// that of another job.
    pub fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || tcgetpgrp(&stdin).ok()? != rustix::process::getpgrp() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        // Output is left as it is: our own lines end in a plain line feed.
        raw.local_modes -= LocalModes::ICANON
            | LocalModes::ECHO
            | LocalModes::ECHONL
            | LocalModes::ISIG
            | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::IXON
            | InputModes::ICRNL
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ISTRIP
            | InputModes::BRKINT;
        raw.control_modes |= ControlModes::CS8;
        *BEFORE.lock().unwrap_or_else(|broken| broken.into_inner()) = Some(before);
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(()))
    }
}

/// Starts a session whose controlling terminal is standard input, as a login does.
pub fn own() -> Result<()> {
    rustix::process::setsid().context("no new session")?;
    rustix::process::ioctl_tiocsctty(std::io::stdin()).context("standard input is no terminal")
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was found. Does nothing when it was never touched.
pub fn restore() {
    // A panic may come while the lock is held; waiting for ourselves would hang.
    if let Ok(mut before) = BEFORE.try_lock()
        && let Some(before) = before.take()
    {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
    }
}

/// Restores the terminal before a panic is printed; development builds abort on panic and run no
/// destructors.
pub fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        print(panic);
    }));
}
