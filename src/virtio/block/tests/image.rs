//! Images that are whole, and images that are not.

use proptest::prelude::*;

use super::*;
use crate::testing::pick;
use crate::virtio::block::image::{Image, ImageError, MAX_DISK, Unpacker};

/// What is on the disk of an image, in bounded steps; `None` when it is found out that it cannot be known.
fn unpack(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let image = Image::new(bytes)?;
    // A damaged header may promise more than there is memory in the world.
    let mut disk = vec![0; usize::try_from(image.size().min(1 << 20)).unwrap()];
    let (mut before, mut unpacker) = (None, None::<Unpacker<'_>>);
    for index in 0..image.stored() {
        let Some(chunk) = image.chunk(index, before)? else { break };
        before = Some(chunk.number);
        let start = usize::try_from(u64::from(chunk.number) * CHUNK).unwrap();
        match &mut unpacker {
            Some(unpacker) => unpacker.begin(index, chunk),
            None => unpacker = Some(Unpacker::new(index, chunk)),
        }
        let Some(unpacker) = &mut unpacker else { break };
        let (mut steps, mut end) = (0, 0);
        while let Some((at, piece)) = unpacker.step()? {
            assert_eq!(at, end, "what is unpacked has no gaps");
            end = at + piece.len();
            assert!(end <= chunk.size);
            if let Some(place) = disk.get_mut(start + at..start + end) {
                place.copy_from_slice(piece);
            }
            steps += 1;
            assert!(steps <= chunk.stored.len() + chunk.size, "each step gets somewhere");
        }
        assert_eq!(end, chunk.size);
    }
    Ok(disk)
}

proptest! {
    #![proptest_config(crate::testing::cases(48, 1))]

    #[test]
    fn sparse_contents_come_back_as_they_were(
        pieces in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            prop::collection::vec(any::<u8>(), 1..pick(3000, 100)),
            (1usize..pick(90_000, 9000), any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
        ]), 0..pick(6, 3)),
        sectors in 1usize..pick(700, 200),
    ) {
        let mut content = vec![0; 512 * sectors];
        for (at, bytes) in pieces {
            let at = at.index(content.len());
            let size = bytes.len().min(content.len() - at);
            content[at..at + size].copy_from_slice(&bytes[..size]);
        }
        prop_assert!(unpack(&image_with(&content, true)).unwrap() == content);
    }

    #[test]
    fn no_bytes_whatever_behind_a_good_header_make_it_panic(
        size in 1u64..1 << 20, stored in 0u32..4, rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let header = [&MAGIC[..], &(size * 512).to_le_bytes(), &65536u32.to_le_bytes()].concat();
        let _ = unpack(&[&header[..], &stored.to_le_bytes(), &rest].concat());
    }
}

/// Two chunks of three, one of them stored as it is, the last one short.
fn small() -> Vec<u8> {
    let mut content = vec![0; (2 << 16) + 1024];
    content[100..400].copy_from_slice(&pattern(300));
    let mut noise = 1u32;
    for byte in &mut content[2 << 16..] {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = noise.to_be_bytes()[0];
    }
    image_with(&content, true)
}

#[test]
fn an_image_with_any_byte_changed_is_refused_or_is_a_disk_of_some_content() {
    let image = small();
    let good = unpack(&image).unwrap();
    let mut same = 0;
    for at in (0..image.len()).step_by(pick(1, 701)) {
        for change in [1, 0x80, 0xff].into_iter().take(pick(3, 1)) {
            let mut bad = image.clone();
            bad[at] ^= change;
            same += usize::from(unpack(&bad).is_ok_and(|disk| disk == good));
        }
    }
    // What ends a deflate stream is not looked at once all of the chunk is there.
    assert!(same <= 12, "{same} changes are not noticed");
}

#[test]
fn an_image_that_is_cut_short_is_refused() {
    let image = small();
    for size in (0..image.len()).step_by(pick(1, 701)) {
        assert!(unpack(&image[..size]).is_err(), "{size} bytes");
    }
}

#[test]
fn each_mistake_is_told_as_what_it_is() {
    let good = small();
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        unpack(&image).unwrap_err()
    };
    assert_eq!(changed(0, b"Q"), ImageError::Magic);
    assert_eq!(changed(8, &[1]), ImageError::Size((2 << 16) + 1025));
    let huge = MAX_DISK + 512;
    assert_eq!(changed(8, &huge.to_le_bytes()), ImageError::Size(huge));
    assert_eq!(changed(8, &[0; 8]), ImageError::Size(0));
    assert_eq!(changed(18, &[2]), ImageError::ChunkSize(2 << 16));
    assert_eq!(changed(20, &[4]), ImageError::Chunks { stored: 4, all: 3 });
    assert_eq!(changed(24, &[3]), ImageError::Order { number: 3 });
    assert_eq!(changed(24, &[2]), ImageError::Order { number: 2 });
    assert_eq!(changed(28, &[0; 4]), ImageError::Place { number: 0 });
    assert_eq!(changed(28, &65537u32.to_le_bytes()), ImageError::Place { number: 0 });
    assert_eq!(changed(32, &[0xff; 8]), ImageError::Place { number: 0 });
    assert_eq!(changed(44, &1025u32.to_le_bytes()), ImageError::Place { number: 2 });
    // The numbers of two chunks, the second of which is stored as it is, and is no stream.
    assert_eq!(changed(40, &[1]), ImageError::Damaged { number: 1 });
    // A block of a type that does not exist.
    assert_eq!(changed(56, &[7]), ImageError::Damaged { number: 0 });
}
