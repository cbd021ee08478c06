//! A disk of the machine's that does what a test tells it to, when the test tells it to.

#![allow(unsafe_code, reason = "a disk reads and writes the memory it is lent by addresses")]
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::VecDeque;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard};

use plinth::host::disk::Extras;
use plinth::host::{Completion, HostDisk, IoError, Operation, Refused, Request, Token};
use plinth::memory::Segment;

/// A request that the disk has.
#[derive(Clone, Debug)]
pub struct Asked {
    pub token: Token,
    pub operation: Operation,
    pub segments: Vec<Segment>,
}

#[derive(Default)]
pub struct Inner {
    pub data: Vec<u8>,
    pub serial: &'static str,
    /// How many requests it takes at a time.
    pub depth: usize,
    pub max_segments: usize,
    pub max_segment_size: u64,
    pub extras: Extras,
    pub read_only: bool,
    /// It carries requests out as they come.
    pub prompt: bool,
    pub waiting: VecDeque<Asked>,
    pub done: VecDeque<Completion>,
    pub dead: bool,
    pub flushes: usize,
}

pub struct FakeDisk(Mutex<Inner>);

impl FakeDisk {
    /// One of so many sectors, which takes eight requests at a time.
    pub fn new(sectors: usize) -> Arc<Self> {
        Self::of(Inner { data: vec![0; 512 * sectors], ..Inner::default() })
    }

    pub fn of(inner: Inner) -> Arc<Self> {
        let depth = if inner.depth == 0 { 8 } else { inner.depth };
        let max_segments = if inner.max_segments == 0 { 16 } else { inner.max_segments };
        let longest = if inner.max_segment_size == 0 { u64::MAX } else { inner.max_segment_size };
        Arc::new(Self(Mutex::new(Inner {
            depth,
            max_segments,
            max_segment_size: longest,
            ..inner
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Ends what waits in place `index`: carries it out, or fails.
    pub fn perform(&self, index: usize, result: Result<(), IoError>) {
        self.lock().perform(index, result);
    }

    /// Carries out all that waits.
    pub fn perform_all(&self) {
        while self.waiting() > 0 {
            self.perform(0, Ok(()));
        }
    }
}

impl Inner {
    fn perform(&mut self, index: usize, result: Result<(), IoError>) {
        let Asked { token, operation, segments } = self.waiting.remove(index).unwrap();
        if result.is_ok() {
            self.carry_out(operation, &segments);
        }
        self.done.push_back(Completion { token, result });
    }

    fn carry_out(&mut self, operation: Operation, segments: &[Segment]) {
        let place = |sector: u64| usize::try_from(512 * sector).unwrap();
        let mut at = match operation {
            Operation::Read(first) | Operation::Write(first) => place(first),
            Operation::Flush => {
                self.flushes += 1;
                return;
            }
            Operation::Zero(first, count, _) | Operation::Discard(first, count) => {
                let end = place(first + u64::from(count));
                return self.data[place(first)..end].fill(0);
            }
            Operation::Serial => {
                let mut bytes = self.serial.as_bytes().to_vec();
                bytes.resize(20, 0);
                return put(&segments[0], &bytes);
            }
        };
        for segment in segments {
            let size = usize::try_from(segment.size()).unwrap();
            let range = at..at + size;
            match operation {
                Operation::Read(_) => put(segment, &self.data[range]),
                _ => self.data[range].copy_from_slice(&bytes(segment)),
            }
            at += size;
        }
    }
}

fn at(segment: &Segment) -> usize {
    usize::try_from(segment.region().start().raw()).unwrap()
}

fn bytes(segment: &Segment) -> Vec<u8> {
    let places = at(segment)..at(segment) + usize::try_from(segment.size()).unwrap();
    // SAFETY: frames of a pool in this process, which whoever submitted them keeps until they have come back.
    places.map(|at| unsafe { ptr::with_exposed_provenance::<u8>(at).read_volatile() }).collect()
}

fn put(segment: &Segment, bytes: &[u8]) {
    for (at, byte) in (at(segment)..).zip(bytes) {
        // SAFETY: as above.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(*byte) };
    }
}

impl HostDisk for FakeDisk {
    fn sectors(&self) -> u64 {
        self.lock().data.len() as u64 / 512
    }

    fn is_read_only(&self) -> bool {
        self.lock().read_only
    }

    fn max_segments(&self) -> usize {
        self.lock().max_segments
    }

    fn max_segment_size(&self) -> u64 {
        self.lock().max_segment_size
    }

    fn extras(&self) -> Extras {
        self.lock().extras
    }

    fn submit(&self, request: &Request<'_>) -> Result<(), Refused> {
        let mut inner = self.lock();
        if inner.dead {
            return Err(Refused::OutOfOrder);
        }
        if inner.waiting.len() + inner.done.len() >= inner.depth {
            return Err(Refused::Full);
        }
        // Whoever asks has to keep to the limits.
        assert!(request.segments.len() <= inner.max_segments);
        let sizes = request.segments.iter().map(Segment::size);
        assert!(sizes.clone().all(|size| size <= inner.max_segment_size));
        let size: u64 = sizes.sum();
        let sectors = inner.data.len() as u64 / 512;
        match request.operation {
            Operation::Read(first) | Operation::Write(first) => {
                assert!(size > 0 && size.is_multiple_of(512) && first + size / 512 <= sectors);
            }
            Operation::Zero(first, count, _) | Operation::Discard(first, count) => {
                assert!(count > 0 && size == 0 && first + u64::from(count) <= sectors);
            }
            Operation::Flush => assert_eq!(size, 0),
            Operation::Serial => assert_eq!(size, 20),
        }
        let Request { token, operation, segments } = *request;
        let asked = Asked { token, operation, segments: segments.to_vec() };
        inner.waiting.push_back(asked);
        if inner.prompt {
            inner.perform(0, Ok(()));
        }
        Ok(())
    }

    fn completed(&self) -> Option<Completion> {
        self.lock().done.pop_front()
    }

    fn attend(&self) {}

    fn give_up(&self) {
        let mut inner = self.lock();
        inner.dead = true;
        while let Some(asked) = inner.waiting.pop_front() {
            let result = Err(IoError::OutOfOrder);
            inner.done.push_back(Completion { token: asked.token, result });
        }
    }
}
