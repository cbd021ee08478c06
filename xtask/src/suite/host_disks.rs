//! Steps about disks of the machine's: guests have parts of them, which last, and which fail.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use plinth::manifest::checksum;

use super::session::{Session, said};
use super::{Bench, Step, oracle};
use crate::{paths, qemu};

/// Enough for two boots on a slow machine that does other things too.
const BOOT_SECONDS: u64 = 200;
const ANSWER_SECONDS: u64 = 90;
const RUN_SECONDS: u64 = 600;

/// How large the disk is; where its partition is; and from where on another guest has it, in bytes.
const SIZE: u64 = 48 << 20;
const PARTITION: (u64, u64) = (1 << 20, 24 << 20);
const RANGE: u64 = 32 << 20;
const SECTOR: u64 = 512;

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for gic in ["2", "3"] {
        steps.push(Step::new(format!("debian/host-disks-gicv{gic}"), move |bench| {
            lasts(bench, gic).into()
        }));
        steps.push(Step::new(format!("debian/host-disks-fail-gicv{gic}"), move |bench| {
            fails(bench, gic).into()
        }));
    }
    steps.push(Step::new("run/host-disks-slow-and-cut-off", |bench| slow(bench).into()));
    steps.push(Step::new("run/host-disks-missing", |bench| missing(bench).into()));
    steps
}

/// Files that are gone when this is.
struct Files(Vec<PathBuf>);

impl Files {
    /// A disk with one partition, `data`, and nothing else on it.
    fn disk(&mut self, kind: &str) -> Result<PathBuf> {
        let path = self.file(kind)?;
        let file = File::create(&path).context("cannot write a disk")?;
        file.set_len(SIZE)?;
        let mut entries = [0; 128 * 128];
        let (first, last) = (PARTITION.0 / SECTOR, PARTITION.1 / SECTOR - 1);
        put(&mut entries, 0, &[0xaf; 16]);
        put(&mut entries, 16, &[0x11; 16]);
        put(&mut entries, 32, &first.to_le_bytes());
        put(&mut entries, 40, &last.to_le_bytes());
        put(&mut entries, 56, b"d\0a\0t\0a\0");
        let sectors = SIZE / SECTOR;
        for (at, other, table) in [(1, sectors - 1, 2), (sectors - 1, 1, sectors - 33)] {
            // "GPT Header".
            let mut header = [0; 512];
            put(&mut header, 0, b"EFI PART\0\0\x01\0");
            put(&mut header, 12, &92u32.to_le_bytes());
            let words = [at, other, 34, sectors - 34];
            for (word, place) in words.into_iter().zip((24..).step_by(8)) {
                put(&mut header, place, &word.to_le_bytes());
            }
            put(&mut header, 72, &table.to_le_bytes());
            put(&mut header, 80, &128u32.to_le_bytes());
            put(&mut header, 84, &128u32.to_le_bytes());
            put(&mut header, 88, &checksum(&entries).to_le_bytes());
            let sum = checksum(&header[..92]);
            put(&mut header, 16, &sum.to_le_bytes());
            file.write_all_at(&header, at * SECTOR)?;
            file.write_all_at(&entries, table * SECTOR)?;
        }
        Ok(path)
    }

    fn file(&mut self, kind: &str) -> Result<PathBuf> {
        let path = paths::scratch(kind)?;
        self.0.push(path.clone());
        Ok(path)
    }

    fn manifest(&mut self, kind: &str, text: &str) -> Result<String> {
        let path = self.file(kind)?.with_extension("toml");
        self.0.push(path.clone());
        paths::write_if_changed(&path, text.as_bytes())?;
        Ok(path.to_string_lossy().into_owned())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A Debian guest with these disks.
fn vm(name: &str, vcpus: u8, disks: &str) -> String {
    format!(
        "[[vm]]\nname = \"{name}\"\nkernel = \"debian:kernel\"\ninitrd = \"debian:initrd\"\n\
         cmdline = \"console=ttyAMA0 quiet\"\nmemory = \"320M\"\nvcpus = {vcpus}\ndisks = [{disks}]\n"
    )
}

/// Has `guest` carry out a command, which succeeds and says `answer`. Each has a number of its own.
fn ask(session: &mut Session, guest: &str, number: u32, command: &str, answer: &str) -> Result<()> {
    // What shows that it is done is not in the question, so an echo alone does not pass.
    session.send(&format!("{command} && echo done-$(({number} * 7))\r"))?;
    session.says(guest, answer, ANSWER_SECONDS)?;
    session.says(guest, &format!("done-{}", number * 7), ANSWER_SECONDS)
}

fn name_of(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).context("a file's name")
}

/// Two guests on one disk write to their parts, one is reset while it does, and all is there in the next run.
fn lasts(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let mut files = Files(Vec::new());
    let disk = files.disk("hostdisk")?;
    let name = name_of(&disk)?;
    let range = format!("{{ host = \"{name}\", start = \"32M\" }}");
    let one = vm("one", 2, "{ host = 0, partition = \"data\" }, { size = \"8M\" }");
    let manifest = files.manifest("hostdisk-guests", &(one + &vm("two", 1, &range)))?;
    let path = disk.to_string_lossy();
    let args = [&manifest, "--gic", gic, "--smp", "2", "--memory", "1G", "--disk", &path];
    // With one of the two QEMU is asked what it minds, too, and the devices are not of the kind before virtio 1.0.
    let (log, options) = oracle::log("host-disks.log")?;
    let asks = oracle::MODERN.into_iter().chain(options.iter().map(String::as_str));
    let asks = std::iter::once("--").chain(asks).filter(|_| gic == "3");
    let first: Vec<_> = args.into_iter().chain(asks).collect();
    let make = "mke2fs -q /dev/vda && mount -t ext2 /dev/vda /mnt && cd /mnt && \
                dd if=/dev/urandom of=file bs=64k count=160 && sha256sum file >sum && cd && umount /mnt";
    let look = "mount -t ext2 /dev/vda /mnt && cd /mnt && sha256sum -c sum && cd && umount /mnt && \
                e2fsck -f -n /dev/vda && echo clean-";

    let mut session = Session::start(bench, &first, RUN_SECONDS)?;
    session.says("one", "plinth-guest-ready 42002", BOOT_SECONDS)?;
    session.says("two", "plinth-guest-ready 42001", BOOT_SECONDS)?;
    ask(&mut session, "one", 1001, "cat /sys/block/vda/size", "47104")?;
    ask(&mut session, "one", 1002, make, "160+0 records out")?;
    session.send("\x011")?;
    ask(&mut session, "two", 2001, "cat /sys/block/vda/size", "32768")?;
    ask(&mut session, "two", 2002, make, "160+0 records out")?;
    session.send("\x010")?;
    // Reset while the disk has much to do: what it reads and writes then, it does to memory that is still the guest's.
    let storm = "(dd if=/dev/vda of=/dev/null bs=1M & dd if=/dev/vda of=/dev/vdb bs=64k count=100 & \
                 sleep 0.05; reboot -f)\r";
    for round in 1..=2 {
        session.send(storm)?;
        session.expect("one: reset", ANSWER_SECONDS)?;
        session.expect("[one] plinth-guest-ready 42002", BOOT_SECONDS)?;
        ask(&mut session, "one", 1010 + round, &format!("{look}$((40 + {round}))"), "file: OK")?;
        session.says("one", &format!("clean-{}", 40 + round), ANSWER_SECONDS)?;
    }
    session.send("poweroff -f\r")?;
    session.expect("one: stopped", ANSWER_SECONDS)?;
    session.send("\x011poweroff -f\r")?;
    session.end_with(0, ANSWER_SECONDS)?;
    oracle::silent(&log, &session.text())?;
    drop(session);

    // Another run of the machine, with the same file.
    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    session.says("one", "plinth-guest-ready 42002", BOOT_SECONDS)?;
    session.says("two", "plinth-guest-ready 42001", BOOT_SECONDS)?;
    ask(&mut session, "one", 1020, &format!("{look}$((1 + 50))"), "clean-51")?;
    session.send("\x011")?;
    ask(&mut session, "two", 2020, &format!("{look}$((1 + 60))"), "clean-61")?;
    drop(session);

    // Nothing was written outside their parts.
    let file = File::open(&disk)?;
    let mut gap = vec![0; usize::try_from(RANGE - PARTITION.1)?];
    file.read_exact_at(&mut gap, PARTITION.1)?;
    if gap.iter().any(|byte| *byte != 0) {
        bail!("something was written between the guests' parts");
    }
    Ok(())
}

/// What QEMU is told for a disk at `path`, called `name`, with these rules for when it fails.
fn failing(path: &Path, name: &str, rules: &[&str]) -> Result<[String; 4]> {
    File::create(path).context("cannot write a disk")?.set_len(SIZE)?;
    let file = path.to_string_lossy();
    let rules: String = rules.iter().map(|rule| format!(",file.{rule}")).collect();
    let drive = format!(
        "if=none,id={name},format=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={file}{rules}"
    );
    let device = format!("virtio-blk-device,drive={name},serial={name}");
    Ok(["-drive".into(), drive, "-device".into(), device])
}

/// A disk with a bad sector, and one that is gone after its first flush: their guest sees errors and goes on, and so do the
/// others.
fn fails(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let mut files = Files(Vec::new());
    let good = files.disk("hostdisk")?;
    // Sector 8192 is at 4 MiB.
    let bad = [
        "inject-error.0.event=write_aio",
        "inject-error.0.errno=5",
        "inject-error.0.sector=8192",
        "inject-error.0.once=off",
    ];
    let bad = failing(&files.file("hostdisk-bad")?, "bad", &bad)?;
    let mut gone: Vec<String> = vec![
        "set-state.0.event=flush_to_disk".into(),
        "set-state.0.state=1".into(),
        "set-state.0.new_state=2".into(),
    ];
    for (number, event) in ["read_aio", "write_aio", "flush_to_disk"].iter().enumerate() {
        gone.extend([
            format!("inject-error.{number}.event={event}"),
            format!("inject-error.{number}.state=2"),
            format!("inject-error.{number}.errno=5"),
            format!("inject-error.{number}.once=off"),
        ]);
    }
    let gone: Vec<_> = gone.iter().map(String::as_str).collect();
    let gone = failing(&files.file("hostdisk-gone")?, "gone", &gone)?;
    let disks = "{ host = \"bad\", size = \"16M\" }, { host = \"bad\", start = \"16M\", size = \"8M\" }, \
                 { host = \"gone\" }, { size = \"8M\" }";
    let two = vm("two", 1, "{ host = 0, partition = 1 }");
    let manifest = files.manifest("hostdisk-guests", &(vm("one", 2, disks) + &two))?;
    let path = good.to_string_lossy();
    let mut args =
        vec![&*manifest, "--gic", gic, "--smp", "2", "--memory", "1G", "--disk", &path, "--"];
    args.extend(bad.iter().chain(&gone).map(String::as_str));

    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    session.says("one", "plinth-guest-ready 42002", BOOT_SECONDS)?;
    session.says("two", "plinth-guest-ready 42001", BOOT_SECONDS)?;
    // Mid-write; what is elsewhere on the same disk is written.
    let write = |to: &str, count: u32| {
        format!("dd if=/dev/urandom of=/dev/{to} bs=64k count={count} conv=fsync")
    };
    ask(&mut session, "one", 1001, &format!("! {}", write("vda", 128)), "vda: Input/output error")?;
    ask(&mut session, "one", 1002, &write("vda", 48), "48+0 records out")?;
    ask(&mut session, "one", 1003, &write("vdb", 100), "100+0 records out")?;
    // The first flush may be the last thing it does.
    ask(&mut session, "one", 1004, &format!("({}; true)", write("vdc", 9)), "9+0 records out")?;
    let read = "! dd if=/dev/vdc of=/dev/null bs=64k count=8 iflag=direct skip=40";
    ask(&mut session, "one", 1005, read, "vdc: Input/output error")?;
    ask(&mut session, "one", 1006, &format!("! {}", write("vdc", 11)), "vdc: Input/output error")?;
    let check = |of: &str| {
        format!(
            "mke2fs -q /dev/{of} && mount -t ext2 /dev/{of} /mnt && cd /mnt && \
             dd if=/dev/urandom of=file bs=64k count=77 && sha256sum file >sum && cd && umount /mnt && \
             echo 3 >/proc/sys/vm/drop_caches && mount -t ext2 /dev/{of} /mnt && cd /mnt && \
             sha256sum -c sum && cd && umount /mnt && e2fsck -f -n /dev/{of}"
        )
    };
    ask(&mut session, "one", 1007, &check("vdd"), "file: OK")?;
    session.send("\x011")?;
    ask(&mut session, "two", 2001, &check("vda"), "file: OK")?;
    // And after its reset the guest finds them as they were.
    session.send("\x010reboot -f\r")?;
    session.expect("one: reset", ANSWER_SECONDS)?;
    session.expect("[one] plinth-guest-ready 42002", BOOT_SECONDS)?;
    ask(&mut session, "one", 1008, &format!("! {}", write("vdc", 12)), "vdc: Input/output error")?;
    ask(&mut session, "one", 1009, &write("vdb", 101), "101+0 records out")
}

/// A disk that does one thing a second, and one whose file is cut off while it is in use: their guests wait, or find zeros, and
/// others go on.
fn slow(bench: &Bench) -> Result<()> {
    bench.machine()?;
    bench.payloads()?;
    let mut files = Files(Vec::new());
    let vm = |name: &str, cmdline: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\nkernel = \"guest:diskio\"\nmemory = \"16M\"\n\
             cmdline = \"{cmdline}\"\ndisks = [{{ host = \"{name}\" }}]\n"
        )
    };
    let text =
        vm("slow", "rounds=100000") + &vm("cut", "rounds=300 loses") + &vm("good", "rounds=1000");
    let manifest = files.manifest("hostdisk-guests", &text)?;
    let mut options = Vec::new();
    let cut = files.file("hostdisk-cut")?;
    for (name, path, more) in [
        ("slow", files.file("hostdisk-slow")?, ",throttling.iops-total=1"),
        ("cut", cut.clone(), ""),
        ("good", files.file("hostdisk-good")?, ""),
    ] {
        File::create(&path).context("cannot write a disk")?.set_len(SIZE)?;
        let file = qemu::value(&path);
        options.extend([
            "-drive".to_owned(),
            format!("if=none,id={name},format=raw,file={file}{more}"),
        ]);
        options.extend([
            "-device".to_owned(),
            format!("virtio-blk-device,drive={name},serial={name}"),
        ]);
    }
    let mut args = vec![&*manifest, "--gic", "3", "--smp", "2", "--"];
    args.extend(options.iter().map(String::as_str));
    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    // It has written all of its blocks once.
    session.says("cut", "diskio: 192 rounds", ANSWER_SECONDS)?;
    File::options().write(true).open(&cut)?.set_len(SECTOR)?;
    session.says("cut", "is lost", ANSWER_SECONDS)?;
    for name in ["cut", "good"] {
        session.says(name, "GUEST-TEST: ok", ANSWER_SECONDS)?;
    }
    // It is not done, and goes on.
    session.says("slow", "diskio: 1 rounds", ANSWER_SECONDS)?;
    let text = session.text();
    if text.contains("GUEST-TEST: FAILED") || said(&text, "slow").contains("128 rounds") {
        bail!("a disk that does one thing a second does many\n{text}");
    }
    session.alive()
}

/// Guests whose part is not there are refused with the reason, and the others run.
fn missing(bench: &Bench) -> Result<()> {
    bench.machine()?;
    bench.payloads()?;
    let mut files = Files(Vec::new());
    let disk = files.disk("hostdisk")?;
    let vm = |name: &str, disk: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\nkernel = \"guest:hello\"\nmemory = \"16M\"\ndisks = [{{ {disk} }}]\n"
        )
    };
    let text = [
        vm("none", "host = 1"),
        vm("unknown", "host = \"nobody\""),
        vm("part", "host = 0, partition = \"root\""),
        vm("large", "host = 0, start = \"46M\", size = \"3M\""),
        vm("good", "host = 0, partition = 1"),
        vm("late", "host = 0, start = \"23M\", size = \"1M\""),
    ];
    let manifest = files.manifest("hostdisk-guests", &text.concat())?;
    let path = disk.to_string_lossy();
    let mut session = Session::start(bench, &[&manifest, "--disk", &path], RUN_SECONDS)?;
    for told in [
        "none: refused: disk 1: this machine has no virtio disk 1: it has 1",
        "unknown: refused: disk 1: none of the machine's 1 virtio disks has the serial nobody",
        "part: refused: disk 1: the disk has no such partition",
        "large: refused: disk 1: it ends 50176 KiB from the start of the disk, which has 49152 KiB",
        "late: refused: disk 1: disk 1 of good has some of it, and not both are read-only",
        "good: 16 MiB, 1 vCPU",
    ] {
        session.wait_for(told, BOOT_SECONDS)?;
    }
    session.end_with(0, ANSWER_SECONDS)?;
    // A machine that has no disk at all.
    let mut session = Session::start(bench, &[&manifest], RUN_SECONDS)?;
    session.wait_for(
        "good: refused: disk 1: this machine has no virtio disk 0: it has 0",
        BOOT_SECONDS,
    )?;
    Ok(())
}
