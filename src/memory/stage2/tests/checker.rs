//! A CPU that watches for break-before-make, and a pool that runs dry.

use super::*;

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
pub struct Checker {
    broken: RefCell<BTreeMap<PhysAddr, Broken>>,
    unpublished: RefCell<BTreeSet<PhysAddr>>,
}

impl Checker {
    /// Panics unless all TLBs and walkers see what the tables say.
    pub fn assert_settled(&self) {
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
pub struct Tables<'a> {
    pub pool: &'a mut FramePool,
    pub cpu: &'a Checker,
    pub left: u32,
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
