//! `cargo xtask bench`: what it takes to compare Plinth with others.

pub mod xen;
