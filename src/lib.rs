//! Plinth, an ARM64 bare-metal type-1 hypervisor.
//!
//! The map of the crate. Everything but `arch` is arithmetic and runs on the developer's PC;
//! `arch` does not exist on the host target, so a pure file that reaches for it does not compile.
//!
//! | module | what it is |
//! |---|---|
//! | [`addr`] | physical and guest-physical addresses, and regions of them |
//! | [`time`] | counter ticks and their frequency |
//! | [`machine`] | the one big seam: this CPU, or a scripted one |
//! | [`a64`] | loads and stores decoded from the instruction |
//! | [`exit`] | why a guest stopped: syndromes decoded once |
//! | [`hypervisor`] | what all CPUs share |
//! | [`cpu`] | the loop: pick a vCPU, run it, handle its exit, apply the outcome |
//! | [`sched`] | which vCPU a CPU runs next |
//! | [`sync`] | locks and atomics |
//! | [`vcpu`] | one virtual CPU's state |
//! | [`vm`] | one virtual machine: creation, exits, trapped registers, life cycle |
//! | [`memory`] | frames, stage-2 tables, checked access to guest memory |
//! | [`vgic`] | the interrupt controller a guest sees |
//! | [`device`] | the IPA bus and the plain devices on it |
//! | [`virtio`] | virtio over MMIO |
//! | [`net`] | the switch between guests' network cards |
//! | [`host`] | the machine's own network cards and disks |
//! | [`firmware`] | what a guest takes for its firmware |
//! | [`console`] | the host's serial line, shared by the log, the guests and the monitor |
//! | [`monitor`] | the shell, and its machine-readable twin |
//! | [`mitigation`] | what each CPU needs against speculation that a guest steers |
//! | [`manifest`] | the boot bundle: which guests to run |
//! | [`platform`] | what differs between boards |

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod a64;
pub mod addr;
pub mod console;
#[cfg(not(target_os = "none"))]
mod copy;
pub mod cpu;
mod crc32;
pub mod device;
pub mod exit;
pub mod firmware;
#[cfg(all(debug_assertions, not(miri), not(target_os = "none")))]
#[path = "memory/ghost.rs"]
mod ghost;
#[cfg(any(not(debug_assertions), miri, target_os = "none"))]
#[path = "memory/no_ghost.rs"]
mod ghost;
pub mod host;
pub mod hypervisor;
pub mod machine;
pub mod manifest;
pub mod memory;
pub mod mitigation;
pub mod monitor;
pub mod net;
pub mod sched;
#[cfg(not(target_os = "none"))]
mod speculation;
pub mod sync;
#[cfg(test)]
mod testing;
pub mod time;
pub mod vcpu;
pub mod vgic;
pub mod virtio;
pub mod vm;

#[path = "../platform/mod.rs"]
pub mod platform;

#[cfg(target_os = "none")]
pub mod arch;
#[cfg(target_os = "none")]
use arch::memory as copy;
#[cfg(target_os = "none")]
use arch::speculation;
