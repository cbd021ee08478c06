//! A pipe between two guests' ports, both ways.
//!
//! What one end sends waits here until the other takes it, [`ROOM`] bytes at most each way; then the sender waits. An end that is
//! closed takes nothing, and what waited for it is gone.
//!
//! Lock order: a device's, a queue's, a channel's. Nobody's bell is answered with a channel locked.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use spin::mutex::TicketMutex;

use super::NamedPort;
use crate::device::doorbell::Doorbell;
use crate::manifest::VmConfig;
use crate::sched::VmId;

/// How many bytes wait for an end at most.
pub const ROOM: usize = 8 << 10;

/// One end.
#[derive(Default)]
struct Side {
    /// Somebody has opened it.
    open: bool,
    /// What waits for it.
    inbox: VecDeque<u8>,
    /// It has found nothing, and is told when something comes.
    hungry: bool,
    /// It has found no room at the other end, and is told when there is some.
    blocked: bool,
    bell: Option<Doorbell>,
}

impl Side {
    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

/// A channel, seen from one of its ends.
#[derive(Clone)]
pub struct End {
    sides: Arc<TicketMutex<[Side; 2]>>,
    /// Whether it is the second end.
    second: bool,
}

impl End {
    /// Both ends of a new channel.
    pub fn pair() -> [Self; 2] {
        let sides = Arc::new(TicketMutex::new([Side::default(), Side::default()]));
        [false, true].map(|second| Self { sides: sides.clone(), second })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Side, &mut Side) -> T) -> T {
        let mut sides = self.sides.lock();
        let [first, second] = &mut *sides;
        if self.second { act(second, first) } else { act(first, second) }
    }

    /// Whose bell is rung when something happens at the other end. While there is one, there is memory for what comes.
    pub fn plug(&self, bell: Option<Doorbell>) {
        self.with(|own, _| {
            own.inbox = VecDeque::new();
            if bell.is_some() {
                // Where there is no memory nothing comes.
                let _ = own.inbox.try_reserve_exact(ROOM);
            }
            own.bell = bell;
        });
    }

    /// This end is opened, or closed: the other's is told.
    pub fn set_open(&self, open: bool) {
        self.with(|own, other| {
            if own.open == open {
                return;
            }
            (own.open, own.hungry, own.blocked) = (open, open, false);
            own.inbox.clear();
            // It waits for room, or is to hear of the change.
            other.blocked = false;
            other.ring();
        });
    }

    /// Whether the other end is open, or what came from there is not all taken.
    pub fn is_other_open(&self) -> bool {
        self.with(|own, other| other.open || !own.inbox.is_empty())
    }

    /// Sends: how many of the bytes the other end has room for. If not for all, the bell is rung when it has.
    pub fn send(&self, bytes: &[u8]) -> usize {
        self.with(|own, other| {
            let room = if other.open { other.inbox.capacity().min(ROOM) } else { 0 };
            let room = room.saturating_sub(other.inbox.len());
            let now = bytes.len().min(room);
            other.inbox.extend(bytes.iter().take(now));
            own.blocked = now < bytes.len();
            if now > 0 && core::mem::take(&mut other.hungry) {
                other.ring();
            }
            now
        })
    }

    /// Takes what has come, as far as there is room for it: how many bytes. If none, the bell is rung when some come.
    pub fn receive(&self, into: &mut [u8]) -> usize {
        self.with(|own, other| {
            let now = own.inbox.len().min(into.len());
            for (to, byte) in into.iter_mut().zip(own.inbox.drain(..now)) {
                *to = byte;
            }
            own.hungry = own.inbox.is_empty();
            if now > 0 && own.inbox.len() <= ROOM / 2 && core::mem::take(&mut other.blocked) {
                other.ring();
            }
            if now > 0 && own.inbox.is_empty() && !other.open {
                // That was the last: the other end is to be seen closed.
                own.ring();
            }
            now
        })
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End").field("second", &self.second).finish_non_exhaustive()
    }
}

/// An end with the name of its port.
type Port = (alloc::string::String, End);

/// The channels of a manifest, by VM.
#[derive(Debug, Default)]
pub struct Channels {
    ports: Box<[Vec<Port>]>,
}

impl Channels {
    /// Those that a checked manifest describes: two ports of one name that lead to each other's VM.
    pub fn new(vms: &[VmConfig]) -> Self {
        let mut ports: Vec<Vec<Port>> = vms.iter().map(|_| Vec::new()).collect();
        for (index, vm) in vms.iter().enumerate() {
            for port in &vm.ports {
                let other = vms.iter().position(|other| other.name == port.to);
                // Each pair once.
                let Some(other) = other.filter(|other| *other > index) else { continue };
                let [first, second] = End::pair();
                for (at, end) in [(index, first), (other, second)] {
                    if let Some(list) = ports.get_mut(at) {
                        list.push((port.name.clone(), end));
                    }
                }
            }
        }
        Self { ports: ports.into() }
    }

    /// A VM's ports.
    pub fn of(&self, vm: VmId) -> Vec<NamedPort> {
        let ports = self.ports.get(vm.index()).into_iter().flatten();
        ports.map(|(name, end)| NamedPort { name: name.clone(), end: end.clone() }).collect()
    }
}
