//! Any sequence of map, unmap and protect on a stage-2 translation that runs out of tables at any
//! time, against a map of intervals. Valid descriptors only ever change their permissions in place
//! (all else is break-before-make), and no table is lost.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::addr::{Ipa, PAGE_SIZE, PhysAddr, Region};
use plinth::memory::{
    Block, Dirty, FramePool, Geometry, MapError, MemoryType, Operation, PaRange, Perms, Ram,
    Recorder, Stage2, TableFrames, Vmids,
};

/// `VALID`, `S2AP` and `XN` of a descriptor (Arm ARM, "Stage 2 attribute fields").
const VALID: u64 = 1;
const PERMISSIONS: u64 = 3 << 6 | 3 << 53;

#[derive(Debug)]
enum Kind {
    Map { pa: u64, perms: Perms },
    Unmap,
    Protect(Perms),
}

#[derive(Debug)]
struct Step {
    start: u64,
    size: u64,
    kind: Kind,
}

#[derive(Debug)]
struct Input {
    ipa_bits: u32,
    tables: u8,
    steps: Vec<Step>,
}

/// An address near a boundary of some level, or any.
fn address(u: &mut Unstructured<'_>) -> Result<u64> {
    let shift = *u.choose(&[12, 21, 30, 39])?;
    let near = u64::from(u.arbitrary::<u8>()? % 4) << shift;
    let page = u64::from(u.arbitrary::<u8>()? % 4) * PAGE_SIZE;
    Ok(match u.int_in_range(0..=15)? {
        0 => u.arbitrary()?,
        1..=5 => near + page,
        6..=9 => (near + (1 << 30)).saturating_sub(page),
        _ => near,
    })
}

fn perms(u: &mut Unstructured<'_>) -> Result<Perms> {
    Ok(*u.choose(&[Perms::RW, Perms::RX, Perms::R, Perms::RWX])?)
}

/// Of a device's registers nothing is ever executed.
fn for_device(perms: Perms) -> Perms {
    Perms { execute: false, ..perms }
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = match u.int_in_range(0..=3)? {
            0 | 1 => Kind::Map { pa: address(u)?, perms: perms(u)? },
            2 => Kind::Unmap,
            _ => Kind::Protect(perms(u)?),
        };
        Ok(Self { start: address(u)?, size: address(u)?, kind })
    }
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let ipa_bits = u.int_in_range(32..=48)?;
        Ok(Self { ipa_bits, tables: u.arbitrary()?, steps: u.arbitrary()? })
    }
}

/// What is mapped: the interval's first address, its last one, and what the first one means.
#[derive(Default)]
struct Model(BTreeMap<u64, (u64, u64, Perms)>);

impl Model {
    fn at(&self, ipa: u64) -> Option<(PhysAddr, Perms)> {
        let (start, (last, pa, perms)) = self.0.range(..=ipa).next_back()?;
        (ipa <= *last).then(|| (PhysAddr::new(pa + (ipa - start)), *perms))
    }

    /// The first mapped address of an interval.
    fn first(&self, start: u64, last: u64) -> Option<u64> {
        let next = self.0.range(start..=last).next().map(|(first, _)| *first);
        if self.at(start).is_some() { Some(start) } else { next }
    }

    /// Makes `at` the start of an interval, if it is inside one.
    fn cut(&mut self, at: u64) {
        let Some((&start, &(last, pa, perms))) = self.0.range(..at).next_back() else { return };
        if last >= at {
            self.0.insert(start, (at - 1, pa, perms));
            self.0.insert(at, (last, pa + (at - start), perms));
        }
    }

    /// The starts of the intervals that make up what is mapped from `start` to `last`.
    fn exactly(&mut self, start: u64, last: u64) -> Vec<u64> {
        self.cut(start);
        self.cut(last + 1);
        self.0.range(start..=last).map(|(start, _)| *start).collect()
    }
}

/// The pool's frames, of which only so many may be tables at a time.
struct Budget<'a> {
    pool: &'a mut FramePool,
    left: u8,
    refused: bool,
}

impl TableFrames for Budget<'_> {
    fn allocate(&mut self, order: u8) -> Option<Block<Dirty>> {
        self.refused |= self.left == 0;
        self.left = self.left.checked_sub(1)?;
        self.pool.allocate_block(order)
    }

    fn free(&mut self, block: Block<Dirty>) {
        self.left += 1;
        self.pool.free_block(block);
    }
}

/// Every descriptor that was valid was either changed in its permissions or made invalid; and after
/// the last such change a TLB invalidation came.
fn check_maintenance(operations: &[Operation]) {
    let mut owed = false;
    for operation in operations {
        match *operation {
            Operation::Stored { ipa, old, new, .. } if old & VALID != 0 && old != new => {
                assert!(
                    new & VALID == 0 || (old ^ new) & !PERMISSIONS == 0,
                    "{operation:x?} {ipa}"
                );
                owed = true;
            }
            Operation::InvalidateIpa(..) | Operation::InvalidateVm(..) => owed = false,
            _ => {}
        }
    }
    assert!(!owed, "the TLBs still hold what was mapped: {operations:x?}");
}

fn run(input: &Input, pool: &mut FramePool) {
    let geometry = Geometry::new(input.ipa_bits, PaRange::from_field(5)).expect("32 to 48 bits");
    let mut vmids = Vmids::new();
    let cpu = Recorder::default();
    let mut tables = Budget { pool, left: input.tables, refused: false };
    let Ok(mut stage2) = Stage2::new(geometry, &mut vmids, &mut tables, &cpu) else {
        assert!(tables.refused && tables.left == 0);
        return;
    };
    let mut model = Model::default();
    cpu.take();
    for Step { start, size, kind } in &input.steps {
        let Some(ipas) = Region::new(Ipa::new(*start), *size) else { continue };
        let last = ipas.last().raw();
        tables.refused = false;
        let result = match *kind {
            Kind::Map { pa, perms } => {
                stage2.map_device(ipas, PhysAddr::new(pa), perms, &mut tables, &cpu)
            }
            Kind::Unmap => stage2.unmap(ipas, &mut tables, &cpu),
            Kind::Protect(perms) => stage2.protect(ipas, perms, &mut tables, &cpu),
        };
        match (result, kind) {
            (Err(MapError::Occupied(at)), Kind::Map { .. }) => {
                assert_eq!(model.first(*start, last), Some(at.raw()));
            }
            (Err(MapError::OutOfTables), _) => assert!(tables.refused),
            (Err(MapError::OutsideIpaSpace(_)), _) => {
                assert!(!geometry.ipas().contains_region(&ipas));
            }
            (Err(MapError::Misaligned(by)), _) => assert_ne!(by % PAGE_SIZE, 0),
            (Err(MapError::OutsidePaSpace(at)), Kind::Map { .. }) => {
                assert!(at.raw().checked_add(*size).is_none_or(|end| end > geometry.pa_size()));
            }
            (Err(error), _) => panic!("{error} from {kind:?}"),
            (Ok(()), Kind::Map { pa, perms }) => {
                assert_eq!(model.first(*start, last), None);
                model.0.insert(*start, (last, *pa, for_device(*perms)));
            }
            (Ok(()), Kind::Unmap) => {
                for at in model.exactly(*start, last) {
                    model.0.remove(&at);
                }
            }
            (Ok(()), Kind::Protect(perms)) => {
                for at in model.exactly(*start, last) {
                    model.0.entry(at).and_modify(|mapped| mapped.2 = for_device(*perms));
                }
            }
        }
        check_maintenance(&cpu.take());
        let bounds = model.0.iter().flat_map(|(start, (last, ..))| [*start, *last]);
        for bound in bounds.chain([*start, last, *start + *size / 2]) {
            for at in [bound.saturating_sub(1), bound, bound.saturating_add(1)] {
                let mapping = stage2.translate(Ipa::new(at));
                assert_eq!(mapping.map(|to| (to.pa, to.perms)), model.at(at), "at {at:#x}");
                assert!(mapping.is_none_or(|to| to.memory == MemoryType::Device));
            }
        }
        let first = stage2.first_leaf(&geometry.ipas());
        assert_eq!(first.map(|leaf| leaf.ipas.start().raw()), model.0.keys().next().copied());
    }
    stage2.destroy(&mut vmids, &mut tables, &cpu);
    check_maintenance(&cpu.take());
    assert_eq!(tables.left, input.tables);
}

thread_local! {
    /// One for all runs: what it is made of is never given back.
    static POOL: RefCell<FramePool> = RefCell::new({
        let mut pool = FramePool::new();
        pool.add(Ram::from_heap(8 << 20, 2 << 20).expect("8 MiB"), &[]);
        pool
    });
}

fuzz_target!(|input: Input| {
    POOL.with_borrow_mut(|pool| {
        run(&input, pool);
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    });
});
