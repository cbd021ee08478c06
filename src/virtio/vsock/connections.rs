//! The connections of one guest to the hypervisor: streams of lines, each of which is answered with one.
//!
//! What the guest sends comes in by [`Connections::input`], what it gets goes out by [`Connections::output`]; who
//! answers uses [`Connections::take_line`] and [`Connections::answer`]. All of it is bounded: connections, what each
//! holds of the guest, and the refusals that wait. One line of a connection is answered at a time.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::credit::Credit;
use super::packet::{NO_RECEIVE, NO_SEND, PacketHeader, STREAM, op};

/// The hypervisor's CID ("Socket Device: Device configuration layout").
pub const HOST: u64 = 2;
/// Where lines are answered.
pub const PORT: u32 = 1;
/// How many connections a guest has at most.
pub const MOST: usize = 16;
/// How many refusals wait for room at most.
const MOST_REFUSALS: usize = 64;
/// How many bytes go out in one packet at most.
pub const PACKET: usize = 4096;
/// How many bytes of a connection wait to be taken as lines at most.
pub const BUFFER: u32 = 4096;
/// The longest answer, in bytes.
pub const MOST_ANSWER: usize = 64 << 10;
/// How many bytes of answers wait for a guest at most, in all its connections: no line is taken where they could become
/// more.
const MOST_HELD: usize = 2 * MOST_ANSWER;
/// How many lines of a guest's are answered at a time at most, in all its connections.
pub const MOST_ASKED: usize = MOST_HELD / MOST_ANSWER;
/// What a guest's connections, and its lines that wait for agents, take of memory at most, in bytes, but for some hundred each.
pub const MOST_MEMORY: usize = MOST_HELD + (MOST * 2 + MOST_ASKED) * BUFFER as usize;

/// Which connection a line came by.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ConnectionId {
    port: u32,
    /// So that what is answered late goes to nobody else who has the port by then.
    number: u64,
}

/// A refused packet, to be answered with RST.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Refusal {
    guest_port: u32,
    cid: u64,
    port: u32,
    /// Of what kind its socket is: what is no stream's does not end one.
    kind: u16,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Connection {
    id: ConnectionId,
    credit: Credit,
    /// What of the guest was not yet taken as a line.
    incoming: Vec<u8>,
    /// How many lines end in it.
    lines: usize,
    /// A line was taken, and is not yet answered.
    asked: bool,
    outgoing: Vec<u8>,
    /// How much of that is sent.
    gone: usize,
    /// The guest is to be told that it is connected.
    respond: bool,
    /// It is to be told how much room there is.
    tell: bool,
    /// It sends no more.
    ends: bool,
}

impl Connection {
    fn new(id: ConnectionId) -> Self {
        Self {
            id,
            credit: Credit::new(BUFFER),
            incoming: Vec::new(),
            lines: 0,
            asked: false,
            outgoing: Vec::new(),
            gone: 0,
            respond: true,
            tell: false,
            ends: false,
        }
    }

    /// A line of it can be taken.
    fn is_due(&self) -> bool {
        !self.asked && self.left().is_empty() && self.lines > 0
    }

    fn left(&self) -> &[u8] {
        self.outgoing.get(self.gone..).unwrap_or_default()
    }

    /// Nothing more will happen.
    fn is_finished(&self) -> bool {
        self.ends && !self.asked && self.left().is_empty() && self.lines == 0
    }

    fn has_output(&self) -> bool {
        let sends = self.credit.room() > 0 && !self.left().is_empty();
        self.respond || self.tell || sends || self.is_finished()
    }
}

/// The guest has to take what waits for it first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full;

/// The connections of one guest.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    guest: u64,
    /// Whether somebody answers lines.
    listens: bool,
    all: Vec<Connection>,
    refusals: VecDeque<Refusal>,
    /// Who is looked at first when something goes out.
    turn: usize,
    /// Who is looked at first when a line is taken.
    line_turn: usize,
    numbers: u64,
}

impl Connections {
    /// Of the guest with this CID: none. If nobody `listens`, there will be none either.
    pub fn new(guest: u64, listens: bool) -> Self {
        let refusals = VecDeque::with_capacity(MOST_REFUSALS);
        let all = Vec::with_capacity(if listens { MOST } else { 0 });
        Self { guest, listens, all, refusals, turn: 0, line_turn: 0, numbers: 0 }
    }

    /// The guest's CID.
    pub const fn guest(&self) -> u64 {
        self.guest
    }

    /// All are gone, and nobody is told.
    pub fn reset(&mut self) {
        self.all.clear();
        self.refusals.clear();
    }

    /// Whether nothing is taken in before something has gone out.
    pub fn is_full(&self) -> bool {
        self.refusals.len() >= MOST_REFUSALS
    }

    /// Whether something is to be refused.
    pub fn has_refusals(&self) -> bool {
        !self.refusals.is_empty()
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.all.len()
    }

    /// Takes in a packet: its payload, or `None` if that is not what the header says.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed.
    pub fn input(&mut self, header: &PacketHeader, payload: Option<&[u8]>) -> Result<(), Full> {
        if header.src_cid != self.guest {
            return Ok(()); // nobody to tell
        }
        if self.is_full() {
            return Err(Full);
        }
        let is_known = header.kind == STREAM && header.dst_cid == HOST && header.dst_port == PORT;
        let at = self.all.iter().position(|it| is_known && it.id.port == header.src_port);
        let is_fine = match (header.op, at) {
            (op::RST, Some(at)) => {
                self.all.remove(at);
                true
            }
            // Never answered, or the two would never stop.
            (op::RST, None) => true,
            (op::REQUEST, None) => is_known && self.connect(header),
            (op::RW | op::SHUTDOWN | op::CREDIT_UPDATE | op::CREDIT_REQUEST, Some(at)) => {
                self.all.get_mut(at).is_some_and(|it| goes_on(it, header, payload))
            }
            _ => false,
        };
        if !is_fine {
            if let Some(at) = at {
                self.all.remove(at);
            }
            self.refuse(header);
        }
        Ok(())
    }

    /// A packet is answered with RST, unless it is one. Not while they are [full](Self::is_full).
    pub fn refuse(&mut self, header: &PacketHeader) {
        if header.op != op::RST && !self.is_full() {
            let (cid, port, kind) = (header.dst_cid, header.dst_port, header.kind);
            self.refusals.push_back(Refusal { guest_port: header.src_port, cid, port, kind });
        }
    }

    fn connect(&mut self, header: &PacketHeader) -> bool {
        if !self.listens || self.all.len() >= MOST || self.all.try_reserve(1).is_err() {
            return false;
        }
        self.numbers = self.numbers.wrapping_add(1);
        let id = ConnectionId { port: header.src_port, number: self.numbers };
        let mut connection = Connection::new(id);
        connection.credit.take_in(header);
        self.all.push(connection);
        true
    }

    /// Whether there is something for the guest.
    pub fn has_output(&self) -> bool {
        self.has_refusals() || self.all.iter().any(Connection::has_output)
    }

    /// The next packet for the guest: its header, and its payload, no more than `room`, in `into`.
    pub fn output(&mut self, room: usize, into: &mut Vec<u8>) -> Option<PacketHeader> {
        into.clear();
        if let Some(Refusal { guest_port, cid, port, kind }) = self.refusals.pop_front() {
            return Some(PacketHeader { kind, ..self.header(op::RST, guest_port, cid, port) });
        }
        let count = self.all.len();
        let at = (0..count)
            .map(|n| (self.turn % count + n) % count)
            .find(|at| self.all.get(*at).is_some_and(Connection::has_output))?;
        self.turn = at + 1;
        let port = self.all.get(at)?.id.port;
        let mut header = self.header(op::CREDIT_UPDATE, port, HOST, PORT);
        let it = self.all.get_mut(at)?;
        let most = room.min(PACKET).min(usize::try_from(it.credit.room()).unwrap_or(usize::MAX));
        let payload = it.left().get(..it.left().len().min(most)).unwrap_or_default();
        if it.respond {
            it.respond = false;
            header.op = op::RESPONSE;
        } else if !payload.is_empty() && into.try_reserve(payload.len()).is_ok() {
            into.extend_from_slice(payload);
            header.op = op::RW;
            header.len = u32::try_from(into.len()).unwrap_or(0);
            it.credit.send(header.len);
            it.gone += into.len();
            if it.left().is_empty() {
                it.outgoing = Vec::new();
                it.gone = 0;
            }
        } else if it.is_finished() {
            header.op = op::SHUTDOWN;
            header.flags = NO_RECEIVE | NO_SEND;
        } else if !it.tell {
            return None; // there is no room for a byte
        }
        it.tell = false;
        it.credit.tell(&mut header);
        if header.op == op::SHUTDOWN {
            self.all.remove(at);
        }
        Some(header)
    }

    fn header(&self, op: u16, guest_port: u32, cid: u64, port: u32) -> PacketHeader {
        PacketHeader {
            src_cid: cid,
            dst_cid: self.guest,
            src_port: port,
            dst_port: guest_port,
            kind: STREAM,
            op,
            ..PacketHeader::default()
        }
    }

    /// Whether a line is to be answered.
    pub fn has_line(&self) -> bool {
        self.has_room() && self.all.iter().any(Connection::is_due)
    }

    /// Whether there is room for an answer.
    fn has_room(&self) -> bool {
        let held: usize = self.all.iter().map(|it| it.outgoing.capacity()).sum();
        let asked = self.all.iter().filter(|it| it.asked).count();
        held + (asked + 1) * MOST_ANSWER <= MOST_HELD
    }

    /// The next line that is to be answered, without its end.
    pub fn take_line(&mut self) -> Option<(ConnectionId, Vec<u8>)> {
        if !self.has_room() {
            return None;
        }
        let count = self.all.len();
        let at = (0..count)
            .map(|n| (self.line_turn % count + n) % count)
            .find(|at| self.all.get(*at).is_some_and(Connection::is_due))?;
        let it = self.all.get_mut(at)?;
        let end = it.incoming.iter().position(|byte| *byte == b'\n')?;
        let mut line = Vec::new();
        line.try_reserve_exact(end).ok()?;
        line.extend(it.incoming.drain(..=end).take(end));
        it.lines -= 1;
        it.asked = true;
        it.credit.forward(u32::try_from(end + 1).unwrap_or(u32::MAX));
        it.tell |= it.credit.is_to_be_told();
        self.line_turn = at + 1;
        Some((it.id, line))
    }

    /// Answers the line that was taken of connection `id`, if that is still there. What is beyond [`MOST_ANSWER`] is left
    /// out.
    pub fn answer(&mut self, id: ConnectionId, mut answer: Vec<u8>) {
        if let Some(it) = self.all.iter_mut().find(|it| it.id == id && it.asked) {
            answer.truncate(MOST_ANSWER);
            answer.shrink_to_fit();
            it.asked = false;
            it.outgoing = answer;
            it.gone = 0;
        }
    }
}

/// A packet of a connection. Whether there still is one.
fn goes_on(it: &mut Connection, header: &PacketHeader, payload: Option<&[u8]>) -> bool {
    it.credit.take_in(header);
    match header.op {
        op::RW => {
            let Some(payload) = payload else { return false };
            if it.ends || it.incoming.try_reserve(payload.len()).is_err() {
                return false;
            }
            if !it.credit.receive(u32::try_from(payload.len()).unwrap_or(u32::MAX)) {
                return false;
            }
            it.incoming.extend_from_slice(payload);
            it.lines += payload.iter().filter(|byte| **byte == b'\n').count();
            it.tell |= it.credit.is_to_be_told();
            // A line for which there is no room never ends.
            it.incoming.len() < BUFFER as usize || it.lines > 0
        }
        op::SHUTDOWN => {
            it.ends |= header.flags & NO_SEND != 0;
            header.flags & NO_RECEIVE == 0
        }
        op::CREDIT_REQUEST => {
            it.tell = true;
            true
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests;
