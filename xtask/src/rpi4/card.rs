//! `cargo xtask image`: the files of a Raspberry Pi 4's card, as an image or in a folder.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::disk::{self, CardFile};
use super::packages::{self, LICENCE, Package};
use super::{Tree, config, firmware, tree};
use crate::board::Board;
use crate::bundle::Bundle;
use crate::cli::ImageOptions;
use crate::{build, paths, size};

/// The longest text that the firmware takes from `cmdline.txt`.
const LONGEST_CMDLINE: usize = 1023;

/// The RAM of the smallest board that the hypervisor's guests can have.
const SMALLEST_BOARD: u64 = 900 << 20;

/// Makes what the options say, and says how to use it.
pub fn make(options: &ImageOptions) -> Result<ExitCode> {
    if options.board != Board::Rpi4 {
        bail!("--board: {} boots without a card; known are: rpi4", options.board);
    }
    if let Some(text) = &options.hv_args {
        check_cmdline(text)?;
    }
    // Told before anything is fetched or built.
    options.output.as_deref().map_or(Ok(()), disk::check_output)?;
    let default = paths::root().join(Board::Rpi4.default_manifest());
    let bundle = Bundle::load(options.manifest.as_deref().unwrap_or(&default))?;
    let files = files(&bundle, options)?;
    match (&options.output, &options.dir) {
        (Some(path), _) => {
            let size = size::show(disk::write(path, &files)?);
            report(&files, &format!("{}: {size}", path.display()));
            let path = path.display();
            println!(
                "Write it to a card of at least {size}; all that is on the card is lost:\n  \
                 sudo dd if={path} of=/dev/YOUR-CARD bs=4M conv=fsync status=progress\n\
                 or choose it in Raspberry Pi Imager, as \"Use custom\". `cargo xtask run --card \
                 {path}` tries it first."
            );
        }
        (None, Some(folder)) => {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            for file in &files {
                paths::write_if_changed(&folder.join(&file.name), &file.bytes)?;
            }
            report(&files, &folder.display().to_string());
            println!(
                "Copy the files into the root folder of a card's first partition, with the file \
                 system FAT32."
            );
        }
        (None, None) => bail!("either --output or --dir says where to write"),
    }
    println!(
        "The console is the serial line on GPIO14 and GPIO15, 115200 baud, 8N1, 3.3 V: pin 8 is \
         the board's TXD, pin 10 its RXD, pin 6 ground."
    );
    let memory = bundle.memory_at_start()?;
    if memory > SMALLEST_BOARD {
        println!(
            "The guests have {} of memory: a board with 1 GiB is too small for them.",
            size::show(memory)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn check_cmdline(text: &str) -> Result<()> {
    if text.len() > LONGEST_CMDLINE || text.contains(['\n', '\r', '\0']) {
        bail!("--hv-args: want one line of at most {LONGEST_CMDLINE} bytes");
    }
    Ok(())
}

fn report(files: &[CardFile], what: &str) {
    println!("{what}");
    let width = files.iter().map(|file| file.name.len()).max().unwrap_or(0);
    for CardFile { name, bytes } in files {
        println!("  {name:width$}  {}", size::show_rounded(bytes.len() as u64));
    }
}

/// All files of the card.
fn files(bundle: &Bundle, options: &ImageOptions) -> Result<Vec<CardFile>> {
    let mut packages = vec![Package::Firmware, Package::DeviceTree];
    if options.tfa {
        packages.push(Package::TrustedFirmware);
    }
    packages::fetch(&packages)?;
    let mut tree = Tree::debian()?;
    tree.prepare_for_card()?;
    tree.put_into_use(&bundle.manifest()?)?;
    let kernel = std::fs::read(build::hypervisor()?.raw).context("cannot read the hypervisor")?;
    let mut files = Vec::new();
    let mut add =
        |name: &str, bytes: Vec<u8>| files.push(CardFile { name: name.to_owned(), bytes });
    add("config.txt", config::text(options.tfa).into_bytes());
    add("start4.elf", Package::Firmware.read("start4.elf")?);
    add("fixup4.dat", Package::Firmware.read("fixup4.dat")?);
    if options.tfa {
        add(config::ARMSTUB, Package::TrustedFirmware.read(config::ARMSTUB)?);
    }
    add(tree::FILE, tree.bytes());
    add(config::KERNEL, with_bss(kernel)?);
    add(config::BUNDLE, bundle.bytes().to_vec());
    if let Some(text) = &options.hv_args {
        add("cmdline.txt", format!("{text}\n").into_bytes());
    }
    let mut origins = "What is on this card, and where it comes from:\n\n".to_owned();
    origins += "kernel8.img, guests.bundle, config.txt: Plinth\n";
    for package in packages {
        let (names, licence, remark) = described(package);
        let version = package.version()?;
        origins += &format!("{names}: Debian's {version}{remark}; {licence} has its licence\n");
        add(licence, Package::read(package, LICENCE)?);
    }
    add("ORIGINS.txt", origins.into_bytes());
    check(&files)?;
    Ok(files)
}

/// A package's files, the name of their licence on the card, and what else is to be said of them.
fn described(package: Package) -> (&'static str, &'static str, &'static str) {
    match package {
        Package::Firmware => ("start4.elf, fixup4.dat", "LICENCE.firmware.txt", ""),
        Package::DeviceTree => (
            tree::FILE,
            "LICENCE.linux.txt",
            ", changed: the console is the PL011, and Bluetooth, which is on it, is left out",
        ),
        Package::TrustedFirmware => (config::ARMSTUB, "LICENCE.tfa.txt", ""),
        Package::UBoot => ("u-boot.bin", "LICENCE.u-boot.txt", ""),
    }
}

/// The hypervisor with the memory behind it that its header asks for, so that firmware that places
/// files one after the other leaves that memory alone.
fn with_bss(mut kernel: Vec<u8>) -> Result<Vec<u8>> {
    let size = firmware::image_size(&kernel)?;
    if size < kernel.len() {
        bail!("the hypervisor's header says {size} bytes, but it has {}", kernel.len());
    }
    kernel.resize(size, 0);
    Ok(kernel)
}

/// Whether the firmware will find all it needs, and can place it.
fn check(files: &[CardFile]) -> Result<()> {
    let read = |name: &str| {
        let file = files.iter().find(|file| file.name == name);
        file.map(|file| file.bytes.clone()).with_context(|| format!("no {name} on the card"))
    };
    let loaded = firmware::Loaded::by(&read)?;
    Tree::read(&loaded.tree)?;
    for (name, start) in [("start4.elf", &b"\x7fELF"[..]), ("fixup4.dat", &[])] {
        let bytes = read(name)?;
        if bytes.is_empty() || !bytes.starts_with(start) {
            bail!("{name} is not the firmware's");
        }
    }
    Ok(())
}
