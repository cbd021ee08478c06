//! Virtio over MMIO (Virtual I/O Device (VIRTIO) Version 1.2).
//!
//! | module | what it is |
//! |---|---|
//! | [`slot`] | transports without a device |
//! | [`transport`] | the registers of one with a device |
//! | [`queue`] | virtqueues, the device's side |
//! | [`ram`] | the guest's RAM as its devices reach it |
//! | [`entropy`] | the entropy device |

pub mod entropy;
pub mod queue;
pub mod ram;
pub mod slot;
pub mod transport;
