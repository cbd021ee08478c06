//! A guest's socket device: the value of `vsock`.

use plinth::manifest::{FIRST_CID, LAST_CID, Rights, VsockConfig};

use super::networks::{check_name, fields};
use super::reader::Entry;
use super::values::{Meaning, Value, choice, text, want, whole};
use crate::guest::{Field, Problem};

const VSOCK: [&str; 3] = ["cid", "monitor", "group"];

/// The CID of a guest whose own is not told. It is nobody's.
pub const UNTOLD: u32 = 0;

/// `true`, `false`, or a table: `{ cid = 10, monitor = "read", group = "data" }`. Where the CID is not told it is
/// [`UNTOLD`].
pub fn vsock(value: &Value<'_>) -> Meaning<Option<VsockConfig>> {
    let mut vsock = VsockConfig::new(UNTOLD);
    if let Some(truth) = value.get_ref().as_bool() {
        return Ok(truth.then_some(vsock));
    }
    let Some(table) = value.get_ref().as_table() else {
        let example = "true, or a table as in { monitor = \"read\", group = \"data\" }";
        return want(value, example);
    };
    let mut wrongs = Vec::new();
    fields(table, &VSOCK, &mut wrongs, |name, value| {
        match name {
            "cid" => vsock.cid = whole(value, FIRST_CID..=LAST_CID)?,
            "monitor" => vsock.monitor = choice(value, &Rights::NAMED)?,
            _ => vsock.group = Some(text(value, check_name)?),
        }
        Ok(())
    });
    if wrongs.is_empty() { Ok(Some(vsock)) } else { Err(wrongs) }
}

/// The CID of the guest with this number, counted from 1, where its manifest does not say.
pub fn cid_of(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(LAST_CID).saturating_add(FIRST_CID - 1)
}

/// What holds of all guests together: each CID is given once.
pub fn together(entries: &[Entry]) -> Vec<(usize, Problem)> {
    let cid = |entry: &Entry| entry.guest.vsock.as_ref().map(|vsock| vsock.cid);
    let told = entries.iter().enumerate().filter_map(|(at, entry)| Some((at, cid(entry)?)));
    told.filter_map(|(at, own)| {
        let first = entries.iter().take(at).position(|other| cid(other) == Some(own))?;
        let text = format!("the CID {own} is that of vm {}; give one another", first + 1);
        Some((at, Problem { field: Field::Vsock, text }))
    })
    .collect()
}
