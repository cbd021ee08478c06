//! Claims about disks, made by a driver that keeps to the standard, and by one that does not.

mod image;
mod once;
mod property;
mod saved;
mod sharing;

use std::sync::Mutex;

use miniz_oxide::deflate::compress_to_vec;

use super::base::Images;
use super::disk::{Creation, Owner};
use super::image::{CHUNK, ENTRY_SIZE, HEADER_SIZE, MAGIC};
use super::*;
use crate::addr::Ipa;
use crate::device::Device;
use crate::memory::{FramePool, GuestMemory, Ram, Recorder};
use crate::testing::{pick, shared_ram};
use crate::time::Ticks;
use crate::virtio::ram::SharedRam;
use crate::virtio::transport::Transport;

const NOW: Ticks = Ticks(0);
const BASE: u64 = 0x4000_0000;
/// The guest's RAM; buffers are from the fourth page on.
const PAGES: u64 = 64;
const DATA: u64 = BASE + 3 * 4096;

/// The image of a disk with this content. Miri takes seconds to unpack a chunk, so it packs none here.
fn image_of(content: &[u8]) -> Vec<u8> {
    image_with(content, !cfg!(miri))
}

fn image_with(content: &[u8], packs: bool) -> Vec<u8> {
    let chunks = content.chunks(64 << 10).zip(0u32..);
    let kept: Vec<_> = chunks.filter(|(chunk, _)| **chunk != vec![0; chunk.len()]).collect();
    let mut image = MAGIC.to_vec();
    image.extend((content.len() as u64).to_le_bytes());
    image.extend(u32::try_from(CHUNK).unwrap().to_le_bytes());
    image.extend(u32::try_from(kept.len()).unwrap().to_le_bytes());
    let mut stored = Vec::new();
    for (chunk, number) in kept {
        let packed = packs.then(|| compress_to_vec(chunk, pick(6, 1)));
        let bytes = packed.as_deref().filter(|packed| packed.len() < chunk.len()).unwrap_or(chunk);
        let at = HEADER_SIZE + ENTRY_SIZE * count(&image) + stored.len();
        image.extend(number.to_le_bytes());
        image.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        image.extend((at as u64).to_le_bytes());
        stored.extend_from_slice(bytes);
    }
    image.extend(stored);
    image
}

/// How many chunks the header of an image has.
fn count(image: &[u8]) -> usize {
    u32::from_le_bytes(image[20..24].try_into().unwrap()).try_into().unwrap()
}

/// Bytes that are there for good, as a bundle's are.
fn keep(bytes: Vec<u8>) -> &'static [u8] {
    static KEPT: Mutex<Vec<&'static [u8]>> = Mutex::new(Vec::new());
    let bytes: &'static [u8] = Box::leak(bytes.into_boxed_slice());
    KEPT.lock().unwrap().push(bytes);
    bytes
}

fn pool(pages: u64) -> FramePool {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(pages * 4096, 4096).unwrap(), &[]);
    // Nothing may come to light that others have left there.
    let frames = pool.allocate(pages * 4096).unwrap().scrub().clean(&Recorder::default());
    let mut memory = GuestMemory::new();
    memory.add(Ipa::new(0), frames).unwrap();
    memory.write_from(Ipa::new(0), &vec![0xee; usize::try_from(pages * 4096).unwrap()]).unwrap();
    memory.release(&mut pool);
    pool
}

/// A disk that is ready.
fn disk(image: Option<&'static [u8]>, size: u64, space: Option<u64>, pool: &mut FramePool) -> Disk {
    let base = image.map(|image| Images::default().get(image, pool).unwrap());
    let size = base.as_ref().map_or(size, |base| base.size());
    let owner = Arc::new(Owner::new("test".into()));
    let creation = Creation { size, base, space, serial: "disk-of-the-test".into(), owner };
    let mut disk = Disk::new(creation, pool).unwrap();
    while !disk.step().unwrap() {}
    disk
}

/// A guest with a disk, and the driver in it.
struct Guest {
    ram: SharedRam,
    device: Transport<BlockDevice, SharedRam>,
    offered: u16,
}

impl Guest {
    fn new(disk: Disk) -> Self {
        let ram = shared_ram(BASE, PAGES);
        let device = BlockDevice::new(Arc::new(TicketMutex::new(disk)), 2);
        let device = Transport::new(device, ram.clone(), "test".into());
        let mut guest = Self { ram, device, offered: 0 };
        guest.start();
        guest
    }

    fn set(&mut self, offset: u64, value: u64) {
        self.device.write(offset, Width::Word, value, NOW);
    }

    fn get(&mut self, offset: u64, width: Width) -> u64 {
        self.device.read(offset, width, NOW)
    }

    /// "Device Initialization", with the first queue at the start of RAM.
    fn start(&mut self) {
        self.put(BASE, &[0; 3 * 4096]);
        self.offered = 0;
        for (offset, value) in [
            (0x070, 0),
            (0x070, 3),
            (0x024, 1),
            (0x020, 1),
            (0x070, 11),
            (0x030, 0),
            (0x038, 128),
            (0x080, BASE),
            (0x090, BASE + 0x1000),
            (0x0a0, BASE + 0x2000),
            (0x044, 1),
            (0x070, 15),
        ] {
            self.set(offset, value);
        }
        assert_eq!(self.get(0x070, Width::Word), 15);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.get().unwrap().write_from(Ipa::new(at), bytes).unwrap();
    }

    fn bytes(&self, at: u64, size: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        self.ram.get().unwrap().read_into(Ipa::new(at), &mut bytes).unwrap();
        bytes
    }

    /// Offers a chain of these buffers: where, how long, and whether the device writes.
    fn offer(&mut self, buffers: &[(u64, u32, bool)]) {
        for (number, (at, size, write)) in (0u16..).zip(buffers) {
            let last = usize::from(number) + 1 == buffers.len();
            let flags = u16::from(!last) | u16::from(*write) << 1;
            let descriptor = BASE + 16 * u64::from(number);
            self.put(descriptor, &at.to_le_bytes());
            self.put(descriptor + 8, &size.to_le_bytes());
            self.put(descriptor + 12, &flags.to_le_bytes());
            self.put(descriptor + 14, &(number + 1).to_le_bytes());
        }
        let slot = u64::from(self.offered % 128);
        self.put(BASE + 0x1004 + 2 * slot, &[0; 2]);
        self.offered = self.offered.wrapping_add(1);
        self.put(BASE + 0x1002, &self.offered.to_le_bytes());
        self.set(0x050, 0);
    }

    fn used(&self) -> u16 {
        u16::from_le_bytes(self.bytes(BASE + 0x2002, 2).try_into().unwrap())
    }

    /// Lets the device work until it has used the chain. Returns how many bytes it says it has written, and how often it
    /// was given the time to.
    fn wait(&mut self) -> (u32, usize) {
        let mut visits = 1;
        while self.used() != self.offered {
            assert!(self.device.deadline().is_some(), "it goes on by itself");
            self.device.advance(NOW);
            visits += 1;
        }
        let slot = u64::from(self.offered.wrapping_sub(1) % 128);
        let element = self.bytes(BASE + 0x2004 + 8 * slot, 8);
        (u32::from_le_bytes(element[4..].try_into().unwrap()), visits)
    }

    /// A request whose header and data are cut into buffers of these sizes, which begin at odd places if they are odd. What it
    /// came to: the status, what was read, and how many bytes are said to be written.
    fn ask(&mut self, kind: u32, sector: u64, data: &[u8], room: u64, cuts: &[u64]) -> Answer {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), data].concat();
        let status = DATA + 60 * 4096;
        let mut at = DATA;
        let mut buffers = Vec::new();
        let mut cuts = cuts.iter().copied().cycle();
        let mut cut = |size: u64, write: bool, buffers: &mut Vec<(u64, u32, bool)>| {
            let (start, mut left) = (at, size);
            while left > 0 {
                let piece = if buffers.len() > 100 { left } else { cuts.next().unwrap_or(left) };
                let piece = piece.clamp(1, left);
                buffers.push((at, u32::try_from(piece).unwrap(), write));
                (at, left) = (at + piece, left - piece);
            }
            start
        };
        let given = cut(header.len() as u64, false, &mut buffers);
        let read = cut(room, true, &mut buffers);
        buffers.push((status, 1, true));
        self.put(given, &header);
        self.put(status, &[0xff]);
        self.offer(&buffers);
        let (written, visits) = self.wait();
        let [status] = self.bytes(status, 1)[..] else { panic!("one byte") };
        Answer { status, read: self.bytes(read, room), written, visits }
    }

    fn read(&mut self, sector: u64, sectors: u64) -> Answer {
        self.ask(0, sector, &[], 512 * sectors, &[])
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.ask(1, sector, data, 0, &[]).status
    }

    /// A request to discard (11) or to write zeros (13): sector, sectors, flags of each segment.
    fn segments(&mut self, kind: u32, segments: &[(u64, u32, u32)]) -> u8 {
        let bytes = |(sector, sectors, flags): &(u64, u32, u32)| {
            [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
        };
        let data: Vec<u8> = segments.iter().flat_map(bytes).collect();
        self.ask(kind, 0, &data, 0, &[]).status
    }
}

struct Answer {
    status: u8,
    read: Vec<u8>,
    written: u32,
    visits: usize,
}

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

fn pattern(size: usize) -> Vec<u8> {
    let once: Vec<u8> = (0..251).collect();
    let mut all = once.repeat(size.div_ceil(251));
    all.truncate(size);
    all
}

fn guest(size: u64) -> Guest {
    Guest::new(disk(None, size, Some(size), &mut pool(2 * size / 4096 + 8)))
}

#[test]
fn what_is_written_is_read_and_the_rest_is_zeros() {
    let mut guest = guest(1 << 20);
    let data = pattern(5 * 512);
    assert_eq!(guest.write(7, &data), OK);
    let Answer { status, read, written, .. } = guest.read(0, 16);
    assert_eq!((status, written), (OK, 16 * 512 + 1));
    let expected = [vec![0; 7 * 512], data, vec![0; 4 * 512]].concat();
    assert!(read == expected);
}

#[test]
fn the_configuration_says_how_large_and_how_many() {
    let mut guest = guest(1 << 20);
    assert_eq!(guest.get(0x008, Width::Word), 2);
    assert_eq!(guest.get(0x100, Width::Double), 2048);
    assert_eq!(guest.get(0x100 + 12, Width::Word), 126);
    assert_eq!(guest.get(0x100 + 20, Width::Word), 512);
    assert_eq!(guest.get(0x100 + 24, Width::Byte), 3);
    assert_eq!(guest.get(0x100 + 34, Width::Half), 2);
    assert_eq!(guest.get(0x100 + 44, Width::Word), 8);
    assert_eq!(guest.get(0x100 + 56, Width::Byte), 1);
    assert_eq!(guest.get(0x100 + 60, Width::Word), 0);
    guest.set(0x030, 1);
    assert_eq!(guest.get(0x034, Width::Word), 128);
    guest.set(0x030, 2);
    assert_eq!(guest.get(0x034, Width::Word), 0);
}

#[test]
fn it_says_its_name() {
    let mut guest = guest(1 << 20);
    let Answer { status, read, written, .. } = guest.ask(8, 0, &[], 20, &[3]);
    assert_eq!((status, written, &read[..]), (OK, 21, &b"disk-of-the-test\0\0\0\0"[..]));
    let Answer { status, read, written, .. } = guest.ask(8, 0, &[], 4, &[]);
    assert_eq!((status, written, &read[..]), (OK, 5, &b"disk"[..]));
}

#[test]
fn what_lies_beyond_the_end_is_neither_read_nor_written() {
    let mut guest = guest(1 << 20);
    for sector in [2047, 2048, u64::MAX, u64::MAX / 512, 1 << 63] {
        assert_eq!(guest.read(sector, 2).status, IO_ERROR);
        assert_eq!(guest.write(sector, &[1; 1024]), IO_ERROR);
        assert_eq!(guest.segments(11, &[(sector, 2, 0)]), IO_ERROR);
        assert_eq!(guest.segments(13, &[(sector, 2, 0)]), IO_ERROR);
    }
    assert_eq!(guest.read(2046, 2).read, [0; 1024]);
}

#[test]
fn what_is_no_whole_sectors_or_unknown_is_refused() {
    let mut guest = guest(1 << 20);
    assert_eq!(guest.ask(0, 0, &[], 511, &[]).status, IO_ERROR);
    assert_eq!(guest.ask(1, 0, &[1; 513], 0, &[]).status, IO_ERROR);
    for kind in [2, 3, 5, 10, 12, 14, 0x8000_0001, u32::MAX] {
        assert_eq!(guest.ask(kind, 0, &[0; 16], 0, &[]).status, UNSUPPORTED);
    }
    // Flags that are not known; a discarded segment cannot be unmapped; segments cut off; none; too many.
    assert_eq!(guest.segments(13, &[(0, 8, 2)]), UNSUPPORTED);
    assert_eq!(guest.segments(11, &[(0, 8, 1)]), UNSUPPORTED);
    assert_eq!(guest.ask(11, 0, &[0; 15], 0, &[]).status, IO_ERROR);
    assert_eq!(guest.segments(11, &[]), IO_ERROR);
    assert_eq!(guest.segments(11, &[(0, 0, 0); 17]), IO_ERROR);
    assert_eq!(guest.segments(11, &[(0, 0, 0); 16]), OK);
    assert_eq!(guest.ask(4, 0, &[], 0, &[]).status, OK);
}

#[test]
fn a_header_that_is_cut_off_is_an_error_and_a_request_without_a_status_breaks_the_device() {
    let mut guest = guest(1 << 20);
    guest.offer(&[(DATA, 15, false), (DATA + 64, 1, true)]);
    assert_eq!(guest.wait().0, 1);
    assert_eq!(guest.bytes(DATA + 64, 1), [IO_ERROR]);
    guest.offer(&[(DATA, 16, false)]);
    assert_eq!(guest.get(0x070, Width::Word) & 64, 64);
    guest.start();
    assert_eq!(guest.read(0, 1).status, OK);
}

#[test]
fn buffers_outside_ram_are_an_error_and_nothing_that_others_left_comes_to_light() {
    let mut guest = guest(1 << 20);
    let beyond = BASE + PAGES * 4096 - 512;
    guest.put(DATA, &[1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    // The second block's second half would come from beyond RAM, and the third's as a whole.
    for buffers in [
        vec![(DATA, 16, false), (DATA, 4096, false), (beyond, 4096, false)],
        vec![(DATA, 16, false), (DATA, 2048, false), (DATA, 1536, false), (beyond, 1024, false)],
        vec![(DATA, 16, false), (u64::MAX - 511, 4096, false)],
        vec![(DATA, 16, false), (u64::MAX, 4096, false)],
    ] {
        guest.put(DATA + 4096, &[0xff]);
        guest.offer(&[&buffers[..], &[(DATA + 4096, 1, true)]].concat());
        guest.wait();
        assert_eq!(guest.bytes(DATA + 4096, 1), [IO_ERROR]);
    }
    let all = guest.read(0, 128).read;
    assert!(all.iter().all(|byte| *byte != 0xee), "a frame's earlier content is seen");
    // Reading to there is an error too.
    guest.put(DATA, &[0; 16]);
    guest.offer(&[(DATA, 16, false), (beyond, 1024, true), (DATA + 4096, 1, true)]);
    guest.wait();
    assert_eq!(guest.bytes(DATA + 4096, 1), [IO_ERROR]);
}

#[test]
fn when_the_space_is_used_up_writes_fail_until_something_is_discarded() {
    let mut pool = pool(64);
    let mut guest = Guest::new(disk(None, 1 << 16, Some(3 * 4096), &mut pool));
    for block in 0..3 {
        assert_eq!(guest.write(8 * block, &[5; 4096]), OK);
    }
    assert_eq!(guest.write(24, &[6; 512]), IO_ERROR);
    assert_eq!(guest.write(8 + 1, &[7; 512]), OK, "what has a place can be written again");
    assert_eq!(guest.segments(11, &[(8, 8, 0)]), OK);
    assert_eq!(guest.write(24, &[6; 512]), OK);
    assert_eq!(guest.write(32, &[6; 4096]), IO_ERROR);
    assert_eq!(guest.segments(13, &[(0, 8, 1)]), OK);
    assert_eq!(guest.write(32, &[6; 4096]), OK);
    let read = guest.read(0, 40).read;
    assert!(read[..8192].iter().all(|byte| *byte == 0));
    assert!(read[8192..12288].iter().all(|byte| *byte == 5));
    assert!(read[12288..12800].iter().all(|byte| *byte == 6));
    assert!(read[12800..16384].iter().all(|byte| *byte == 0));
    assert!(read[16384..].iter().all(|byte| *byte == 6));
}

#[test]
fn a_disk_that_is_read_only_says_so_and_is() {
    let image = keep(image_of(&pattern(70_144)));
    let mut guest = Guest::new(disk(Some(image), 0, None, &mut pool(64)));
    assert_eq!(guest.get(0x010, Width::Word) & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    assert_eq!(guest.write(0, &[1; 512]), IO_ERROR);
    assert_eq!(guest.segments(11, &[(0, 8, 0)]), IO_ERROR);
    assert_eq!(guest.segments(13, &[(0, 8, 0)]), IO_ERROR);
    assert!(guest.read(0, 137).read == pattern(70_144));
}

#[test]
fn large_requests_are_done_in_several_visits_and_a_reset_in_between_forgets_them() {
    let size = pick(1 << 18, 1 << 17);
    let mut guest = guest(size);
    let sectors = 200;
    let Answer { visits, status, .. } = guest.read(0, sectors);
    assert_eq!(status, OK);
    assert!(visits > 1, "100 KiB were read at one go");
    guest.put(DATA, &[0; 16]);
    guest.offer(&[(DATA, 16, false), (DATA + 4096, 102_400, true), (DATA + 128, 1, true)]);
    assert_ne!(guest.used(), guest.offered);
    guest.start();
    assert_eq!((guest.used(), guest.device.deadline()), (0, None));
    assert_eq!(guest.write(0, &[9; 512]), OK);
    assert_eq!(guest.read(0, 1).read, [9; 512]);
    // So does a queue that is taken away alone.
    guest.put(DATA, &[0; 16]);
    guest.offer(&[(DATA, 16, false), (DATA + 4096, 102_400, true), (DATA + 128, 1, true)]);
    guest.set(0x044, 0);
    let (registers, now) = ([(0x038, 128), (0x080, BASE), (0x090, BASE + 0x1000)], guest.used());
    assert_eq!(now, 2);
    guest.put(BASE, &[0; 3 * 4096]);
    guest.offered = 0;
    registers.into_iter().for_each(|(offset, value)| guest.set(offset, value));
    guest.set(0x0a0, BASE + 0x2000);
    guest.set(0x044, 1);
    assert_eq!(guest.read(0, 1).read, [9; 512]);
}
