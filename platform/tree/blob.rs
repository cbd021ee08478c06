//! The flattened device tree as bytes (Devicetree Specification v0.4, "Flattened Devicetree (DTB)
//! Format").
//!
//! The `fdt` crate reads trees, but trusts them: it panics on a wrong offset or an unbalanced node, and
//! also on a legal tree that holds `FDT_NOP` tokens, which firmware leaves wherever it deleted a node
//! (QEMU does so for the Raspberry Pi's). So every token is checked here first, and what the crate gets
//! to see is a fresh copy without any `FDT_NOP`.

use alloc::vec::Vec;
use core::ffi::CStr;

use crate::platform::error::{Flaw, TreeError};

const MAGIC: u32 = 0xd00d_feed;
/// The version that introduced the last header field, `size_dt_struct`; none came after it.
const VERSION: u32 = 17;
/// How many bytes the header takes.
pub const HEADER_SIZE: usize = 40;
/// The largest tree taken: what the arm64 Linux boot protocol allows.
const MAX_SIZE: usize = 2 << 20;
/// The most nodes taken, ten times what a large board has: the reader's memory is bounded by it.
const MAX_NODES: usize = 4096;
/// The deepest nesting taken; the `fdt` crate recurses and keeps a table of 64.
pub(super) const MAX_DEPTH: usize = 32;
/// The longest name taken, of a node or a property; the specification allows 31 bytes.
const MAX_NAME: usize = 255;

pub(super) const BEGIN_NODE: u32 = 1;
pub(super) const END_NODE: u32 = 2;
pub(super) const PROP: u32 = 3;
pub(super) const NOP: u32 = 4;
const END: u32 = 9;

/// How many bytes the tree takes whose first [`HEADER_SIZE`] bytes are `header`. This is for who holds
/// no more than a pointer: nothing but the header may be touched before its size is known.
pub fn total_size(header: &[u8; HEADER_SIZE]) -> Result<usize, TreeError> {
    if word(header, 0)? != MAGIC {
        return Err(TreeError { offset: 0, flaw: Flaw::Magic });
    }
    let size = offset(header, 4)?;
    if (HEADER_SIZE..=MAX_SIZE).contains(&size) {
        Ok(size)
    } else {
        Err(TreeError { offset: 4, flaw: Flaw::Size })
    }
}

/// A tree that can be read without another check: its offsets, tokens, names and lengths all hold, and
/// it has no `FDT_NOP`.
pub struct CheckedBlob {
    bytes: Vec<u8>,
    parents: Vec<usize>,
    properties: usize,
}

impl CheckedBlob {
    /// A copy of the tree that `blob` starts with.
    pub fn copy_of(blob: &[u8]) -> Result<Self, TreeError> {
        checked_copy(blob, None)
    }

    /// The same but for nodes without subnodes that are compatible with `unused` and nothing else. They are checked as
    /// all others.
    pub fn copy_without(blob: &[u8], unused: &str) -> Result<Self, TreeError> {
        checked_copy(blob, Some(unused))
    }

    /// The tree.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Of each node, in the tree's order, the place of the one that it stands in; the root, which stands in
    /// none, has its own.
    pub fn parents(&self) -> &[usize] {
        &self.parents
    }

    /// How many properties all nodes have.
    pub const fn properties(&self) -> usize {
        self.properties
    }
}

/// The blocks of a tree: all that its bytes are for.
struct Blocks<'a> {
    strings: Block<'a>,
    structure: Block<'a>,
    reservations: Block<'a>,
}

/// How many bytes of the tree that `blob` starts with are in use: loaders may leave room behind its blocks.
pub fn extent(blob: &[u8]) -> Result<usize, TreeError> {
    let Blocks { strings, structure, reservations } = blocks(blob)?;
    let ends = [strings, structure, reservations].map(|block| block.start + block.bytes.len());
    Ok(ends.into_iter().fold(HEADER_SIZE, usize::max))
}

fn blocks(blob: &[u8]) -> Result<Blocks<'_>, TreeError> {
    let header = blob.first_chunk().ok_or(TreeError { offset: 0, flaw: Flaw::Truncated })?;
    let size = total_size(header)?;
    // The room behind the blocks need not be there.
    let blob = blob.get(..size).unwrap_or(blob);
    let (version, oldest_reader) = (word(blob, 20)?, word(blob, 24)?);
    if version < VERSION || oldest_reader > VERSION {
        return Err(TreeError { offset: 20, flaw: Flaw::Version });
    }
    Ok(Blocks {
        strings: block(blob, 12, 32)?,
        structure: block(blob, 8, 36)?,
        reservations: reservations(blob)?,
    })
}

fn checked_copy(blob: &[u8], unused: Option<&str>) -> Result<CheckedBlob, TreeError> {
    let Blocks { strings, structure, reservations } = blocks(blob)?;
    let structure_at = HEADER_SIZE + reservations.bytes.len();
    // Less memory than a tree may take is all there is when the board's is read.
    let mut copy = Vec::new();
    copy.try_reserve_exact(structure_at + structure.bytes.len() + strings.bytes.len())
        .map_err(|_| TreeError { offset: 4, flaw: Flaw::NoMemory })?;
    copy.resize(HEADER_SIZE, 0);
    copy.extend_from_slice(reservations.bytes);
    let (parents, properties) = structure.copy_checked(strings.bytes, unused, &mut copy)?;
    let strings_at = copy.len();
    copy.extend_from_slice(strings.bytes);

    let fields = [
        MAGIC as usize,
        copy.len(),
        structure_at,
        strings_at,
        HEADER_SIZE,
        VERSION as usize,
        VERSION as usize,
        0,
        strings.bytes.len(),
        strings_at - structure_at,
    ];
    for (to, field) in copy.chunks_exact_mut(4).zip(fields) {
        // Nothing exceeds `MAX_SIZE` but the magic, which is 32 bits wide.
        to.copy_from_slice(&u32::try_from(field).unwrap_or(u32::MAX).to_be_bytes());
    }
    Ok(CheckedBlob { bytes: copy, parents, properties })
}

/// The memory reservation block of `blob`, its end marker included.
fn reservations(blob: &[u8]) -> Result<Block<'_>, TreeError> {
    let start = offset(blob, 16)?;
    let entries = blob.get(start..).ok_or(TreeError { offset: 16, flaw: Flaw::Truncated })?;
    let count = entries
        .chunks_exact(16)
        .position(|entry| entry.iter().all(|byte| *byte == 0))
        .ok_or(TreeError { offset: start, flaw: Flaw::Truncated })?;
    let bytes = entries.get(..(count + 1) * 16);
    let bytes = bytes.ok_or(TreeError { offset: start, flaw: Flaw::Truncated })?;
    Ok(Block { bytes, start })
}

/// One block of the tree, and where it lies.
struct Block<'a> {
    bytes: &'a [u8],
    start: usize,
}

/// The block whose place stands at `place` in the header, and whose length at `length`.
fn block(blob: &[u8], place: usize, length: usize) -> Result<Block<'_>, TreeError> {
    let start = offset(blob, place)?;
    let bytes = start
        .checked_add(offset(blob, length)?)
        .and_then(|end| blob.get(start..end))
        .ok_or(TreeError { offset: place, flaw: Flaw::Truncated })?;
    Ok(Block { bytes, start })
}

/// Of the node that began last.
#[derive(Default)]
struct Newest {
    /// Where it begins.
    at: usize,
    /// How many properties came before it.
    properties: usize,
    /// It is compatible with what is not used.
    unused: bool,
}

impl Block<'_> {
    /// Appends the tokens of this structure block to `copy`, all but `FDT_NOP` and the nodes that
    /// [`CheckedBlob::copy_without`] leaves out. Returns what [`CheckedBlob::parents`] and
    /// [`CheckedBlob::properties`] do.
    fn copy_checked(
        &self,
        strings: &[u8],
        unused: Option<&str>,
        copy: &mut Vec<u8>,
    ) -> Result<(Vec<usize>, usize), TreeError> {
        // What has been checked since `kept` is still to be copied.
        let (mut at, mut kept) = (0, 0);
        let (mut parents, mut properties) = (Vec::new(), 0);
        // The nodes that are open, from the root on.
        let (mut open, mut depth) = ([0; MAX_DEPTH], 0usize);
        // Properties come before subnodes; the crate stops at the first subnode.
        let mut properties_may_follow = false;
        let mut newest = Newest::default();
        let plain = is_plain(strings);
        loop {
            let flaw = |flaw| TreeError { offset: self.start + at, flaw };
            let token = word(self.bytes, at).map_err(|_| flaw(Flaw::Truncated))?;
            // The root is one node, with nothing beside it.
            let beside_root = if parents.is_empty() { BEGIN_NODE } else { END };
            if depth == 0 && token != NOP && token != beside_root {
                return Err(flaw(Flaw::Nesting));
            }
            let end = match token {
                BEGIN_NODE => {
                    let length = name(self.bytes, at + 4).ok_or(flaw(Flaw::Name))?;
                    let node = parents.len();
                    let slot = open.get_mut(depth).filter(|_| node < MAX_NODES);
                    *slot.ok_or(flaw(Flaw::TooLarge))? = node;
                    parents.try_reserve(1).map_err(|_| flaw(Flaw::NoMemory))?;
                    parents.push(open.get(depth.saturating_sub(1)).copied().unwrap_or(0));
                    depth += 1;
                    properties_may_follow = true;
                    newest = Newest { at, properties, unused: false };
                    at + 4 + length + 1
                }
                END_NODE => {
                    depth -= 1;
                    // One with a subnode stays, and one of which a part has been copied, up to an `FDT_NOP`.
                    if newest.unused && properties_may_follow && depth > 0 && kept <= newest.at {
                        copy.extend_from_slice(self.bytes.get(kept..newest.at).unwrap_or_default());
                        kept = at + 4;
                        properties = newest.properties;
                        parents.pop();
                    }
                    properties_may_follow = false;
                    at + 4
                }
                PROP => {
                    let length = offset(self.bytes, at + 4).map_err(|_| flaw(Flaw::Truncated))?;
                    let name_at = offset(self.bytes, at + 8).map_err(|_| flaw(Flaw::Truncated))?;
                    if !plain || name_at >= strings.len() {
                        name(strings, name_at).ok_or(flaw(Flaw::Name))?;
                    }
                    if !properties_may_follow {
                        return Err(flaw(Flaw::Nesting));
                    }
                    properties += 1;
                    let end = (at + 12).checked_add(length).ok_or(flaw(Flaw::Truncated))?;
                    newest.unused |= unused.is_some_and(|unused| {
                        length == unused.len() + 1
                            && self.bytes.get(at + 12..end - 1) == Some(unused.as_bytes())
                            && strings.get(name_at..).is_some_and(is_compatible)
                    });
                    end
                }
                NOP => {
                    copy.extend_from_slice(self.bytes.get(kept..at).unwrap_or_default());
                    at += 4;
                    kept = at;
                    continue;
                }
                END if depth == 0 => at + 4,
                _ => return Err(flaw(Flaw::Token)),
            };
            let end = end.next_multiple_of(4);
            let checked = self.bytes.get(kept..end).ok_or(flaw(Flaw::Truncated))?;
            if token == END {
                copy.extend_from_slice(checked);
                return Ok((parents, properties));
            }
            at = end;
        }
    }
}

/// Whether the name that `strings` starts with is `compatible`.
fn is_compatible(strings: &[u8]) -> bool {
    strings.starts_with(b"compatible\0")
}

/// Whether a good name starts wherever in `strings` one looks, so that [`name`] need not be asked.
fn is_plain(strings: &[u8]) -> bool {
    strings.last() == Some(&0)
        && strings.is_ascii()
        && strings.split(|byte| *byte == 0).all(|name| name.len() <= MAX_NAME)
}

/// The length of the name that starts at `at` and ends in a zero byte.
pub(super) fn name(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?;
    let bytes = bytes.get(..MAX_NAME + 1).unwrap_or(bytes);
    let name = CStr::from_bytes_until_nul(bytes).ok()?;
    name.to_str().ok().map(str::len)
}

/// The big-endian word at `at`.
pub(super) fn word(bytes: &[u8], at: usize) -> Result<u32, TreeError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map(|word| u32::from_be_bytes(*word))
        .ok_or(TreeError { offset: at, flaw: Flaw::Truncated })
}

/// The same, as an offset or a length.
pub(super) fn offset(bytes: &[u8], at: usize) -> Result<usize, TreeError> {
    // On the targets there are, `usize` is no narrower than 32 bits.
    word(bytes, at).map(|word| word as usize)
}
