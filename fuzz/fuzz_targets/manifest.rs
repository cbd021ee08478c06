//! Any bytes as a boot bundle. (They hardly ever have the right checksum: see `manifest_checked`.)
#![no_main]

use libfuzzer_sys::fuzz_target;
use plinth_fuzz::check_manifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = plinth::manifest::read(bytes) {
        check_manifest(&manifest);
    }
});
