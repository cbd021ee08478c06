//! One virtual machine.

pub mod layout;
