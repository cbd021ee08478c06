//! Streams between the guests of a group.
//!
//! To each of its two guests a stream looks as if the hypervisor were the other: what one sends waits here, as much as
//! its credit with the hypervisor allows, until the other takes it, as its own credit allows. So a guest that takes
//! nothing holds up nobody's other streams. An end that is gone leaves the other what it had sent before, and then RST.

use alloc::boxed::Box;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::buffer::Buffer;
use super::connections::PACKET;
use super::credit::Credit;
use super::packet::{NO_RECEIVE, NO_SEND, PacketHeader, STREAM, op};

/// How many streams a guest has at most.
pub const MOST: usize = 32;
/// How many of them with one other guest, so that none takes all.
pub const MOST_WITH_ONE: usize = 16;
/// How many bytes wait for each end at most.
pub const ROOM: u32 = 16 << 10;
/// What a guest's ends take of memory at most, in bytes.
pub const MOST_MEMORY: usize = MOST * (ROOM as usize + 512);

/// A guest of the group, by its place in it.
pub type Member = usize;

/// How far an end has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
enum Step {
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

/// One guest's end of a stream.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct End {
    member: Member,
    port: u32,
    peer_cid: u64,
    peer_port: u32,
    step: Step,
    credit: Credit,
    /// What waits for the guest.
    inbox: Buffer,
    /// The guest is to be told how much room there is.
    tell: bool,
    /// What its guest does no more, as SHUTDOWN's flags have it.
    ended: u32,
    /// What the other does no more,
    other_ended: u32,
    /// and what of that the guest was told.
    told_ended: u32,
    /// The other end is gone.
    over: bool,
}

impl End {
    fn new(
        member: Member,
        step: Step,
        (port, peer_cid, peer_port): (u32, u64, u32),
    ) -> Option<Self> {
        Some(Self {
            member,
            port,
            peer_cid,
            peer_port,
            step,
            credit: Credit::new(ROOM),
            inbox: Buffer::new(ROOM as usize)?,
            tell: false,
            ended: 0,
            other_ended: 0,
            told_ended: 0,
            over: false,
        })
    }

    /// What the guest is to be told that the other does no more: that it sends no more comes after all that it sent.
    fn news(&self) -> u32 {
        let seen = if self.inbox.is_empty() { NO_RECEIVE | NO_SEND } else { NO_RECEIVE };
        self.other_ended & seen & !self.told_ended
    }

    /// Nothing more will come for the guest.
    fn is_finished(&self) -> bool {
        let takes = self.step == Step::Open && self.ended & NO_RECEIVE == 0;
        self.over && (!takes || self.inbox.is_empty())
    }

    /// What is next for the guest, which has room for so many bytes: what is to be done, and how many bytes.
    fn next(&self, room: usize) -> Option<(u16, usize)> {
        let credit = usize::try_from(self.credit.room()).unwrap_or(usize::MAX);
        let bytes = self.inbox.len().min(room).min(credit).min(PACKET);
        match self.step {
            _ if self.is_finished() => Some((op::RST, 0)),
            Step::Request => Some((op::REQUEST, 0)),
            Step::Respond => Some((op::RESPONSE, 0)),
            Step::Open if bytes > 0 => Some((op::RW, bytes)),
            Step::Open if self.news() != 0 => Some((op::SHUTDOWN, 0)),
            _ if self.tell => Some((op::CREDIT_UPDATE, 0)),
            _ => None,
        }
    }
}

/// Both ends of a stream, the one who asked for it first; one that is gone is not there.
type Stream = [Option<End>; 2];

/// A guest of the group.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct Guest {
    cid: u64,
    /// Its driver is ready.
    present: bool,
    /// Of which streams it has an end.
    streams: Vec<usize>,
    /// Which of them is looked at first when something goes out.
    turn: usize,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Taken {
    /// It was understood; else it is to be refused.
    pub fine: bool,
    /// Who has something to receive now.
    pub for_other: Option<Member>,
}

/// The streams of a group.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Streams {
    guests: Box<[Guest]>,
    all: Vec<Option<Stream>>,
}

impl Streams {
    /// None, between guests with these CIDs.
    pub fn new(cids: impl Iterator<Item = u64>) -> Self {
        let guest = |cid| Guest { cid, streams: Vec::with_capacity(MOST), ..Guest::default() };
        Self { guests: cids.map(guest).collect(), all: Vec::new() }
    }

    /// How many streams a guest has an end of.
    pub fn count(&self, me: Member) -> usize {
        self.guests.get(me).map_or(0, |guest| guest.streams.len())
    }

    /// A guest can be connected to from now on.
    pub fn join(&mut self, me: Member) {
        if let Some(guest) = self.guests.get_mut(me) {
            guest.present = true;
        }
    }

    /// A guest is not there any more. Who was connected to it has something to receive, and is told of by `tell`.
    pub fn leave(&mut self, me: Member, mut tell: impl FnMut(Member)) {
        let Some(guest) = self.guests.get_mut(me) else { return };
        guest.present = false;
        while let Some(index) = self.guests.get(me).and_then(|guest| guest.streams.last().copied())
        {
            if let Some(other) = self.close(index, me) {
                tell(other);
            }
        }
    }

    /// Takes in a packet of a guest's, whose payload `fill` puts somewhere, from some byte of it on; or which is not as the header
    /// says.
    ///
    /// # Errors
    /// What `fill` says.
    pub fn input<E>(
        &mut self,
        me: Member,
        header: &PacketHeader,
        is_whole: bool,
        fill: &mut dyn FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<Taken, E> {
        let Some(index) = self.find(me, header) else {
            let for_other = if header.op == op::REQUEST { self.connect(me, header) } else { None };
            return Ok(Taken { fine: for_other.is_some() || header.op == op::RST, for_other });
        };
        let Some((own, mut other)) = self.ends(index, me) else {
            return Ok(Taken { fine: false, for_other: None });
        };
        own.credit.take_in(header);
        let mut for_other = other.as_ref().map(|other| other.member);
        let fine = match (header.op, own.step) {
            (op::RESPONSE, Step::Asked) => {
                own.step = Step::Open;
                if let Some(other) = other {
                    other.step = Step::Respond;
                }
                true
            }
            (op::RW, Step::Open) => {
                let count = usize::try_from(header.len).unwrap_or(usize::MAX);
                let may = is_whole && own.ended & NO_SEND == 0;
                match &mut other {
                    // It is told so in its turn.
                    None => may,
                    Some(other) if may && own.credit.receive(header.len) => {
                        let mut at = 0;
                        for piece in other.inbox.room(count) {
                            fill(at, piece)?;
                            at += piece.len();
                        }
                        other.inbox.fill(at);
                        own.tell |= own.credit.is_to_be_told();
                        true
                    }
                    Some(_) => false,
                }
            }
            (op::SHUTDOWN, Step::Open) => {
                own.ended |= header.flags & (NO_RECEIVE | NO_SEND);
                if let Some(other) = other {
                    other.other_ended = own.ended;
                }
                true
            }
            (op::CREDIT_UPDATE, _) => {
                for_other = None;
                true
            }
            (op::CREDIT_REQUEST, _) => {
                own.tell = true;
                for_other = None;
                true
            }
            _ => false,
        };
        if !fine {
            for_other = self.close(index, me);
        }
        Ok(Taken { fine: fine || header.op == op::RST, for_other })
    }

    /// Whether there is something for a guest.
    pub fn has_output(&self, me: Member) -> bool {
        let indices = self.guests.get(me).into_iter().flat_map(|guest| &guest.streams);
        indices.filter_map(|index| self.end(*index, me)).any(|end| end.next(PACKET).is_some())
    }

    /// The next packet for a guest that has room for so much payload goes to `put`. Who has something to receive because of it.
    ///
    /// # Errors
    /// What `put` says.
    pub fn output<E>(
        &mut self,
        me: Member,
        room: usize,
        put: &mut dyn FnMut(&PacketHeader, [&[u8]; 2]) -> Result<(), E>,
    ) -> Result<Option<Option<Member>>, E> {
        let Some(guest) = self.guests.get(me) else { return Ok(None) };
        let count = guest.streams.len();
        let next = |n: usize| {
            let at = (guest.turn % count + n) % count;
            let index = *guest.streams.get(at)?;
            Some((at, index, self.end(index, me)?.next(room)?))
        };
        let Some((at, index, (op, bytes))) = (0..count).find_map(next) else { return Ok(None) };
        let cid = guest.cid;
        if let Some(guest) = self.guests.get_mut(me) {
            guest.turn = at + 1;
        }
        let Some((own, other)) = self.ends(index, me) else { return Ok(None) };
        let mut header = PacketHeader {
            src_cid: own.peer_cid,
            dst_cid: cid,
            src_port: own.peer_port,
            dst_port: own.port,
            len: u32::try_from(bytes).unwrap_or(0),
            kind: STREAM,
            op,
            ..PacketHeader::default()
        };
        if op != op::RST {
            own.credit.tell(&mut header);
            own.tell = false;
        }
        let mut for_other = None;
        match op {
            op::REQUEST => own.step = Step::Asked,
            op::RESPONSE => own.step = Step::Open,
            op::SHUTDOWN => {
                own.told_ended |= own.news();
                header.flags = own.told_ended;
            }
            _ => {}
        }
        put(&header, own.inbox.front(bytes))?;
        if bytes > 0 {
            own.credit.send(header.len);
            own.inbox.take(bytes);
            if let Some(other) = other {
                other.credit.forward(header.len);
                if other.credit.is_to_be_told() {
                    other.tell = true;
                    for_other = Some(other.member);
                }
            }
        }
        if op == op::RST {
            self.close(index, me);
        }
        Ok(Some(for_other))
    }

    fn end(&self, index: usize, me: Member) -> Option<&End> {
        self.all.get(index)?.as_ref()?.iter().flatten().find(|end| end.member == me)
    }

    /// A guest's end of a stream, and the other's, if that is still there.
    fn ends(&mut self, index: usize, me: Member) -> Option<(&mut End, Option<&mut End>)> {
        let [first, second] = self.all.get_mut(index)?.as_mut()?;
        match (first.as_mut(), second.as_mut()) {
            (Some(own), other) if own.member == me => Some((own, other)),
            (other, Some(own)) if own.member == me => Some((own, other)),
            _ => None,
        }
    }

    /// Which stream a packet of a guest's is of.
    fn find(&self, me: Member, header: &PacketHeader) -> Option<usize> {
        let mut indices = self.guests.get(me)?.streams.iter().copied();
        let wanted = (header.src_port, header.dst_cid, header.dst_port);
        indices.find(|index| {
            self.end(*index, me)
                .is_some_and(|end| (end.port, end.peer_cid, end.peer_port) == wanted)
        })
    }

    /// Who is asked, if a guest may be connected there.
    fn connect(&mut self, me: Member, header: &PacketHeader) -> Option<Member> {
        let other = self.guests.iter().position(|guest| guest.cid == header.dst_cid)?;
        let own = self.guests.get(me)?;
        let theirs = self.guests.get(other).filter(|guest| guest.present && other != me)?;
        let between = own.streams.iter().filter(|index| theirs.streams.contains(index)).count();
        if own.streams.len().max(theirs.streams.len()) >= MOST || between >= MOST_WITH_ONE {
            return None;
        }
        let (port, peer) = (header.src_port, header.dst_port);
        let mut first = End::new(me, Step::Waits, (port, theirs.cid, peer))?;
        first.credit.take_in(header);
        let second = End::new(other, Step::Request, (peer, own.cid, port))?;
        let index = match self.all.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.all.try_reserve(1).ok()?;
                self.all.push(None);
                self.all.len() - 1
            }
        };
        *self.all.get_mut(index)? = Some([Some(first), Some(second)]);
        for member in [me, other] {
            self.guests.get_mut(member)?.streams.push(index);
        }
        Some(other)
    }

    /// A guest's end is gone. Who has something to receive because of it.
    fn close(&mut self, index: usize, me: Member) -> Option<Member> {
        if let Some(guest) = self.guests.get_mut(me) {
            guest.streams.retain(|other| *other != index);
        }
        let slot = self.all.get_mut(index)?;
        let stream = slot.as_mut()?;
        for end in stream.iter_mut() {
            end.take_if(|end| end.member == me);
        }
        let Some(other) = stream.iter_mut().flatten().next() else {
            *slot = None;
            return None;
        };
        let member = other.member;
        other.over = true;
        if other.step == Step::Request {
            // It has never heard of it.
            *slot = None;
            if let Some(guest) = self.guests.get_mut(member) {
                guest.streams.retain(|other| *other != index);
            }
            return None;
        }
        Some(member)
    }
}

#[cfg(test)]
mod tests;
