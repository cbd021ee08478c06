//! The files of a Raspberry Pi 4 that are fetched from Debian's packages, and kept in the cache.
//! None of them is part of the project; each has its licence beside it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::{PrivateApt, System};
use crate::paths;

/// What there is to fetch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Package {
    /// The device tree, out of the package of a Linux kernel.
    DeviceTree,
    /// The VideoCore's firmware.
    Firmware,
    /// TF-A's runtime firmware at EL3.
    TrustedFirmware,
    /// U-Boot.
    UBoot,
}

/// The licence of a package's files, in its folder of the cache.
pub const LICENCE: &str = "licence";

/// One package as Debian has it.
struct Row {
    /// Its name; or that of a package that depends on it, where the name has a version.
    name: &'static str,
    /// What its name begins with, where another package depends on it.
    dependency: Option<&'static str>,
    /// The ends of the paths of its files that are wanted; the first found of each list.
    files: &'static [&'static [&'static str]],
}

impl Package {
    fn row(self) -> Row {
        match self {
            Self::DeviceTree => Row {
                name: "linux-image-arm64",
                dependency: Some("linux-image-"),
                files: &[&["broadcom/bcm2711-rpi-4-b.dtb"]],
            },
            Self::Firmware => Row {
                name: "raspi-firmware",
                dependency: None,
                files: &[&["raspi-firmware/start4.elf"], &["raspi-firmware/fixup4.dat"]],
            },
            Self::TrustedFirmware => {
                Row { name: "arm-trusted-firmware", dependency: None, files: &[&["rpi4/bl31.bin"]] }
            }
            Self::UBoot => Row {
                name: "u-boot-rpi",
                dependency: None,
                files: &[&["rpi_4/u-boot.bin", "rpi_arm64/u-boot.bin"]],
            },
        }
    }

    fn folder(self) -> PathBuf {
        folder().join(self.row().name)
    }

    /// The path of a file by its name, after [`fetch`].
    pub fn file(self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The bytes of a file by its name, after [`fetch`].
    pub fn read(self, name: &str) -> Result<Vec<u8>> {
        let path = self.file(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The package's name and version, after [`fetch`].
    pub fn version(self) -> Result<String> {
        let version = std::fs::read_to_string(self.file("version")).context("no version")?;
        Ok(version.trim().to_owned())
    }
}

fn folder() -> PathBuf {
    paths::cache().join("rpi4")
}

/// Fetches those of the packages that are not in the cache.
pub fn fetch(packages: &[Package]) -> Result<()> {
    let folder = folder();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    // Two runs at once must not unpack into each other's files.
    let lock = File::create(folder.join("lock")).context("cannot lock the cache")?;
    lock.lock().context("cannot lock the cache")?;

    let missing = |package: &&Package| package.version().is_err();
    let missing: Vec<_> = packages.iter().filter(missing).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|package| package.row().name).collect();
    eprintln!("xtask: fetching what a Raspberry Pi 4 needs ({})", names.join(", "));
    fetch_into(&folder, &missing).context(
        "cannot fetch a Raspberry Pi 4's files (it takes Debian's apt and the network, once)",
    )
}

fn fetch_into(folder: &Path, packages: &[Package]) -> Result<()> {
    let work = folder.join("work");
    let _ = std::fs::remove_dir_all(&work);
    let components = ["main", System::this().firmware_component()];
    // Firmware is in a component of its own, that few machines' sources name.
    let components =
        if packages.contains(&Package::Firmware) { &components[..] } else { &components[..1] };
    let apt = PrivateApt::new(&work, "arm64", components)?;
    apt.update()?;
    for package in packages {
        let row = package.row();
        let name = match row.dependency {
            None => row.name.to_owned(),
            Some(start) => {
                let depends = apt.depends(row.name)?;
                let found = depends.into_iter().find(|name| name.starts_with(start));
                found.with_context(|| format!("this system's mirror has no {}", row.name))?
            }
        };
        let root = work.join("root");
        let _ = std::fs::remove_dir_all(&root);
        let version = apt.unpack_one(&name, &root)?;
        keep(&root, &row, &name, &version, &work.join("new"), &package.folder())?;
    }
    let _ = std::fs::remove_dir_all(&work);
    Ok(())
}

/// Keeps what is wanted of an unpacked package in `to`, by way of the folder `new`.
fn keep(root: &Path, row: &Row, name: &str, version: &str, new: &Path, to: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(new);
    std::fs::create_dir_all(new)?;
    for ends in row.files {
        let found = ends.iter().find_map(|end| find(root, Path::new(end)));
        let Some(path) = found else { bail!("{name} has no {}", ends.join(" and no ")) };
        std::fs::copy(&path, new.join(path.file_name().context("a file has a name")?))?;
    }
    let licence = root.join("usr/share/doc").join(name).join("copyright");
    std::fs::copy(&licence, new.join(LICENCE))
        .with_context(|| format!("{name} has no licence that could be kept"))?;
    std::fs::write(new.join("version"), format!("{name} {version}\n"))?;
    // The rename comes last: a folder with a version in it is always whole.
    let _ = std::fs::remove_dir_all(to);
    std::fs::rename(new, to).with_context(|| format!("cannot move files to {}", to.display()))
}

/// The file below `folder` whose path ends with `end`.
fn find(folder: &Path, end: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let (folders, files): (Vec<_>, Vec<_>) =
        entries.map(|entry| entry.path()).partition(|path| path.is_dir() && !path.is_symlink());
    let found = files.into_iter().find(|path| path.is_file() && path.ends_with(end));
    found.or_else(|| folders.iter().find_map(|folder| find(folder, end)))
}
