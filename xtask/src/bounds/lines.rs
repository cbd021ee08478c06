//! Where in the source an instruction is from.

use std::path::Path;

use addr2line::Loader;
use anyhow::{Result, anyhow};

use super::image::readable;

/// The lines of one image.
pub struct Lines(Loader);

impl Lines {
    /// Reads an ELF file's.
    pub fn read(elf: &Path) -> Result<Self> {
        Ok(Self(Loader::new(elf).map_err(|why| anyhow!("cannot read {}: {why}", elf.display()))?))
    }

    /// The functions that the instruction at `at` was written in, innermost first.
    pub fn functions(&self, at: u64) -> Vec<String> {
        self.frames(at).into_iter().map(|(name, _)| name).collect()
    }

    /// The innermost function that is not the standard library's, and `file:line`.
    pub fn place(&self, at: u64) -> (String, String) {
        let frames = self.frames(at);
        let own = frames.iter().find(|(_, place)| !place.contains("library/"));
        own.or(frames.last()).cloned().unwrap_or_else(|| ("?".into(), "?".into()))
    }

    fn frames(&self, at: u64) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let Ok(mut frames) = self.0.find_frames(at) else { return found };
        while let Ok(Some(frame)) = frames.next() {
            let name = frame
                .function
                .as_ref()
                .and_then(|one| one.raw_name().ok().map(|name| readable(&name)));
            let place = frame.location.and_then(|at| Some((at.file?, at.line.unwrap_or(0))));
            let place =
                place.map_or_else(|| "?".into(), |(file, line)| format!("{}:{line}", short(file)));
            found.push((name.unwrap_or_else(|| "?".into()), place));
        }
        found
    }
}

/// From the crate on.
fn short(file: &str) -> &str {
    let inside = Path::new(file).strip_prefix(crate::paths::root()).ok().and_then(Path::to_str);
    inside.unwrap_or(file)
}
