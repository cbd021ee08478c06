//! Stage 2 against a model, on every geometry, watched by a checker of break-before-make.

mod changes;
mod checker;
mod exhaustive;
mod model;
#[cfg(all(debug_assertions, not(miri)))]
mod owners;
mod refusals;

use core::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use self::checker::{Checker, Tables};
use self::model::Change;
use super::descriptor::differ_in_permissions_only;
use super::*;
use crate::memory::{Operation, Ram, Recorder};

const KIB4: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const GIB: u64 = 1 << 30;

fn region(start: u64, size: u64) -> Region<Ipa> {
    Region::new(Ipa::new(start), size).unwrap()
}

fn ram(pa: u64) -> Mapping {
    Mapping { pa: PhysAddr::new(pa), memory: MemoryType::Ram, perms: Perms::RWX }
}

fn leaves(stage2: &Stage2) -> Vec<Leaf> {
    let mut found = Vec::new();
    let mut rest = Some(stage2.geometry().ipas());
    while let Some(leaf) = rest.and_then(|rest| stage2.first_leaf(&rest)) {
        found.push(leaf);
        rest = rest.and_then(|rest| rest.without(&leaf.ipas)[1]);
    }
    found
}

fn new_pool() -> FramePool {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(64 * KIB4, 16 * KIB4).unwrap(), &[]);
    pool
}

/// Runs `test` on a translation of 48 bits with nothing mapped, and checks what it leaves behind.
fn on_empty<C: Maintenance + Default>(test: impl FnOnce(&mut Stage2, &mut FramePool, &C)) {
    let (mut pool, mut vmids, cpu) = (new_pool(), Vmids::new(), C::default());
    let geometry = Geometry::new(48, PaRange::Bits48).unwrap();
    let mut stage2 = Stage2::new(geometry, &mut vmids, &mut pool, &cpu).unwrap();
    test(&mut stage2, &mut pool, &cpu);
    stage2.destroy(&mut vmids, &mut pool, &cpu);
    assert_eq!(pool.free_bytes(), pool.total_bytes());
}
