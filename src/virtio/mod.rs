//! Virtio over MMIO (Virtual I/O Device (VIRTIO) Version 1.2).
//!
//! | module | what it is |
//! |---|---|
//! | [`slot`] | transports without a device |
//! | [`transport`] | the registers of one with a device |
//! | [`backend`] | what a device does behind them |
//! | [`queues`] | its queues, each with a lock |
//! | [`queue`] | virtqueues, the device's side |
//! | [`ram`] | the guest's RAM as its devices reach it |
//! | [`entropy`] | the entropy device |
//! | [`balloon`] | the memory balloon |
//! | [`net`] | the network device |
//! | [`block`] | the block device |
//! | [`console`] | the console device |
//! | [`vsock`] | the socket device |

pub mod backend;
pub mod balloon;
pub mod block;
pub mod console;
pub mod entropy;
pub mod net;
#[cfg(test)]
mod once;
pub mod queue;
pub mod queues;
pub mod ram;
pub mod slot;
pub mod transport;
pub mod vsock;
