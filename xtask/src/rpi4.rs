//! What a Raspberry Pi 4 boots from: its device tree, its firmware, and the card they are on.
//!
//! | module | what it is |
//! |---|---|
//! | [`packages`] | the files that are fetched from Debian's packages |
//! | [`tree`] | the board's device tree, as Linux has it, and what we change in it |
//! | [`config`] | `config.txt`, written and read |
//! | [`card`], [`disk`] | the files of a card, and its image |
//! | [`reader`], [`firmware`] | reading a card, and starting a machine from it as the board's firmware does |

pub mod card;
mod config;
pub mod disk;
pub mod firmware;
pub mod packages;
pub mod reader;
mod tree;

pub use tree::Tree;
