//! A card's image: an MBR with one FAT32 partition, the same to the bit for the same files.

use std::fs::File;
use std::io::{Cursor, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};

use crate::paths;

const SECTOR: usize = 512;

/// Where the partition begins, in sectors: at 4 MiB, as cards like it.
const START: u32 = 8192;

/// Enough clusters for FAT32, and few enough that any card has room.
const SMALLEST: usize = 256 << 20;

/// What larger images grow by.
const STEP: usize = 64 << 20;

/// The size of a cluster.
const CLUSTER: u32 = 2048;

/// The number in the MBR and of the file system, "PLNT".
const ID: u32 = 0x504c_4e54;

/// What is zero in a file is left out of it in pieces of this size.
const HOLE: usize = 4096;

/// A file of a card.
pub struct CardFile {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Whether an image can be written there. A card's own device would be replaced by a file.
pub fn check_output(path: &Path) -> Result<()> {
    paths::need_folder_of(path)?;
    if path.exists() && !path.is_file() {
        bail!("cannot write {}: it is no regular file", path.display());
    }
    Ok(())
}

/// Writes the image of a card with these files in its root folder, and gives its size.
pub fn write(path: &Path, files: &[CardFile]) -> Result<u64> {
    let total: usize = files.iter().map(|file| file.bytes.len() + CLUSTER as usize).sum();
    // Beside the files there are the tables of the file system, and some room for notes.
    let size = (total + total / 32 + STEP).next_multiple_of(STEP).max(SMALLEST);
    let mut disk = vec![0; size];
    let start = START as usize * SECTOR;
    let (mbr, partition) = disk.split_at_mut(start);
    let sectors = u32::try_from(partition.len() / SECTOR);
    let sectors = sectors.context("the files are too large for an MBR partition")?;
    write_mbr(mbr, sectors);
    format(partition, sectors, files).context("cannot make the FAT file system")?;
    let written = save(path, &disk);
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(size as u64)
}

/// The partition table: one active partition, of the type FAT32 with LBA.
fn write_mbr(mbr: &mut [u8], sectors: u32) {
    const ACTIVE: u8 = 0x80;
    const FAT32_LBA: u8 = 0x0c;
    // What is beyond cylinders, heads and sectors.
    const NO_CHS: [u8; 3] = [0xfe, 0xff, 0xff];
    let mut entry = vec![ACTIVE];
    entry.extend(NO_CHS);
    entry.push(FAT32_LBA);
    entry.extend(NO_CHS);
    entry.extend(START.to_le_bytes());
    entry.extend(sectors.to_le_bytes());
    mbr[440..444].copy_from_slice(&ID.to_le_bytes());
    mbr[446..462].copy_from_slice(&entry);
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn format(partition: &mut [u8], sectors: u32, files: &[CardFile]) -> Result<()> {
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(CLUSTER)
        .total_sectors(sectors)
        .volume_id(ID)
        .volume_label(*b"PLINTH     ");
    format_volume(Cursor::new(&mut *partition), options)?;
    // The boot sector and its copy say how many sectors lie before the partition.
    for sector in [0, 6] {
        let at = sector * SECTOR + 28;
        partition[at..at + 4].copy_from_slice(&START.to_le_bytes());
    }
    let system = FileSystem::new(Cursor::new(partition), FsOptions::new())?;
    for file in files {
        let made = system.root_dir().create_file(&file.name);
        let mut made = made.with_context(|| file.name.clone())?;
        made.write_all(&file.bytes).with_context(|| file.name.clone())?;
        made.flush()?;
    }
    Ok(system.unmount()?)
}

/// Writes the disk in one step, with holes where it is zero.
fn save(path: &Path, disk: &[u8]) -> Result<()> {
    const ZEROS: [u8; HOLE] = [0; HOLE];
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}", std::process::id()));
    let file = File::create(&partial)?;
    let write = || -> Result<()> {
        file.set_len(disk.len() as u64)?;
        for (index, piece) in disk.chunks(HOLE).enumerate() {
            if piece != &ZEROS[..piece.len()] {
                file.write_all_at(piece, (index * HOLE) as u64)?;
            }
        }
        Ok(std::fs::rename(&partial, path)?)
    };
    let done = write();
    if done.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::{CardFile, START, format, write_mbr};

    #[test]
    fn the_partition_table_has_one_partition_to_boot_from() {
        let mut mbr = [0; 512];
        write_mbr(&mut mbr, 0x7_e000);
        assert_eq!(mbr[446..454], [0x80, 0xfe, 0xff, 0xff, 0x0c, 0xfe, 0xff, 0xff]);
        assert_eq!(mbr[454..462], [0x00, 0x20, 0, 0, 0, 0xe0, 0x07, 0]);
        assert!(mbr[462..510].iter().all(|byte| *byte == 0) && mbr[510..] == [0x55, 0xaa]);
    }

    #[test]
    fn a_file_that_does_not_fit_is_an_error() {
        let mut partition = vec![0; 160 << 20];
        let sectors = u32::try_from(partition.len() / 512).expect("few");
        let file = |size| [CardFile { name: "file".to_owned(), bytes: vec![1; size] }];
        assert!(format(&mut partition, sectors, &file(1 << 20)).is_ok());
        assert_eq!(partition[28..32], START.to_le_bytes());
        assert!(format(&mut partition, sectors, &file(170 << 20)).is_err());
    }
}
