//! One guest's end of a stream between guests: how far it has come, and what is next for its guest.

use serde::{Deserialize, Serialize};

use super::buffer::Buffer;
use super::connections::PACKET;
use super::credit::Credit;
use super::packet::{NO_RECEIVE, NO_SEND, op};
use super::streams::ROOM;

/// Where an end is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct At {
    /// Whose it is: a guest by its place in the group.
    pub member: usize,
    /// In which of its places.
    pub place: usize,
}

/// How far an end has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Its guest wants to be connected, and waits.
    Waits,
    /// It is to be told that it is connected.
    Respond,
    /// Its guest is to be asked.
    Request,
    /// It was.
    Asked,
    /// Both sides are connected.
    Open,
}

/// Between whom a stream is, as one of its guests has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Address {
    /// The guest's own port.
    pub port: u32,
    /// The other guest.
    pub peer_cid: u64,
    /// His port.
    pub peer_port: u32,
}

/// One guest's end of a stream.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct End {
    pub address: Address,
    pub step: Step,
    /// Between the guest and the hypervisor.
    pub credit: Credit,
    /// The guest is to be told how much room there is.
    pub tell: bool,
    /// What its guest does no more, as SHUTDOWN's flags have it.
    pub ended: u32,
    /// What the other does no more,
    pub other_ended: u32,
    /// and what of that the guest was told.
    pub told_ended: u32,
    /// The other end, until that is gone.
    pub other: Option<At>,
}

impl End {
    pub const fn new(address: Address, step: Step, other: At) -> Self {
        Self {
            address,
            step,
            credit: Credit::new(ROOM),
            tell: false,
            ended: 0,
            other_ended: 0,
            told_ended: 0,
            other: Some(other),
        }
    }

    /// Whether its guest takes bytes.
    pub const fn receives(&self) -> bool {
        self.ended & NO_RECEIVE == 0
    }

    /// So many bytes that its guest has sent do not wait for the other any more.
    pub fn forward(&mut self, bytes: usize) {
        self.credit.forward(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.tell |= self.credit.is_to_be_told();
    }

    /// What the guest is to be told that the other does no more: that it sends no more comes after all that it sent.
    pub const fn news(&self, inbox: &Buffer) -> u32 {
        let seen = if inbox.is_empty() { NO_RECEIVE | NO_SEND } else { NO_RECEIVE };
        self.other_ended & seen & !self.told_ended
    }

    /// Nothing more will come for the guest.
    fn is_finished(&self, inbox: &Buffer) -> bool {
        let is_connected = matches!(self.step, Step::Respond | Step::Open);
        self.other.is_none() && !(is_connected && self.receives() && !inbox.is_empty())
    }

    /// What is next for the guest, for which those bytes wait and which has room for so many: what is to be done, and how many bytes.
    pub fn next(&self, inbox: &Buffer, room: usize) -> Option<(u16, usize)> {
        let credit = usize::try_from(self.credit.room()).unwrap_or(usize::MAX);
        let bytes = inbox.len().min(room).min(credit).min(PACKET);
        match self.step {
            _ if self.is_finished(inbox) => Some((op::RST, 0)),
            Step::Request => Some((op::REQUEST, 0)),
            Step::Respond => Some((op::RESPONSE, 0)),
            Step::Open if bytes > 0 => Some((op::RW, bytes)),
            Step::Open if self.news(inbox) != 0 => Some((op::SHUTDOWN, 0)),
            _ if self.tell => Some((op::CREDIT_UPDATE, 0)),
            _ => None,
        }
    }
}
