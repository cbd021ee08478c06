//! The aarch64-only half.
