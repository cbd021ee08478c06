//! Claims about ELF files.

use super::*;

#[test]
fn an_elf_file_goes_to_its_physical_addresses() {
    let file = elf(
        0xffff_0000_0000_1004,
        &[
            Segment { vaddr: 0x8000, paddr: 0x4060_0000, contents: b"data", memory: 0x10 },
            Segment {
                vaddr: 0xffff_0000_0000_1000,
                paddr: 0x4020_0000,
                contents: b"text....",
                memory: 8,
            },
            Segment { vaddr: 0x9000, paddr: 0x4070_0000, contents: b"", memory: 0x100 },
        ],
    );
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(&file, None).unwrap();
    assert_eq!(placement.entry, Ipa::new(0x4020_0004));
    assert_eq!(placement.kernel, region(0x4020_0000, 0x50_0100));
    assert_eq!(memory.read(Ipa::new(0x4020_0000), 8), b"text....");
    assert_eq!(memory.read(Ipa::new(0x4060_0000), 4), b"data");
    // Where bare-metal programs look for it.
    assert_eq!(placement.dtb, Ipa::new(RAM));
}

#[test]
fn elf_files_for_others_are_told_what_they_are_for() {
    let changed = |at: usize, value: u8| {
        let mut file = simple_elf();
        file[at] = value;
        refusal(&file)
    };
    assert_eq!(changed(4, 1), ImageError::Elf32);
    assert_eq!(changed(5, 2), ImageError::ElfBigEndian);
    assert_eq!(changed(18, 62), ImageError::ElfMachine { machine: 62 });
    assert_eq!(changed(16, 1), ImageError::ElfKind { kind: 1 });
    assert_eq!(refusal(b"\x7fELF"), ImageError::ElfDamaged { part: "identification" });
    assert_eq!(refusal(&elf(0x4020_0000, &[])), ImageError::ElfNothingToLoad);
}

#[test]
fn elf_segments_outside_ram_are_refused_before_any_is_written() {
    for (paddr, memory) in
        [(0, 8), (RAM - 8, 16), (RAM + 64 * MIB - 4, 8), (u64::MAX, 8), (RAM, u64::MAX)]
    {
        let good = Segment { vaddr: 0, paddr: RAM, contents: b"text....", memory: 8 };
        let bad = Segment { vaddr: 0x1000, paddr, contents: b"", memory };
        let mut guest = Memory::new(64 * MIB);
        let error = guest.load(&elf(0, &[good, bad]), None).unwrap_err();
        assert!(matches!(error, ImageError::ElfSegmentOutsideRam { .. }), "{error}");
        assert!(guest.writes.is_empty());
    }
}

#[test]
fn an_elf_entry_must_be_an_instruction_in_the_file() {
    let text = || Segment { vaddr: 0x1000, paddr: RAM, contents: b"text....", memory: 0x100 };
    for entry in [0, 0xffc, 0x1002, 0x1008, 0x4000_0000, u64::MAX] {
        assert_eq!(refusal(&elf(entry, &[text()])), ImageError::ElfEntry { entry });
    }
    let placement = Memory::new(64 * MIB).load(&elf(0x1004, &[text()]), None).unwrap();
    assert_eq!(placement.entry, Ipa::new(RAM + 4));
}

#[test]
fn a_damaged_elf_file_is_refused() {
    // More in the file than in memory, and a segment beyond the end of the file.
    let text = Segment { vaddr: 0, paddr: RAM, contents: b"text....", memory: 4 };
    assert_eq!(refusal(&elf(0, &[text])), ImageError::ElfDamaged { part: "segments" });
    let file = simple_elf();
    assert_eq!(refusal(&file[..file.len() - 1]), ImageError::ElfDamaged { part: "segments" });
    let text = || Segment { vaddr: 0, paddr: RAM, contents: b"text....", memory: 8 };
    let many: Vec<Segment> = (0..65).map(|_| text()).collect();
    assert_eq!(refusal(&elf(0, &many)), ImageError::ElfTooManySegments { count: 65 });
}
