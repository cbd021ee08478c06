//! Any table and any payloads in a boot bundle whose header is right: the first byte says how many
//! pages follow the table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plinth::manifest::{FORMAT_VERSION, MAGIC, read};
use plinth_fuzz::check_manifest;

fuzz_target!(|bytes: &[u8]| {
    let Some((pages, table)) = bytes.split_first() else { return };
    let mut bundle = MAGIC.to_vec();
    bundle.extend(FORMAT_VERSION.to_le_bytes());
    let end = (32 + table.len()).next_multiple_of(4096) + usize::from(pages % 4) * 4096;
    let checked =
        [&(end as u64).to_le_bytes(), &(table.len() as u64).to_le_bytes(), table].concat();
    let gap = vec![*pages; end - 16 - checked.len()];
    let checked = [checked, gap].concat();
    bundle.extend(crc32fast::hash(&checked).to_le_bytes());
    bundle.extend(checked);
    if let Ok(manifest) = read(&bundle) {
        check_manifest(&manifest);
    }
});
