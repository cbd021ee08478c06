//! Streams between the guests of a group.
//!
//! To each of its two guests a stream looks as if the hypervisor were the other: what one sends waits here, as much as
//! its credit with the hypervisor allows, until the other takes it, as its own credit allows. So a guest that takes
//! nothing holds up nobody's other streams. An end that is gone leaves the other what it had sent before, and then RST.
//!
//! A guest has its ends in places of its own, and with each the memory for what waits there. One that it does not let go
//! of is missing to itself, and to each other guest no more than [`MOST_WITH_ONE`] are.

use alloc::boxed::Box;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::buffer::Buffer;
use super::connections::PACKET;
use super::end::{Address, At, End, Step};
use super::packet::{NO_RECEIVE, NO_SEND, PacketHeader, STREAM, op};

/// How many streams a guest has at most.
pub const MOST: usize = 32;
/// How many of them with one other guest, so that none takes all.
pub const MOST_WITH_ONE: usize = 16;
/// How many bytes wait for each end at most.
pub const ROOM: u32 = 16 << 10;
/// What a guest's places take of memory at most, in bytes: the heap's blocks are powers of two.
pub const MOST_MEMORY: usize = MOST * (ROOM as usize + 2 * size_of::<Place>());

/// A guest of the group, by its place in it.
pub type Member = usize;

/// Where a guest can have an end.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// What waits for the guest.
    inbox: Buffer,
    end: Option<End>,
}

impl Place {
    /// The places of a guest: fewer than [`MOST`] where there is not the memory.
    pub fn all() -> Vec<Self> {
        let mut places = Vec::new();
        if places.try_reserve_exact(MOST).is_ok() {
            let place = |_| Some(Self { inbox: Buffer::new(ROOM as usize)?, end: None });
            places.extend((0..MOST).map_while(place));
        }
        places
    }

    /// What is next for the guest, as [`End::next`] has it.
    fn next(&self, room: usize) -> Option<(u16, usize)> {
        self.end.as_ref()?.next(&self.inbox, room)
    }

    const fn held(&mut self) -> Option<Held<'_>> {
        match &mut self.end {
            Some(end) => Some(Held { end, inbox: &mut self.inbox }),
            None => None,
        }
    }

    fn set(&mut self, end: End) {
        self.inbox.open();
        self.end = Some(end);
    }

    const fn clear(&mut self) -> Option<End> {
        self.inbox.clear();
        self.end.take()
    }
}

/// An end, and what waits there.
struct Held<'a> {
    end: &'a mut End,
    inbox: &'a mut Buffer,
}

/// A guest of the group.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct Guest {
    cid: u64,
    /// Its driver is ready.
    present: bool,
    places: Vec<Place>,
    /// Which of them is looked at first when something goes out.
    turn: usize,
}

impl Guest {
    fn ends(&self) -> impl Iterator<Item = &End> {
        self.places.iter().filter_map(|place| place.end.as_ref())
    }

    /// In which place its end of a stream is.
    fn find(&self, address: Address) -> Option<usize> {
        let is_it = |end: &End| end.address == address;
        self.places.iter().position(|place| place.end.as_ref().is_some_and(is_it))
    }

    /// A place for one more stream with the guest that has this CID. Ends count until the guest has let go of them, or whoever
    /// connects and vanishes again and again would soon have all.
    fn place_with(&self, cid: u64) -> Option<usize> {
        let with = self.ends().filter(|end| end.address.peer_cid == cid).count();
        let free = self.places.iter().position(|place| place.end.is_none());
        free.filter(|_| with < MOST_WITH_ONE)
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Taken {
    /// It was understood; else it is to be refused.
    pub fine: bool,
    /// Who has something to receive now.
    pub for_other: Option<Member>,
}

/// Puts a packet's payload there, from some byte of it on.
type Fill<'a, E> = dyn FnMut(usize, &mut [u8]) -> Result<(), E> + 'a;
/// Takes a packet, with its payload in two pieces.
type Put<'a, E> = dyn FnMut(&PacketHeader, [&[u8]; 2]) -> Result<(), E> + 'a;

/// The streams of a group.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Streams {
    guests: Box<[Guest]>,
}

impl Streams {
    /// None, between guests with these CIDs, none of which has places yet.
    pub fn new(cids: impl Iterator<Item = u64>) -> Self {
        Self { guests: cids.map(|cid| Guest { cid, ..Guest::default() }).collect() }
    }

    /// A guest has these places from now on; it has no streams. Those that it had before.
    pub fn equip(&mut self, me: Member, places: Vec<Place>) -> Vec<Place> {
        let places = |guest: &mut Guest| core::mem::replace(&mut guest.places, places);
        self.guests.get_mut(me).map(places).unwrap_or_default()
    }

    /// How many streams a guest has an end of.
    pub fn count(&self, me: Member) -> usize {
        self.guests.get(me).map_or(0, |guest| guest.ends().count())
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
        for place in 0..guest.places.len() {
            if let Some(other) = self.close(At { member: me, place }) {
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
        fill: &mut Fill<'_, E>,
    ) -> Result<Taken, E> {
        let (port, peer_cid, peer_port) = (header.src_port, header.dst_cid, header.dst_port);
        let address = Address { port, peer_cid, peer_port };
        let Some(place) = self.guests.get(me).and_then(|guest| guest.find(address)) else {
            let asks = header.op == op::REQUEST;
            let for_other = if asks { self.connect(me, address, header) } else { None };
            return Ok(Taken { fine: for_other.is_some() || header.op == op::RST, for_other });
        };
        let at = At { member: me, place };
        let Some((own, other)) = self.both(at) else {
            return Ok(Taken { fine: false, for_other: None });
        };
        own.end.credit.take_in(header);
        let mut for_other = own.end.other.map(|other| other.member);
        let fine = match (header.op, own.end.step) {
            (op::RESPONSE, Step::Asked) => {
                own.end.step = Step::Open;
                if let Some(other) = other {
                    other.end.step = Step::Respond;
                }
                true
            }
            (op::RW, Step::Open) if is_whole && own.end.ended & NO_SEND == 0 => {
                bring(own.end, other, header.len, fill)?
            }
            (op::SHUTDOWN, Step::Open) => {
                own.end.ended |= header.flags & (NO_RECEIVE | NO_SEND);
                let unwanted = if own.end.receives() { 0 } else { own.inbox.len() };
                own.inbox.take(unwanted);
                if let Some(other) = other {
                    other.end.other_ended = own.end.ended;
                    other.end.forward(unwanted);
                }
                true
            }
            (op::CREDIT_UPDATE | op::CREDIT_REQUEST, _) => {
                own.end.tell |= header.op == op::CREDIT_REQUEST;
                for_other = None;
                true
            }
            _ => false,
        };
        if !fine {
            for_other = self.close(at);
        }
        Ok(Taken { fine: fine || header.op == op::RST, for_other })
    }

    /// Whether there is something for a guest.
    pub fn has_output(&self, me: Member) -> bool {
        let mut places = self.guests.get(me).into_iter().flat_map(|guest| &guest.places);
        places.any(|place| place.next(PACKET).is_some())
    }

    /// The next packet for a guest that has room for so much payload goes to `put`. Who has something to receive because of it.
    ///
    /// # Errors
    /// What `put` says.
    pub fn output<E>(
        &mut self,
        me: Member,
        room: usize,
        put: &mut Put<'_, E>,
    ) -> Result<Option<Option<Member>>, E> {
        let Some(guest) = self.guests.get_mut(me) else { return Ok(None) };
        let count = guest.places.len();
        let next = |n: usize| {
            let at = (guest.turn + n) % count;
            Some((at, guest.places.get(at)?.next(room)?))
        };
        let Some((place, (op, bytes))) = (0..count).find_map(next) else { return Ok(None) };
        guest.turn = place + 1;
        let (cid, at) = (guest.cid, At { member: me, place });
        let Some((Held { end: own, inbox }, other)) = self.both(at) else { return Ok(None) };
        let mut header = PacketHeader {
            src_cid: own.address.peer_cid,
            dst_cid: cid,
            src_port: own.address.peer_port,
            dst_port: own.address.port,
            len: u32::try_from(bytes).unwrap_or(0),
            kind: STREAM,
            op,
            ..PacketHeader::default()
        };
        if op != op::RST {
            own.credit.tell(&mut header);
            own.tell = false;
        }
        match op {
            op::REQUEST => own.step = Step::Asked,
            op::RESPONSE => own.step = Step::Open,
            op::SHUTDOWN => {
                own.told_ended |= own.news(inbox);
                header.flags = own.told_ended;
            }
            _ => {}
        }
        put(&header, inbox.front(bytes))?;
        inbox.take(bytes);
        own.credit.send(header.len);
        let mut for_other = None;
        if let Some(other) = other.filter(|_| bytes > 0) {
            other.end.forward(bytes);
            for_other = own.other.filter(|_| other.end.tell).map(|other| other.member);
        }
        if op == op::RST {
            self.close(at);
        }
        Ok(Some(for_other))
    }

    fn place(&mut self, at: At) -> Option<&mut Place> {
        self.guests.get_mut(at.member)?.places.get_mut(at.place)
    }

    /// A guest's end of a stream, and the other's, if that is still there.
    fn both(&mut self, at: At) -> Option<(Held<'_>, Option<Held<'_>>)> {
        let Some(other) = self.place(at)?.end.as_ref()?.other else {
            return Some((self.place(at)?.held()?, None));
        };
        let [own, theirs] = self.guests.get_disjoint_mut([at.member, other.member]).ok()?;
        let own = own.places.get_mut(at.place)?.held()?;
        Some((own, theirs.places.get_mut(other.place)?.held()))
    }

    /// Who is asked, if a guest may be connected there.
    fn connect(&mut self, me: Member, address: Address, header: &PacketHeader) -> Option<Member> {
        let other = self.guests.iter().position(|guest| guest.cid == address.peer_cid)?;
        // Nobody is connected to himself.
        let [own, theirs] = self.guests.get_disjoint_mut([me, other]).ok()?;
        let Address { port, peer_port, .. } = address;
        let seen = Address { port: peer_port, peer_cid: own.cid, peer_port: port };
        // One of these ports may not be over for the other guest, who would take the two for one.
        if !theirs.present || theirs.find(seen).is_some() {
            return None;
        }
        let first = At { member: me, place: own.place_with(theirs.cid)? };
        let second = At { member: other, place: theirs.place_with(own.cid)? };
        let mut end = End::new(address, Step::Waits, second);
        end.credit.take_in(header);
        own.places.get_mut(first.place)?.set(end);
        theirs.places.get_mut(second.place)?.set(End::new(seen, Step::Request, first));
        Some(other)
    }

    /// A guest's end is gone. Who has something to receive because of it.
    fn close(&mut self, at: At) -> Option<Member> {
        let other = self.place(at)?.clear()?.other?;
        let place = self.place(other)?;
        let end = place.end.as_mut()?;
        end.other = None;
        if end.step == Step::Request {
            // It has never heard of it.
            place.clear();
            return None;
        }
        Some(other.member)
    }
}

/// Brings bytes from one end to the other, if that is still there and takes some. Whether they were allowed.
fn bring<E>(
    own: &mut End,
    other: Option<Held<'_>>,
    bytes: u32,
    fill: &mut Fill<'_, E>,
) -> Result<bool, E> {
    // One that is gone: it is told so in its turn.
    let Some(Held { end: other, inbox }) = other else { return Ok(true) };
    if !own.credit.receive(bytes) {
        return Ok(false);
    }
    let count = usize::try_from(bytes).unwrap_or(usize::MAX);
    if !other.receives() {
        own.forward(count);
        return Ok(true);
    }
    let mut at = 0;
    for piece in inbox.room(count) {
        fill(at, piece)?;
        at += piece.len();
    }
    inbox.fill(at);
    own.tell |= own.credit.is_to_be_told();
    Ok(true)
}

#[cfg(test)]
mod tests;
