//! Steps that start one payload from every kind of file a guest's kernel may be, beside the ELF files
//! that all payloads are, and steps about guests that cannot be built.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::session::Session;
use super::{Bench, Step};
use crate::{build, paths};

const SECONDS: u64 = 120;

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for kind in ["image", "image.gz", "flat"] {
        for gic in ["2", "3"] {
            steps.push(Step::new(format!("guests/hello-as-{kind}-gicv{gic}"), move |bench| {
                boots(bench, kind, gic).into()
            }));
        }
    }
    steps.push(Step::new("run/refused-guests-keep-nobody-from-running", |bench| {
        some_refused(bench).into()
    }));
    steps
        .push(Step::new("run/nothing-but-refused-guests-fails", |bench| all_refused(bench).into()));
    steps
}

/// Writes `hello` as each kind of file, and as some that pass xtask's own look at them and cannot be
/// loaded.
fn files(bench: &Bench) -> Result<PathBuf> {
    let folder = paths::work().join("images");
    std::fs::create_dir_all(&folder)?;
    let mut elf = std::fs::read(bench.payloads()?.join("hello"))?;
    let image = build::flatten(&elf)?;
    if image.get(56..60) != Some(b"ARM\x64") {
        bail!("the payload does not begin with an arm64 Image header");
    }
    let mut flat = image.clone();
    flat[56..60].fill(0);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&image)?;
    let gzip = gzip.finish()?;
    let mut damaged = gzip.clone();
    let crc = damaged.len() - 8;
    damaged[crc] ^= 1;
    move_segments(&mut elf, 0x1000).context("the payload's ELF file is strange")?;
    for (name, bytes) in [
        ("image", image.as_slice()),
        ("image.gz", &gzip),
        ("flat", &flat),
        ("cut.gz", &gzip[..gzip.len() / 2]),
        ("damaged.gz", &damaged),
        ("astray", &elf),
    ] {
        paths::write_if_changed(&folder.join(name), bytes)?;
    }
    Ok(folder)
}

/// Gives every loaded segment of an ELF file the physical address `to`.
fn move_segments(elf: &mut [u8], to: u64) -> Option<()> {
    const PT_LOAD: [u8; 4] = [1, 0, 0, 0];
    const HEADER: usize = 56;
    let table = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let count = usize::from(u16::from_le_bytes(elf.get(56..58)?.try_into().ok()?));
    for header in elf.get_mut(table..)?.chunks_exact_mut(HEADER).take(count) {
        if header.starts_with(&PT_LOAD) {
            header[24..32].copy_from_slice(&to.to_le_bytes());
        }
    }
    Some(())
}

fn boots(bench: &Bench, kind: &str, gic: &str) -> Result<()> {
    bench.machine()?;
    let kernel = files(bench)?.join(kind);
    let kernel = kernel.to_string_lossy();
    let args = ["--kernel", &kernel, "--gic", gic, "--guest-memory", "64M"];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect("GUEST-TEST: ok", SECONDS + 10)?;
    session.end_with(0, SECONDS + 10)
}

/// Guests that only the hypervisor can refuse: xtask thinks the machine has more memory than it has,
/// and does not unpack kernels.
const REFUSED: [(&str, &str, &str, &str); 4] = [
    ("greedy", "image", "1G", "memory"),
    ("cut", "cut.gz", "64M", "the compressed kernel is cut short"),
    ("damaged", "damaged.gz", "64M", "CRC-32"),
    ("astray", "astray", "64M", "outside the RAM"),
];

fn start(bench: &Bench, name: &str, guests: &[(&str, &str, &str)]) -> Result<Session> {
    bench.machine()?;
    let manifest = files(bench)?.join(name);
    let mut text = String::new();
    for (name, kernel, memory) in guests {
        text +=
            &format!("[[vm]]\nname = \"{name}\"\nkernel = \"{kernel}\"\nmemory = \"{memory}\"\n\n");
    }
    paths::write_if_changed(&manifest, text.as_bytes())?;
    let manifest = manifest.to_string_lossy();
    Session::start(bench, &[&manifest, "--memory", "4G", "--", "-m", "512M"], SECONDS)
}

fn refused() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    REFUSED.iter().map(|(name, kernel, memory, _)| (*name, *kernel, *memory))
}

/// In a run that has ended, each was refused with its reason; some at once, others when their kernels were
/// unpacked.
fn told(session: &Session) -> Result<()> {
    let text = session.text();
    for (name, _, _, why) in REFUSED {
        let start = format!("{name}: refused: ");
        if !text.lines().any(|line| line.contains(&start) && line.contains(why)) {
            bail!("{name} was not refused because of `{why}`");
        }
    }
    Ok(())
}

fn some_refused(bench: &Bench) -> Result<()> {
    let mut guests: Vec<_> = refused().collect();
    guests.insert(2, ("good", "image", "64M"));
    let mut session = start(bench, "some-refused.toml", &guests)?;
    session.wait_for("GUEST-TEST: ok", SECONDS)?;
    session.end_with(0, SECONDS)?;
    told(&session)
}

fn all_refused(bench: &Bench) -> Result<()> {
    let mut session = start(bench, "all-refused.toml", &refused().collect::<Vec<_>>())?;
    session.end_with(1, SECONDS)?;
    told(&session)?;
    session.wait_for("plinth: power off (failed: no guest could be started)", 1)
}
