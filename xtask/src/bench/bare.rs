//! A guest's machine without Plinth: QEMU's `virt` board with the same bytes at the same addresses as
//! Plinth puts them before a guest starts, and the same first instruction.
//!
//! Nothing of the guest's device tree has to be changed for that: it describes QEMU's board, and PSCI is
//! called by `HVC` there, too, when the machine has no EL2.

use anyhow::{Context, Result};
use plinth::addr::{Ipa, Region};
use plinth::firmware::image::{GuestWrite, Loader, OutOfRam, Placement};

use super::elf;
use crate::guest::Payload;

/// The board's second flash, which no guest knows of. (QEMU may put a device tree of its own at the start
/// of the first.)
const FLASH: u64 = 0x0400_0000;

/// How many instructions are executed before the kernel's first.
pub const STUB_INSTRUCTIONS: u64 = STUB as u64;
const STUB: usize = 6;

/// The whole machine as an ELF file; `tree` is the device tree that the guest got.
pub fn image(guest: &Payload, tree: &[u8]) -> Result<Vec<u8>> {
    let ram = Region::new(guest.ram_base, guest.memory).context("the guest has no memory")?;
    let mut memory = Memory { base: ram.start(), bytes: vec![0; usize::try_from(guest.memory)?] };
    let mut loader = Loader::new(&guest.kernel, guest.initrd.as_deref(), ram)?;
    let Placement { entry, kernel, initrd, dtb } = loop {
        if let Some(placement) = loader.step(&mut memory)? {
            break placement;
        }
    };
    memory.write(dtb, tree).ok().context("the device tree does not fit into memory")?;
    let tree = Region::new(dtb, tree.len() as u64);
    let mut parts: Vec<_> = [Some(kernel), initrd, tree].into_iter().flatten().collect();
    parts.sort_by_key(|part| part.start());
    let stub = stub(entry.raw(), dtb.raw());
    let mut segments = vec![(FLASH, stub.as_slice())];
    for part in parts {
        let bytes = memory.slice(part).context("the image does not fit into memory")?;
        segments.push((part.start().raw(), bytes));
    }
    Ok(elf::write(FLASH, &segments))
}

/// What the boot protocol asks of a boot loader ("Booting AArch64 Linux"): x0 is the device tree, x1 to x3
/// are 0, as all registers are when the machine starts.
fn stub(entry: u64, tree: u64) -> Vec<u8> {
    let [tree_low, tree_high] = movz_movk(0, tree);
    let [entry_low, entry_high] = movz_movk(4, entry);
    let code: [u32; STUB] = [
        tree_low,
        tree_high,
        entry_low,
        entry_high,
        0xd503_3fdf, // isb
        0xd61f_0080, // br x4
    ];
    code.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `movz` and `movk` that put the low 32 bits of a value into a register.
pub fn movz_movk(register: u32, value: u64) -> [u32; 2] {
    let half = |at: u64| (value >> at & 0xffff) as u32;
    [0xd280_0000 | half(0) << 5 | register, 0xf2a0_0000 | half(16) << 5 | register]
}

/// A guest's RAM.
struct Memory {
    base: Ipa,
    bytes: Vec<u8>,
}

impl Memory {
    fn range(&self, ipa: Ipa, size: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(ipa.offset_from(self.base)?).ok()?;
        let range = start..start.checked_add(size)?;
        (range.end <= self.bytes.len()).then_some(range)
    }

    fn slice(&self, part: Region<Ipa>) -> Option<&[u8]> {
        let range = self.range(part.start(), usize::try_from(part.size()).ok()?)?;
        self.bytes.get(range)
    }
}

impl GuestWrite for Memory {
    fn write(&mut self, ipa: Ipa, bytes: &[u8]) -> Result<(), OutOfRam> {
        let range = self.range(ipa, bytes.len()).ok_or(OutOfRam)?;
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use object::elf::FileHeader64;
    use object::read::elf::{FileHeader, ProgramHeader};
    use object::{Endianness, elf::PT_LOAD};

    use super::{FLASH, image, stub};
    use crate::guest::Payload;

    #[test]
    fn the_stub_passes_the_tree_and_jumps() {
        let code = stub(0x4020_1000, 0x4800_0000);
        let want = [
            0xd280_0000, // movz x0, #0
            0xf2a9_0000, // movk x0, #0x4800, lsl #16
            0xd282_0004, // movz x4, #0x1000
            0xf2a8_0404, // movk x4, #0x4020, lsl #16
            0xd503_3fdf, // isb
            0xd61f_0080, // br x4
        ];
        assert_eq!(code, want.map(u32::to_le_bytes).as_flattened());
    }

    #[test]
    fn kernel_ramdisk_and_tree_come_where_plinth_puts_them() {
        let guest = Payload {
            memory: 64 << 20,
            initrd: Some(vec![0x11; 100]),
            ..Payload::new("x".to_owned(), vec![0xd5; 200])
        };
        let file = image(&guest, &[0x22; 300]).expect("it fits");
        let header = FileHeader64::<Endianness>::parse(file.as_slice()).expect("a good header");
        let endian = Endianness::Little;
        assert_eq!(header.e_entry(endian), FLASH);
        let segments = header.program_headers(endian, file.as_slice()).expect("good headers");
        assert!(segments.iter().all(|it| it.p_type(endian) == PT_LOAD));
        let sizes: Vec<_> = segments.iter().map(|it| it.p_filesz(endian)).collect();
        assert_eq!(segments[0].p_paddr(endian), FLASH);
        assert!(sizes.contains(&100) && sizes.contains(&300), "{sizes:?}");
        let in_ram = |at: u64| (0x4000_0000..0x4400_0000).contains(&at);
        assert!(segments[1..].iter().all(|it| in_ram(it.p_paddr(endian))));
    }
}
