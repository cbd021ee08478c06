//! Where things are: the project, what cargo builds, and what is fetched once and kept.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The project's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => root().join("target"),
    }
}

/// Names the folder of [`work`], for those that are not to meet others' runs.
pub const WORK: &str = "PLINTH_XTASK_WORK";

/// Where runs have their sockets, and tests what they make and look at.
pub fn work() -> PathBuf {
    match std::env::var_os(WORK) {
        Some(folder) => PathBuf::from(folder),
        None => target().join("xtask"),
    }
}

/// Where fetched packages are kept between runs. Not in `target`, so that `cargo clean` does not
/// cost a download.
pub fn cache() -> PathBuf {
    root().join(".cache")
}

/// A name for a file or folder of this process alone, in [`work`]. What earlier processes left
/// under such a name (they were killed) is removed.
pub fn scratch(kind: &str) -> Result<PathBuf> {
    let folder = work();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
        let gone = |id: &str| id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists();
        if owner.is_some_and(gone) {
            let _ = std::fs::remove_dir_all(entry.path());
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(folder.join(format!("{kind}-{}", std::process::id())))
}

/// Makes `folder`, and whoever else asks for it wait until the answer is dropped: two runs at once must not install or unpack
/// the same.
pub fn lock(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let lock = File::create(folder.join("lock"));
    let lock = lock.and_then(|lock| lock.lock().map(|()| lock));
    lock.with_context(|| format!("cannot lock {}", folder.display()))
}

/// `path` as it is said in the folder where the command was given.
pub fn from_here(path: &Path) -> &Path {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}

/// Fails when the folder is missing in which a file is to be written.
pub fn need_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
    }
    Ok(())
}

/// Writes a file in one step, so that nobody ever reads half of it; leaves it alone when it
/// already holds these bytes.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}", std::process::id()));
    std::fs::write(&partial, bytes)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
