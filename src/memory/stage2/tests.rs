//! Stage 2 against a model, on every geometry, watched by a checker of break-before-make.

use core::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::descriptor::differ_in_permissions_only;
use super::*;
use crate::memory::{Operation, Ram, Recorder};

const KIB4: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const GIB: u64 = 1 << 30;

/// The entry for `ipas` was taken out; TLBs may still hold it.
#[derive(Debug)]
struct Broken {
    ipas: Region<Ipa>,
    was_table: bool,
    published: bool,
}

/// A CPU that panics when descriptors are not changed as the architecture demands: TLBs hold whatever
/// was ever valid until it is invalidated, and walkers see stores late.
#[derive(Debug, Default)]
struct Checker {
    broken: RefCell<BTreeMap<PhysAddr, Broken>>,
    unpublished: RefCell<BTreeSet<PhysAddr>>,
}

impl Checker {
    /// Panics unless all TLBs and walkers see what the tables say.
    fn assert_settled(&self) {
        assert!(self.broken.borrow().is_empty(), "not invalidated: {:?}", self.broken);
        assert!(self.unpublished.borrow().is_empty(), "not published: {:?}", self.unpublished);
    }
}

impl Maintenance for Checker {
    fn clean_to_poc(&self, _: Region<PhysAddr>) {}
    fn clean_invalidate_to_poc(&self, _: Region<PhysAddr>) {}
    fn invalidate_instructions(&self) {}

    fn publish_descriptors(&self) {
        self.unpublished.borrow_mut().clear();
        self.broken.borrow_mut().values_mut().for_each(|broken| broken.published = true);
    }

    fn invalidate_ipa(&self, _: Vttbr, ipa: Ipa) {
        self.broken.borrow_mut().retain(|_, broken| {
            broken.was_table || !broken.published || !broken.ipas.contains(ipa)
        });
    }

    fn invalidate_vm(&self, _: Vttbr) {
        self.broken.borrow_mut().retain(|_, broken| !broken.published);
    }

    fn descriptor_stored(&self, slot: PhysAddr, ipa: Ipa, level: Level, old: u64, new: u64) {
        let (was, is) = (Entry::decode(old, level), Entry::decode(new, level));
        let ipas = Region::new(ipa, level.size()).unwrap();
        let mut broken = self.broken.borrow_mut();
        if is != Entry::Invalid {
            assert!(!broken.contains_key(&slot), "made before the break was complete: {ipas}");
        }
        if let Entry::Table(at) = is {
            let table = Region::new(at, KIB4).unwrap();
            let late = self.unpublished.borrow().iter().any(|&slot| table.contains(slot));
            assert!(!late, "walkers may see the table of {ipas} before its contents");
        }
        if was != Entry::Invalid {
            let changed_in_place = is == Entry::Invalid || differ_in_permissions_only(old, new);
            assert!(changed_in_place, "valid to valid: {old:#x} to {new:#x}");
            let was_table = matches!(was, Entry::Table(_));
            broken.insert(slot, Broken { ipas, was_table, published: false });
        }
        self.unpublished.borrow_mut().insert(slot);
    }
}

/// A pool of which only so many more frames are handed out.
struct Tables<'a> {
    pool: &'a mut FramePool,
    cpu: &'a Checker,
    left: u32,
}

impl TableFrames for Tables<'_> {
    fn allocate(&mut self, order: u8) -> Option<Block<Dirty>> {
        self.left = self.left.checked_sub(1)?;
        self.pool.allocate_block(order)
    }

    fn free(&mut self, block: Block<Dirty>) {
        let broken = self.cpu.broken.borrow();
        assert!(broken.is_empty(), "a table is freed before the TLBs forgot it: {broken:?}");
        self.pool.free_block(block);
    }
}

/// What is mapped, as intervals that do not overlap.
#[derive(Clone, Debug, Default)]
struct Model(Vec<(Region<Ipa>, Mapping)>);

impl Model {
    fn translate(&self, ipa: Ipa) -> Option<Mapping> {
        let (ipas, to) = self.0.iter().find(|(ipas, _)| ipas.contains(ipa))?;
        Some(to.advanced(ipa.offset_from(ipas.start())?))
    }

    fn apply(&mut self, change: &Change, geometry: Geometry) -> Result<(), MapError> {
        let ipas = change.ipas();
        if !geometry.ipas().contains_region(&ipas) {
            return Err(MapError::OutsideIpaSpace(ipas));
        }
        match *change {
            Change::Map(_, to) => {
                if to.pa.raw() + (ipas.size() - 1) >= geometry.pa_size() {
                    return Err(MapError::OutsidePaSpace(to.pa));
                }
                let taken = self.0.iter().filter_map(|(other, _)| other.intersection(&ipas));
                if let Some(first) = taken.map(|both| both.start()).min() {
                    return Err(MapError::Occupied(first));
                }
                self.0.push((ipas, to.with_perms(to.perms)));
            }
            Change::Unmap(hole) => self.cut(&hole),
            Change::Protect(part, perms) => {
                let inside: Vec<_> = self
                    .0
                    .iter()
                    .filter_map(|(ipas, _)| ipas.intersection(&part))
                    .filter_map(|both| {
                        Some((both, self.translate(both.start())?.with_perms(perms)))
                    })
                    .collect();
                self.cut(&part);
                self.0.extend(inside);
            }
        }
        Ok(())
    }

    fn cut(&mut self, hole: &Region<Ipa>) {
        let before = core::mem::take(self);
        let pieces = before.0.iter().flat_map(|(ipas, _)| ipas.without(hole)).flatten();
        self.0 = pieces.filter_map(|ipas| Some((ipas, before.translate(ipas.start())?))).collect();
    }
}

#[derive(Clone, Debug)]
enum Change {
    Map(Region<Ipa>, Mapping),
    Unmap(Region<Ipa>),
    Protect(Region<Ipa>, Perms),
}

impl Change {
    fn ipas(&self) -> Region<Ipa> {
        match *self {
            Self::Map(ipas, _) | Self::Unmap(ipas) | Self::Protect(ipas, _) => ipas,
        }
    }

    fn apply(
        &self,
        stage2: &mut Stage2,
        tables: &mut Tables<'_>,
        cpu: &Checker,
    ) -> Result<(), MapError> {
        match *self {
            Self::Map(ipas, to) => stage2.map(ipas, to, tables, cpu),
            Self::Unmap(ipas) => stage2.unmap(ipas, tables, cpu),
            Self::Protect(ipas, perms) => stage2.protect(ipas, perms, tables, cpu),
        }
    }
}

fn region(start: u64, size: u64) -> Region<Ipa> {
    Region::new(Ipa::new(start), size).unwrap()
}

fn ram(pa: u64) -> Mapping {
    Mapping { pa: PhysAddr::new(pa), memory: MemoryType::Ram, perms: Perms::RWX }
}

/// A region near an edge that matters in a space of `bits` bits, a few of them past its end.
fn any_region(bits: u32) -> impl Strategy<Value = Region<Ipa>> {
    let top = 1u64 << bits;
    let anchors =
        vec![0, MIB2, GIB, 2 * GIB, 3 * GIB, 512 * GIB % top, 1024 * GIB % top, top - GIB, top];
    let sizes =
        vec![KIB4, 2 * KIB4, 7 * KIB4, MIB2 - KIB4, MIB2, 2 * MIB2, GIB - MIB2, GIB, 2 * GIB];
    (prop::sample::select(anchors), -3..4i64, prop::sample::select(sizes), prop::bool::ANY)
        .prop_map(|(anchor, pages, size, aligned)| {
            let offset = if aligned { 0 } else { pages * 4096 };
            region(anchor.saturating_add_signed(offset), size)
        })
}

fn any_perms() -> impl Strategy<Value = Perms> {
    any::<[bool; 3]>().prop_map(|[read, write, execute]| Perms { read, write, execute })
}

fn any_change(bits: u32) -> impl Strategy<Value = Change> {
    let map =
        (any_region(bits), 0..4u64, any_perms(), 0..8u8).prop_map(|(ipas, high, perms, how)| {
            // Mostly congruent, so that blocks are possible; large regions always, to keep them quick.
            let skew = match how {
                0 if ipas.size() <= 2 * MIB2 => 5 * KIB4,
                1 => 3 * MIB2,
                _ => 0,
            };
            let memory = if how == 2 { MemoryType::Device } else { MemoryType::Ram };
            let pa = PhysAddr::new((high * 5 * GIB + ipas.start().raw() + skew) & 0xffff_ffff_ffff);
            Change::Map(ipas, Mapping { pa, memory, perms })
        });
    prop_oneof![
        3 => map,
        2 => any_region(bits).prop_map(Change::Unmap),
        2 => (any_region(bits), any_perms()).prop_map(|(ipas, perms)| Change::Protect(ipas, perms)),
    ]
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

fn assert_equal(stage2: &Stage2, model: &Model) {
    for (ipas, _) in &model.0 {
        let (first, last) = (ipas.start().raw(), ipas.last().raw());
        let middle = first + (last - first) / 2;
        for ipa in [first.wrapping_sub(1), first, first + 1, middle, last, last + 1].map(Ipa::new) {
            assert_eq!(stage2.translate(ipa), model.translate(ipa), "at {ipa}");
        }
    }
}

fn assert_equal_everywhere(stage2: &Stage2, model: &Model) {
    let mut mapped = 0;
    for leaf in leaves(stage2) {
        mapped += leaf.ipas.size();
        for ipa in [leaf.ipas.start(), leaf.ipas.last()] {
            assert_eq!(stage2.translate(ipa), model.translate(ipa), "at {ipa}");
        }
    }
    assert_eq!(mapped, model.0.iter().map(|(ipas, _)| ipas.size()).sum());
}

fn new_pool() -> FramePool {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(64 * KIB4, 16 * KIB4).unwrap(), &[]);
    pool
}

/// Random changes, each with few or many frames for tables, against the model.
fn behaves_as_the_model(bits: u32) {
    let cases = if cfg!(miri) { 1 } else { 40 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let budget = prop_oneof![0..5u32, Just(u32::MAX)];
    let changes =
        prop::collection::vec((any_change(bits), budget), 1..if cfg!(miri) { 4 } else { 16 });
    let geometry = Geometry::new(bits, PaRange::Bits48).unwrap();
    let pool = RefCell::new(new_pool());
    let outcome = TestRunner::new(config).run(&changes, |changes| {
        let mut pool = pool.borrow_mut();
        if pool.free_bytes() < pool.total_bytes() {
            *pool = new_pool(); // the last case failed, and is being made smaller
        }
        let (mut vmids, cpu, mut model) = (Vmids::new(), Checker::default(), Model::default());
        let mut tables = Tables { pool: &mut pool, cpu: &cpu, left: u32::MAX };
        let mut stage2 = Stage2::new(geometry, &mut vmids, &mut tables, &cpu).unwrap();
        for (change, budget) in changes {
            let free = tables.pool.free_bytes();
            tables.left = budget;
            let result = change.apply(&mut stage2, &mut tables, &cpu);
            cpu.assert_settled();
            if result == Err(MapError::OutOfTables) {
                assert_ne!(budget, u32::MAX, "64 frames are enough");
            } else {
                assert_eq!(result, model.apply(&change, geometry));
            }
            if result.is_err() {
                assert_eq!(tables.pool.free_bytes(), free);
            }
            assert_equal(&stage2, &model);
        }
        assert_equal_everywhere(&stage2, &model);
        stage2.destroy(&mut vmids, &mut tables, &cpu);
        cpu.assert_settled();
        assert_eq!(pool.free_bytes(), pool.total_bytes());
        Ok(())
    });
    outcome.unwrap();
}

macro_rules! geometries {
    ($($name:ident: $bits:literal)*) => {$(
        #[test]
        fn $name() {
            behaves_as_the_model($bits);
        }
    )*};
}

geometries! {
    a_32_bit_space_behaves_as_the_model: 32
    a_36_bit_space_behaves_as_the_model: 36
    a_39_bit_space_behaves_as_the_model: 39
    a_40_bit_space_behaves_as_the_model: 40
    a_42_bit_space_behaves_as_the_model: 42
    a_43_bit_space_behaves_as_the_model: 43
    a_44_bit_space_behaves_as_the_model: 44
    a_48_bit_space_behaves_as_the_model: 48
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

#[test]
fn blocks_are_as_large_as_both_addresses_allow() {
    on_empty(|stage2, pool, cpu: &Checker| {
        let sizes = |stage2: &Stage2| -> Vec<u64> {
            leaves(stage2).iter().map(|leaf| leaf.ipas.size()).collect()
        };
        let all = region(GIB, 3 * GIB);
        stage2.map(all, ram(2 * GIB), pool, cpu).unwrap();
        assert_eq!(sizes(stage2), [GIB; 3]);
        stage2.unmap(all, pool, cpu).unwrap();
        stage2.map(region(GIB, GIB), ram(GIB + MIB2), pool, cpu).unwrap();
        assert_eq!(sizes(stage2), [MIB2; 512]);
        stage2.unmap(all, pool, cpu).unwrap();
        stage2.map(region(MIB2 - KIB4, MIB2 + 2 * KIB4), ram(GIB - KIB4), pool, cpu).unwrap();
        assert_eq!(sizes(stage2), [KIB4, MIB2, KIB4]);
    });
}

#[test]
fn unmapping_a_page_is_stored_then_published_then_invalidated() {
    on_empty(|stage2, pool, cpu: &Recorder| {
        stage2.map(region(0, 2 * KIB4), ram(GIB), pool, cpu).unwrap();
        cpu.take();
        stage2.unmap(region(KIB4, KIB4), pool, cpu).unwrap();
        let ipa = Ipa::new(KIB4);
        let old = Entry::Leaf(ram(GIB + KIB4)).encode(Level::Three);
        let expected = [
            Operation::Stored { ipa, level: Level::Three, old, new: 0 },
            Operation::PublishDescriptors,
            Operation::InvalidateIpa(stage2.vttbr(), ipa),
        ];
        assert_eq!(cpu.take(), expected);
    });
}

#[test]
fn a_block_is_broken_before_smaller_ones_are_made() {
    on_empty(|stage2, pool, cpu: &Recorder| {
        stage2.map(region(0, GIB), ram(GIB), pool, cpu).unwrap();
        cpu.take();
        stage2.protect(region(0, MIB2), Perms::RX, pool, cpu).unwrap();
        let log = cpu.take();
        assert_eq!(log.len(), 512 + 5 + 3);
        // Filled out of sight; then break, publish, invalidate, make, publish.
        let (filled, rest) = log.split_at(512);
        assert!(filled.iter().all(|op| matches!(op, Operation::Stored { old: 0, .. })));
        assert!(matches!(
            rest,
            [
                Operation::Stored { level: Level::One, new: 0, .. },
                Operation::PublishDescriptors,
                Operation::InvalidateIpa(..),
                Operation::Stored { level: Level::One, old: 0, .. },
                Operation::PublishDescriptors,
                Operation::Stored { level: Level::Two, .. },
                Operation::PublishDescriptors,
                Operation::InvalidateIpa(..),
            ]
        ));
    });
}

#[test]
fn a_new_translation_has_nothing_of_its_vmids_last_owner() {
    on_empty(|stage2, _, cpu: &Recorder| {
        let expected = [Operation::PublishDescriptors, Operation::InvalidateVm(stage2.vttbr())];
        assert_eq!(cpu.take(), expected);
    });
}

#[test]
fn permissions_that_are_what_they_were_cost_neither_split_nor_invalidation() {
    on_empty(|stage2, pool, cpu: &Recorder| {
        stage2.map(region(0, GIB), ram(GIB), pool, cpu).unwrap();
        cpu.take();
        stage2.protect(region(KIB4, KIB4), Perms::RWX, pool, cpu).unwrap();
        assert_eq!((cpu.take(), leaves(stage2).len()), (vec![], 1));
    });
}

#[test]
fn a_change_for_which_the_kth_table_is_missing_changes_nothing_for_every_k() {
    let across_512_gib = region(512 * GIB - GIB - MIB2 - KIB4, 2 * GIB + 2 * MIB2 + 2 * KIB4);
    let to = ram(512 * GIB - GIB - MIB2 - KIB4);
    let inside = region(4 * GIB + MIB2 + KIB4, GIB - 2 * MIB2);
    let cases = [
        (Change::Map(across_512_gib, to), 5),
        (Change::Unmap(inside), 3),
        (Change::Protect(inside, Perms::R), 3),
        (Change::Unmap(region(5 * GIB - KIB4, 2 * KIB4)), 4),
    ];
    for (change, needed) in cases {
        let (mut pool, mut vmids, cpu) = (new_pool(), Vmids::new(), Checker::default());
        let mut tables = Tables { pool: &mut pool, cpu: &cpu, left: u32::MAX };
        let geometry = Geometry::new(48, PaRange::Bits48).unwrap();
        let mut stage2 = Stage2::new(geometry, &mut vmids, &mut tables, &cpu).unwrap();
        stage2.map(region(4 * GIB, 2 * GIB), ram(8 * GIB), &mut tables, &cpu).unwrap();
        let before = (leaves(&stage2), tables.pool.free_bytes());
        for k in 0..needed {
            tables.left = k;
            let result = change.apply(&mut stage2, &mut tables, &cpu);
            assert_eq!(result, Err(MapError::OutOfTables), "{change:?} with {k} tables");
            cpu.assert_settled();
            assert_eq!((leaves(&stage2), tables.pool.free_bytes()), before);
        }
        tables.left = needed;
        assert_eq!(change.apply(&mut stage2, &mut tables, &cpu), Ok(()), "{change:?}");
        stage2.destroy(&mut vmids, &mut tables, &cpu);
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }
}

#[test]
fn without_root_tables_or_vmids_there_is_no_translation_and_nothing_is_lost() {
    let (mut pool, mut vmids, cpu) = (new_pool(), Vmids::new(), Recorder::default());
    let geometry = Geometry::new(43, PaRange::Bits48).unwrap();
    let kept = pool.allocate(60 * KIB4).unwrap();
    let rounds = if cfg!(miri) { 2 } else { 300 };
    for _ in 0..rounds {
        let refused = Stage2::new(geometry, &mut vmids, &mut pool, &cpu).unwrap_err();
        assert_eq!(refused, Stage2Error::OutOfTables);
    }
    pool.free(kept);
    for _ in 0..rounds {
        let stage2 = Stage2::new(geometry, &mut vmids, &mut pool, &cpu).unwrap();
        assert!(stage2.vttbr().raw() & 0xffff == 0, "sixteen tables are aligned to 64 KiB");
        stage2.destroy(&mut vmids, &mut pool, &cpu);
    }
    assert_eq!(pool.free_bytes(), pool.total_bytes());
    while vmids.allocate().is_some() {}
    let refused = Stage2::new(geometry, &mut vmids, &mut pool, &cpu).unwrap_err();
    assert_eq!(refused, Stage2Error::OutOfVmids);
    assert_eq!(pool.free_bytes(), pool.total_bytes());
}

#[test]
fn addresses_at_the_ends_of_64_bits_are_refused_and_panic_nowhere() {
    on_empty(|stage2, pool, cpu: &Recorder| {
        cpu.take();
        for raw in [1 << 48, u64::MAX, u64::MAX - 4095, 1 << 63, (1 << 48) + KIB4] {
            assert_eq!(stage2.translate(Ipa::new(raw)), None);
            let page = region(raw & !4095, KIB4);
            let error = Err(MapError::OutsideIpaSpace(page));
            assert_eq!(stage2.map(page, ram(0), pool, cpu), error);
            assert_eq!(stage2.unmap(page, pool, cpu), error);
            assert_eq!(stage2.protect(page, Perms::R, pool, cpu), error);
        }
        let everything = region(0, u64::MAX);
        assert_eq!(stage2.unmap(everything, pool, cpu), Err(MapError::OutsideIpaSpace(everything)));
        for pa in [u64::MAX - 4095, 1 << 48, (1 << 48) - KIB4] {
            let result = stage2.map(region(0, 2 * KIB4), ram(pa), pool, cpu);
            assert_eq!(result, Err(MapError::OutsidePaSpace(PhysAddr::new(pa))));
        }
        let last = region((1 << 48) - KIB4, KIB4);
        stage2.map(last, ram((1 << 48) - KIB4), pool, cpu).unwrap();
        assert_eq!(stage2.translate(last.last()).unwrap().pa.raw(), (1 << 48) - 1);
        stage2.unmap(region(0, 1 << 48), pool, cpu).unwrap();
        assert_eq!(stage2.translate(last.last()), None);
    });
}

#[test]
fn only_whole_pages_can_be_mapped() {
    on_empty(|stage2, pool, cpu: &Recorder| {
        let map = |stage2: &mut Stage2, ipas, pa| stage2.map(ipas, ram(pa), &mut new_pool(), cpu);
        assert_eq!(map(stage2, region(1, KIB4), 0), Err(MapError::Misaligned(1)));
        assert_eq!(map(stage2, region(0, 5), 0), Err(MapError::Misaligned(5)));
        assert_eq!(map(stage2, region(0, KIB4), 7), Err(MapError::Misaligned(7)));
        assert_eq!(stage2.unmap(region(8, KIB4), pool, cpu), Err(MapError::Misaligned(8)));
    });
}

#[test]
fn a_device_is_mapped_never_to_be_executed() {
    on_empty(|stage2, pool, cpu: &Checker| {
        let page = region(0x0900_0000, KIB4);
        let pa = PhysAddr::new(0xfe20_1000);
        stage2.map_device(page, pa, Perms::RWX, pool, cpu).unwrap();
        stage2.protect(page, Perms::RWX, pool, cpu).unwrap();
        let expected = Mapping { pa, memory: MemoryType::Device, perms: Perms::RW };
        assert_eq!(stage2.translate(page.start()), Some(expected));
        let again = stage2.map_device(page, pa, Perms::RW, pool, cpu);
        assert_eq!(again, Err(MapError::Occupied(page.start())));
    });
}
