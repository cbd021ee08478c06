//! What a Raspberry Pi 4 boots from: its device tree, its firmware, and the card they are on.
//!
//! | module | what it is |
//! |---|---|
//! | [`packages`] | the files that are fetched from Debian's packages |
//! | [`tree`] | the board's device tree, as Linux has it, and what we change in it |

mod packages;
mod tree;

pub use tree::Tree;
