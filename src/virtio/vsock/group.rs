//! A group of guests that can be connected to each other, and whom to tell.
//!
//! Lock order: a device's, a queue's, a group's, which is one for all its guests. Bells are rung with it locked, and answered
//! without.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::streams::{Member, Place, Streams};
use crate::device::doorbell::Doorbell;
use crate::sync::{TicketMutex, TicketMutexGuard};

/// The streams of a group and its guests' bells.
#[derive(Debug)]
pub struct Group {
    /// What is between its guests.
    pub streams: Streams,
    bells: Box<[Option<Doorbell>]>,
}

impl Group {
    /// Of guests with these CIDs.
    pub fn new(cids: &[u64]) -> Self {
        let bells = cids.iter().map(|_| None).collect();
        Self { streams: Streams::new(cids.iter().copied()), bells }
    }

    /// A guest has something to receive.
    pub fn tell(&self, member: Option<Member>) {
        if let Some(Some(bell)) = member.and_then(|member| self.bells.get(member)) {
            bell.ring();
        }
    }
}

/// A group as one of its guests has it.
#[derive(Clone, Debug)]
pub struct Membership {
    group: Arc<TicketMutex<Group>>,
    me: Member,
}

impl Membership {
    /// That of each guest of a new group.
    pub fn all(cids: &[u64]) -> impl Iterator<Item = Self> {
        let group = Arc::new(TicketMutex::new(Group::new(cids)));
        (0..cids.len()).map(move |me| Self { group: group.clone(), me })
    }

    /// The group, and who the guest is in it.
    pub fn lock(&self) -> (TicketMutexGuard<'_, Group>, Member) {
        (self.group.lock(), self.me)
    }

    /// The guest has a device, and with it the memory for what waits for it. `bell` is rung when it has something to receive.
    pub fn plug(&self, bell: Doorbell) {
        self.equip(Some(bell), Place::all());
    }

    /// It has none any more.
    pub fn unplug(&self) {
        self.leave();
        self.equip(None, Vec::new());
    }

    fn equip(&self, bell: Option<Doorbell>, places: Vec<Place>) {
        let (mut group, me) = self.lock();
        if let Some(own) = group.bells.get_mut(me) {
            *own = bell;
        }
        let before = group.streams.equip(me, places);
        drop(group); // the heap takes a while to take them back
        drop(before);
    }

    /// The guest's driver is ready.
    pub fn join(&self) {
        self.group.lock().streams.join(self.me);
    }

    /// The guest is not there any more: who was connected to it is told.
    pub fn leave(&self) {
        let Group { streams, bells } = &mut *self.group.lock();
        streams.leave(self.me, |other| {
            if let Some(Some(bell)) = bells.get(other) {
                bell.ring();
            }
        });
    }
}
