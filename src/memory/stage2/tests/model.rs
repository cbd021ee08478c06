//! Random changes against a model, on every geometry.

use super::*;

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
pub enum Change {
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

    pub fn apply(
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

/// A region near an edge that matters in a space of `bits` bits, a few of them past its end.
fn any_region(bits: u32) -> impl Strategy<Value = Region<Ipa>> {
    let top = 1u64 << bits;
    let anchors =
        vec![0, MIB2, GIB, 2 * GIB, 3 * GIB, 512 * GIB % top, 1024 * GIB % top, top - GIB, top];
    // Under Miri those that take few descriptors.
    let sizes: &[u64] = crate::testing::pick(
        &[KIB4, 2 * KIB4, 7 * KIB4, MIB2 - KIB4, MIB2, 2 * MIB2, GIB - MIB2, GIB, 2 * GIB],
        &[KIB4, 7 * KIB4, MIB2, GIB],
    );
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

/// Random changes, each with few or many frames for tables, against the model.
fn behaves_as_the_model(bits: u32) {
    let config = crate::testing::cases(40, 1);
    let budget = prop_oneof![0..5u32, Just(u32::MAX)];
    let changes =
        prop::collection::vec((any_change(bits), budget), 1..if cfg!(miri) { 3 } else { 16 });
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
