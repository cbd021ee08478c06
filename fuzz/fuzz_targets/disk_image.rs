//! Any bytes as a disk image of a bundle. Reading ends, in bounded steps, and what is unpacked of a chunk has no gaps.
#![no_main]

use libfuzzer_sys::fuzz_target;
use miniz_oxide::deflate::compress_to_vec;
use plinth::virtio::block::image::{CHUNK, Image, MAGIC, Unpacker};

/// An image with one stored chunk after the other, and `extra` changes to it.
fn image(chunks: &[Vec<u8>], changes: &[(u16, u8)]) -> Vec<u8> {
    let mut image = MAGIC.to_vec();
    image.extend((chunks.len().max(1) as u64 * CHUNK).to_le_bytes());
    image.extend((CHUNK as u32).to_le_bytes());
    image.extend((chunks.len() as u32).to_le_bytes());
    let mut stored = Vec::new();
    let first = 24 + 16 * chunks.len();
    for (number, chunk) in (0u32..).zip(chunks) {
        let mut chunk = chunk.clone();
        chunk.resize(CHUNK as usize, 0);
        let packed = compress_to_vec(&chunk, 1);
        image.extend(number.to_le_bytes());
        image.extend((packed.len() as u32).to_le_bytes());
        image.extend(((first + stored.len()) as u64).to_le_bytes());
        stored.extend(packed);
    }
    image.extend(stored);
    for (at, change) in changes {
        let at = usize::from(*at) % image.len();
        image[at] ^= change;
    }
    image
}

fn unpack(bytes: &[u8]) {
    let Ok(image) = Image::new(bytes) else { return };
    let (mut before, mut unpacker) = (None, None::<Unpacker<'_>>);
    for index in 0..image.stored().min(64) {
        let Ok(Some(chunk)) = image.chunk(index, before) else { return };
        assert!(before.is_none_or(|before| before < chunk.number), "numbers rise");
        before = Some(chunk.number);
        assert!(u64::from(chunk.number) * CHUNK + chunk.size as u64 <= image.size());
        match &mut unpacker {
            Some(unpacker) => unpacker.begin(index, chunk),
            None => unpacker = Some(Unpacker::new(index, chunk)),
        }
        let unpacker = unpacker.as_mut().expect("it is there");
        let (mut end, mut steps) = (0, 0);
        loop {
            match unpacker.step() {
                Ok(Some((at, piece))) => {
                    assert_eq!(at, end, "no gaps");
                    end += piece.len();
                    steps += 1;
                    assert!(end <= chunk.size && steps <= chunk.stored.len() + chunk.size);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert_eq!(end, chunk.size);
    }
    assert!(image.chunk(image.stored(), before).is_ok_and(|chunk| chunk.is_none()));
}

fuzz_target!(|input: (Vec<u8>, Vec<Vec<u8>>, Vec<(u16, u8)>)| {
    let (raw, chunks, changes) = input;
    unpack(&raw);
    if chunks.len() <= 4 {
        unpack(&image(&chunks, &changes));
    }
});
