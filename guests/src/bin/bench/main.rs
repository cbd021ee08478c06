//! What does this machine charge for what a guest asks of it?
//!
//! Each row is measured by the virtual counter, read right before and right after, less what reading it twice
//! costs; with a counter that counts instructions (`cargo xtask bench`) it says how many were executed. A line is
//! `bench: ROW MIN MEDIAN MAX`. `rows=GROUP` on the command line says which rows:
//!
//! | group | rows |
//! |---|---|
//! | `traps` | calls, trapped registers, emulated devices (a virtio-mmio slot at `slot=BASE`), faults |
//! | `interrupts` | SGIs to itself, the virtual timer |
//! | `pair` | SGIs to the other CPU |
//! | `switch` | the other CPU's turn, where both share one |
//! | `descheduled` | SGIs to the other CPU, where a third is busy meanwhile |
//! | `device` | the interrupt of a PL011 that is the guest's own, `uart=BASE,INTID` |
//! | `disk` | requests to a virtio disk, counted from outside (see [`counted`]) |
//! | `net` | frames between two network cards of its own, counted from outside |
//! | `in-order`, `packed`, `packed-in-order` | some of both, by queues of that format |
//! | `net-pair` | frames to another guest, and back |
//! | `net-answer` | none: it is that other guest |
//! | `net-stream` | many frames at a time to another guest on its CPU, counted from outside |
//! | `net-sink` | none: it is that other guest, until the first is through; `HINT #0x73` where it has answered |
//! | `asleep` | a second of sleep, counted from outside |
//! | `scale` | an exit and a wake-up among many guests, named by `as=NAME` |
//! | `idle`, `spin` | none: it sleeps, or is busy, until others have measured |
//! | `yield` | none: it is busy for ever |
//! | `reset` | none: it asks for a reset |
//!
//! With `loop` a group goes on for ever, for who wants to watch.

#![no_std]
#![no_main]
#![expect(
    clippy::macro_metavars_in_unsafe,
    reason = "what is timed is an instruction with its operands"
)]

mod card;
mod counted;
mod cross;
mod device;
mod disk;
mod interrupts;
mod net;
mod sample;
mod scale;
mod traps;
mod vectors;

use guests::report::Report;
use guests::virtio::in_order::InOrder;
use guests::virtio::packed::Packed;
use guests::virtio::ring::Ring;
use guests::virtio::split::Split;
use guests::{machine, println};

guests::payload!(main);

fn main(report: &mut Report) {
    let tree = machine::tree();
    let words = tree.chosen().bootargs().unwrap_or_default();
    let option = |name| words.split_whitespace().find_map(|word| word.strip_prefix(name));
    let groups = option("rows=").unwrap_or("traps,interrupts");
    println!("bench: counter {} Hz", guests::timer::frequency());
    loop {
        for group in groups.split(',') {
            match group {
                "traps" => traps::measure(option("slot=").and_then(address)),
                "interrupts" => interrupts::measure(),
                "pair" => cross::measure_pair(),
                "switch" => cross::measure_switch(),
                "descheduled" => cross::measure_descheduled(),
                "device" => device::measure(words),
                "disk" => disk::measure(),
                "net" => net::measure(),
                "in-order" => virtio_by::<InOrder<Split>>(group),
                "packed" => virtio_by::<Packed>(group),
                "packed-in-order" => virtio_by::<InOrder<Packed>>(group),
                "net-pair" => net::measure_pair(),
                "net-answer" => net::answer(),
                "net-stream" => net::measure_stream(),
                "net-sink" => net::sink(),
                "asleep" => scale::asleep(),
                "scale" => scale::measure(option("as=").unwrap_or("scale")),
                "idle" => scale::idle(),
                "spin" => scale::spin(),
                "yield" => scale::give_way(),
                "reset" => scale::reset(),
                _ => println!("bench: unknown group {group}"),
            }
        }
        if !words.split_whitespace().any(|word| word == "loop") {
            return report.pass("all rows were measured");
        }
    }
}

/// What a disk and network cards cost by queues of one format, which is called so.
fn virtio_by<R: Ring>(format: &str) {
    disk::measure_by::<R>(format);
    net::measure_by::<R>(format);
}

/// A hexadecimal number.
fn address(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
