//! The network device as plain data: the frames that are on their way, and how its guest uses its queues. What the switch knows of
//! its port is the switch's ([`PortState`](crate::net::PortState)).
//!
//! A frame goes on to those who have not got it. Whoever restores it asks the switch whether it may, so what was changed
//! meanwhile goes to nobody whom the guest could not have sent it to.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::header::{NetHeader, SIZE};
use super::offload::Segments;
use super::sending::{Budget, Plain, Sending, Start};
use super::{MAX_FRAME, MAX_PAIRS, NetDevice, Way, feature, receive};
use crate::net::{Header, Left, PortId, TagChange};
use crate::virtio::queue::Chain;
use crate::virtio::queues::SavedQueue;
use crate::virtio::transport::saved::{Save, Unfit};

/// A frame on its way.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct SavedWay {
    left: NetHeader,
    header: Header,
    to: Left,
    flow: Option<u32>,
    /// Who gets it in plain frames, and how far that is.
    plain: Option<(PortId, Option<u64>)>,
}

/// What is on its way by each pair, how many pairs the driver uses and who speaks by which, and what is left of what is done
/// at one go.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedNet {
    ways: [Option<SavedWay>; MAX_PAIRS as usize],
    pairs: u8,
    conversations: Vec<u8>,
    budget: Budget,
}

impl SavedWay {
    fn of(way: &Way) -> Option<Self> {
        let Sending { left, header, copies, flow, .. } = way.sending.as_ref()?;
        let plain = way
            .plain
            .as_ref()
            .map(|Plain { to, segments, .. }| (*to, segments.done().map(|done| done as u64)));
        Some(Self { left: *left, header: *header, to: copies.left(), flow: *flow, plain })
    }
}

impl NetDevice {
    /// What was on its way in `chain`, if it can have been.
    fn way(&self, saved: &SavedWay, chain: &Chain) -> Option<Way> {
        let SavedWay { left, header, to, flow, plain } = saved;
        let whole: u64 = chain.readable().iter().map(|buffer| u64::from(buffer.size)).sum();
        let length = whole.checked_sub(SIZE as u64).filter(|length| *length <= MAX_FRAME)?;
        let allowed = left.is_parsed() && left.is_allowed(self.features, length);
        if !allowed || !left.is_behind(header.length()) || length < header.length().into() {
            return None;
        }
        let copies = self.lan.switch().go_on(self.port, header, *to)?;
        let plain = match plain {
            None => None,
            Some((to, done)) => {
                let switch = self.lan.switch();
                let (reached, change) = switch.go_on(self.port, header, Left::one(*to))?.next()?;
                let head = change.head(header);
                let grows = head.growth();
                let length = length.saturating_add_signed(grows.into());
                let segments = Segments::new(left.shifted(grows).work(), length).ok()?;
                let done = match done {
                    Some(done) => Some(usize::try_from(*done).ok()?),
                    None => None,
                };
                let segments = segments.go_on(done)?;
                Some(Plain { to: reached, head, segments })
            }
        };
        let start = Start::new(left, &TagChange::Keep.head(header));
        let sending = Sending { start, left: *left, header: *header, copies, flow: *flow };
        Some(Way { sending: Some(sending), plain })
    }
}

impl Save for NetDevice {
    type State = SavedNet;

    fn save(&self) -> SavedNet {
        SavedNet {
            ways: self.ways.each_ref().map(SavedWay::of),
            pairs: self.steering.pairs(),
            conversations: self.steering.save(),
            budget: self.budget,
        }
    }

    fn restore(&mut self, saved: SavedNet, queues: &[SavedQueue]) -> Result<(), Unfit> {
        let SavedNet { ways, pairs, conversations, budget } = saved;
        let most = if self.features & feature::MQ == 0 { 1 } else { self.pairs };
        if !(1..=most).contains(&pairs) {
            return Err(Unfit::Device("its driver uses queues that the card does not have"));
        }
        if !budget.is_sound() {
            return Err(Unfit::Device("more is to be done at one go than a card ever does"));
        }
        let mut restored: [Way; MAX_PAIRS as usize] = Default::default();
        for ((pair, saved), way) in (0..MAX_PAIRS).zip(&ways).zip(&mut restored) {
            let Some(saved) = saved else { continue };
            let queue = queues.get(receive(pair) + 1).filter(|_| pair < most);
            let chain = queue.and_then(SavedQueue::in_hand);
            let found = chain.and_then(|chain| self.way(saved, chain));
            *way = found.ok_or(Unfit::Device("a frame is on its way that cannot be"))?;
        }
        (self.ways, self.budget) = (restored, budget);
        self.steering.restore(&conversations);
        self.use_pairs(pairs);
        Ok(())
    }
}
