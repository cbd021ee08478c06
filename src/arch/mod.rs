//! The aarch64-only half: the only `asm!`, the real [`Machine`](crate::machine::Machine).
//!
//! | module | what it is |
//! |---|---|
//! | [`boot`] | the assembly before Rust, the image's layout |
//! | [`start`] | the boot story |
//! | [`smp`] | the other CPUs |
//! | [`mmu`] | EL2's own address space |
//! | [`traps`] | which guest actions trap, and why |
//! | [`world`] | the world switch and the exception vectors |
//! | [`el1`] | the registers that stay in the CPU while a vCPU is loaded |
//! | [`gic`] | the physical GIC and the list registers |
//! | [`timer`] | the generic timer |
//! | [`watchdog`] | a CPU's look at itself |
//! | [`mitigation`] | what this CPU and its firmware do against speculation |
//! | [`maintenance`] | caches and TLBs |
//! | [`checksum`] | CRC-32 |
//! | [`memory`] | bytes copied |
//! | [`speculation`] | numbers that a guest chose, forced into a table |
//! | [`this_cpu`] | all of it as a `Machine` |
//! | [`heap`] | the heap |
//! | [`id_registers`] | what the CPU says of itself |
//! | [`crash`], [`power`], [`percpu`] | the last words |
//! | [`monitor`] | what the console asks for |
//! | [`host`] | the machine's own network cards and disks |
//! | [`provoke`] | faults on request, to test the last words |
//! | [`regs`] | registers that `aarch64-cpu` lacks |
#![allow(unsafe_code)]

pub mod boot;
pub mod checksum;
pub mod crash;
pub mod el1;
pub mod errata;
pub mod gic;
pub mod heap;
pub mod host;
pub mod id_registers;
pub mod maintenance;
pub mod memory;
pub mod mitigation;
pub mod mmu;
pub mod monitor;
pub mod percpu;
pub mod power;
pub mod provoke;
pub mod regs;
pub mod smp;
pub mod speculation;
pub mod start;
pub mod supply;
pub mod this_cpu;
pub mod timer;
pub mod traps;
pub mod watchdog;
pub mod world;
