//! Guest manifests: a TOML file with one `[[vm]]` table a guest, one `[[network]]` table a network, and a `[machine]` table.
//!
//! Every mistake is reported with file, line, column and field, all of them at once, before anything
//! is fetched or built for the guests.
//!
//! | module | what it is |
//! |---|---|
//! | [`reader`] | from text to guests: tables, fields, defaults |
//! | [`values`] | what one value means |
//! | [`disks`] | what a disk's table means |
//! | [`networks`] | the same for networks and cards |
//! | [`nearest`] | what somebody may have meant by an unknown word |

mod disks;
pub mod nearest;
mod networks;
mod ports;
mod reader;
mod values;
mod vsock;

use std::path::Path;

use anyhow::{Context, Result, bail};
use plinth::manifest::{MachineConfig, NetworkConfig};

use self::reader::Mistake;
pub use self::values::show_micros;
use crate::guest::{self, Payload};
use crate::source::Store;

/// A manifest whose guests may boot.
#[derive(Debug)]
pub struct Described {
    pub machine: MachineConfig,
    pub networks: Vec<NetworkConfig>,
    pub guests: Vec<Payload>,
}

/// Reads a manifest and every file it names. Paths in it are relative to it.
pub fn load(path: &Path) -> Result<Described> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the manifest {}", path.display()))?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let (draft, mut mistakes) = reader::parse(&text, folder);
    for entry in &draft.entries {
        mistakes
            .extend(guest::look_over(&entry.guest).iter().map(|problem| entry.mistake(problem)));
    }
    report(path, &text, mistakes)?;

    let store = Store::default();
    draft.entries.iter().try_for_each(|entry| guest::fetch(&entry.guest, &store))?;
    let (mut guests, mut mistakes) = (Vec::new(), Vec::new());
    for entry in draft.entries {
        match guest::load(&entry.guest, &store) {
            Ok(payload) => guests.push(payload),
            Err(problems) => mistakes.extend(problems.iter().map(|one| entry.mistake(one))),
        }
    }
    report(path, &text, mistakes)?;
    Ok(Described { machine: draft.machine, networks: draft.networks, guests })
}

/// Fails when there are mistakes, with one line for each.
fn report(path: &Path, text: &str, mut mistakes: Vec<Mistake>) -> Result<()> {
    if mistakes.is_empty() {
        return Ok(());
    }
    mistakes.sort();
    mistakes.dedup();
    let lines = mistakes.iter().map(|mistake| {
        let (line, column) = position(text, mistake.at);
        format!("{}:{line}:{column}: {}", path.display(), mistake.text)
    });
    bail!("{}", lines.collect::<Vec<_>>().join("\nerror: "));
}

/// The line and the column of a byte, both counted from 1; columns in characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests;
