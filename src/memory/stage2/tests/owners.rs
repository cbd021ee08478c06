//! What is written down of each frame where tests run, and the mistakes that it finds.

use crate::addr::{Ipa, PAGE_SIZE, PhysAddr, Region};
use crate::memory::stage2::Mapping;
use crate::memory::{
    Dirty, FramePool, Frames, Geometry, MemoryType, PaRange, Perms, Ram, Stage2, Uncached, Vmids,
};

struct World {
    pool: FramePool,
    vmids: Vmids,
    frames: Option<Frames<Dirty>>,
}

const HERE: u64 = 0x4000_0000;

impl World {
    fn new() -> Self {
        let mut pool = FramePool::new();
        pool.add(Ram::from_heap(64 * PAGE_SIZE, 1 << 18).unwrap(), &[]);
        let frames = Some(pool.allocate(3 * PAGE_SIZE).unwrap());
        Self { pool, vmids: Vmids::new(), frames }
    }

    fn translation(&mut self) -> Stage2 {
        let geometry = Geometry::new(39, PaRange::Bits48).unwrap();
        Stage2::new(geometry, &mut self.vmids, &mut self.pool, &Uncached).unwrap()
    }

    /// Maps the first of its frames.
    fn map(&mut self, stage2: &mut Stage2) {
        let region = self.frames.as_ref().unwrap().regions().next().unwrap();
        let ipas = Region::new(Ipa::new(HERE), region.size()).unwrap();
        let to = Mapping { pa: region.start(), memory: MemoryType::Ram, perms: Perms::RWX };
        stage2.map(ipas, to, &mut self.pool, &Uncached).unwrap();
    }

    fn free(&mut self) {
        self.pool.free(self.frames.take().unwrap());
    }
}

fn unmap(world: &mut World, stage2: &mut Stage2) {
    let ipas = Region::new(Ipa::new(HERE), PAGE_SIZE).unwrap();
    stage2.unmap(ipas, &mut world.pool, &Uncached).unwrap();
}

#[test]
fn what_is_taken_mapped_unmapped_and_given_back_in_this_order_is_right() {
    let mut world = World::new();
    let mut stage2 = world.translation();
    world.map(&mut stage2);
    // In two halves, by a translation that ends.
    unmap(&mut world, &mut stage2);
    stage2.destroy(&mut world.vmids, &mut world.pool, &Uncached);
    world.free();
    assert_eq!(world.pool.free_bytes(), world.pool.total_bytes());
}

#[test]
#[should_panic(expected = "is given back and was mapped")]
fn what_is_mapped_is_not_given_back() {
    let mut world = World::new();
    let mut stage2 = world.translation();
    world.map(&mut stage2);
    world.free();
}

#[test]
#[should_panic(expected = "is given back and was mapped")]
fn what_is_mapped_in_part_is_not_given_back() {
    let mut world = World::new();
    let mut stage2 = world.translation();
    world.map(&mut stage2);
    unmap(&mut world, &mut stage2);
    world.free();
}

#[test]
#[should_panic(expected = "is mapped and was mapped")]
fn what_one_has_another_does_not_get() {
    let mut world = World::new();
    let (mut one, mut two) = (world.translation(), world.translation());
    world.map(&mut one);
    world.map(&mut two);
}

#[test]
#[should_panic(expected = "is mapped and was free")]
fn what_is_free_is_not_mapped() {
    let mut world = World::new();
    let mut stage2 = world.translation();
    // The last of many: tables come from elsewhere.
    let frames = world.pool.allocate(32 * PAGE_SIZE).unwrap();
    let pa = frames.regions().next().unwrap().last().page();
    world.pool.free(frames);
    let to = Mapping { pa, memory: MemoryType::Ram, perms: Perms::RWX };
    let ipas = Region::new(Ipa::new(HERE), PAGE_SIZE).unwrap();
    let _ = stage2.map(ipas, to, &mut world.pool, &Uncached);
}

#[test]
#[should_panic(expected = "is mapped and was a table")]
fn no_table_is_mapped() {
    let mut world = World::new();
    let mut stage2 = world.translation();
    let root = PhysAddr::new(stage2.vttbr().raw() & 0xffff_ffff_f000);
    let to = Mapping { pa: root, memory: MemoryType::Ram, perms: Perms::R };
    let ipas = Region::new(Ipa::new(HERE), PAGE_SIZE).unwrap();
    let _ = stage2.map(ipas, to, &mut world.pool, &Uncached);
}
