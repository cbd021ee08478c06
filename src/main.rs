//! Plinth's image. On the PC this is a stub: the hypervisor is bare metal.

#![cfg_attr(target_os = "none", no_std, no_main)]

// The image begins in `boot/entry.S`, which calls `plinth::arch::start`.
#[cfg(target_os = "none")]
use plinth as _;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("Plinth boots on bare metal: use `cargo xtask run`.");
    std::process::exit(2);
}
