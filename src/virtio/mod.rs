//! Virtio over MMIO (Virtual I/O Device (VIRTIO) Version 1.2, "Virtio Over MMIO").

pub mod slot;
