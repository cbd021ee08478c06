//! Three VMs and four frames: whatever is created, mapped, unmapped and destroyed, in every order, nobody reaches what is another's,
//! a table, or what is free.
//!
//! The TLBs are the worst that the architecture allows: they hold whatever was ever mapped until it is invalidated, and what is
//! invalidated before it is published they have again.

use super::*;
use crate::memory::frames::{Clean, Frames};
use crate::memory::phys;
use crate::testing::bound;
use core::cell::Cell;
use std::collections::VecDeque;

const VMS: usize = bound(3, 3, 2);
/// How many frames VMs can have between them.
const FRAMES: usize = 4;
/// Two pages of one table, one of another in the same table, one of another at the root.
const IPAS: [u64; 4] = [0, KIB4, MIB2, GIB];
const SECRET: u64 = 0x5ec2_e75e_c2e7;

/// A CPU that caches all translations.
#[derive(Default)]
struct Tlbs {
    checker: Checker,
    /// VMID, IPA and frame.
    cached: RefCell<BTreeSet<(u64, Ipa, PhysAddr)>>,
    unpublished: Cell<bool>,
}

impl Tlbs {
    fn vmid(vttbr: Vttbr) -> u64 {
        vttbr.raw() >> 48
    }

    /// Whether the frame at `at` is reached by what is cached.
    fn reaches(&self, at: PhysAddr) -> bool {
        self.cached.borrow().iter().any(|(_, _, frame)| *frame == at)
    }
}

impl Maintenance for Tlbs {
    fn clean_to_poc(&self, _: Region<PhysAddr>) {}
    fn clean_invalidate_to_poc(&self, _: Region<PhysAddr>) {}
    fn invalidate_instructions(&self) {}

    fn publish_descriptors(&self) {
        self.checker.publish_descriptors();
        self.unpublished.set(false);
    }

    fn invalidate_ipa(&self, vttbr: Vttbr, ipa: Ipa) {
        self.checker.invalidate_ipa(vttbr, ipa);
        if !self.unpublished.get() {
            let vmid = Self::vmid(vttbr);
            self.cached.borrow_mut().retain(|entry| (entry.0, entry.1) != (vmid, ipa));
        }
    }

    fn invalidate_vm(&self, vttbr: Vttbr) {
        self.checker.invalidate_vm(vttbr);
        if !self.unpublished.get() {
            self.cached.borrow_mut().retain(|entry| entry.0 != Self::vmid(vttbr));
        }
    }

    fn descriptor_stored(&self, slot: PhysAddr, ipa: Ipa, level: Level, old: u64, new: u64) {
        self.checker.descriptor_stored(slot, ipa, level, old, new);
        self.unpublished.set(true);
    }
}

/// Tables of the pool that VMs' frames come from, too; who has which is known.
struct Known<'a> {
    pool: &'a mut FramePool,
    cpu: &'a Tlbs,
    tables: &'a mut BTreeSet<PhysAddr>,
}

impl TableFrames for Known<'_> {
    fn allocate(&mut self, order: u8) -> Option<Block<Dirty>> {
        let block = self.pool.allocate_block(order)?;
        assert!(self.tables.insert(block.region().start()), "it is a table already");
        assert!(!self.cpu.reaches(block.region().start()), "a guest reaches what becomes a table");
        Some(block)
    }

    fn free(&mut self, block: Block<Dirty>) {
        assert!(self.tables.remove(&block.region().start()), "it is no table");
        Tables { pool: self.pool, cpu: &self.cpu.checker, left: 0 }.free(block);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Create(usize),
    Map(usize, usize),
    Unmap(usize, usize),
    Destroy(usize),
}

struct Vm {
    stage2: Stage2,
    /// What it has, by the place at which it is mapped.
    owned: [Option<Frames<Clean>>; IPAS.len()],
}

struct World {
    pool: FramePool,
    vmids: Vmids,
    cpu: Tlbs,
    tables: BTreeSet<PhysAddr>,
    vms: [Option<Vm>; VMS],
}

impl World {
    fn new() -> Self {
        let mut vmids = Vmids::new();
        // So few are left that they are used again at once.
        (0..255 - VMS).for_each(|_| assert!(vmids.allocate().is_some()));
        Self {
            pool: new_pool(),
            vmids,
            cpu: Tlbs::default(),
            tables: BTreeSet::new(),
            vms: [const { None }; VMS],
        }
    }

    fn had(&self) -> usize {
        self.vms.iter().flatten().flat_map(|vm| vm.owned.iter().flatten()).count()
    }

    /// Every step that can be made.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, vm) in self.vms.iter().enumerate() {
            let Some(vm) = vm else {
                steps.push(Step::Create(number));
                continue;
            };
            steps.push(Step::Destroy(number));
            for (place, owned) in vm.owned.iter().enumerate() {
                match owned {
                    Some(_) => steps.push(Step::Unmap(number, place)),
                    None if self.had() < FRAMES => steps.push(Step::Map(number, place)),
                    None => {}
                }
            }
        }
        steps
    }

    fn step(&mut self, step: Step) {
        let Self { pool, vmids, cpu, tables, vms } = self;
        let page = |place: usize| region(IPAS[place], KIB4);
        match step {
            Step::Create(number) => {
                let geometry = Geometry::new(39, PaRange::Bits48).unwrap();
                let mut tables = Known { pool, cpu, tables };
                let stage2 = Stage2::new(geometry, vmids, &mut tables, &*cpu).unwrap();
                vms[number] = Some(Vm { stage2, owned: [const { None }; IPAS.len()] });
            }
            Step::Map(number, place) => {
                let vm = vms[number].as_mut().unwrap();
                let frame = pool.allocate(KIB4).unwrap();
                let at = frame.regions().next().unwrap().start();
                assert!(!cpu.reaches(at) && !tables.contains(&at), "{at} is not free");
                let frame = frame.scrub().clean(&*cpu);
                // What its last owner left.
                assert_eq!(
                    (phys::read::<u64>(at), phys::read::<u64>(PhysAddr::new(at.raw() + KIB4 - 8))),
                    (0, 0)
                );
                let mut tables = Known { pool, cpu, tables };
                vm.stage2.map(page(place), ram(at.raw()), &mut tables, &*cpu).unwrap();
                let again = vm.stage2.map(page(place), ram(at.raw()), &mut tables, &*cpu);
                assert_eq!(again, Err(MapError::Occupied(page(place).start())));
                vm.owned[place] = Some(frame);
                phys::write(at, SECRET);
                phys::write(PhysAddr::new(at.raw() + KIB4 - 8), SECRET);
            }
            Step::Unmap(number, place) => {
                let vm = vms[number].as_mut().unwrap();
                let mut tables = Known { pool, cpu, tables };
                vm.stage2.unmap(page(place), &mut tables, &*cpu).unwrap();
                let frame = vm.owned[place].take().unwrap();
                assert!(
                    !cpu.reaches(frame.regions().next().unwrap().start()),
                    "it is freed before TLBs forgot it"
                );
                pool.free(frame);
            }
            Step::Destroy(number) => {
                let vm = vms[number].take().unwrap();
                let mut tables = Known { pool, cpu, tables };
                vm.stage2.destroy(vmids, &mut tables, &*cpu);
                for frame in vm.owned.into_iter().flatten() {
                    assert!(
                        !cpu.reaches(frame.regions().next().unwrap().start()),
                        "it is freed before TLBs forgot it"
                    );
                    pool.free(frame);
                }
            }
        }
        // Walkers go everywhere meanwhile.
        for vm in self.vms.iter().flatten() {
            for leaf in leaves(&vm.stage2) {
                let entry = (Tlbs::vmid(vm.stage2.vttbr()), leaf.ipas.start(), leaf.mapping.pa);
                self.cpu.cached.borrow_mut().insert(entry);
            }
        }
    }

    /// Each VM reaches what it has and nothing else, by its tables and by whatever TLBs hold; and nobody else has that.
    fn check(&self) {
        self.cpu.checker.assert_settled();
        let mut owners = BTreeSet::new();
        let mut cached = self.cpu.cached.borrow().clone();
        for vm in self.vms.iter().flatten() {
            let mut expected = Vec::new();
            for (ipa, frame) in IPAS.into_iter().zip(&vm.owned) {
                let at = frame.as_ref().map(|frame| frame.regions().next().unwrap().start());
                assert_eq!(vm.stage2.translate(Ipa::new(ipa)).map(|to| to.pa), at);
                let Some(at) = at else { continue };
                assert!(owners.insert(at), "{at} has two owners");
                assert!(!self.tables.contains(&at), "{at} is a table");
                expected.push((Ipa::new(ipa), at));
                cached.remove(&(Tlbs::vmid(vm.stage2.vttbr()), Ipa::new(ipa), at));
            }
            let reached =
                leaves(&vm.stage2).into_iter().map(|leaf| (leaf.ipas.start(), leaf.mapping.pa));
            assert_eq!(reached.collect::<Vec<_>>(), expected);
        }
        assert!(cached.is_empty(), "TLBs hold what is no longer so: {cached:?}");
        let had = owners.len() + self.tables.len();
        assert_eq!(self.pool.free_bytes() + had as u64 * KIB4, self.pool.total_bytes());
    }

    /// Everything is given back, and nothing is left.
    fn end(&mut self) {
        for number in 0..VMS {
            if self.vms[number].is_some() {
                self.step(Step::Destroy(number));
            }
        }
        self.check();
        assert_eq!(self.pool.free_bytes(), self.pool.total_bytes());
    }
}

/// Every sequence: all the shorter ones have been looked at when the last step of one is.
fn every_sequence(world: &mut World, way: &mut Vec<Step>, left: u32) -> u64 {
    let mut sequences = 0;
    way.iter().for_each(|step| world.step(*step));
    world.check();
    let steps = world.steps();
    world.end();
    if left > 0 {
        for step in steps {
            way.push(step);
            sequences += 1 + every_sequence(world, way, left - 1);
            way.pop();
        }
    }
    sequences
}

#[test]
fn after_every_sequence_each_vm_reaches_what_is_its_own_and_nothing_else() {
    let sequences = every_sequence(&mut World::new(), &mut Vec::new(), bound(6, 3, 2));
    println!("{sequences} sequences");
}

/// The same however many steps: what is mapped where tells a state from all others, and each is gone on from once.
#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn from_every_state_every_step_leaves_each_vm_what_is_its_own() {
    type State = [Option<[bool; IPAS.len()]>; VMS];
    let state = |world: &World| -> State {
        core::array::from_fn(|number| {
            world.vms[number]
                .as_ref()
                .map(|vm| core::array::from_fn(|place| vm.owned[place].is_some()))
        })
    };
    let mut world = World::new();
    let (mut seen, mut ways, mut tried) =
        (BTreeSet::<State>::new(), VecDeque::from([Vec::new()]), 0);
    let deepest = bound(usize::MAX, 5, 1);
    while let Some(way) = ways.pop_front() {
        way.iter().for_each(|step: &Step| world.step(*step));
        world.check();
        tried += 1;
        if seen.insert(state(&world)) && way.len() < deepest {
            ways.extend(world.steps().into_iter().map(|step| [way.as_slice(), &[step]].concat()));
        }
        world.end();
    }
    println!("{} states, {tried} steps", seen.len());
}
