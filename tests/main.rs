//! The whole hypervisor over scripted CPUs and devices, and its drivers over scripted ones: one program, as each takes long to
//! link. Those whose allocator or log is their own are programs of their own.

#[path = "common/asking.rs"]
mod asking;
mod common;
#[path = "common/disk.rs"]
mod disk;

mod agents;
mod assigned;
mod balloon;
mod cards;
mod config;
mod consoles;
mod crash;
mod devices;
mod disks;
mod faults;
mod hang;
mod host;
mod host_disks;
mod host_disks_life;
mod interrupts;
mod life;
mod lifecycle;
mod loading;
mod quick;
mod reset;
mod scale;
mod set_way;
mod sharing;
mod sockets;
mod stolen;
mod undescribed;
mod virtio;
mod waits;
mod widths;
