//! Claims about searches for partitions, on disks that are made here and on damaged ones.

use super::*;
use crate::testing;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const SECTORS: u64 = 200;
const ENTRIES: u32 = 128;
/// Both headers, the MBR and both lists of entries are outside.
const USABLE: (u64, u64) = (34, SECTORS - 34);

type Disk = Vec<[u8; BYTES]>;

/// A number of sectors, or the place of one.
fn index(sector: u64) -> usize {
    usize::try_from(sector).unwrap()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Entries with these names, first and last sectors.
fn entries(partitions: &[(u32, &str, u64, u64)]) -> Vec<u8> {
    let mut entries = vec![0; ENTRIES as usize * ENTRY];
    for (number, name, first, last) in partitions {
        let start = (*number as usize - 1) * ENTRY;
        let entry = &mut entries[start..start + ENTRY];
        put(entry, 0, &[0xaf; 16]);
        put(entry, 16, &[0x11; 16]);
        put(entry, 32, &first.to_le_bytes());
        put(entry, 40, &last.to_le_bytes());
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        put(entry, 56, &units);
    }
    entries
}

/// A header at `at` of entries at `entries_at`, with `change` made to it before its checksum.
fn header(at: u64, entries_at: u64, entries: &[u8], change: impl Fn(&mut [u8])) -> [u8; BYTES] {
    let mut sector = [0; BYTES];
    put(&mut sector, 0, b"EFI PART");
    put(&mut sector, 8, &REVISION.to_le_bytes());
    put(&mut sector, 12, &92u32.to_le_bytes());
    put(&mut sector, 24, &at.to_le_bytes());
    put(&mut sector, 32, &SECTORS.wrapping_sub(at).to_le_bytes());
    put(&mut sector, 40, &USABLE.0.to_le_bytes());
    put(&mut sector, 48, &USABLE.1.to_le_bytes());
    put(&mut sector, 72, &entries_at.to_le_bytes());
    put(&mut sector, 80, &ENTRIES.to_le_bytes());
    put(&mut sector, 84, &128u32.to_le_bytes());
    put(&mut sector, 88, &crc32fast::hash(entries).to_le_bytes());
    change(&mut sector);
    let sum = crc32fast::hash(&sector[..92]);
    put(&mut sector, 16, &sum.to_le_bytes());
    sector
}

/// A disk whose first header has been changed.
fn changed(partitions: &[(u32, &str, u64, u64)], change: impl Fn(&mut [u8])) -> Disk {
    let last = SECTORS - 1;
    let entries = entries(partitions);
    let mut disk = vec![[0; BYTES]; index(SECTORS)];
    disk[1] = header(1, 2, &entries, change);
    disk[index(last)] = header(last, last - 32, &entries, |_| {});
    for (at, sector) in entries.chunks_exact(BYTES).enumerate() {
        disk[2 + at].copy_from_slice(sector);
        disk[index(last) - 32 + at].copy_from_slice(sector);
    }
    disk
}

const TWO: &[(u32, &str, u64, u64)] = &[(1, "boot", 34, 49), (5, "wurzel ß", 50, 166)];

fn disk() -> Disk {
    changed(TWO, |_| {})
}

/// What a search comes to, and how many sectors it has wanted.
fn search(disk: &Disk, wanted: Wanted) -> (Result<Partition, NotFound>, usize) {
    let mut search = Search::new(wanted, disk.len() as u64);
    for steps in 0.. {
        match search.next() {
            Next::Sector(at) => search.take(&disk[index(at)]),
            Next::Found(partition) => return (Ok(partition), steps),
            Next::Failed(error) => return (Err(error), steps),
        }
    }
    unreachable!("it has ended")
}

fn number(number: u32) -> Wanted {
    Wanted::Number(NonZeroU32::new(number).unwrap())
}

fn name(name: &str) -> Wanted {
    Wanted::Name(name.into())
}

#[test]
fn partitions_are_found_by_number_and_by_name() {
    let disk = disk();
    let boot = Partition { number: 1, first: 34, sectors: 16 };
    let root = Partition { number: 5, first: 50, sectors: 117 };
    for (wanted, partition) in
        [(number(1), boot), (name("boot"), boot), (number(5), root), (name("wurzel ß"), root)]
    {
        // The header, and 32 sectors of entries.
        assert_eq!(search(&disk, wanted), (Ok(partition), 33));
    }
    for wanted in [number(2), number(129), name("boo"), name("boot "), name("")] {
        assert_eq!(search(&disk, wanted).0, Err(NotFound::NoPartition));
    }
}

#[test]
fn the_first_of_two_partitions_with_a_name_is_found() {
    let disk = changed(&[(2, "a", 34, 34), (3, "a", 35, 35)], |_| {});
    assert_eq!(search(&disk, name("a")).0.unwrap().number, 2);
}

#[test]
fn the_table_at_the_end_serves_where_the_first_is_damaged() {
    let boot = Ok(Partition { number: 1, first: 34, sectors: 16 });
    let mut wiped = disk();
    wiped[1] = [0; BYTES];
    assert_eq!(search(&wiped, name("boot")), (boot, 34));
    let mut entries = disk();
    entries[20][3] ^= 1;
    assert_eq!(search(&entries, name("boot")), (boot, 66));
    // That one is damaged as well: what is wrong with the first is told.
    wiped[index(SECTORS) - 1][60] ^= 1;
    let error = NotFound::NoTable(Damage::NoHeader);
    assert_eq!(search(&wiped, name("boot")), (Err(error), 2));
}

#[test]
fn headers_that_cannot_be_true_are_damage() {
    let words = |at: usize, value: &'static [u8]| move |sector: &mut [u8]| put(sector, at, value);
    let far: &[u8] = &[0xff; 8];
    for (at, value, damage) in [
        (8, &[0, 0, 2, 0][..], Damage::Kind),
        (12, &[91, 0, 0, 0], Damage::Kind),
        (12, &[1, 2, 0, 0], Damage::Kind),
        (24, &[2], Damage::Layout),
        (40, &[1], Damage::Layout),
        (40, &[167], Damage::Layout),
        (48, far, Damage::Layout),
        (72, &[1], Damage::Layout),
        (72, far, Damage::Layout),
        (72, &[169], Damage::Layout),
        (80, &[0, 0, 0, 0], Damage::Layout),
        (80, &[1, 4, 0, 0], Damage::TooMany),
        (80, far, Damage::TooMany),
        (84, &[64, 0, 0, 0], Damage::Kind),
        (84, &[192, 0, 0, 0], Damage::Kind),
        (84, &[0, 4, 0, 0], Damage::Kind),
    ]
    .into_iter()
    .step_by(testing::pick(1, 9))
    {
        let mut disk = changed(TWO, words(at, value));
        *disk.last_mut().unwrap() = [0; BYTES];
        let expected = Err(NotFound::NoTable(damage));
        assert_eq!(search(&disk, number(1)).0, expected, "{value:?} at {at}");
    }
    let mut disk = disk();
    disk[1][91] ^= 0x80;
    *disk.last_mut().unwrap() = [0; BYTES];
    assert_eq!(search(&disk, number(1)).0, Err(NotFound::NoTable(Damage::HeaderChecksum)));
}

#[test]
fn a_partition_that_is_not_within_the_usable_sectors_is_none() {
    let outside = [(33, 40), (40, 167), (50, 49), (u64::MAX, 0), (34, u64::MAX)];
    for (first, last) in outside.into_iter().step_by(testing::pick(1, 4)) {
        let disk = changed(&[(7, "x", first, last), (8, "y", 40, 40)], |_| {});
        assert_eq!(search(&disk, name("x")).0, Err(NotFound::BadPartition(7)));
        assert!(search(&disk, name("y")).0.is_ok());
    }
}

#[test]
fn a_disk_without_room_for_a_table_has_none() {
    for sectors in 0..3 {
        let disk = vec![[0xff; BYTES]; sectors];
        let expected = Err(NotFound::NoTable(Damage::NoHeader));
        assert_eq!(search(&disk, number(1)).0, expected);
    }
}

proptest! {
    #![proptest_config(testing::cases(128, 1))]

    #[test]
    fn any_table_ends_soon_and_finds_only_what_is_on_the_disk(
        sectors in prop_oneof![0u64..300, any::<u64>()],
        wanted in prop_oneof![(1u32..200).prop_map(number), ".*".prop_map(Wanted::Name)],
        fields in prop::collection::vec((8usize..88, any::<[u8; 4]>()), 0..3),
        ends in (0u64..200, 0u64..200),
    ) {
        // Every entry is the same one.
        let mut entry = [0x77; ENTRY];
        put(&mut entry, 32, &ends.0.to_le_bytes());
        put(&mut entry, 40, &ends.1.to_le_bytes());
        let entries: [u8; BYTES] = entry.repeat(BYTES / ENTRY).try_into().unwrap();
        let all = entry.repeat(ENTRIES as usize);
        let is_plain = fields.is_empty() && sectors > USABLE.1;
        let mut search = Search::new(wanted.clone(), sectors);
        let mut steps = 0;
        while let Next::Sector(at) = search.next() {
            prop_assert!(at < sectors);
            steps += 1;
            prop_assert!(steps <= 2 + 2 * MAX_ENTRIES);
            let is_header = at == 1 || at == sectors - 1;
            search.take(&if is_header {
                header(at, 2, &all, |sector| {
                    for (place, value) in &fields {
                        put(sector, *place, value);
                    }
                    put(sector, 24, &at.to_le_bytes());
                })
            } else {
                entries
            });
        }
        match search.next() {
            Next::Found(partition) => {
                let end = partition.first.checked_add(partition.sectors);
                prop_assert!(partition.sectors > 0 && end.is_some_and(|end| end <= sectors));
            }
            next if is_plain => {
                let is_there = matches!(&wanted, Wanted::Number(number) if number.get() <= ENTRIES);
                let fits = USABLE.0 <= ends.0 && ends.0 <= ends.1 && ends.1 <= USABLE.1;
                prop_assert!(!is_there || !fits, "{:?}", next);
            }
            _ => {}
        }
    }
}
