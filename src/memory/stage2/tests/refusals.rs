//! Changes that are refused change nothing.

use super::*;

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
    for (change, needed) in cases.into_iter().skip(crate::testing::pick(0, 3)) {
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
