//! What a Raspberry Pi 4's firmware does with a card, as far as it can be done without a VideoCore:
//! it reads `config.txt`, places the files, completes the device tree, and starts all CPUs in the boot
//! stub, which is taken out of the card's own `start4.elf`.
//!
//! Sources: the stub itself, `armstubs/armstub8.S` of raspberrypi/tools; arm64 "Booting Linux" for the
//! header of `kernel8.img`; logs of boards for the addresses.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::config::Config;
use super::reader::Card;
use super::tree::Tree;

/// Where an arm64 Image with `text_offset` 0 goes.
const KERNEL: u64 = 0x20_0000;
/// The initramfs ends here at the latest, and the device tree is right before it, as boards log it.
/// `followkernel` is no promise: to the firmware it means "where there is room".
const LIMIT: u64 = 0x2f00_0000;
const PAGE: u64 = 4096;
/// What a device tree in memory is aligned to, so that it is not taken for one in whole pages.
const TREE_ALIGN: u64 = 0x100;
/// More than a tree takes that the firmware has completed.
const TREE_ROOM: u64 = 0x1_0000;

/// The RAM that the firmware tells a board with 2 GiB of; the VideoCore has the rest.
const MEMORY: [(u64, u32); 2] = [(0, 0x3b40_0000), (0x4000_0000, 0x4000_0000)];

/// The words that the firmware puts before those of `cmdline.txt`.
const FIRMWARE_WORDS: &str = "coherent_pool=1M 8250.nr_uarts=0 snd_bcm2835.enable_hdmi=1 \
    bcm2708_fb.fbwidth=0 smsc95xx.macaddr=00:00:00:00:00:00 vc_mem.mem_base=0x3ec00000 \
    vc_mem.mem_size=0x40000000 ";

/// The files as they lie in memory.
pub struct Loaded {
    pub stub: Vec<u8>,
    pub kernel: Vec<u8>,
    pub initramfs: Option<Vec<u8>>,
    pub tree: Vec<u8>,
    pub words: String,
}

impl Loaded {
    /// What the firmware loads of the files that `read` reads.
    pub fn by(read: &dyn Fn(&str) -> Result<Vec<u8>>) -> Result<Self> {
        let text = read("config.txt")?;
        let config = Config::read(std::str::from_utf8(&text).context("config.txt is no text")?)?;
        if !config.uart {
            bail!("config.txt: without `enable_uart=1` there is no console");
        }
        let stub = match &config.armstub {
            Some(name) => read(name)?,
            None => stub_of(&read("start4.elf")?)?,
        };
        let words = read("cmdline.txt").unwrap_or_default();
        let loaded = Self {
            stub,
            kernel: read(&config.kernel)?,
            initramfs: config.initramfs.map(|name| read(&name)).transpose()?,
            tree: read(&config.device_tree)?,
            words: String::from_utf8_lossy(&words).trim().to_owned(),
        };
        loaded.check()?;
        Ok(loaded)
    }

    /// What the firmware loads from a card.
    pub fn from(card: &Card) -> Result<Self> {
        Self::by(&|name| card.read(name))
    }

    fn check(&self) -> Result<()> {
        if field(&self.kernel, 8)? != 0 {
            bail!("the kernel's text_offset is not 0, so it would not be placed at {KERNEL:#x}");
        }
        if image_size(&self.kernel)? > self.kernel.len() {
            bail!("the kernel is shorter than the memory it takes: something else may lie in it");
        }
        if self.stub.len() as u64 > KERNEL {
            bail!("the boot stub reaches into the kernel");
        }
        let end = KERNEL + self.kernel.len() as u64;
        match self.initramfs_at() {
            Some(start) if end + TREE_ROOM <= start => Ok(()),
            _ => {
                bail!("the firmware has no room for the kernel and the initramfs below {LIMIT:#x}")
            }
        }
    }

    /// Where the initramfs is, unless it is larger than all there is.
    fn initramfs_at(&self) -> Option<u64> {
        let size = self.initramfs.as_ref().map_or(0, Vec::len) as u64;
        Some(LIMIT.checked_sub(size)? / PAGE * PAGE)
    }

    /// The tree as the firmware completes it, with `words` behind its own and those of the card.
    pub fn complete_tree(&self, words: &str) -> Result<Tree> {
        let mut tree = Tree::read(&self.tree)?;
        let mut memory = Vec::new();
        for (start, size) in MEMORY {
            memory.extend(start.to_be_bytes());
            memory.extend(size.to_be_bytes());
        }
        tree.set("/memory@0", "reg", memory)?;
        if let Some(initramfs) = &self.initramfs {
            let start = self.initramfs_at().context("it was checked")?;
            let end = start + initramfs.len() as u64;
            tree.set("/chosen", "linux,initrd-start", u32::try_from(start)?)?;
            tree.set("/chosen", "linux,initrd-end", u32::try_from(end)?)?;
        }
        let words = [FIRMWARE_WORDS, &self.words, " ", words].concat();
        tree.set("/chosen", "bootargs", format!("{}\0", words.trim_end()).into_bytes())?;
        tree.add_seed()?;
        Ok(tree)
    }

    /// What is to be in memory when the CPUs start at 0: names, bytes and addresses.
    pub fn memory(self, tree: &Tree) -> Result<Vec<(&'static str, Vec<u8>, u64)>> {
        let initramfs = self.initramfs_at().context("it was checked")?;
        let tree = tree.bytes();
        let room = initramfs.checked_sub(tree.len() as u64);
        let tree_at = room.context("the device tree is too large")? / TREE_ALIGN * TREE_ALIGN;
        let mut stub = self.stub;
        patch(&mut stub, tree_at)?;
        let mut files = vec![("stub", stub, 0), ("kernel", self.kernel, KERNEL)];
        files.push(("tree", tree, tree_at));
        files.extend(self.initramfs.map(|bytes| ("initramfs", bytes, initramfs)));
        Ok(files)
    }
}

/// Where a stub for these firmwares says so: a word that the firmware looks for. It stands in a slot
/// of CPU 3 and is cleared.
const MAGIC_AT: usize = 0xf0;
const MAGIC: u32 = 0x5afe_570b;

/// Tells a stub where the kernel and the tree are, as the firmware does.
fn patch(stub: &mut [u8], tree: u64) -> Result<()> {
    let mut words = vec![0; 8];
    words.extend(u32::try_from(tree)?.to_le_bytes());
    words.extend(u32::try_from(KERNEL)?.to_le_bytes());
    let place = stub.get_mut(MAGIC_AT..MAGIC_AT + words.len()).context("the stub is too short")?;
    place.copy_from_slice(&words);
    Ok(())
}

/// The boot stub that the firmware starts AArch64 kernels by on a Raspberry Pi 4 with its GIC: of those
/// in the file, the one that names the GIC's address.
fn stub_of(firmware: &[u8]) -> Result<Vec<u8>> {
    /// From its first instruction to the end of its last constant.
    const SIZE: usize = 0x180;
    const GICD: u64 = 0xff84_1000;
    let magic = MAGIC.to_le_bytes();
    let stubs = firmware.windows(magic.len()).enumerate().filter(|(_, bytes)| *bytes == magic);
    let mut stubs = stubs.filter_map(|(at, _)| {
        let start = at.checked_sub(MAGIC_AT)?;
        firmware.get(start..start + SIZE)
    });
    let named = |stub: &&[u8]| stub[0x100..].chunks_exact(8).any(|word| word == GICD.to_le_bytes());
    let stub = stubs.find(named).context("start4.elf has no boot stub that is known here")?;
    Ok(stub.to_vec())
}

/// A field of an arm64 Image's header.
fn field(kernel: &[u8], at: usize) -> Result<u64> {
    if kernel.get(56..60) != Some(b"ARM\x64") {
        bail!("the kernel does not begin with an arm64 Image header");
    }
    let bytes = kernel.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u64::from_le_bytes(*bytes.context("the kernel is cut short")?))
}

/// How much memory an arm64 Image takes.
pub fn image_size(kernel: &[u8]) -> Result<usize> {
    Ok(usize::try_from(field(kernel, 16)?)?)
}

/// The card's files, and the tree that the hypervisor is given.
pub fn boot(card: &Path, words: &str) -> Result<(Tree, Loaded)> {
    let card = Card::open(card)?;
    card.check_tables()?;
    let loaded = Loaded::from(&card).context("the firmware cannot boot from this card")?;
    let tree = loaded.complete_tree(words)?;
    Ok((tree, loaded))
}

#[cfg(test)]
mod tests {
    use super::{Loaded, MAGIC, MAGIC_AT, stub_of};
    use crate::rpi4::config::{self, Config};

    /// A firmware with two stubs, of which the second is for the board with a GIC.
    fn start4() -> Vec<u8> {
        let mut file = vec![1; 0x1000];
        for (at, gic) in [(0x200, 0x4_c004_1000u64), (0x404, 0xff84_1000)] {
            file[at..at + 4].copy_from_slice(&[at.to_le_bytes()[1]; 4]);
            file[at + MAGIC_AT..][..4].copy_from_slice(&MAGIC.to_le_bytes());
            file[at + 0x148..][..8].copy_from_slice(&gic.to_le_bytes());
        }
        file
    }

    fn kernel(text_offset: u64, size: u64) -> Vec<u8> {
        let mut kernel = vec![0; 0x1000];
        kernel[8..16].copy_from_slice(&text_offset.to_le_bytes());
        kernel[16..24].copy_from_slice(&size.to_le_bytes());
        kernel[56..60].copy_from_slice(b"ARM\x64");
        kernel
    }

    fn load(kernel: &[u8], bundle: usize) -> anyhow::Result<Loaded> {
        Loaded::by(&|name| match name {
            "config.txt" => Ok(config::text(false).into_bytes()),
            "start4.elf" => Ok(start4()),
            config::KERNEL => Ok(kernel.to_vec()),
            config::BUNDLE => Ok(vec![2; bundle]),
            "bcm2711-rpi-4-b.dtb" => Ok(dtoolkit::model::DeviceTree::new().to_dtb()),
            _ => anyhow::bail!("no {name}"),
        })
    }

    #[test]
    fn the_stub_is_that_of_the_board_with_a_gic_at_its_usual_place() {
        assert_eq!(stub_of(&start4()).expect("a good file")[..4], [4; 4]);
        assert!(stub_of(&start4()[..0x500]).is_err());
    }

    #[test]
    fn the_guests_lie_as_high_as_they_can_and_the_stub_knows_of_tree_and_kernel() {
        let loaded = load(&kernel(0, 0xf00), 5000).expect("good files");
        let tree = loaded.complete_tree("log=debug").expect("a good tree");
        let memory = loaded.memory(&tree).expect("a good stub");
        let places: Vec<_> = memory.iter().map(|(name, _, at)| (*name, *at)).collect();
        let [stub, kernel, (_, tree), initramfs] = places[..] else { panic!("{places:?}") };
        assert_eq!((stub, kernel), (("stub", 0), ("kernel", 0x20_0000)));
        assert_eq!(initramfs, ("initramfs", 0x2eff_e000));
        assert!(tree < 0x2eff_e000 && tree + memory[2].1.len() as u64 + 0x100 > 0x2eff_e000);
        let tree = u32::try_from(tree).expect("low memory").to_le_bytes();
        let told = &memory[0].1[MAGIC_AT..MAGIC_AT + 16];
        assert_eq!(told, [&[0; 8], &tree[..], &[0, 0, 0x20, 0]].concat());
    }

    #[test]
    fn what_cannot_be_placed_is_refused() {
        for (kernel, why) in [
            (kernel(0x8_0000, 0x1000), "text_offset"),
            (kernel(0, 0x1001), "shorter"),
            (vec![0; 0x1000], "header"),
        ] {
            let error = load(&kernel, 1).err().map(|error| format!("{error:#}"));
            assert!(error.as_ref().is_some_and(|error| error.contains(why)), "{error:?}");
        }
        let error = load(&kernel(0, 0), 0x2ee0_0000).err().map(|error| format!("{error:#}"));
        assert!(error.is_some_and(|error| error.contains("no room")));
    }

    #[test]
    fn a_card_without_a_console_is_refused() {
        assert!(!Config::read("[all]\n").expect("good").uart);
    }
}
