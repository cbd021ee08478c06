//! The disks of a manifest.

use std::path::Path;

use plinth::addr::PAGE_SIZE;
use plinth::manifest::{DiskConfig, DiskContents, MAX_DISKS, MAX_SERIAL, is_serial};
use plinth::virtio::block::image::MAX_DISK;

use super::nearest;
use super::values::{Meaning, Value, Wrong, below, each, memory, parsed, text, truth, want, wrong};
use crate::size;
use crate::source::Source;

/// A list of disks: `[{ image = "root.qcow2" }, { size = "128M" }]`. Paths are relative to `folder`.
pub fn disks(value: &Value<'_>, folder: &Path) -> Meaning<Vec<DiskConfig<Source, String>>> {
    let list = match value.get_ref().as_array() {
        Some(list) if list.len() <= MAX_DISKS => list,
        Some(list) => return wrong(value, format!("{} disks; {MAX_DISKS} at most", list.len())),
        None => {
            return want(
                value,
                "a list of disks as in [{ image = \"a.qcow2\" }, { size = \"64M\" }]",
            );
        }
    };
    let mut number = 0;
    each(list, |one| {
        number += 1;
        disk(one, folder, number - 1).map_err(|wrongs| {
            let part = |wrong: Wrong| Wrong { part: format!(" {number}{}", wrong.part), ..wrong };
            wrongs.into_iter().map(part).collect()
        })
    })
}

const DISK: [&str; 5] = ["image", "size", "space", "read_only", "serial"];

fn disk(value: &Value<'_>, folder: &Path, index: usize) -> Meaning<DiskConfig<Source, String>> {
    let Some(table) = value.get_ref().as_table() else {
        return want(value, "a table as in { image = \"a.qcow2\" } or { size = \"64M\" }");
    };
    let mut wrongs = Vec::new();
    let (mut image, mut size, mut space, mut read_only) = (None, None, None, false);
    let mut serial = format!("disk{index}");
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let done = match name {
            "image" => parsed(value, |text| match text {
                "" => Err("the path is empty".to_owned()),
                _ => Ok(Source::Disk(folder.join(text))),
            })
            .map(|source| image = Some(source)),
            "size" => memory(value, disk_size).map(|bytes| size = Some(bytes)),
            "space" => memory(value, disk_size).map(|bytes| space = Some(bytes)),
            "read_only" => truth(value).map(|truth| read_only = truth),
            "serial" => text(value, |text| {
                let why = || {
                    format!(
                        "a serial has 1 to {MAX_SERIAL} printable ASCII characters and no space"
                    )
                };
                is_serial(text).then_some(()).ok_or_else(why)
            })
            .map(|text| serial = text),
            _ => {
                let text = format!("unknown field{}", nearest::hint(name, &DISK));
                wrongs.push(Wrong { at: key.span().start, part: format!(".{name}"), text });
                continue;
            }
        };
        if let Err(why) = done {
            wrongs.extend(why.into_iter().map(|why| below(why, name)));
        }
    }
    let has = |name: &str| table.keys().find(|key| key.get_ref() == name);
    let mut at_odds = |name: &str, text: &str| {
        if let Some(key) = has(name) {
            let (at, part, text) = (key.span().start, format!(".{name}"), text.to_owned());
            wrongs.push(Wrong { at, part, text });
        }
    };
    if has("image").is_some() {
        at_odds("size", "there is an image as well, which has a size of its own");
    }
    if read_only {
        at_odds("space", "nothing is written to a disk that is read-only");
        if has("image").is_none() {
            at_odds("read_only", "an empty disk that is read-only is of no use; want an `image`");
        }
    }
    let contents = match (image, size) {
        (Some(image), _) => Some(DiskContents::Image(image)),
        (None, Some(size)) => Some(DiskContents::Empty(size)),
        (None, None) => None,
    };
    match contents {
        Some(contents) if wrongs.is_empty() => {
            Ok(DiskConfig { contents, space, read_only, serial })
        }
        _ => {
            if has("image").is_none() && has("size").is_none() {
                let text = "it has neither an `image` nor a `size`".to_owned();
                wrongs.push(Wrong { at: value.span().start, part: String::new(), text });
            }
            Err(wrongs)
        }
    }
}

/// Whether a disk, or the space for what is written to it, can have so many bytes.
fn disk_size(bytes: u64) -> Result<(), String> {
    if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) || bytes > MAX_DISK {
        let (shown, page, most) = (size::show(bytes), size::show(PAGE_SIZE), size::show(MAX_DISK));
        return Err(format!("{shown}; it is a multiple of {page} up to {most}"));
    }
    Ok(())
}
