//! The checksum of bundles and gzip files: CRC-32 as in RFC 1952, "CRC-32 checksum".

use crc::{CRC_32_ISO_HDLC, Crc, Table};

/// With a table of 1 KiB. Larger tables are quicker, and the image has room for none of them: a CPU that knows
/// CRC-32 checks bundles by itself, and unpacking takes longer than what is unpacked takes here.
pub static CRC32: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISO_HDLC);
