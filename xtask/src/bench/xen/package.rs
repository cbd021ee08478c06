//! Xen's image, fetched once from the mirror that this machine uses, and kept in the cache. It is no part of the
//! project; its licence is beside it.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

use super::Xen;
use crate::apt::PrivateApt;
use crate::paths;

/// The package that depends on that of the release's Xen, whose name has its version.
const META_PACKAGE: &str = "xen-system-arm64";

/// How the package with the hypervisor itself is called, and what stands between it and the architecture.
const PACKAGE: (&str, &str) = ("xen-hypervisor-", "-arm64");

/// Xen out of the cache, after it was fetched if need be.
pub fn fetch() -> Result<Xen> {
    let folder = paths::cache().join("xen");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    // Two runs at once must not unpack into each other's files.
    let lock = File::create(folder.join("lock")).context("cannot lock the cache")?;
    lock.lock().context("cannot lock the cache")?;

    let kept = folder.join("hypervisor");
    if let Some(xen) = cached(&kept) {
        return Ok(xen);
    }
    eprintln!("xtask: fetching Xen ({META_PACKAGE})");
    fetch_into(&folder.join("work"), &kept)
        .context("cannot fetch Xen (it takes Debian's apt and the network, once)")?;
    cached(&kept).context("Xen was fetched, but is not in the cache")
}

fn cached(kept: &Path) -> Option<Xen> {
    let version = std::fs::read_to_string(kept.join("version")).ok()?;
    Some(Xen { image: kept.join("xen"), version: version.trim().to_owned() })
}

fn fetch_into(work: &Path, kept: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(work);
    let apt = PrivateApt::new(work, "arm64", &["main"])?;
    apt.update()?;
    let depends = apt.depends(META_PACKAGE)?;
    let package = depends.iter().find_map(|name| Some((name, release(name)?)));
    let (package, release) =
        package.with_context(|| format!("this system's mirror has no {META_PACKAGE} for arm64"))?;
    let root = work.join("root");
    let version = apt.unpack_one(package, &root)?;

    let new = work.join("new");
    std::fs::create_dir_all(&new)?;
    let copy = |from: String, to: &str| {
        std::fs::copy(root.join(&from), new.join(to))
            .with_context(|| format!("{package} has no /{from}"))
    };
    copy(format!("boot/xen-{release}-arm64"), "xen")?;
    copy(format!("usr/share/doc/{package}/copyright"), "licence")?;
    std::fs::write(new.join("version"), version)?;
    // The rename comes last: a folder with a version in it is always whole.
    let _ = std::fs::remove_dir_all(kept);
    std::fs::rename(&new, kept)
        .with_context(|| format!("cannot move files to {}", kept.display()))?;
    let _ = std::fs::remove_dir_all(work);
    Ok(())
}

/// Xen's release, out of the name of the package with the hypervisor.
fn release(package: &str) -> Option<&str> {
    let release = package.strip_prefix(PACKAGE.0)?.strip_suffix(PACKAGE.1)?;
    release.starts_with(|first: char| first.is_ascii_digit()).then_some(release)
}

#[cfg(test)]
mod tests {
    use super::release;

    #[test]
    fn the_release_is_in_the_hypervisors_package_and_in_no_other() {
        assert_eq!(release("xen-hypervisor-4.17-arm64"), Some("4.17"));
        for other in ["xen-hypervisor-common", "xen-utils-4.17", "xen-hypervisor-common-arm64"] {
            assert_eq!(release(other), None, "{other}");
        }
    }
}
