//! Disk images of manifests: from any format that `qemu-img` reads to what a bundle has (`plinth::virtio::block::image`).
//!
//! What was made is kept below `target`, and made anew when the image's file has changed. An image that builds on another
//! file is made anew each time.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use plinth::virtio::block::image::{
    CHUNK, ENTRY_SIZE, HEADER_SIZE, Image, MAGIC, MAX_DISK, chunks_of, is_size,
};
use rustix::fs::{SeekFrom, seek};

use crate::doctor::which;
use crate::{apt, paths, size};

/// The program that reads images.
pub const PROGRAM: &str = "qemu-img";

/// What the packed images depend on beside the images.
const FINGERPRINT: &[u8] = include_bytes!("disks.rs");

/// Sees to it that images can be read.
pub fn need_program() -> Result<()> {
    if which(PROGRAM).is_none() {
        apt::install(apt::QEMU_IMG, &format!("{PROGRAM} is missing"))?;
    }
    Ok(())
}

/// Whether the file is there at all.
pub fn look_at(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(file) if file.is_dir() => Err(format!("{} is a folder", path.display())),
        Ok(file) if file.len() == 0 => Err(format!("{}: the file is empty", path.display())),
        Ok(_) => Ok(()),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("there is no file {}", path.display()))
        }
        Err(why) => Err(format!("cannot read {}: {why}", path.display())),
    }
}

/// The image in a file, as a bundle has it.
pub fn load(path: &Path) -> Result<Vec<u8>, String> {
    look_at(path)?;
    convert(path).map_err(|why| format!("{why:#}"))
}

fn convert(path: &Path) -> Result<Vec<u8>> {
    let stands_alone = !builds_on_another(path)?;
    let kept = kept_as(path)?;
    if stands_alone
        && let Ok(bytes) = std::fs::read(&kept)
        && Image::new(&bytes).is_ok()
    {
        return Ok(bytes);
    }
    eprintln!("xtask: packing the disk image {}", path.display());
    let raw = paths::scratch("disk")?.with_extension(crc(path.as_os_str().as_encoded_bytes()));
    let packed = to_raw(path, &raw).and_then(|()| {
        let mut file = File::open(&raw).context("cannot read what qemu-img wrote")?;
        pack(&mut file).with_context(|| path.display().to_string())
    });
    let _ = std::fs::remove_file(&raw);
    let packed = packed?;
    if stands_alone {
        paths::write_if_changed(&kept, &packed)?;
    }
    Ok(packed)
}

/// Where what was made of an image is kept: another place whenever the file, or this one, has changed.
fn kept_as(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize()?;
    let file = std::fs::metadata(&path)?;
    let changed = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = format!("{}\n{}\n{changed:?}", path.display(), file.len());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = format!("{stem}-{}-{}.disk", crc(text.as_bytes()), crc(FINGERPRINT));
    Ok(paths::target().join("disks").join(name))
}

fn crc(bytes: &[u8]) -> String {
    let mut crc = Crc::new();
    crc.update(bytes);
    format!("{:08x}", crc.sum())
}

/// A path that is not taken for an option or for a protocol's name.
fn plain(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot read {}", path.display()))
}

fn builds_on_another(path: &Path) -> Result<bool> {
    let output = Command::new(PROGRAM)
        .args(["info", "--output=json"])
        .arg(plain(path)?)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {PROGRAM}"))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let size = facts["virtual-size"].as_u64().unwrap_or(0);
    if size == 0 || size > MAX_DISK {
        let most = size::show(MAX_DISK);
        bail!("{}: a disk of {size} bytes; 1 byte to {most} are possible", path.display());
    }
    Ok(facts.get("backing-filename").is_some())
}

fn to_raw(path: &Path, raw: &Path) -> Result<()> {
    let output = Command::new(PROGRAM)
        .args(["convert", "-O", "raw"])
        .arg(plain(path)?)
        .arg(raw)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {PROGRAM}"))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// What a bundle has of a disk whose content is in `file`, from the first byte to the last. Holes are not read.
pub fn pack(file: &mut File) -> Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let size = length.next_multiple_of(512);
    if !is_size(size) {
        bail!("a disk of {length} bytes; 1 byte to {} are possible", size::show(MAX_DISK));
    }
    let (mut table, mut stored): (Vec<(u32, u32, u64)>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut number = 0;
    while number < chunks_of(size) {
        // Where this is not known, there is data everywhere.
        match seek(&*file, SeekFrom::Data(number * CHUNK)) {
            Ok(data) => number = number.max(data / CHUNK),
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => {}
        }
        let start = number * CHUNK;
        let bytes = read_chunk(file, start, (size - start).min(CHUNK))?;
        if bytes.iter().any(|byte| *byte != 0) {
            let mut packer = DeflateEncoder::new(Vec::new(), Compression::default());
            packer.write_all(&bytes)?;
            let packed = packer.finish()?;
            let bytes = if packed.len() < bytes.len() { packed } else { bytes };
            table.push((u32::try_from(number)?, u32::try_from(bytes.len())?, stored.len() as u64));
            stored.extend(bytes);
        }
        number += 1;
    }
    let first = (HEADER_SIZE + ENTRY_SIZE * table.len()) as u64;
    let mut image = Vec::from(MAGIC);
    image.extend(size.to_le_bytes());
    image.extend(u32::try_from(CHUNK)?.to_le_bytes());
    image.extend(u32::try_from(table.len())?.to_le_bytes());
    for (number, size, at) in table {
        image.extend(number.to_le_bytes());
        image.extend(size.to_le_bytes());
        image.extend((first + at).to_le_bytes());
    }
    image.extend(stored);
    Ok(image)
}

/// So many bytes of the file from `start` on, and zeros where it has ended.
fn read_chunk(file: &mut File, start: u64, size: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(std::io::SeekFrom::Start(start))?;
    file.take(size).read_to_end(&mut bytes)?;
    bytes.resize(usize::try_from(size)?, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom, Write};

    use plinth::virtio::block::image::{CHUNK, Image, Unpacker};
    use proptest::prelude::*;

    use super::{load, pack};
    use crate::paths;

    /// What is on the disk of an image.
    fn unpacked(image: &[u8]) -> Vec<u8> {
        let image = Image::new(image).expect("a good image");
        let mut disk = vec![0; usize::try_from(image.size()).expect("it fits")];
        let mut before = None;
        for index in 0..image.stored() {
            let chunk = image.chunk(index, before).expect("a good table").expect("it is stored");
            before = Some(chunk.number);
            let start = usize::try_from(u64::from(chunk.number) * CHUNK).expect("it fits");
            let mut unpacker = Unpacker::new(index, chunk);
            while let Some((at, piece)) = unpacker.step().expect("a good chunk") {
                disk[start + at..start + at + piece.len()].copy_from_slice(piece);
            }
        }
        disk
    }

    /// A file with these pieces, and holes between them.
    fn file(name: &str, pieces: &[(u64, Vec<u8>)], size: u64) -> (File, Vec<u8>) {
        let path = paths::scratch(name).expect("a place for tests");
        let mut file = File::create_new(&path)
            .or_else(|_| File::options().read(true).write(true).truncate(true).open(&path))
            .expect("a file");
        let mut model = vec![0; usize::try_from(size.next_multiple_of(512)).expect("it fits")];
        for (at, bytes) in pieces {
            let at = *at % size;
            let bytes = &bytes[..bytes.len().min(usize::try_from(size - at).expect("it fits"))];
            file.seek(SeekFrom::Start(at)).expect("a file");
            file.write_all(bytes).expect("room");
            let at = usize::try_from(at).expect("it fits");
            model[at..at + bytes.len()].copy_from_slice(bytes);
        }
        file.set_len(size).expect("room");
        drop(file);
        let file = File::open(&path).expect("it is there");
        std::fs::remove_file(path).expect("it is there");
        (file, model)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_packed_is_unpacked_and_holes_take_nothing(
            pieces in prop::collection::vec((0u64..1 << 21, prop_oneof![
                prop::collection::vec(any::<u8>(), 1..80_000),
                (1usize..200_000, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
            ]), 0..5),
            size in 1u64..1 << 21,
        ) {
            let (mut file, model) = file("pack-test", &pieces, size);
            let image = pack(&mut file).expect("it can be packed");
            prop_assert!(unpacked(&image) == model);
            let header = Image::new(&image).expect("a good image");
            let chunks = model.chunks(64 << 10);
            let wanted = chunks.filter(|chunk| chunk.iter().any(|byte| *byte != 0)).count();
            prop_assert_eq!(usize::try_from(header.stored()).expect("it fits"), wanted);
        }
    }

    #[test]
    fn a_large_hole_takes_no_time() {
        let (mut file, _) = file("hole-test", &[], 1 << 20);
        drop(std::mem::replace(&mut file, {
            let path = paths::scratch("large-test").expect("a place for tests");
            let large = File::create(&path).expect("a file");
            large.set_len(1 << 39).expect("a hole takes no room");
            let large = File::open(&path).expect("it is there");
            std::fs::remove_file(path).expect("it is there");
            large
        }));
        assert_eq!(pack(&mut file).expect("it can be packed").len(), 24);
    }

    #[test]
    fn a_qcow2_image_becomes_what_is_in_it() {
        if crate::doctor::which(super::PROGRAM).is_none() {
            return;
        }
        let raw = paths::scratch("raw-test").expect("a place for tests");
        let qcow2 = raw.with_extension("qcow2");
        let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
        std::fs::write(&raw, &content).expect("room");
        let made = std::process::Command::new(super::PROGRAM)
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args([&raw, &qcow2])
            .status()
            .expect("it runs");
        assert!(made.success());
        let packed = load(&qcow2).expect("it can be packed");
        assert!(unpacked(&packed)[..content.len()] == content);
        // The second time it was kept.
        assert!(load(&qcow2).expect("it is there") == packed);
        std::fs::write(&qcow2, b"QFI\xfb nothing").expect("room");
        assert!(load(&qcow2).is_err());
        for path in [raw, qcow2] {
            std::fs::remove_file(path).expect("it is there");
        }
    }
}
