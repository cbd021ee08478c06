//! How a driver and its device come to terms (VIRTIO 1.2, "Device Initialization").

use virtio_drivers::transport::{DeviceStatus, Transport};

/// `VIRTIO_F_VERSION_1`: the device is none of before the standard. Accepted wherever it is offered.
pub const VERSION_1: u64 = 1 << 32;

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StartError {
    /// It does not take the features it has offered.
    #[error("it refuses its own features")]
    Features,
    /// One of its queues cannot be used: it is smaller than wanted, or there is no memory.
    #[error("its queue {number} cannot be used: {error}")]
    Queue {
        /// Which.
        number: u16,
        /// What the crate says of it.
        error: virtio_drivers::Error,
    },
    /// There is no memory for its buffers.
    #[error("there is no memory for its buffers")]
    Memory,
    /// Its configuration cannot be read.
    #[error("its configuration cannot be read")]
    Config,
}

/// Resets the device, and agrees on those of the features `wanted` that it offers.
pub fn begin(transport: &mut impl Transport, wanted: u64) -> Result<u64, StartError> {
    let known = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(DeviceStatus::empty());
    transport.set_status(known);
    let features = transport.read_device_features() & (wanted | VERSION_1);
    transport.write_driver_features(features);
    transport.set_status(known | DeviceStatus::FEATURES_OK);
    // A device of before the standard does not know the bit.
    let is_legacy = transport.requires_legacy_layout();
    if !is_legacy && !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        transport.set_status(DeviceStatus::FAILED);
        return Err(StartError::Features);
    }
    transport.set_guest_page_size(4096);
    Ok(features)
}

/// The driver is ready: from here on the device does what it is asked for.
pub fn finish(transport: &mut impl Transport) {
    transport.finish_init();
}

/// Turns the device off: it reaches no memory any more.
pub fn end(transport: &mut impl Transport) {
    transport.set_status(DeviceStatus::empty());
}
