//! The device of a part of a disk as plain data.
//!
//! What the disk has done of a request is not known until it comes back, so one that is under way is saved as if nothing of
//! it had been done, and is begun again where it is restored: its guest has not been told of it, what is done twice has the
//! effect of once, and a guest has no two requests under way whose order counts. By then the disk must have nothing more of
//! the device that was saved, or it might do late what the guest has long gone on from.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{HostBlockDevice, Request, Slot, Task};
use crate::host::disk::SECTOR;
use crate::host::share::DEPTH;
use crate::virtio::block::QUEUE_SIZE;
use crate::virtio::block::request::{MAX_SEGMENT_SECTORS, Status};
use crate::virtio::queue::Buffer;
use crate::virtio::queues::SavedQueue;
use crate::virtio::transport::saved::{Save, Unfit};

/// Each request that is under way, with the buffers of its data.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedHostBlock {
    slots: Vec<Option<(Request, Vec<Buffer>)>>,
}

impl HostBlockDevice {
    /// Whether a request can be begun again that may be anything.
    fn is_sound(&self, request: &Request, buffers: &[Buffer], queues: &[SavedQueue]) -> bool {
        let size: u64 = buffers.iter().map(|buffer| u64::from(buffer.size)).sum();
        let (rest, extras) = (request.rest, self.part.extras());
        let there = rest.end().is_some_and(|end| end <= self.part.sectors());
        let in_range = |most: u32| rest.left <= SECTOR * u64::from(most.min(MAX_SEGMENT_SECTORS));
        let fits = match request.task {
            Task::Read => rest.left <= size,
            Task::Write => rest.left <= size && !self.part.is_read_only(),
            Task::Flush => rest.left == 1,
            Task::Discard => in_range(extras.discard),
            Task::Zero { .. } => in_range(extras.zero),
        };
        let is_flush = request.task == Task::Flush;
        let queue = queues.get(usize::from(request.queue)).and_then(|queue| queue.ring.as_ref());
        fits && rest.left > 0
            && (is_flush || (there && rest.left.is_multiple_of(SECTOR)))
            && rest == request.whole
            && (request.pieces, request.result) == (0, Status::Ok)
            && buffers.len() <= QUEUE_SIZE.into()
            && request.room <= u64::from(QUEUE_SIZE) * u64::from(u32::MAX)
            && queue.is_some_and(|ring| ring.held() > 0)
    }
}

impl Save for HostBlockDevice {
    type State = SavedHostBlock;

    fn save(&self) -> SavedHostBlock {
        let anew = |request: Request| Request {
            rest: request.whole,
            pieces: 0,
            result: Status::Ok,
            ..request
        };
        let saved = |slot: &Slot| Some((anew(slot.request?), slot.buffers.clone()));
        SavedHostBlock { slots: self.slots.iter().map(saved).collect() }
    }

    fn restore(&mut self, saved: SavedHostBlock, queues: &[SavedQueue]) -> Result<(), Unfit> {
        if saved.slots.len() != self.slots.len() {
            return Err(Unfit::Device("it has another number of requests than the disk takes"));
        }
        let mut requests = saved.slots.iter().flatten();
        if !requests.all(|(request, buffers)| self.is_sound(request, buffers, queues)) {
            return Err(Unfit::Device("a request is for what the disk does not have"));
        }
        if self.part.room() < DEPTH {
            return Err(Unfit::Device("the disk still has requests from before"));
        }
        for (slot, saved) in self.slots.iter_mut().zip(saved.slots) {
            slot.buffers.clear();
            slot.request = saved.map(|(request, buffers)| {
                slot.buffers.extend(buffers);
                request
            });
        }
        // One piece of each, and then the rest: who has nothing with the disk is not heard of again.
        for most in [1, usize::MAX] {
            (0..self.slots.len()).for_each(|index| self.feed(index, most));
        }
        if (0..self.slots.len()).any(|index| self.take_finished(index).is_some()) {
            return Err(Unfit::Device("a request's data is not in the guest's RAM"));
        }
        Ok(())
    }
}
