//! Two vCPUs with two list registers each and three interrupts: every sequence of what guests, devices and the hypervisor do,
//! against the reference, to some depth.

use core::hash::{Hash, Hasher};
use std::collections::HashSet;
use std::hash::DefaultHasher;

use super::property::{Run, Step};
use super::*;
use crate::testing::bound;

const SGI: u16 = 2;
const PPI: u16 = 27;
const SPI: u16 = 48;

/// How many steps a sequence has.
const DEPTH: usize = bound(5, 3, 1);

/// Every step, with the vCPU that makes it and the interrupt it is about.
fn steps(version: GicVersion) -> Vec<(u8, u16, Step)> {
    let mut steps = Vec::new();
    for v in 0..2 {
        steps.extend((1..4).map(|list| (v, SGI, Step::Sgi(list))));
        steps.extend([true, false].map(|high| (v, PPI, Step::Level(high))));
        steps.extend([true, false].map(|synced| (v, 0, Step::Acknowledge { synced })));
        steps.extend(
            [Step::End, Step::Deactivate(0), Step::Unload, Step::Rest].map(|step| (v, 0, step)),
        );
    }
    for on in [true, false] {
        steps.extend([PPI, SPI].map(|intid| (0, intid, Step::Enable(on))));
        steps.extend(
            [Step::Level(on), Step::Pend(on), Step::Activate(on)].map(|step| (0, SPI, step)),
        );
        steps.push((0, SPI, Step::Priority(if on { 0x10 } else { 0 })));
        // By targets on GICv2, by its number on GICv3.
        let one = u8::from(on);
        steps.push((0, SPI, Step::Route(if version == GicVersion::V2 { 1 << one } else { one })));
    }
    steps
}

/// What makes one state another one than all others, but for the odds of 128 bits.
fn state(run: &Run) -> [u64; 2] {
    let mut model = postcard::to_allocvec(&run.machine.vgic).unwrap();
    for cpu in &run.machine.cpus {
        let mut cpu = cpu.clone();
        // They only count.
        (cpu.writes, cpu.deactivated) = (0, Vec::new());
        model.extend(format!("{cpu:?}").bytes());
    }
    [0, 1].map(|half: u8| {
        let mut hasher = DefaultHasher::new();
        (half, &model, &run.handling, &run.dropped).hash(&mut hasher);
        run.reference.hash(&mut hasher);
        hasher.finish()
    })
}

/// Where two sequences lead to the same state, one of them is gone on with. Returns how many there are.
fn every_sequence(version: GicVersion, list_registers: usize, eoi_mode: bool) -> usize {
    let steps = steps(version);
    let begin = Run::about(&[SGI, PPI, SPI], version, 2, list_registers, eoi_mode);
    let mut seen = HashSet::from([state(&begin)]);
    let mut now = vec![begin];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for run in now {
            for (v, intid, step) in &steps {
                let mut run = run.clone();
                run.step(*v, *intid, *step);
                if seen.insert(state(&run)) {
                    run.clone().compare();
                    next.push(run);
                }
            }
        }
        now = next;
    }
    // In the end all of it can be taken and ended.
    now.into_iter().step_by(bound(16, 1, 1)).for_each(|mut run| run.drain());
    seen.len()
}

#[test]
fn no_sequence_of_gicv2_tells_two_list_registers_from_the_reference() {
    println!("{} states", every_sequence(GicVersion::V2, 2, false));
}

#[test]
fn no_sequence_of_gicv3_tells_two_list_registers_from_the_reference() {
    println!("{} states", every_sequence(GicVersion::V3, 2, false));
}

#[test]
fn no_sequence_of_two_ends_tells_four_list_registers_from_the_reference() {
    println!("{} states", every_sequence(GicVersion::V3, 4, true));
}
