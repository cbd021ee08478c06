//! Credit: how much each side of a connection may send (VIRTIO 1.2, "Buffer Space Management").
//!
//! Counts are of 32 bits and wrap. What the other side says of itself bounds only what it is sent; what it may send
//! is counted here.

use serde::{Deserialize, Serialize};

use super::packet::PacketHeader;

/// Both directions of a connection.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Credit {
    /// How many bytes of the peer are held.
    room: u32,
    peer_alloc: u32,
    peer_forwarded: u32,
    sent: u32,
    received: u32,
    forwarded: u32,
    /// What the peer was told last of `forwarded`.
    told: u32,
}

impl Credit {
    /// Of a peer of whom so many bytes are held at most, and who has said nothing yet.
    pub const fn new(room: u32) -> Self {
        Self { room, peer_alloc: 0, peer_forwarded: 0, sent: 0, received: 0, forwarded: 0, told: 0 }
    }

    /// What a header of the peer says.
    pub const fn take_in(&mut self, header: &PacketHeader) {
        self.peer_alloc = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
    }

    /// How many bytes may be sent. A peer that says it has got more than was sent gets no more.
    pub fn room(&self) -> u32 {
        let under_way = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_alloc.saturating_sub(under_way)
    }

    /// So many bytes are sent, no more than there is room for.
    pub const fn send(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }

    /// How many bytes wait here.
    pub const fn waiting(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// So many bytes have come. Whether the peer was allowed to send them; else nothing has changed.
    pub const fn receive(&mut self, bytes: u32) -> bool {
        if bytes > self.room.saturating_sub(self.waiting()) {
            return false;
        }
        self.received = self.received.wrapping_add(bytes);
        true
    }

    /// So many of the bytes that wait have left the buffer.
    pub fn forward(&mut self, bytes: u32) {
        self.forwarded = self.forwarded.wrapping_add(bytes.min(self.waiting()));
    }

    /// Whether the peer is to be told that there is room: it knows of less than half of the buffer, and there is more.
    pub const fn is_to_be_told(&self) -> bool {
        self.told != self.forwarded && self.received.wrapping_sub(self.told) > self.room / 2
    }

    /// A header to the peer says how much room there is.
    pub const fn tell(&mut self, header: &mut PacketHeader) {
        header.buf_alloc = self.room;
        header.fwd_cnt = self.forwarded;
        self.told = self.forwarded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUFFER: u32 = 4096;

    fn says(buf_alloc: u32, fwd_cnt: u32) -> PacketHeader {
        PacketHeader { buf_alloc, fwd_cnt, ..PacketHeader::default() }
    }

    #[test]
    fn a_peer_that_says_it_got_what_nobody_sent_gets_nothing() {
        let mut credit = Credit::new(BUFFER);
        credit.take_in(&says(100, 1));
        assert_eq!(credit.room(), 0);
        credit.take_in(&says(100, 0));
        assert_eq!(credit.room(), 100);
        credit.send(100);
        assert_eq!(credit.room(), 0);
        // A buffer that shrinks below what is under way.
        credit.take_in(&says(10, 0));
        assert_eq!(credit.room(), 0);
    }

    #[test]
    fn counts_wrap() {
        let near = u32::MAX - 9;
        let mut credit =
            Credit { sent: near, received: near, forwarded: near, ..Credit::new(BUFFER) };
        credit.take_in(&says(50, near));
        credit.send(40);
        assert_eq!(credit.room(), 10);
        credit.take_in(&says(50, 30));
        assert_eq!(credit.room(), 50);
        assert!(credit.receive(BUFFER));
        assert!(!credit.receive(1));
        credit.forward(u32::MAX);
        assert!(credit.receive(BUFFER));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        /// Whatever comes, no more than the buffer waits; and a peer that keeps to its credit never stops for ever.
        #[test]
        fn no_more_waits_than_the_buffer_holds(steps in prop::collection::vec((0u32..6000, 0u32..6000), 1..60)) {
            let mut credit = Credit::new(BUFFER);
            let mut waiting = 0;
            let mut header = PacketHeader::default();
            credit.tell(&mut header);
            let mut sent = 0u32;
            for (came, left) in steps {
                if credit.receive(came) {
                    waiting += came;
                    sent = sent.wrapping_add(came);
                }
                prop_assert!(waiting <= BUFFER);
                credit.forward(left);
                waiting -= left.min(waiting);
                prop_assert_eq!(credit.waiting(), waiting);
                if credit.is_to_be_told() {
                    credit.tell(&mut header);
                }
                let known = BUFFER - sent.wrapping_sub(header.fwd_cnt);
                prop_assert!(known > 0 || waiting == BUFFER);
            }
        }
    }
}
