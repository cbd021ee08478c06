//! Reads the files of a card: MBR, FAT32, long names (Microsoft, "FAT32 File System Specification").
//!
//! It has nothing in common with what writes cards, so that one checks the other. Read-only, and only
//! the root folder, which is all that the firmware needs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

const SECTOR: u64 = 512;
const ENTRY: usize = 32;

/// A card's first FAT32 partition.
pub struct Card {
    file: File,
    /// Where its first table begins, in bytes from the card's start.
    table: u64,
    table_size: u64,
    /// Where cluster 2 begins.
    data: u64,
    cluster: u64,
    clusters: u32,
    root: u32,
}

/// A file in the root folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub name: String,
    pub size: u32,
    start: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u16::from_le_bytes(*bytes.context("cut short")?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_le_bytes(*bytes.context("cut short")?))
}

impl Card {
    /// Opens a card's image.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::of(file).with_context(|| format!("{} is no card for a Raspberry Pi", path.display()))
    }

    fn of(file: File) -> Result<Self> {
        let mut mbr = [0; 512];
        file.read_exact_at(&mut mbr, 0).context("it is too short")?;
        if mbr[510..] != [0x55, 0xaa] {
            bail!("it has no MBR");
        }
        let mut entries = mbr[446..510].chunks(16);
        let entry = entries.find(|entry| matches!(entry[4], 0x0b | 0x0c));
        let start = u64::from(u32_at(entry.context("it has no FAT32 partition")?, 8)?) * SECTOR;
        let mut boot = [0; 512];
        file.read_exact_at(&mut boot, start).context("its partition is cut short")?;
        let sector = u64::from(u16_at(&boot, 11)?);
        if boot[510..] != [0x55, 0xaa] || sector != SECTOR {
            bail!("its partition has no FAT file system");
        }
        if u16_at(&boot, 17)? != 0 || u16_at(&boot, 22)? != 0 {
            bail!("its file system is not FAT32");
        }
        let cluster = u64::from(boot[13]) * SECTOR;
        let reserved = u64::from(u16_at(&boot, 14)?) * SECTOR;
        let table_size = u64::from(u32_at(&boot, 36)?) * SECTOR;
        let before_data = reserved + u64::from(boot[16]) * table_size;
        let room = (u64::from(u32_at(&boot, 32)?) * SECTOR).checked_sub(before_data);
        let clusters = room.context("its tables are too large")?.checked_div(cluster);
        Ok(Self {
            file,
            table: start + reserved,
            table_size,
            data: start + before_data,
            cluster,
            clusters: u32::try_from(clusters.context("its clusters are empty")?)?,
            root: u32_at(&boot, 44)?,
        })
    }

    /// The files of the root folder.
    pub fn files(&self) -> Result<Vec<Entry>> {
        const END: u8 = 0;
        const DELETED: u8 = 0xe5;
        const LONG_NAME: u8 = 0x0f;
        const FOLDER_OR_LABEL: u8 = 0x18;
        let folder = self.chain(self.root, None)?;
        let (mut files, mut long) = (Vec::new(), Vec::new());
        for entry in folder.chunks_exact(ENTRY) {
            match (entry[0], entry[11]) {
                (END, _) => break,
                (DELETED, _) => long.clear(),
                (_, LONG_NAME) => long.push(entry),
                (_, attributes) if attributes & FOLDER_OR_LABEL != 0 => long.clear(),
                _ => {
                    let name = long_name(&long, entry)?.unwrap_or_else(|| short_name(entry));
                    long.clear();
                    let (high, low) = (u16_at(entry, 20)?, u16_at(entry, 26)?);
                    let start = u32::from(high) << 16 | u32::from(low);
                    files.push(Entry { name, size: u32_at(entry, 28)?, start });
                }
            }
        }
        Ok(files)
    }

    /// The bytes of the file called `name`.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let files = self.files()?;
        let file = files.iter().find(|file| file.name.eq_ignore_ascii_case(name));
        let file = file.with_context(|| format!("there is no {name} on the card"))?;
        self.chain(file.start, Some(file.size)).with_context(|| format!("cannot read {name}"))
    }

    /// The bytes of a chain of clusters: `size` of them, or all.
    fn chain(&self, start: u32, size: Option<u32>) -> Result<Vec<u8>> {
        /// From here on, a number ends a chain.
        const LAST: u32 = 0x0fff_fff8;
        let mut bytes = Vec::new();
        let wanted = size.map(u64::from);
        let mut next = start;
        let mut seen = 0;
        while wanted.is_none_or(|wanted| (bytes.len() as u64) < wanted) && next < LAST {
            let index = next.checked_sub(2).filter(|index| *index < self.clusters);
            let index = index.with_context(|| format!("there is no cluster {next}"))?;
            seen += 1;
            if seen > self.clusters {
                bail!("a chain of clusters has no end");
            }
            let at = bytes.len();
            bytes.resize(at + usize::try_from(self.cluster)?, 0);
            self.file
                .read_exact_at(&mut bytes[at..], self.data + u64::from(index) * self.cluster)?;
            let mut entry = [0; 4];
            self.file.read_exact_at(&mut entry, self.table + u64::from(next) * 4)?;
            next = u32::from_le_bytes(entry) & 0x0fff_ffff;
        }
        if let Some(wanted) = wanted {
            if (bytes.len() as u64) < wanted || next < LAST && wanted > 0 {
                bail!("its chain of clusters does not fit its size of {wanted} bytes");
            }
            bytes.truncate(usize::try_from(wanted)?);
        }
        Ok(bytes)
    }

    /// Fails when the two tables differ.
    pub fn check_tables(&self) -> Result<()> {
        let mut tables = vec![0; usize::try_from(2 * self.table_size)?];
        self.file.read_exact_at(&mut tables, self.table)?;
        let (first, second) = tables.split_at(tables.len() / 2);
        if first != second {
            bail!("the file system's two tables differ");
        }
        Ok(())
    }
}

/// The name in these entries, last part first, if they belong to the short name after them.
fn long_name(parts: &[&[u8]], short: &[u8]) -> Result<Option<String>> {
    let sum = short[..11].iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    if parts.is_empty() {
        return Ok(None);
    }
    let mut units = Vec::new();
    for part in parts.iter().rev() {
        if part[13] != sum {
            bail!("a long name is not that of the file after it");
        }
        for range in [1..11, 14..26, 28..32] {
            units.extend(part[range].chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])));
        }
    }
    let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
    Ok(Some(String::from_utf16_lossy(&units[..end])))
}

fn short_name(entry: &[u8]) -> String {
    let text = |range| String::from_utf8_lossy(&entry[range]).trim_end().to_owned();
    let (stem, extension) = (text(0..8), text(8..11));
    if extension.is_empty() { stem } else { format!("{stem}.{extension}") }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use super::Card;
    use crate::rpi4::disk::{self, CardFile};

    /// A card in a file of its own, gone with it.
    struct Image(PathBuf);

    impl Image {
        fn of(test: &str, files: &[(&str, Vec<u8>)]) -> Self {
            let name = format!("plinth-{test}-{}.img", std::process::id());
            let path = std::env::temp_dir().join(name);
            let file = |(name, bytes): &(&str, Vec<u8>)| CardFile {
                name: (*name).to_owned(),
                bytes: bytes.clone(),
            };
            let files: Vec<_> = files.iter().map(file).collect();
            disk::write(&path, &files).expect("good files");
            Self(path)
        }

        fn damaged(&self, at: u64, bytes: &[u8]) {
            let file = fs::File::options().write(true).open(&self.0).expect("the image");
            file.write_all_at(bytes, at).expect("written");
        }
    }

    impl Drop for Image {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn files_come_back_as_they_were_written() {
        let pattern = |size: u32| (0..size).map(|at| at.to_le_bytes()[1] ^ 7).collect::<Vec<_>>();
        let files = [
            ("a", pattern(1)),
            ("EMPTY.TXT", Vec::new()),
            ("one-cluster.bin", pattern(2048)),
            ("a name that is longer than 26 characters.dtb", pattern(300_000)),
        ];
        let image = Image::of("round-trip", &files);
        let card = Card::open(&image.0).expect("a card");
        card.check_tables().expect("two tables");
        let names: Vec<_> = card.files().expect("files").into_iter().map(|one| one.name).collect();
        assert_eq!(names, files.each_ref().map(|(name, _)| *name));
        for (name, bytes) in &files {
            assert!(card.read(name).expect("a file") == *bytes, "{name}");
        }
        assert!(card.read("b").is_err());
    }

    #[test]
    fn a_damaged_card_is_an_error() {
        let image = Image::of("damaged", &[("file", vec![1; 10_000])]);
        let card = Card::open(&image.0).expect("a card");
        let cluster = 3;
        assert_eq!(card.files().expect("files")[0].start, cluster);
        let entry = card.table + 4 * u64::from(cluster);
        // To itself, to where there is nothing, and to an end that comes too soon.
        for next in [cluster, 1, 0x0fff_fff0, 0x0fff_ffff] {
            image.damaged(entry, &next.to_le_bytes());
            assert!(card.read("file").is_err(), "{next:#x}");
        }
        assert!(card.check_tables().is_err());
        image.damaged(510, &[0]);
        assert!(Card::open(&image.0).is_err());
    }
}
