//! Steps that give `cargo xtask run` what cannot work: each must be refused, in words, before a
//! machine starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::command::{self, Done};
use super::{Bench, Step};
use crate::paths;

/// A name, the arguments (`@` stands for the folder of test files), and what the message says.
type Case = (&'static str, &'static str, &'static [&'static str]);

const CASES: [Case; 33] = [
    ("no-such-kernel", "--kernel @/none", &["--kernel", "there is no file", "@/none"]),
    ("kernel-is-a-folder", "--kernel @", &["--kernel", "is a folder"]),
    ("kernel-is-empty", "--kernel @/empty", &["--kernel", "empty"]),
    ("kernel-for-x86", "--kernel @/x86.elf", &["--kernel", "x86-64"]),
    ("kernel-is-text", "--kernel @/text", &["--kernel", "text"]),
    ("kernel-is-damaged-gzip", "--kernel @/cut.gz", &["--kernel", "damaged gzip"]),
    ("kernel-big-endian", "--kernel @/big-endian", &["--kernel", "big-endian"]),
    ("no-such-initrd", "--kernel @/loop --initrd @/none", &["--initrd", "there is no file"]),
    (
        "initrd-larger-than-memory",
        "--kernel @/loop --initrd @/5M --guest-memory 4M",
        &["--initrd", "do not fit", "4M"],
    ),
    ("initrd-without-kernel", "--initrd @/5M", &["--kernel"]),
    ("guest-larger-than-machine", "--kernel @/loop --guest-memory 4G", &["4G", "--memory", "2G"]),
    ("guest-memory-not-in-pages", "--kernel @/loop --guest-memory 1K", &["--guest-memory"]),
    ("no-vcpu", "--kernel @/loop --vcpus 0", &["--vcpus", "1 to 8"]),
    ("nine-vcpus", "--kernel @/loop --vcpus 9", &["--vcpus", "1 to 8"]),
    ("nine-vcpus-by-default", "--vcpus 9", &["--vcpus", "1 to 8"]),
    ("unknown-board", "--board pdp11", &["pdp11", "qemu-virt"]),
    ("rpi4-with-a-gicv3", "--board rpi4 --gic 3", &["--gic", "GICv2"]),
    ("rpi4-with-two-cpus", "--board rpi4 --smp 2", &["--smp", "has 4"]),
    ("rpi4-with-more-memory", "--board rpi4 --memory 4G", &["--memory: 4G", "2G and no other"]),
    ("rpi4-with-another-cpu", "--board rpi4 --cpu max", &["--cpu", "cortex-a72"]),
    ("rpi4-without-plinth", "--board rpi4 --bare", &["--bare"]),
    (
        "rpi4-with-guests-too-large",
        "--board rpi4 --kernel @/loop --guest-memory 960M",
        &["960M", "948M", "raspi4b"],
    ),
    ("unknown-gic", "--gic 4", &["--gic", "2 or 3"]),
    ("too-many-cpus", "--smp 9 --gic 2", &["--smp", "1 to 8"]),
    ("size-without-unit", "--memory 1024", &["--memory", "unit"]),
    ("unknown-option", "--colour red", &["--colour"]),
    ("no-such-manifest", "@/none.toml", &["@/none.toml"]),
    (
        "manifest-mistakes",
        "@/bad.toml",
        &[
            "bad.toml:3:1: vm 1, color: unknown field",
            "bad.toml:5:1: vm 2, name: the field is missing",
            "bad.toml:5:1: vm 2, kernel: the field is missing",
        ],
    ),
    (
        "manifest-of-impossible-guests",
        "@/impossible.toml",
        &[
            "impossible.toml:3:10: vm 1, kernel: there is no file",
            "impossible.toml:4:9: vm 1, vcpus: 9",
        ],
    ),
    ("manifest-not-toml", "@/text", &["text:1:"]),
    ("nine-vcpus-of-the-single-guest", "--single --vcpus 9", &["--vcpus", "1 to 8"]),
    ("manifest-and-single", "@/bad.toml --single", &["--single"]),
    ("manifest-and-kernel", "@/bad.toml --kernel @/loop", &["--kernel"]),
];

pub fn steps() -> Vec<Step> {
    let step = |case: &Case| {
        let (name, args, words) = *case;
        Step::new(format!("run/refuses-{name}"), move |bench| refuse(bench, args, words).into())
    };
    CASES.iter().map(step).collect()
}

/// A flat binary that is one instruction, `b .`.
pub const LOOP: [u8; 4] = [0x00, 0x00, 0x00, 0x14];

/// Writes the files that the cases name.
pub fn files() -> Result<PathBuf> {
    let folder = paths::work().join("inputs");
    std::fs::create_dir_all(&folder)?;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0".to_vec();
    elf.resize(64, 0);
    let mut image = vec![0; 64];
    image[24] = 1;
    image[56..60].copy_from_slice(b"ARM\x64");
    let manifest = b"[[vm]]\nname = \"a\"\ncolor = 1\nkernel = \"loop\"\n[[vm]]\nvcpus = 2\n";
    let impossible = b"[[vm]]\nname = \"a\"\nkernel = \"none\"\nvcpus = 9\n";
    for (name, bytes) in [
        ("empty", [].as_slice()),
        ("loop", &LOOP),
        ("x86.elf", &elf),
        ("text", b"these are just some words\n"),
        ("cut.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01"),
        ("big-endian", &image),
        ("5M", &vec![1; 5 << 20]),
        ("bad.toml", manifest),
        ("impossible.toml", impossible),
    ] {
        paths::write_if_changed(&folder.join(name), bytes)?;
    }
    Ok(folder)
}

fn refuse(bench: &Bench, args: &str, words: &[&str]) -> Result<()> {
    let folder = files()?;
    let fill = |text: &str| text.replace('@', &folder.to_string_lossy());
    let mut command = Command::new(&bench.program);
    command.arg("run").args(args.split(' ').map(fill)).current_dir(Path::new("/"));
    let Done { status, output } = command::run(&mut command, 20)?;
    if status.success() {
        bail!("it was accepted\n{output}");
    }
    if output.contains("press Ctrl-]") {
        bail!("it was refused only after a machine had started\n{output}");
    }
    if let Some(line) = output.lines().find(|line| !line.starts_with("error: ")) {
        bail!("`{line}` is not one line about one mistake\n{output}");
    }
    match words.iter().map(|word| fill(word)).find(|word| !output.contains(word)) {
        Some(word) => bail!("the message does not say `{word}`\n{output}"),
        None => Ok(()),
    }
}
