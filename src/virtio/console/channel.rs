//! A pipe between two guests' ports, or a guest's and the monitor, both ways.
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

use serde::{Deserialize, Serialize};

use super::NamedPort;
use crate::device::doorbell::Doorbell;
use crate::manifest::VmConfig;
use crate::monitor::agent::PORT;
use crate::sched::VmId;
use crate::sync::TicketMutex;

/// How many bytes wait for an end at most.
pub const ROOM: usize = 8 << 10;

/// One end.
#[derive(Default)]
struct Side {
    /// Somebody has opened it.
    open: bool,
    /// How often.
    opened: u32,
    /// What waits for it.
    inbox: VecDeque<u8>,
    /// It has found nothing, and is told when something comes.
    hungry: bool,
    /// It has found no room at the other end, and is told when there is some.
    blocked: bool,
    bell: Option<Doorbell>,
}

impl Side {
    /// Where there is no memory nothing comes.
    fn reserve(&mut self) {
        let _ = self.inbox.try_reserve_exact(ROOM);
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

/// What waits for an end, and what it waits for, as plain data.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedEnd {
    inbox: Vec<u8>,
    hungry: bool,
    blocked: bool,
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
                own.reserve();
            }
            own.bell = bell;
        });
    }

    /// This end is open from now on, and looks by itself whether something has come. [`Self::leave`] ends that.
    pub fn watch(&self) {
        self.with(|own, _| {
            own.inbox = VecDeque::new();
            own.reserve();
        });
        self.set_open(true);
    }

    /// This end is closed, and there is no memory for what comes.
    pub fn leave(&self) {
        self.set_open(false);
        self.plug(None);
    }

    /// This end is opened, or closed: the other's is told.
    pub fn set_open(&self, open: bool) {
        self.with(|own, other| {
            if own.open == open {
                return;
            }
            (own.open, own.hungry, own.blocked) = (open, open, false);
            own.opened = own.opened.wrapping_add(open.into());
            own.inbox.clear();
            // It waits for room, or is to hear of the change.
            other.blocked = false;
            other.ring();
        });
    }

    /// A copy of what waits for this end.
    pub fn save(&self) -> SavedEnd {
        self.with(|own, _| SavedEnd {
            inbox: own.inbox.iter().copied().collect(),
            hungry: own.hungry,
            blocked: own.blocked,
        })
    }

    /// This end is open, or not, and that waits for it. False where it cannot.
    pub fn restore(&self, open: bool, saved: &SavedEnd) -> bool {
        if saved.inbox.len() > ROOM || (!open && *saved != SavedEnd::default()) {
            return false;
        }
        self.set_open(open);
        self.with(|own, _| {
            if own.inbox.capacity() < saved.inbox.len() {
                return false;
            }
            own.inbox.clear();
            own.inbox.extend(&saved.inbox);
            (own.hungry, own.blocked) = (saved.hungry, saved.blocked);
            true
        })
    }

    /// Whether the other end is open, or what came from there is not all taken.
    pub fn is_other_open(&self) -> bool {
        self.with(|own, other| other.open || !own.inbox.is_empty())
    }

    /// How often the other end was opened; `None` while it is closed.
    pub fn other_opened(&self) -> Option<u32> {
        self.with(|_, other| other.open.then_some(other.opened))
    }

    /// What has come and was not taken is gone.
    pub fn discard(&self) {
        self.with(|own, other| {
            own.inbox.clear();
            if core::mem::take(&mut other.blocked) {
                other.ring();
            }
        });
    }

    /// Sends all of the bytes, or none where the other end has not the room.
    pub fn send_whole(&self, bytes: &[u8]) -> bool {
        self.with(|_, other| {
            let room = if other.open { other.inbox.capacity().min(ROOM) } else { 0 };
            let fits = bytes.len() <= room.saturating_sub(other.inbox.len());
            if fits {
                other.inbox.extend(bytes);
                if core::mem::take(&mut other.hungry) {
                    other.ring();
                }
            }
            fits
        })
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
    /// The monitor's end of the one to a VM's agent.
    agents: Box<[Option<End>]>,
}

impl Channels {
    /// Those that a checked manifest describes: two ports of one name that lead to each other's VM, and after a VM's others the
    /// one to its agent.
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
        let agent = |(vm, ports): (&VmConfig, &mut Vec<Port>)| {
            let [guest, monitor] = End::pair();
            vm.agent.then(|| {
                ports.push((PORT.into(), guest));
                monitor
            })
        };
        let agents = vms.iter().zip(&mut ports).map(agent).collect();
        Self { ports: ports.into(), agents }
    }

    /// The monitor's end of the channel to a VM's agent, where it has one.
    pub fn agent(&self, vm: VmId) -> Option<End> {
        self.agents.get(vm.index()).cloned().flatten()
    }

    /// A VM's ports.
    pub fn of(&self, vm: VmId) -> Vec<NamedPort> {
        let ports = self.ports.get(vm.index()).into_iter().flatten();
        ports.map(|(name, end)| NamedPort { name: name.clone(), end: end.clone() }).collect()
    }
}
