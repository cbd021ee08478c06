//! The default guest: Debian's arm64 cloud kernel, and an initramfs with busybox, a checker of file systems and the
//! kernel's virtio modules. Fetched once from the mirror that this machine uses, then kept in the cache.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::PrivateApt;
use crate::{build, initramfs, paths};

const KERNEL_META_PACKAGE: &str = "linux-image-cloud-arm64";
const BUSYBOX_PACKAGE: &str = "busybox-static";
/// Busybox makes file systems (mke2fs), and checks none.
const CHECKER_PACKAGE: &str = "e2fsck-static";

/// The modules that bring up Plinth's virtio devices, and a file system for its disks, where it is not built in; what
/// they depend on comes with them.
const MODULES: [&str; 9] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "virtio_balloon",
    "virtio-rng",
    "arm_smccc_trng",
    "ext4",
];

/// The files of the default guest.
pub struct Files {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

fn folder() -> PathBuf {
    paths::cache().join("debian")
}

/// What is fetched; a cache that was filled when it was something else is filled anew.
fn contents() -> String {
    let packages = [KERNEL_META_PACKAGE, BUSYBOX_PACKAGE, CHECKER_PACKAGE];
    [&packages[..], &MODULES].concat().join("\n")
}

/// The version of the cached kernel, if all that is wanted is there.
pub fn cached() -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(folder().join("guest").join(name)).ok();
    let version = read("version").filter(|_| read("contents") == Some(contents()))?;
    Some(version.trim().to_owned())
}

/// The default guest's files, fetched when they are not in the cache.
pub fn guest() -> Result<Files> {
    let folder = folder();
    let _lock = paths::lock(&folder)?;
    let guest = folder.join("guest");
    if cached().is_none() {
        eprintln!(
            "xtask: fetching the default guest \
             ({KERNEL_META_PACKAGE}, {BUSYBOX_PACKAGE}, {CHECKER_PACKAGE})"
        );
        fetch(&folder, &guest).with_context(|| {
            "cannot fetch the default guest (it takes apt and the network, once); \
             `cargo xtask run --kernel FILE` boots a kernel of your own without either"
        })?;
    }
    let program = build::linux_program().and_then(|path| Ok(std::fs::read(path)?));
    let program = program.unwrap_or_else(|why| {
        eprintln!("xtask: the default guest goes without {}: {why:#}", build::LINUX_PROGRAM);
        Vec::new()
    });
    let initrd = guest.join(format!("initrd-{:08x}.gz", initramfs::fingerprint(&program)));
    if !initrd.exists() {
        eprintln!("xtask: packing the default guest's initramfs");
        paths::write_if_changed(&initrd, &initramfs::build(&guest, &program)?)?;
    }
    Ok(Files { kernel: guest.join("vmlinuz"), initrd })
}

/// Fetches packages and keeps what the guest needs of them in `guest`.
fn fetch(folder: &Path, guest: &Path) -> Result<()> {
    let work = folder.join("work");
    let _ = std::fs::remove_dir_all(&work);
    let apt = PrivateApt::new(&work, "arm64", &["main"])?;
    apt.update()?;
    let depends = apt.depends(KERNEL_META_PACKAGE)?;
    let Some(kernel) = depends.iter().find(|name| name.starts_with("linux-image-")) else {
        bail!("this system's package mirror has no {KERNEL_META_PACKAGE} for arm64");
    };
    let root = work.join("root");
    apt.unpack(&[kernel, BUSYBOX_PACKAGE, CHECKER_PACKAGE], &root)?;

    let version = kernel.trim_start_matches("linux-image-").trim_end_matches("-unsigned");
    let new = work.join("guest");
    std::fs::create_dir_all(new.join("modules"))?;
    copy(&root.join("boot").join(format!("vmlinuz-{version}")), &new.join("vmlinuz"))?;
    // Newer releases keep programs below /usr only.
    let program = |path: &str, name: &str| {
        let places = ["usr", ""].map(|folder| root.join(folder).join(path));
        let found = places.iter().find(|path| path.is_file());
        copy(found.with_context(|| format!("the package has no {path}"))?, &new.join(name))
    };
    program("bin/busybox", "busybox")?;
    program("sbin/e2fsck.static", "e2fsck")?;
    let modules = ["usr/lib/modules", "lib/modules"].map(|path| root.join(path).join(version));
    let modules = modules.iter().find(|path| path.is_dir());
    let modules = modules.context("no modules")?;
    let mut order = String::new();
    for module in initramfs::with_dependencies(modules, &MODULES)? {
        order.push_str(&module.name);
        order.push('\n');
        std::fs::write(new.join("modules").join(&module.name), &module.bytes)?;
    }
    std::fs::write(new.join("modules/order"), order)?;
    std::fs::write(new.join("version"), version)?;
    std::fs::write(new.join("contents"), contents())?;

    // The rename comes last: a folder `guest` with a version in it is always whole.
    let _ = std::fs::remove_dir_all(guest);
    std::fs::rename(&new, guest).context("cannot move the guest's files into place")?;
    let _ = std::fs::remove_dir_all(&work);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}
