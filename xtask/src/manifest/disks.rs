//! The disks of a manifest.

use std::ops::RangeInclusive;
use std::path::Path;

use plinth::addr::PAGE_SIZE;
use plinth::host::SECTOR;
use plinth::host::gpt::MAX_ENTRIES;
use plinth::manifest::{
    DiskConfig, DiskContents, DiskName, DiskPart, HostDiskConfig, MAX_DISKS, MAX_SERIAL, PartError,
    is_serial,
};
use plinth::virtio::block::image::MAX_DISK;

use super::nearest;
use super::values::{
    Meaning, Value, Wrong, below, each, memory, parsed, text, truth, want, whole, wrong,
};
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

const DISK: [&str; 8] =
    ["image", "size", "space", "read_only", "serial", "host", "partition", "start"];
/// The numbers of the machine's disks: QEMU has places for so many.
const HOST_DISKS: RangeInclusive<u8> = 0..=31;

fn disk(value: &Value<'_>, folder: &Path, index: usize) -> Meaning<DiskConfig<Source, String>> {
    let Some(table) = value.get_ref().as_table() else {
        return want(
            value,
            "a table as in { image = \"a.qcow2\" }, { size = \"64M\" } or { host = 0, partition = 1 }",
        );
    };
    let mut wrongs = Vec::new();
    let (mut image, mut size, mut space, mut read_only) = (None, None, None, false);
    let (mut host, mut partition, mut start) = (None, None, None);
    let mut serial = format!("disk{index}");
    let is_host = table.keys().any(|key| key.get_ref() == "host");
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let done = match name {
            "image" => parsed(value, |text| match text {
                "" => Err("the path is empty".to_owned()),
                _ => Ok(Source::Disk(folder.join(text))),
            })
            .map(|source| image = Some(source)),
            "size" if is_host => memory(value, part_size).map(|bytes| size = Some(bytes)),
            "size" => memory(value, disk_size).map(|bytes| size = Some(bytes)),
            "host" => host_disk(value).map(|name| host = Some(name)),
            "partition" => partition_of(value).map(|part| partition = Some(part)),
            "start" => memory(value, part_start).map(|bytes| start = Some(bytes)),
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
    if is_host {
        let text = "the disk is the machine's, and has what is on it";
        at_odds("image", text);
        at_odds("space", text);
        if has("partition").is_some() {
            at_odds("start", "there is a partition as well; want either");
            at_odds("size", "there is a partition as well, which has a size of its own");
        }
    } else {
        let text = "that is for a disk of the machine's, with `host`";
        at_odds("partition", text);
        at_odds("start", text);
    }
    if has("image").is_some() && !is_host {
        at_odds("size", "there is an image as well, which has a size of its own");
    }
    if read_only {
        at_odds("space", "nothing is written to a disk that is read-only");
        if has("image").is_none() && !is_host {
            at_odds("read_only", "an empty disk that is read-only is of no use; want an `image`");
        }
    }
    let contents = match (host, image, size) {
        (Some(disk), ..) => {
            let part = match (partition, start, size) {
                (Some(partition), ..) => partition,
                (None, None, None) => DiskPart::Whole,
                (None, start, size) => DiskPart::Range(start.unwrap_or(0), size),
            };
            Some(DiskContents::Host(HostDiskConfig { disk, part }))
        }
        (None, Some(image), _) => Some(DiskContents::Image(image)),
        (None, None, Some(size)) => Some(DiskContents::Empty(size)),
        (None, None, None) => None,
    };
    match contents {
        Some(contents) if wrongs.is_empty() => {
            Ok(DiskConfig { contents, space, read_only, serial })
        }
        _ => {
            if has("image").is_none() && has("size").is_none() && !is_host {
                let text = "it has neither an `image` nor a `size`, and no `host`".to_owned();
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

/// Which of the machine's disks.
fn host_disk(value: &Value<'_>) -> Meaning<DiskName> {
    if value.get_ref().is_integer() {
        return whole(value, HOST_DISKS).map(DiskName::Number);
    }
    let (first, last) = (HOST_DISKS.start(), HOST_DISKS.end());
    if !value.get_ref().is_str() {
        return want(value, &format!("a disk's number from {first} to {last}, or its serial"));
    }
    let why = PartError::Serial;
    text(value, |text| is_serial(text).then_some(()).ok_or_else(|| why.to_string()))
        .map(DiskName::Serial)
}

/// Which partition.
fn partition_of(value: &Value<'_>) -> Meaning<DiskPart> {
    if value.get_ref().is_integer() {
        let last = u16::try_from(MAX_ENTRIES).unwrap_or(u16::MAX);
        return whole(value, 1..=last).map(DiskPart::Partition);
    }
    if !value.get_ref().is_str() {
        return want(value, &format!("a partition's number from 1 to {MAX_ENTRIES}, or its name"));
    }
    let part =
        |name: String| HostDiskConfig { disk: DiskName::Number(0), part: DiskPart::Named(name) };
    text(value, |text| part(text.to_owned()).check().map_err(|why| why.to_string()))
        .map(DiskPart::Named)
}

/// Whether a part of a disk can have so many bytes.
fn part_size(bytes: u64) -> Result<(), String> {
    part_start(bytes)?;
    (bytes > 0).then_some(()).ok_or_else(|| "a part of no size is of no use".to_owned())
}

/// Whether a part of a disk can begin there.
fn part_start(bytes: u64) -> Result<(), String> {
    let whole = bytes.is_multiple_of(SECTOR) && bytes < 1 << 62;
    whole
        .then_some(())
        .ok_or_else(|| format!("{}; want a multiple of {SECTOR} bytes", size::show(bytes)))
}
