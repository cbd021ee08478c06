//! What a board's device tree can lack or get wrong. The tree is the firmware's, so each is a message
//! to whoever built the machine, and says where to look.

use alloc::string::String;

use thiserror::Error;

use crate::addr::{PhysAddr, Region};

/// Why a device tree blob cannot be read.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the device tree is broken at byte {offset:#x}: {flaw}")]
pub struct TreeError {
    /// The byte of the blob.
    pub offset: usize,
    /// What is wrong there.
    pub flaw: Flaw,
}

/// What can be wrong with a device tree blob.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Flaw {
    /// It does not start with `0xd00dfeed`.
    #[error("no device tree's magic number")]
    Magic,
    /// It is smaller than its header, or larger than the arm64 boot protocol allows.
    #[error("an impossible size")]
    Size,
    /// Its format is not version 17.
    #[error("a format other than version 17")]
    Version,
    /// It ends before what it describes.
    #[error("it ends too early")]
    Truncated,
    /// A name is not there, is not UTF-8, or is longer than 255 bytes.
    #[error("not a name")]
    Name,
    /// A token is none of the specification's.
    #[error("an unknown token")]
    Token,
    /// Nodes and properties do not form one tree.
    #[error("nodes that are not properly nested")]
    Nesting,
    /// It has more nodes, or deeper ones, than any board needs.
    #[error("too many nodes")]
    TooLarge,
    /// It takes more memory than there is when it is read.
    #[error("no memory for as much as this")]
    NoMemory,
}

/// Why a device tree does not describe a board that the hypervisor can run on.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BoardError {
    /// The blob itself is broken.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// There is no node for something needed.
    #[error("the device tree has no {what}")]
    Missing {
        /// What, in words.
        what: &'static str,
    },
    /// A node lacks a property it needs.
    #[error("{path} in the device tree has no {property:?}")]
    MissingProperty {
        /// The node.
        path: String,
        /// The property.
        property: &'static str,
    },
    /// A property has a value that makes no sense there.
    #[error("{path} in the device tree has a wrong {property:?}")]
    Malformed {
        /// The node.
        path: String,
        /// The property.
        property: &'static str,
    },
    /// There is memory where something needed has its registers.
    #[error("the device tree has memory where the registers of the {what} are, at {registers}")]
    Overlap {
        /// What, in words.
        what: &'static str,
        /// Where.
        registers: Region<PhysAddr>,
    },
    /// The boot bundle is not in memory.
    #[error("the device tree has the bundle where it has no memory, at {at}")]
    NotInMemory {
        /// Where the bundle is to be.
        at: Region<PhysAddr>,
    },
    /// A node's addresses are not those of this machine's bus: a bus above it has no `ranges` for them.
    #[error("{path} in the device tree is not reachable: no \"ranges\" above it has its addresses")]
    Unreachable {
        /// The node.
        path: String,
    },
}
