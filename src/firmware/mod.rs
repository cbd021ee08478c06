//! firmware.
