//! A few frames, and every state in which a pool of them can be: what each operation does there is what it does to a set of frames.

use std::collections::{BTreeSet, VecDeque};

use super::*;
use crate::testing::bound;

/// How many frames the pool has.
const FRAMES: u8 = bound(8, 5, 3);

/// A run of frames: the number of the first, and the order.
type Piece = (u8, u8);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many frames, in however many pieces.
    Allocate(u8),
    /// One block of an order.
    Block(u8),
    /// What is held, by its number in order.
    Free(usize),
}

/// A pool, and what was had of it, as sets of frames.
struct World {
    pool: FramePool,
    /// The number of the first frame of the pool, which need not be aligned to anything.
    first: u8,
    held: Vec<(Vec<Piece>, Frames<Dirty>)>,
}

impl World {
    fn new(first: u8) -> Self {
        let mut pool = FramePool::new();
        let bytes = |frames: u8| u64::from(frames) * PAGE_SIZE;
        pool.add(Ram::imaginary(bytes(first), bytes(FRAMES)), &[]);
        Self { pool, first, held: Vec::new() }
    }

    /// A bit for each frame that somebody has.
    fn owned(&self) -> u32 {
        let pieces = self.held.iter().flat_map(|(pieces, _)| pieces);
        pieces.fold(0, |owned, (start, order)| owned | Self::frames(*start, *order))
    }

    /// A bit for each frame of a block.
    fn frames(start: u8, order: u8) -> u32 {
        ((1 << (1 << order)) - 1) << start
    }

    fn all(&self) -> u32 {
        ((1 << FRAMES) - 1) << self.first
    }

    fn free(&self) -> u64 {
        (self.all() & !self.owned()).count_ones().into()
    }

    /// The order of the largest block that is free, aligned to its size.
    fn largest(&self) -> Option<u8> {
        let free = self.all() & !self.owned();
        let is_free =
            |start: u8, order: u8| free & Self::frames(start, order) == Self::frames(start, order);
        (0..=3).rev().find(|order| (0..16).step_by(1 << order).any(|start| is_free(start, *order)))
    }

    /// What tells this state from all others: what is held together, wherever it was held first.
    fn state(&self) -> Vec<Vec<Piece>> {
        self.held.iter().map(|(pieces, _)| pieces.clone()).collect()
    }

    fn keep(&mut self, frames: Frames<Dirty>) {
        let (all, mut owned) = (self.all(), self.owned());
        let mut piece = |run: &Run| {
            let start = u8::try_from(run.start.raw() / PAGE_SIZE).unwrap();
            let these = Self::frames(start, run.order);
            assert!(run.start.is_aligned(run.size()) && these & !all == 0, "{run:?}");
            assert_eq!(owned & these, 0, "{run:?} is somebody's");
            owned |= these;
            (start, run.order)
        };
        let pieces: Vec<Piece> = frames.runs.iter().map(&mut piece).collect();
        assert!(pieces.is_sorted_by(|a, b| a.1 >= b.1), "{pieces:?}");
        self.held.push((pieces, frames));
        self.held.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// Every step that can be made.
    fn steps(&self) -> impl Iterator<Item = Step> {
        let allocate = (1..=FRAMES + 1).map(Step::Allocate);
        let free = (0..self.held.len()).map(Step::Free);
        allocate.chain((0..=4).map(Step::Block)).chain(free)
    }

    fn step(&mut self, step: Step) {
        let (free, largest) = (self.free(), self.largest());
        match step {
            Step::Allocate(count) => {
                let wanted = u64::from(count) * PAGE_SIZE;
                match self.pool.allocate(wanted) {
                    Ok(frames) => {
                        assert_eq!(frames.size(), wanted);
                        let most = u8::try_from(count.ilog2()).unwrap();
                        assert_eq!(
                            Some(frames.runs[0].order),
                            largest.map(|order| order.min(most))
                        );
                        self.keep(frames);
                    }
                    Err(error) => {
                        assert!(u64::from(count) > free);
                        assert_eq!(error, OutOfFrames { wanted, free: free * PAGE_SIZE });
                    }
                }
            }
            Step::Block(order) => {
                let block = self.pool.allocate_block(order);
                assert_eq!(block.is_some(), largest.is_some_and(|largest| order <= largest));
                if let Some(block) = block {
                    assert_eq!(block.run.order, order);
                    self.keep(Frames { runs: vec![block.run], state: PhantomData });
                }
            }
            Step::Free(which) => {
                let (_, frames) = self.held.remove(which);
                self.pool.free(frames);
            }
        }
        assert_eq!(self.pool.free_bytes(), self.free() * PAGE_SIZE);
        let largest = self.largest().map_or(0, |order| PAGE_SIZE << order);
        assert_eq!(self.pool.largest_block(), largest, "what is free is not put together");
    }

    /// What these steps lead to.
    fn after(first: u8, steps: &[Step]) -> Self {
        let mut world = Self::new(first);
        steps.iter().for_each(|step| world.step(*step));
        world
    }
}

/// A pool is nothing but what it has free, and how it came to that makes no difference: so each state is gone on from once.
#[test]
#[cfg_attr(miri, ignore = "touches no memory, and is slow there")]
fn in_every_state_every_step_does_what_it_does_to_a_set_of_frames() {
    for first in [8, 5] {
        let (mut seen, mut ways) = (BTreeSet::new(), VecDeque::from([Vec::new()]));
        seen.insert(World::new(first).state());
        let mut tried = 0;
        while let Some(way) = ways.pop_front() {
            for step in World::after(first, &way).steps() {
                let mut world = World::after(first, &way);
                world.step(step);
                tried += 1;
                if seen.insert(world.state()) {
                    ways.push_back([way.as_slice(), &[step]].concat());
                }
            }
        }
        println!("{} states, {tried} steps", seen.len());
        assert!(seen.len() > usize::from(FRAMES) * 10);
    }
}

/// The same without that: all sequences of a few steps.
#[test]
#[cfg_attr(miri, ignore = "touches no memory, and is slow there")]
fn every_sequence_of_a_few_steps_does_what_it_does_to_a_set_of_frames() {
    fn go_on(way: &mut Vec<Step>, left: u8) {
        for step in World::after(5, way).steps() {
            way.push(step);
            if left > 1 {
                go_on(way, left - 1);
            } else {
                World::after(5, way);
            }
            way.pop();
        }
    }
    go_on(&mut Vec::new(), bound(4, 3, 2));
}
