//! The default guest: Debian's arm64 cloud kernel, and an initramfs with busybox and the kernel's
//! virtio modules. Fetched once from the mirror that this machine uses, then kept in the cache.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::PrivateApt;
use crate::{initramfs, paths};

const KERNEL_META_PACKAGE: &str = "linux-image-cloud-arm64";
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// The modules that bring up Plinth's virtio devices; what they depend on comes with them.
const MODULES: [&str; 6] =
    ["virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio-rng", "arm_smccc_trng"];

/// The files of the default guest.
pub struct Files {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

fn folder() -> PathBuf {
    paths::cache().join("debian")
}

/// The version of the cached kernel, if there is one.
pub fn cached() -> Option<String> {
    let version = std::fs::read_to_string(folder().join("guest/version")).ok()?;
    Some(version.trim().to_owned())
}

/// The default guest's files, fetched when they are not in the cache.
pub fn guest() -> Result<Files> {
    let folder = folder();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    // Two runs at once must not unpack into each other's files.
    let lock = File::create(folder.join("lock")).context("cannot lock the cache")?;
    lock.lock().context("cannot lock the cache")?;

    let guest = folder.join("guest");
    if cached().is_none() {
        eprintln!("xtask: fetching the default guest ({KERNEL_META_PACKAGE}, {BUSYBOX_PACKAGE})");
        fetch(&folder, &guest).with_context(|| {
            "cannot fetch the default guest (it takes apt and the network, once); \
             `cargo xtask run --kernel FILE` boots a kernel of your own without either"
        })?;
    }
    let initrd = guest.join(format!("initrd-{:08x}.gz", initramfs::fingerprint()));
    if !initrd.exists() {
        eprintln!("xtask: packing the default guest's initramfs");
        paths::write_if_changed(&initrd, &initramfs::build(&guest)?)?;
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
    apt.unpack(&[kernel, BUSYBOX_PACKAGE], &root)?;

    let version = kernel.trim_start_matches("linux-image-").trim_end_matches("-unsigned");
    let new = work.join("guest");
    std::fs::create_dir_all(new.join("modules"))?;
    copy(&root.join("boot").join(format!("vmlinuz-{version}")), &new.join("vmlinuz"))?;
    // Newer releases keep programs below /usr only.
    let busybox = ["usr/bin/busybox", "bin/busybox"].map(|path| root.join(path));
    let busybox = busybox.iter().find(|path| path.is_file());
    copy(busybox.context("the package has no busybox")?, &new.join("busybox"))?;
    let modules = ["usr/lib/modules", "lib/modules"].map(|path| root.join(path).join(version));
    let modules = modules.iter().find(|path| path.is_dir());
    let modules = initramfs::with_dependencies(modules.context("no modules")?, &MODULES)?;
    let mut order = String::new();
    for module in &modules {
        order.push_str(&module.name);
        order.push('\n');
        std::fs::write(new.join("modules").join(&module.name), &module.bytes)?;
    }
    std::fs::write(new.join("modules/order"), order)?;
    std::fs::write(new.join("version"), version)?;

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
