//! Where a guest's files come from: a path, or something that xtask fetches or builds.

use std::cell::OnceCell;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result};

use crate::manifest::nearest;
use crate::{build, debian, disks};

/// Where one file comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A file of the user's.
    File(PathBuf),
    /// A file of the default Debian guest, fetched when it is first needed.
    Debian(Part),
    /// A disk image of the user's, in any format that `qemu-img` reads.
    Disk(PathBuf),
    /// A payload of `guests/`, built when it is needed.
    Payload(String),
    /// Nobody has said, or not so that it is understood. Whoever noticed that has told it.
    Untold,
}

/// Which file of the Debian guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    Kernel,
    Initrd,
}

/// What has been fetched and built in this run.
#[derive(Default)]
pub struct Store {
    debian: OnceCell<Result<debian::Files, String>>,
    payloads: OnceCell<Result<PathBuf, String>>,
}

impl Source {
    /// What a manifest means by `text`. Paths are relative to `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the path is empty".to_owned());
        }
        match text.split_once(':') {
            Some(("debian", "kernel")) => Ok(Self::Debian(Part::Kernel)),
            Some(("debian", "initrd")) => Ok(Self::Debian(Part::Initrd)),
            Some(("debian", other)) => Err(format!(
                "`{other}` is no file of the Debian guest; there are debian:kernel and debian:initrd"
            )),
            Some(("guest", name)) => payload(name),
            _ => Ok(Self::File(folder.join(text))),
        }
    }

    /// Whether the file can be looked at without fetching or building anything.
    pub fn is_at_hand(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Fetches or builds what the file needs. That this fails is nobody's mistake in a description.
    pub fn fetch(&self, store: &Store) -> Result<()> {
        match self {
            Self::Debian(_) => store.debian().map(drop),
            Self::Payload(_) => store.payloads().map(drop),
            Self::Disk(_) => return disks::need_program(),
            Self::File(_) | Self::Untold => Ok(()),
        }
        .map_err(Error::msg)
    }

    /// What can be said of the file before anything was fetched.
    pub fn look_at(&self) -> Result<(), String> {
        match self {
            Self::Disk(path) => disks::look_at(path),
            _ => Ok(()),
        }
    }

    /// The file's bytes, of a disk image what a bundle has of it; an empty file is a mistake whatever it was meant to be.
    pub fn read(&self, store: &Store) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => read(path),
            Self::Debian(part) => {
                let files = store.debian()?;
                read(match part {
                    Part::Kernel => &files.kernel,
                    Part::Initrd => &files.initrd,
                })
            }
            Self::Disk(path) => disks::load(path),
            Self::Payload(name) => read(&store.payloads()?.join(name)),
            Self::Untold => Err("no file is named".to_owned()),
        }
    }
}

impl Store {
    fn debian(&self) -> Result<&debian::Files, String> {
        let files = self.debian.get_or_init(|| debian::guest().map_err(told));
        files.as_ref().map_err(Clone::clone)
    }

    fn payloads(&self) -> Result<&PathBuf, String> {
        let folder = self.payloads.get_or_init(|| build::guests().map_err(told));
        folder.as_ref().map_err(Clone::clone)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Disk(path) => path.display().fmt(f),
            Self::Debian(Part::Kernel) => f.write_str("debian:kernel"),
            Self::Debian(Part::Initrd) => f.write_str("debian:initrd"),
            Self::Payload(name) => write!(f, "guest:{name}"),
            Self::Untold => f.write_str("no file"),
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn told(why: Error) -> String {
    format!("{why:#}")
}

fn payload(name: &str) -> Result<Source, String> {
    let known = build::payloads().map_err(told)?;
    if known.iter().any(|one| one == name) {
        return Ok(Source::Payload(name.to_owned()));
    }
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    Err(format!("there is no payload `{name}` in guests/{}", nearest::hint(name, &known)))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    if path.is_dir() {
        return Err(format!("{} is a folder", path.display()));
    }
    match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Err(format!("{}: the file is empty", path.display())),
        Ok(bytes) => Ok(bytes),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("there is no file {}", path.display()))
        }
        Err(why) => Err(format!("cannot read {}: {why}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Part, Source};

    #[test]
    fn a_path_is_relative_to_the_manifest_and_some_words_are_no_path() {
        let parse = |text| Source::parse(text, Path::new("/base"));
        assert_eq!(parse("k/Image"), Ok(Source::File(PathBuf::from("/base/k/Image"))));
        assert_eq!(parse("/abs"), Ok(Source::File(PathBuf::from("/abs"))));
        assert_eq!(parse("debian:kernel"), Ok(Source::Debian(Part::Kernel)));
        assert_eq!(parse("debian:initrd"), Ok(Source::Debian(Part::Initrd)));
        assert_eq!(parse("guest:heartbeat"), Ok(Source::Payload("heartbeat".to_owned())));
        assert_eq!(parse("./guest:x"), Ok(Source::File(PathBuf::from("/base/./guest:x"))));
        assert_eq!(parse("c:k"), Ok(Source::File(PathBuf::from("/base/c:k"))));
    }

    #[test]
    fn what_is_named_and_does_not_exist_is_told_with_what_does() {
        let parse = |text| Source::parse(text, Path::new("/base")).expect_err(text);
        assert!(parse("debian:kernal").contains("debian:kernel"));
        assert!(parse("guest:heartbeet").contains("did you mean `heartbeat`?"));
        assert!(parse("guest:").contains("hello"));
        assert!(parse("").contains("empty"));
    }
}
