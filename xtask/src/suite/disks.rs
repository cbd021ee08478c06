//! Steps about disks: two Debian guests with the same image.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::session::{Session, said};
use super::{Bench, Step};
use crate::{disks, paths};

/// Enough for two boots on a slow machine that does other things too.
const BOOT_SECONDS: u64 = 200;
const ANSWER_SECONDS: u64 = 90;
const RUN_SECONDS: u64 = 600;

/// How large the image's disk is, in bytes.
const SIZE: u64 = 24 << 20;

const MANIFEST: &str = r#"
[[vm]]
name = "one"
kernel = "debian:kernel"
initrd = "debian:initrd"
cmdline = "console=ttyAMA0 quiet"
memory = "320M"
vcpus = 2
disks = [
    { image = "disks.qcow2" },
    { image = "disks.qcow2", read_only = true, serial = "original" },
    { size = "16M", space = "1M" },
]

[[vm]]
name = "two"
kernel = "debian:kernel"
initrd = "debian:initrd"
cmdline = "console=ttyAMA0 quiet"
memory = "320M"
disks = [ { image = "disks.qcow2", space = "4M" } ]
"#;

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("debian/disks-gicv{gic}"), move |bench| disks_of_two(bench, gic).into())
    };
    vec![step("2"), step("3")]
}

/// The image, its manifest, and the SHA-256 sum of the disk.
fn prepare() -> Result<(PathBuf, String)> {
    disks::need_program()?;
    let folder = paths::work();
    std::fs::create_dir_all(&folder)?;
    let raw = paths::scratch("disk-test")?;
    let file = File::create(&raw).context("cannot write an image")?;
    file.set_len(SIZE)?;
    let text: String = (0..40_000).map(|line| format!("line {line} of the image\n")).collect();
    // In the middle of a chunk, and up to the disk's end.
    for at in [5 << 20 | 0x3210, SIZE - text.len() as u64] {
        file.write_all_at(text.as_bytes(), at)?;
    }
    let output = Command::new("sha256sum").arg(&raw).output().context("cannot run sha256sum")?;
    let sum = String::from_utf8_lossy(&output.stdout).into_owned();
    let image = folder.join("disks.qcow2");
    let made = Command::new(disks::PROGRAM)
        .args(["convert", "-c", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &image])
        .status()
        .context("cannot run qemu-img")?;
    std::fs::remove_file(&raw)?;
    let Some((sum, _)) = sum.split_once(' ').filter(|_| made.success()) else {
        bail!("no image could be made");
    };
    let manifest = folder.join("disks.toml");
    paths::write_if_changed(&manifest, MANIFEST.as_bytes())?;
    Ok((manifest, sum.to_owned()))
}

/// Has `guest` carry out a command, which succeeds and says `answer`. Each has a number of its own.
fn ask(session: &mut Session, guest: &str, number: u32, command: &str, answer: &str) -> Result<()> {
    // What shows that it is done is not in the question, so an echo alone does not pass.
    session.send(&format!("{command} && echo done-$(({number} * 7))\r"))?;
    session.says(guest, answer, ANSWER_SECONDS)?;
    session.says(guest, &format!("done-{}", number * 7), ANSWER_SECONDS)
}

fn disks_of_two(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let (manifest, sum) = prepare()?;
    let manifest = manifest.to_string_lossy();
    let args = [&manifest, "--gic", gic, "--smp", "2", "--memory", "1G"];
    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    session.says("one", "plinth-guest-ready 42002", BOOT_SECONDS)?;
    session.says("two", "plinth-guest-ready 42001", BOOT_SECONDS)?;

    // The disks are there, as the image has it, and are called as the manifest says.
    ask(&mut session, "one", 1001, "sha256sum /dev/vda /dev/vdb", &sum)?;
    ask(
        &mut session,
        "one",
        1002,
        "cd /sys/block; cat vda/serial vdb/serial vdb/ro; cd",
        "disk0original1",
    )?;
    let make = "mke2fs /dev/vda >/dev/null && mount -t ext2 /dev/vda /mnt && cd /mnt && \
                dd if=/dev/urandom of=file bs=64k count=160 && sha256sum file >sum && cd && umount /mnt";
    ask(&mut session, "one", 1003, make, "160+0 records out")?;
    ask(&mut session, "one", 1004, "e2fsck -f -n /dev/vda && echo clean-$((1 + 41))", "clean-42")?;
    // What is read-only stays as it was; what has little space says when it is used up.
    ask(
        &mut session,
        "one",
        1005,
        "! dd if=/dev/zero of=/dev/vdb bs=4k count=1 && sha256sum /dev/vdb",
        &sum,
    )?;
    let fill = "! dd if=/dev/urandom of=/dev/vdc bs=64k count=32 conv=fsync";
    ask(&mut session, "one", 1006, fill, "error")?;
    // Dirty pages that cannot be written are gone before the next question.
    let again = "blkdiscard /dev/vdc && dd if=/dev/urandom of=/dev/vdc bs=64k count=15 conv=fsync";
    ask(&mut session, "one", 1007, again, "15+0 records out")?;
    session.wait_for("one: disk2 has used up its space of 1024 KiB", ANSWER_SECONDS)?;

    // The guest's reset keeps what was written.
    session.send("reboot -f\r")?;
    session.wait_for("one: reset", ANSWER_SECONDS)?;
    session.expect("[one] plinth-guest-ready 42002", BOOT_SECONDS)?;
    let look = "mount -t ext2 /dev/vda /mnt && cd /mnt && sha256sum -c sum && cd && umount /mnt";
    ask(&mut session, "one", 1008, look, "file: OK")?;
    ask(&mut session, "one", 1009, "e2fsck -f -n /dev/vda && echo clean-$((1 + 42))", "clean-43")?;

    // The other guest's disk is as it was, and what it writes is its own.
    session.send("\x011")?;
    ask(&mut session, "two", 2001, "sha256sum /dev/vda", &sum)?;
    let write =
        "dd if=/dev/zero of=/dev/vda bs=64k count=8 seek=85 conv=fsync && sha256sum /dev/vda";
    ask(&mut session, "two", 2002, write, "8+0 records out")?;
    session.send("\x010")?;
    session.send("sha256sum /dev/vdb && echo last-$((3 * 14))\r")?;
    session.says("one", "last-42", ANSWER_SECONDS)?;
    let text = session.text();
    let sums = [said(&text, "one"), said(&text, "two")].concat().matches(&sum).count();
    if sums != 5 {
        bail!("`{sum}` is the sum of {sums} disks, not of 5\n{text}");
    }
    Ok(())
}
