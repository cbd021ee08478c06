//! One virtual machine.

pub mod debug;
pub mod idregs;
pub mod layout;
pub mod ptimer;
pub mod sysreg;
