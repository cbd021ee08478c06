//! Any requests, against an array of bytes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Three chunks, the second zeros, and a part of a block at the end.
const SIZE: usize = (2 << 16) + 8192 + 1536;
const SECTORS: u64 = SIZE as u64 / 512;
/// How many blocks can have been written to.
const PLACES: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u64),
    Write(u64, u64, u8),
    Discard(Vec<(u64, u32)>),
    WriteZeros(Vec<(u64, u32)>, bool),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<(Step, Vec<u64>)>> {
    // A few places that many steps have in common, and some beyond the end.
    let sector = || prop_oneof![0u64..32, 120u64..140, SECTORS - 12..SECTORS + 4];
    let segments = || prop::collection::vec((sector(), 0u32..40), 1..4);
    let step = prop_oneof![
        4 => (sector(), 0u64..60).prop_map(|(at, size)| Step::Read(at, size)),
        6 => (sector(), 0u64..24, 1u8..).prop_map(|(at, size, byte)| Step::Write(at, size, byte)),
        2 => segments().prop_map(Step::Discard),
        2 => (segments(), any::<bool>()).prop_map(|(all, unmap)| Step::WriteZeros(all, unmap)),
        1 => Just(Step::Restart),
    ];
    let cuts = prop_oneof![
        Just(vec![]),
        Just(vec![4096]),
        prop::collection::vec(prop_oneof![1u64..700, 4000u64..5000], 1..5),
    ];
    prop::collection::vec((step, cuts), 1..pick(40, 6))
}

#[derive(Clone, Copy, PartialEq)]
enum Block {
    AsItWas,
    Zeros,
    Own,
}

/// What a disk is, in the plainest words.
struct Model {
    bytes: Vec<u8>,
    blocks: BTreeMap<usize, Block>,
}

impl Model {
    fn block(&self, block: usize) -> Block {
        self.blocks.get(&block).copied().unwrap_or(Block::AsItWas)
    }

    /// Whether block `block` has a place, or gets one.
    fn own(&mut self, block: usize) -> bool {
        let owned = self.blocks.values().filter(|block| **block == Block::Own).count();
        if self.block(block) != Block::Own && owned == PLACES {
            return false;
        }
        self.blocks.insert(block, Block::Own);
        true
    }

    fn range(sector: u64, sectors: u64) -> Option<(usize, usize)> {
        let end = sector + sectors;
        (end <= SECTORS)
            .then(|| [512 * sector, 512 * end].map(|at| usize::try_from(at).unwrap()))
            .map(|[from, to]| (from, to))
    }

    /// The parts of blocks from one byte to another.
    fn parts(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
        let next = move |at: &usize| Some((*at / 4096 + 1) * 4096).filter(|next| *next < to);
        let starts = std::iter::successors(Some(from), next).filter(move |at| *at < to);
        starts.map(move |at| (at, to.min((at / 4096 + 1) * 4096)))
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        let Some((from, to)) = Self::range(sector, data.len() as u64 / 512) else {
            return IO_ERROR;
        };
        for (start, end) in Self::parts(from, to) {
            if !self.own(start / 4096) {
                return IO_ERROR;
            }
            self.bytes[start..end].copy_from_slice(&data[start - from..end - from]);
        }
        OK
    }

    fn clear(&mut self, segments: &[(u64, u32)], zeros: Option<bool>) -> u8 {
        for (sector, sectors) in segments {
            let Some((from, to)) = Self::range(*sector, (*sectors).into()) else { return IO_ERROR };
            for (start, end) in Self::parts(from, to) {
                let (block, whole) = (start / 4096, end - start == 4096);
                match (zeros, self.block(block)) {
                    (None, _) if !whole => continue,
                    (Some(false), Block::Own) => {}
                    (_, _) if whole => drop(self.blocks.insert(block, Block::Zeros)),
                    (_, Block::Own | Block::Zeros) => {}
                    // The second chunk is not stored.
                    (_, Block::AsItWas) if (16..32).contains(&block) => {}
                    (_, Block::AsItWas) => {
                        if !self.own(block) {
                            return IO_ERROR;
                        }
                    }
                }
                self.bytes[start..end].fill(0);
            }
        }
        OK
    }
}

fn content() -> Vec<u8> {
    let once: Vec<u8> = (0..253).collect();
    let mut content = once.repeat(SIZE.div_ceil(253));
    content.truncate(SIZE);
    content[1 << 16..2 << 16].fill(0);
    content[3 * 4096..5 * 4096].fill(0);
    content
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    #[test]
    fn a_disk_behaves_as_an_array_of_bytes_with_so_much_space(steps in steps()) {
        static IMAGE: std::sync::OnceLock<&[u8]> = std::sync::OnceLock::new();
        let image = IMAGE.get_or_init(|| keep(image_of(&content())));
        let disk = disk(Some(image), 0, Some(PLACES as u64 * 4096), &mut pool(64));
        let mut guest = Guest::new(disk);
        let mut model = Model { bytes: content(), blocks: BTreeMap::new() };
        for (step, cuts) in steps {
            match step {
                Step::Read(sector, sectors) => {
                    let Answer { status, read, written, .. } = guest.ask(0, sector, &[], 512 * sectors, &cuts);
                    match Model::range(sector, sectors) {
                        Some((from, to)) => {
                            prop_assert_eq!((status, u64::from(written)), (OK, 512 * sectors + 1));
                            prop_assert!(read == model.bytes[from..to]);
                        }
                        None => prop_assert_eq!(status, IO_ERROR),
                    }
                }
                Step::Write(sector, sectors, byte) => {
                    let size = usize::try_from(512 * sectors).unwrap();
                    let data: Vec<u8> = (0..size / 512).map(|at| [byte.wrapping_add(at.to_le_bytes()[0]); 512]).collect::<Vec<_>>().concat();
                    let status = guest.ask(1, sector, &data, 0, &cuts).status;
                    prop_assert_eq!(status, model.write(sector, &data));
                }
                Step::Discard(segments) => {
                    let all: Vec<_> = segments.iter().map(|(at, size)| (*at, *size, 0)).collect();
                    prop_assert_eq!(guest.segments(11, &all), model.clear(&segments, None));
                }
                Step::WriteZeros(segments, unmap) => {
                    let all: Vec<_> = segments.iter().map(|(at, size)| (*at, *size, u32::from(unmap))).collect();
                    prop_assert_eq!(guest.segments(13, &all), model.clear(&segments, Some(unmap)));
                }
                // The guest's reset keeps its disks.
                Step::Restart => {
                    guest.device.reset();
                    guest.start();
                }
            }
        }
        for sector in (0..SECTORS).step_by(64) {
            let sectors = (SECTORS - sector).min(64);
            let (from, to) = Model::range(sector, sectors).unwrap();
            prop_assert!(guest.read(sector, sectors).read == model.bytes[from..to]);
        }
    }
}
