//! Steps about the card of a Raspberry Pi 4: it is read back by a reader of its own, and booted through
//! the boot stub of the firmware that is on it, through TF-A, and through Debian's U-Boot.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{FOUR_CPUS, SECONDS, all_passed, step};
use crate::paths;
use crate::rpi4::packages::{self, Package};
use crate::rpi4::reader::Card;
use crate::suite::many::{Guest, manifest};
use crate::suite::session::{Session, said};
use crate::suite::{Bench, Step, command};

/// How long making a card may take: the hypervisor is built, and the firmware fetched.
const MAKE_SECONDS: u64 = 300;

/// More than a card with small guests takes on a disk.
const MOST_BLOCKS: u64 = (32 << 20) / 512;

const UBOOT_PROMPT: &str = "U-Boot> ";

pub fn steps() -> Vec<Step> {
    vec![
        Step::new("rpi4/card-is-what-is-in-the-folder", |bench| reproducible(bench).into()),
        step("card-boots-through-the-firmwares-stub", |bench| boots(bench, &[], &[])),
        step("card-boots-through-tfa", |bench| {
            let said = ["BL31: Built", "rpi3: PSCI_SYSTEM_OFF"];
            boots(bench, &["--tfa"], &said)
        }),
        step("card-boots-through-u-boot", u_boot),
        Step::new("rpi4/what-is-no-card-is-refused", |bench| refused(bench).into()),
    ]
}

fn folder() -> Result<PathBuf> {
    let folder = paths::work().join("card");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Runs `xtask image --board rpi4 ARGS`.
fn image(bench: &Bench, manifest: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new(&bench.program);
    command.args(["image", "--board", "rpi4"]).arg(manifest).args(args).current_dir("/");
    command::succeed(&mut command, MAKE_SECONDS)
}

fn small(bench: &Bench) -> Result<PathBuf> {
    let guest = |payload: &'static str, more| Guest { name: payload.to_owned(), payload, more };
    let guests = [guest("hello", "memory = \"64M\""), guest("smp", "memory = \"64M\"\nvcpus = 4")];
    manifest(bench, "rpi4-card.toml", &guests)
}

/// The payloads and a Debian guest.
fn large(bench: &Bench) -> Result<PathBuf> {
    bench.debian()?;
    let debian = "[[vm]]\nname = \"debian\"\nkernel = \"debian:kernel\"\n\
                  initrd = \"debian:initrd\"\nmemory = \"256M\"\nvcpus = 2\n\
                  cmdline = \"console=ttyAMA0 plinth.test=poweroff\"\n";
    let text = std::fs::read_to_string(small(bench)?)?;
    let path = paths::work().join("rpi4-card-debian.toml");
    paths::write_if_changed(&path, [&text, debian].concat().as_bytes())?;
    Ok(path)
}

/// Two images of the same files do not differ, and hold what `--dir` writes: no more, no less.
fn reproducible(bench: &Bench) -> Result<()> {
    let manifest = small(bench)?;
    let folder = folder()?;
    let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let _ = std::fs::remove_dir_all(at("files"));
    let args = ["--hv-args", "log=debug", "--tfa"];
    let mut said = String::new();
    for place in [["-o", &at("one.img")], ["-o", &at("two.img")], ["--dir", &at("files")]] {
        said = image(bench, &manifest, &[&place[..], &args].concat())?;
    }
    let hint = "pin 8 is the board's TXD, pin 10 its RXD, pin 6 ground";
    if !said.contains(hint) || !said.contains("115200") {
        bail!("it does not say where the console is\n{said}");
    }
    let one = std::fs::read(at("one.img"))?;
    if one != std::fs::read(at("two.img"))? {
        bail!("two images of the same files differ");
    }
    let blocks = std::fs::metadata(at("one.img"))?.blocks();
    if blocks > MOST_BLOCKS {
        bail!("an image of {} bytes takes {blocks} blocks: it is not sparse", one.len());
    }
    let card = Card::open(Path::new(&at("one.img")))?;
    card.check_tables()?;
    let mut on_card: Vec<_> = card.files()?.into_iter().map(|file| file.name).collect();
    let mut in_folder = Vec::new();
    for entry in std::fs::read_dir(at("files"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if card.read(&name)? != std::fs::read(entry.path())? {
            bail!("{name} differs between the card and the folder");
        }
        in_folder.push(name);
    }
    on_card.sort();
    in_folder.sort();
    if on_card != in_folder {
        bail!("on the card are {on_card:?}, in the folder {in_folder:?}");
    }
    for name in ["cmdline.txt", "bl31.bin", "LICENCE.firmware.txt", "LICENCE.tfa.txt"] {
        if !on_card.iter().any(|file| file == name) {
            bail!("there is no {name} on the card: {on_card:?}");
        }
    }
    Ok(())
}

/// The run ends by itself, all guests being well.
fn all_well(session: &mut Session, wanted: &[&str]) -> Result<()> {
    session.end_with(0, SECONDS + 10)?;
    let text = session.text();
    all_passed(&text, &["hello", "smp"].map(str::to_owned))?;
    match [FOUR_CPUS].iter().chain(wanted).find(|wanted| !text.contains(**wanted)) {
        Some(wanted) => bail!("there is no `{wanted}`\n{text}"),
        None => Ok(()),
    }
}

fn boots(bench: &Bench, how: &[&str], wanted: &[&str]) -> Result<()> {
    let card = folder()?.join("boots.img");
    let card = card.to_string_lossy();
    image(bench, &large(bench)?, &[&["-o", &card], how].concat())?;
    let mut session = Session::start(bench, &["--card", &card], SECONDS)?;
    all_well(&mut session, wanted)?;
    let text = session.text();
    if !said(&text, "debian").contains("plinth-guest-ready 42002") {
        bail!("the Debian guest did not come up\n{text}");
    }
    Ok(())
}

/// U-Boot reads hypervisor and guests from the card, which QEMU has as its SD card.
fn u_boot(bench: &Bench) -> Result<()> {
    bench.machine()?;
    packages::fetch(&[Package::UBoot])?;
    let uboot = Package::UBoot.file("u-boot.bin");
    let card = folder()?.join("u-boot.img");
    image(bench, &small(bench)?, &["-o", &card.to_string_lossy()])?;
    // What QEMU itself loads is another guest, so that the card's are known by their verdict.
    let guest = Guest { name: "not-this".to_owned(), payload: "share", more: "memory = \"16M\"" };
    let other = manifest(bench, "rpi4-not-this.toml", &[guest])?;
    let drive = format!("if=sd,format=raw,snapshot=on,file={}", card.display());
    let (other, uboot) = (other.to_string_lossy(), uboot.to_string_lossy());
    let args = ["--board", "rpi4", &other, "--", "-kernel", &uboot, "-drive", &drive];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect("Hit any key to stop autoboot", SECONDS)?;
    session.send(" ")?;
    for line in [
        "fatload mmc 0:1 200000 kernel8.img",
        "fatload mmc 0:1 ${ramdisk_addr_r} guests.bundle",
        "booti 200000 ${ramdisk_addr_r}:${filesize} ${fdt_addr}",
    ] {
        session.expect(UBOOT_PROMPT, SECONDS)?;
        session.send(&format!("{line}\r"))?;
    }
    all_well(&mut session, &["Starting kernel"])?;
    if session.text().contains("not-this") {
        bail!("the guest that is not on the card ran\n{}", session.text());
    }
    Ok(())
}

/// What is refused in words, before a machine starts: the arguments, and a word of the message.
const REFUSED: [(&str, &[&str], &str); 9] = [
    ("image", &["--board", "rpi4", "-o", "@/none/x.img"], "there is no folder"),
    ("image", &["--board", "qemu-virt", "-o", "@/x.img"], "known are: rpi4"),
    ("image", &["--board", "rpi4", "-o", "@"], "no regular file"),
    ("image", &["--board", "rpi4", "@/none.toml", "-o", "@/x.img"], "none.toml"),
    ("image", &["--board", "rpi4", "--hv-args", "a\nb", "-o", "@/x.img"], "--hv-args"),
    ("run", &["--card", "@/none.img"], "none.img"),
    ("run", &["--card", "@/text"], "is no card"),
    ("run", &["--card", "@/zeros"], "no MBR"),
    ("run", &["--board", "qemu-virt", "--card", "@/zeros"], "--board"),
];

fn refused(bench: &Bench) -> Result<()> {
    let folder = folder()?;
    paths::write_if_changed(&folder.join("text"), b"just words")?;
    paths::write_if_changed(&folder.join("zeros"), &[0; 4096])?;
    for (task, args, word) in REFUSED {
        let fill = |arg: &&str| arg.replace('@', &folder.to_string_lossy());
        let mut command = Command::new(&bench.program);
        command.arg(task).args(args.iter().map(fill));
        let done = command::run(&mut command, MAKE_SECONDS).context(word)?;
        if done.status.success() || !done.output.contains("error: ") || !done.output.contains(word)
        {
            bail!("{args:?}: {}\n{}", done.status, done.output);
        }
    }
    Ok(())
}
