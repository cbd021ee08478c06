//! Claims about arm64 Images and flat binaries, and what is neither.

use super::*;

#[test]
fn an_image_starts_at_its_offset_from_the_start_of_ram_and_takes_its_bss() {
    for text_offset in [0, 0x8_0000, 0x1000] {
        let mut memory = Memory::new(256 * MIB);
        let file = image(text_offset, 0x30_0000, 0b1010, crate::testing::pick(0x2_0000, 0x800));
        let placement = memory.load(&file, None).unwrap();
        assert_eq!(placement.entry, Ipa::new(RAM + text_offset));
        assert_eq!(placement.kernel, region(RAM + text_offset, 0x30_0000));
        assert_eq!(memory.read(placement.entry, file.len()), file);
    }
}

#[test]
fn an_image_longer_than_it_says_takes_its_length() {
    let placement = Memory::new(64 * MIB).load(&image(0, 0x1000, 0, 0x3000), None).unwrap();
    assert_eq!(placement.kernel, region(RAM, 0x3000));
}

#[test]
fn an_image_without_a_size_is_loaded_where_old_kernels_are() {
    let old = image(0x0008_0000_0000_0000, 0, 0, 0x3000);
    let placement = Memory::new(64 * MIB).load(&old, None).unwrap();
    assert_eq!(placement.entry, Ipa::new(RAM + 0x8_0000));
}

#[test]
fn images_that_cannot_run_here_are_refused() {
    assert_eq!(refusal(&image(0, 0x1000, 1, 0x100)), ImageError::BigEndian);
    let text_offset = 0x8_0004;
    assert_eq!(
        refusal(&image(text_offset, 0x1000, 0, 0x100)),
        ImageError::TextOffset { text_offset }
    );
    assert_eq!(refusal(&[]), ImageError::Empty);
}

#[test]
fn an_image_whose_bss_or_offset_leaves_ram_is_refused_before_it_is_written() {
    for (text_offset, size) in
        [(0, 64 * MIB + 1), (0, u64::MAX), (0x1000, 64 * MIB), (!0xfff, 0x1000), (64 * MIB, 1)]
    {
        let mut memory = Memory::new(64 * MIB);
        let error = memory.load(&image(text_offset, size, 0, 0x100), None).unwrap_err();
        assert!(matches!(error, ImageError::KernelTooLarge { .. }), "{error}");
        assert!(memory.writes.is_empty());
    }
}

#[test]
fn a_flat_binary_goes_512_kib_into_ram() {
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(b"\x00\x00\x80\xd2 code", None).unwrap();
    assert_eq!(placement.entry, Ipa::new(RAM + 0x8_0000));
    assert_eq!(placement.kernel, region(RAM + 0x8_0000, 9));
    assert_eq!(memory.read(placement.entry, 9), b"\x00\x00\x80\xd2 code");
}

#[test]
fn a_kernel_for_ram_that_does_not_start_at_2_mib_goes_to_the_next_2_mib() {
    let ram = region(RAM + 0x1000, 64 * MIB);
    let mut memory = Memory { ram, writes: Vec::new() };
    let placement = memory.load(&plain_image(), None).unwrap();
    assert_eq!(placement.entry, Ipa::new(RAM + 2 * MIB));
}

#[test]
fn known_formats_of_others_are_refused_by_name() {
    let mut zimage = vec![0; 0x100];
    zimage[0x24..0x28].copy_from_slice(b"\x18\x28\x6f\x01");
    let mut bzimage = vec![0; 0x300];
    bzimage[..2].copy_from_slice(b"MZ");
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    for (file, name) in [
        (b"\x28\xb5\x2f\xfd....".to_vec(), "zstd"),
        (b"\xfd7zXZ\0....".to_vec(), "xz"),
        (b"\xd0\x0d\xfe\xed....".to_vec(), "device tree"),
        (b"070701....".to_vec(), "cpio"),
        (zimage, "zImage"),
        (bzimage, "bzImage"),
        (b"MZ....".to_vec(), "EFI"),
        (gzip(&gzip(b"twice")), "gzip twice"),
        (gzip(&simple_elf()), "ELF"),
        (gzip(b"070701...."), "cpio"),
    ] {
        let error = refusal(&file);
        assert!(
            matches!(error, ImageError::Foreign { format } if format.contains(name)),
            "{error}"
        );
    }
}
