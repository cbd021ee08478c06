//! What is asked stands in memory that others write meanwhile: each byte of it is read once, however it is cut.

use super::request::HEADER;
use super::*;
use crate::virtio::backend::{Backend, Served};
use crate::virtio::once::Once;

/// Whether a request of this type, for a sector, with this data behind its header and room before the status, is done.
fn is_done(kind: u32, sector: u64, data: &[u8], room: u32, pieces: &[usize]) -> usize {
    let mut pool = pool(64);
    let disk = disk(None, 1 << 20, Some(1 << 16), &mut pool);
    let mut device = BlockDevice::new(Arc::new(TicketMutex::new(disk)), 1);
    device.begin(u64::MAX);
    let header = [&u64::from(kind).to_le_bytes()[..], &sector.to_le_bytes(), data].concat();
    let rooms = if room > 0 { vec![room, 1] } else { vec![1] };
    let ram = Once::new(&header, pieces, &rooms);
    for _ in 0..100 {
        match device.serve(0, &ram.chain, &ram) {
            Ok(Served::Done(_)) => return ram.count(),
            Ok(_) => {}
            Err(bad) => panic!("{bad}"),
        }
    }
    panic!("it is never done")
}

#[test]
fn every_request_is_read_once_however_it_is_cut() {
    let segment = |sector: u64, sectors: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &[0; 4]].concat()
    };
    let segments =
        [segment(0, 8), segment(16, 8), segment(u64::MAX, 8), segment(8, u32::MAX)].concat();
    let cases = [
        // Reads, writes, flushes, the name, discards, zeros; sectors that there are and are not; a type that nobody has.
        (0, 0, &[][..], 4096),
        (0, u64::MAX, &[][..], 4096),
        (1, 8, &[0x5a; 8192][..], 0),
        (1, u64::MAX, &[0x5a; 512][..], 0),
        (4, 0, &[][..], 0),
        (8, 0, &[][..], 20),
        (11, 0, &segments[..32], 0),
        (11, 0, &segments[..], 0),
        (13, 0, &segments[..32], 0),
        (13, 0, &segments[..], 0),
        (99, 0, &segments[..], 16),
    ];
    for (kind, sector, data, room) in cases.into_iter().step_by(pick(1, 4)) {
        for cut in (1..=HEADER + 3).step_by(pick(1, 18)) {
            let cuts = [vec![cut], vec![HEADER, cut], vec![cut, 1, 2], vec![1; cut.min(12)]];
            for pieces in cuts.into_iter().skip(pick(0, 2)).take(pick(4, 1)) {
                let read = is_done(kind, sector, data, room, &pieces);
                assert!(read >= HEADER, "{kind} {pieces:?}");
            }
        }
    }
}

#[test]
fn a_write_stores_each_byte_of_its_data_as_it_was_read_once() {
    const SIZE: usize = pick(4096, 512);
    assert_eq!(is_done(1, 0, &[0x5a; SIZE], 0, &[HEADER]), HEADER + SIZE);
    assert_eq!(is_done(1, 0, &[0x5a; SIZE], 0, &[HEADER, 512, pick(1000, 100)]), HEADER + SIZE);
}
