//! Claims about gzip, and zboot Images.

use super::*;

#[test]
fn a_gzip_image_is_unpacked_as_the_image_would_be_placed() {
    // Larger than the window, so that it comes in pieces.
    let size = crate::testing::pick(200_000, 0x800);
    let file = image(0x8_0000, 0x30_0000, 0, size);
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(&gzip(&file), None).unwrap();
    assert_eq!(placement, Memory::new(64 * MIB).load(&file, None).unwrap());
    assert_eq!(memory.read(placement.entry, file.len()), file);
    assert!(cfg!(miri) || memory.writes.len() > 1);
}

#[test]
fn a_gzip_flat_binary_is_a_flat_binary() {
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(&gzip(b"code"), None).unwrap();
    assert_eq!(placement.kernel, region(RAM + 0x8_0000, 4));
    assert_eq!(memory.read(placement.entry, 4), b"code");
    assert_eq!(refusal(&gzip(b"")), ImageError::Empty);
}

#[test]
fn every_optional_field_of_a_gzip_header_is_skipped() {
    const EXTRA: &[u8] = b"\x03\0abc";
    let mut crc = vec![0x1f, 0x8b, 8, 0x1e, 0, 0, 0, 0, 0, 3];
    let fields = [EXTRA, b"name\0", b"comment\0"].concat();
    crc.extend(&fields);
    let check = crc32fast::hash(&crc) as u16;
    let all = [&fields[..], &check.to_le_bytes()].concat();
    let wrong = [&fields[..], &(check ^ 1).to_le_bytes()].concat();
    for (flags, fields) in [(4, EXTRA), (8, b"name\0"), (16, b"\0"), (0x1e, &all), (1, b"")] {
        let file = gzip_with(flags, fields, b"code");
        assert!(Memory::new(64 * MIB).load(&file, None).is_ok(), "flags {flags:#x}");
    }
    let damaged = ImageError::Damaged { part: "gzip header" };
    assert_eq!(refusal(&gzip_with(0x1e, &wrong, b"code")), damaged);
    assert_eq!(refusal(&gzip_with(0x20, &[], b"code")), damaged);
}

#[test]
fn every_truncation_of_a_gzip_image_is_noticed() {
    let file = gzip(&image(0, 0x1000, 0, 0x400));
    let step = crate::testing::pick(1, 499);
    for length in (2..file.len()).step_by(step) {
        assert_eq!(refusal(&file[..length]), ImageError::CutShort, "{length} bytes");
    }
}

#[test]
fn every_flipped_bit_of_a_gzip_image_is_noticed_or_harmless() {
    let contents = image(0, 0x1000, 0, 0x400);
    let mut file = gzip(&contents);
    let step = crate::testing::pick(1, 499);
    for at in (10..file.len()).step_by(step) {
        for bit in (0..8).step_by(crate::testing::pick(1, 5)) {
            file[at] ^= 1 << bit;
            let mut memory = Memory::new(64 * MIB);
            if let Ok(placement) = memory.load(&file, None) {
                // A bit that deflate pads with.
                assert_eq!(memory.read(placement.entry, contents.len()), contents);
            }
            file[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_wrong_checksum_or_length_at_the_end_of_gzip_is_told_apart() {
    let file = gzip(b"code");
    let end = file.len();
    let changed = |at: usize| {
        let mut file = file.clone();
        file[at] ^= 1;
        refusal(&file)
    };
    assert!(matches!(changed(end - 8), ImageError::Checksum { .. }));
    assert_eq!(changed(end - 4), ImageError::Length { stored: 5, unpacked: 4 });
    let padded = [&file[..], &[0; 100]].concat();
    assert!(Memory::new(64 * MIB).load(&padded, None).is_ok());
    let doubled = [&file[..], &file[..]].concat();
    assert!(matches!(refusal(&doubled), ImageError::Damaged { .. }));
}

#[test]
fn a_small_file_that_unpacks_to_more_than_ram_is_stopped_at_its_end() {
    let size = crate::testing::pick(8 * MIB, 0x1000);
    let bomb = gzip(&vec![0; size as usize]);
    assert!(cfg!(miri) || bomb.len() < size as usize / 100);
    let mut memory = Memory::new(size / 2);
    let error = memory.load(&bomb, None).unwrap_err();
    assert!(matches!(error, ImageError::KernelTooLarge { .. }), "{error}");
}

#[test]
fn a_zboot_image_with_gzip_is_unpacked_and_no_other_is() {
    let file = plain_image();
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(&zboot(b"gzip\0", &gzip(&file)), None).unwrap();
    assert_eq!(placement.kernel, region(RAM, 0x3_0000));
    assert_eq!(memory.read(placement.entry, file.len()), file);
    assert_eq!(refusal(&zboot(b"zstd22\0", b"...")), ImageError::ZbootCompression);
}

#[test]
fn a_zboot_payload_outside_the_file_is_refused() {
    for (at, value) in [(8, u32::MAX), (12, u32::MAX), (12, 0x1000), (8, 0x8000)] {
        let mut file = zboot(b"gzip\0", &gzip(b"code"));
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert!(matches!(refusal(&file), ImageError::Damaged { .. }));
    }
    for length in 8..24 {
        let file = &zboot(b"gzip\0", b"")[..length];
        assert!(matches!(refusal(file), ImageError::Damaged { .. }), "{length} bytes");
    }
}
