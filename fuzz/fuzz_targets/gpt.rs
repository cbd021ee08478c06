//! Any sectors as a disk's partition table, with right checksums where that is wished for. The search ends, stays on the
//! disk, and finds only what is on it.
#![no_main]

use std::num::NonZeroU32;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use plinth::host::gpt::{MAX_ENTRIES, Next, Search, Wanted};

#[derive(Arbitrary, Debug)]
struct Input {
    sectors: u64,
    number: Option<NonZeroU32>,
    name: String,
    /// What the first bytes of each sector are, in the order in which they are asked for.
    contents: Vec<Vec<u8>>,
    /// The header's checksum is made right.
    sound: bool,
}

fuzz_target!(|input: Input| {
    let wanted = match input.number {
        Some(number) => Wanted::Number(number),
        None => Wanted::Name(input.name),
    };
    let mut search = Search::new(wanted, input.sectors);
    let mut contents = input.contents.iter();
    let mut steps = 0;
    while let Next::Sector(at) = search.next() {
        assert!(at < input.sectors);
        steps += 1;
        assert!(steps <= 2 + 2 * MAX_ENTRIES);
        let mut sector = [0; 512];
        let bytes = contents.next().map(Vec::as_slice).unwrap_or_default();
        let length = bytes.len().min(512);
        sector[..length].copy_from_slice(&bytes[..length]);
        if input.sound && (at == 1 || at == input.sectors - 1) {
            sector[..16].copy_from_slice(b"EFI PART\0\0\x01\0\x5c\0\0\0");
            sector[16..20].fill(0);
            sector[24..32].copy_from_slice(&at.to_le_bytes());
            let sum = crc32fast::hash(&sector[..92]);
            sector[16..20].copy_from_slice(&sum.to_le_bytes());
        }
        search.take(&sector);
    }
    if let Next::Found(partition) = search.next() {
        let end = partition.first.checked_add(partition.sectors);
        assert!(partition.sectors > 0 && end.is_some_and(|end| end <= input.sectors));
    }
});
