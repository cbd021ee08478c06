//! The default guest's initial file system: a gzip'd cpio archive ("newc", as the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst` has it) with busybox, e2fsck, a
//! program for sockets, an init script, a guest agent and kernel modules.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use object::{Object, ObjectSection};

use crate::build::LINUX_PROGRAM;

const INIT: &[u8] = include_bytes!("initramfs/init.sh");
const AGENT: &[u8] = include_bytes!("initramfs/agent.sh");

/// Changes whenever the archive would, for the same packages.
pub fn fingerprint(program: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(INIT);
    crc.update(AGENT);
    crc.update(program);
    crc.update(include_bytes!("initramfs.rs"));
    crc.sum()
}

/// Makes the archive from the files in `guest`: `busybox`, `e2fsck`, `modules/*` and `modules/order`; and a program of
/// ours, unless it is empty.
pub fn build(guest: &Path, program: &[u8]) -> Result<Vec<u8>> {
    let read = |path: PathBuf| {
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let mut archive = Archive::default();
    for folder in
        ["bin", "dev", "etc", "lib", "lib/modules", "mnt", "proc", "root", "run", "sys", "tmp"]
    {
        archive.add(folder, Node::Folder, &[]);
    }
    // The kernel opens it for init before init can mount anything.
    archive.add("dev/console", Node::Device { major: 5, minor: 1 }, &[]);
    archive.add("init", Node::Program, INIT);
    archive.add("bin/busybox", Node::Program, &read(guest.join("busybox"))?);
    archive.add("bin/sh", Node::Link, b"busybox");
    archive.add("bin/plinth-agent", Node::Program, AGENT);
    archive.add("bin/e2fsck", Node::Program, &read(guest.join("e2fsck"))?);
    if !program.is_empty() {
        archive.add(&format!("bin/{LINUX_PROGRAM}"), Node::Program, program);
    }
    archive.add("etc/passwd", Node::File, b"root::0:0:root:/root:/bin/sh\n");
    let order = read(guest.join("modules/order"))?;
    for name in String::from_utf8_lossy(&order).lines() {
        let bytes = read(guest.join("modules").join(name))?;
        archive.add(&format!("lib/modules/{name}"), Node::File, &bytes);
    }
    archive.add("lib/modules/order", Node::File, &order);
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&archive.finish())?;
    Ok(packer.finish()?)
}

/// An archive with nothing in it but this program, as the kernel's init.
pub fn with_init(program: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.add("dev", Node::Folder, &[]);
    // The kernel opens it for init; without, it says so.
    archive.add("dev/console", Node::Device { major: 5, minor: 1 }, &[]);
    archive.add("init", Node::Program, program);
    archive.finish()
}

/// What an archive holds under one name.
#[derive(Clone, Copy)]
enum Node {
    Folder,
    File,
    Program,
    Link,
    Device { major: u32, minor: u32 },
}

/// A newc archive being written. Times are zero, so the same contents give the same bytes.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, node: Node, contents: &[u8]) {
        let (mode, (major, minor)) = match node {
            Node::Folder => (0o040_755, (0, 0)),
            Node::File => (0o100_644, (0, 0)),
            Node::Program => (0o100_755, (0, 0)),
            Node::Link => (0o120_777, (0, 0)),
            Node::Device { major, minor } => (0o020_600, (major, minor)),
        };
        self.inode += 1;
        let size = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, uid, gid, links, time, size, device, special device, name, checksum
        for field in [self.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", Node::File, &[]);
        self.bytes
    }
}

/// A kernel module, not compressed.
pub struct Module {
    /// Its file name, ending in `.ko`.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// The modules `wanted` and all they depend on, in the order in which they can be loaded. A kernel
/// has a wanted one built in, or does not have it at all; those are left out.
pub fn with_dependencies(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find_modules(folder, &mut files)?;
    let mut order = Vec::new();
    for name in wanted {
        visit(&canonical(name), &files, &mut order)?;
    }
    Ok(order)
}

/// `virtio-rng` and `virtio_rng` are the same module.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn find_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((stem, "" | ".xz" | ".gz" | ".zst")) = name.split_once(".ko")
        {
            files.insert(canonical(stem), path);
        }
    }
    Ok(())
}

fn visit(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<Module>) -> Result<()> {
    let file_name = format!("{name}.ko");
    let Some(path) = files.get(name) else { return Ok(()) };
    if order.iter().any(|module| module.name == file_name) {
        return Ok(());
    }
    let bytes = read_module(path)?;
    for dependency in dependencies(&bytes).with_context(|| format!("in {}", path.display()))? {
        visit(&canonical(&dependency), files, order)?;
    }
    order.push(Module { name: file_name, bytes });
    Ok(())
}

/// A module's bytes, decompressed: with the system's own tool where we have no decoder.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return Ok(std::fs::read(path)?),
        Some("gz") => {
            let mut bytes = Vec::new();
            flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
        Some("zst") => "zstd",
        _ => "xz",
    };
    let output = std::process::Command::new(tool).arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("cannot run {tool}"))?;
    if !output.status.success() {
        bail!("{tool} cannot unpack {}", path.display());
    }
    Ok(output.stdout)
}

/// What a module says it depends on: `depends=a,b` in its section `.modinfo`.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("it has no .modinfo")?;
    let text = String::from_utf8_lossy(section.data()?).into_owned();
    let list = text.split('\0').find_map(|entry| entry.strip_prefix("depends="));
    let names = list.unwrap_or_default().split(',').filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::{Archive, Node};

    /// Names and contents of an archive, read with the format's own arithmetic.
    fn read(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let header = std::str::from_utf8(&bytes[at..at + 110]).expect("headers are text");
            assert!(header.starts_with("070701"));
            let field = |n: usize| {
                usize::from_str_radix(&header[6 + 8 * n..14 + 8 * n], 16).expect("a hex field")
            };
            let (size, name_size) = (field(6), field(11));
            let name = String::from_utf8_lossy(&bytes[at + 110..at + 109 + name_size]).into_owned();
            let data = (at + 110 + name_size).next_multiple_of(4);
            at = (data + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(at, bytes.len());
                return found;
            }
            found.push((name, bytes[data..data + size].to_vec()));
        }
    }

    #[test]
    fn an_archive_gives_back_what_was_put_in() {
        let mut archive = Archive::default();
        archive.add("bin", Node::Folder, &[]);
        archive.add("bin/x", Node::Program, b"12345");
        archive.add("dev/console", Node::Device { major: 5, minor: 1 }, &[]);
        archive.add("bin/y", Node::Link, b"x");
        let names = [("bin", ""), ("bin/x", "12345"), ("dev/console", ""), ("bin/y", "x")];
        let want = names.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
        assert_eq!(read(&archive.finish()), want);
    }
}
