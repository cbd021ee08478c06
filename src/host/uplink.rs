//! A network card of the machine's, as a virtual switch sees it.

use crate::net::MacAddr;

/// The longest frame that is sent or received, in bytes, without its checksum: Ethernet's with a VLAN tag.
pub const MAX_FRAME: usize = 1518;

/// Why a frame was not sent. It is gone: who wants it to arrive sends it again.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotSent {
    /// As many are under way as there is room for.
    #[error("the card's queue is full")]
    Full,
    /// It is empty, or longer than [`MAX_FRAME`].
    #[error("a frame has 1 to {MAX_FRAME} bytes")]
    Length,
    /// The card has been turned off, as it did not keep to its rules.
    #[error("the card is out of order")]
    OutOfOrder,
}

/// A network card of the machine's.
///
/// Lock order: what [`attend`](Self::attend) calls, it calls under a lock that only `attend` takes; it may take any other, and
/// may send. [`send`](Self::send) fills the frame under a lock that comes last but for the console's.
pub trait Uplink: Send + Sync {
    /// Its own address.
    fn mac(&self) -> MacAddr;

    /// Sends the frame that `make` writes where the card reads it: it gets [`MAX_FRAME`] bytes, each with an old value, and
    /// says how many of them the frame has. It does not wait, and `make` is called once or, with [`NotSent::Full`] and
    /// [`NotSent::OutOfOrder`], not at all.
    ///
    /// # Errors
    /// The frame is not sent.
    fn send(&self, make: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), NotSent>;

    /// The card's interrupt was taken: `receive` gets each frame that has arrived, a bounded number. If there are more the
    /// interrupt comes again.
    fn attend(&self, receive: &mut dyn FnMut(&[u8]));
}
