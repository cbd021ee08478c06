//! The smallest ELF file that loads (System V ABI, "Object Files"): a header, and for each segment the
//! bytes and their address.

/// Where pages begin, for every page size of arm64: a file is mapped in pages, so a byte's place in
/// its page is the same in the file and in memory.
const PAGE: u64 = 1 << 16;

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

/// The file of a program for arm64 that begins at `entry`.
pub fn write(entry: u64, segments: &[(u64, &[u8])]) -> Vec<u8> {
    // ELFCLASS64, ELFDATA2LSB, EV_CURRENT.
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let count = segments.len() as u64;
    let fields: [(u64, usize); 13] = [
        (2, 2),              // e_type: ET_EXEC
        (183, 2),            // e_machine: EM_AARCH64
        (1, 4),              // e_version
        (entry, 8),          // e_entry
        (HEADER, 8),         // e_phoff
        (0, 8),              // e_shoff
        (0, 4),              // e_flags
        (HEADER, 2),         // e_ehsize
        (PROGRAM_HEADER, 2), // e_phentsize
        (count, 2),          // e_phnum
        (0, 2),              // e_shentsize
        (0, 2),              // e_shnum
        (0, 2),              // e_shstrndx
    ];
    for (value, size) in fields {
        file.extend_from_slice(&value.to_le_bytes()[..size]);
    }
    let mut offset = HEADER + count * PROGRAM_HEADER;
    for (address, bytes) in segments {
        offset = place(offset, *address);
        file.extend_from_slice(&1u32.to_le_bytes()); // p_type: PT_LOAD
        file.extend_from_slice(&7u32.to_le_bytes()); // p_flags: read, write, execute
        let size = bytes.len() as u64;
        for value in [offset, *address, *address, size, size, PAGE] {
            file.extend_from_slice(&value.to_le_bytes());
        }
        offset += size;
    }
    for (address, bytes) in segments {
        let at = place(file.len() as u64, *address);
        file.resize(usize::try_from(at).unwrap_or(usize::MAX), 0);
        file.extend_from_slice(bytes);
    }
    file
}

/// The first place from `offset` on for what goes to `address`.
fn place(offset: u64, address: u64) -> u64 {
    offset + address.wrapping_sub(offset) % PAGE
}

#[cfg(test)]
mod tests {
    use super::{PAGE, write};
    use crate::build::flatten;
    use object::read::elf::{FileHeader, ProgramHeader};
    use object::{Endianness, elf::FileHeader64};

    #[test]
    fn a_file_loads_what_was_given() {
        let file = write(0x5_0004, &[(0x5_0000, b"abcdefgh"), (0x5_000c, b"ij")]);
        assert_eq!(flatten(&file).expect("a good file"), b"abcdefgh\0\0\0\0ij");
        let header = FileHeader64::<Endianness>::parse(file.as_slice()).expect("a good header");
        assert_eq!(header.e_entry(Endianness::Little), 0x5_0004);
        let endian = Endianness::Little;
        for segment in header.program_headers(endian, file.as_slice()).expect("good headers") {
            assert_eq!(segment.p_offset(endian) % PAGE, segment.p_vaddr(endian) % PAGE);
        }
    }
}
