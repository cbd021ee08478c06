//! The drivers of the machine's own devices, against devices that are made here: of the standard and of before it, and some
//! that keep to no rule.

#![allow(unsafe_code, reason = "a device reads and writes the memory it is lent by addresses")]

use std::collections::VecDeque;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use plinth::addr::PhysAddr;
use plinth::host::buffer::Heap;
use plinth::host::devices::Unusable;
use plinth::host::disk::{Extras, MAX_SEGMENTS};
use plinth::host::drive::Drive;
use plinth::host::nic::Nic;
use plinth::host::uplink::MAX_FRAME;
use plinth::host::{
    Completion, DeviceKind, Devices, HostDisk, IoError, Missing, NotSent, Operation, Refused,
    Request, StartError, Token, Uplink,
};
use plinth::memory::{FramePool, Ram, Segment, Store};
use plinth::net::MacAddr;
use plinth::vgic::IntId;
use proptest::prelude::*;
use proptest::test_runner::Config;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};

const VERSION_1: u64 = 1 << 32;

/// What a driver has lent to its device.
#[derive(Clone, Copy, Debug)]
struct Piece {
    at: u64,
    size: usize,
    writable: bool,
}

#[derive(Default)]
struct Queue {
    size: u64,
    descriptors: u64,
    available: u64,
    used: u64,
    taken: u16,
    given: u16,
}

#[derive(Default)]
struct Board {
    features: u64,
    agreed: u64,
    config: Vec<u8>,
    status: u32,
    queues: [Queue; 2],
    /// It refuses the features it offers.
    stubborn: bool,
    interrupt: bool,
    /// An interrupt about its configuration.
    configuration: bool,
    told: usize,
}

fn load<T: Copy>(at: u64) -> T {
    // SAFETY: the driver has lent the memory to this device, and does not touch it meanwhile.
    unsafe { ptr::with_exposed_provenance::<T>(usize::try_from(at).unwrap()).read_volatile() }
}

fn store<T>(at: u64, value: T) {
    // SAFETY: as for `load`.
    unsafe {
        ptr::with_exposed_provenance_mut::<T>(usize::try_from(at).unwrap()).write_volatile(value);
    }
}

fn bytes(piece: &Piece) -> Vec<u8> {
    (0..piece.size as u64).map(|offset| load(piece.at + offset)).collect()
}

fn put(piece: &Piece, bytes: &[u8]) {
    assert!(piece.writable && bytes.len() <= piece.size);
    (piece.at..).zip(bytes).for_each(|(at, byte)| store(at, *byte));
}

impl Board {
    fn is_on(&self) -> bool {
        self.status & DeviceStatus::DRIVER_OK.bits() != 0
    }

    /// The next request of a queue: its number, and what was lent with it.
    fn take(&mut self, queue: usize) -> Option<(u16, Vec<Piece>)> {
        assert!(self.is_on());
        let queue = &mut self.queues[queue];
        if load::<u16>(queue.available + 2) == queue.taken {
            return None;
        }
        let head: u16 = load(queue.available + 4 + 2 * (u64::from(queue.taken) % queue.size));
        queue.taken = queue.taken.wrapping_add(1);
        let (mut next, mut pieces) = (Some(head), Vec::new());
        while let Some(index) = next {
            assert!(pieces.len() <= MAX_SEGMENTS + 2, "a chain has no loop");
            let at = queue.descriptors + 16 * u64::from(index);
            let flags: u16 = load(at + 12);
            let size = load::<u32>(at + 8) as usize;
            pieces.push(Piece { at: load(at), size, writable: flags & 2 != 0 });
            next = (flags & 1 != 0).then(|| load(at + 14));
        }
        Some((head, pieces))
    }

    /// Gives a request back.
    fn give(&mut self, queue: usize, head: u16, written: usize) {
        let queue = &mut self.queues[queue];
        let at = queue.used + 4 + 8 * (u64::from(queue.given) % queue.size);
        store(at, u32::from(head));
        store(at + 4, u32::try_from(written).unwrap());
        queue.given = queue.given.wrapping_add(1);
        store(queue.used + 2, queue.given);
        self.interrupt |= load::<u16>(queue.available) & 1 == 0;
    }
}

/// The driver's end of a device.
#[derive(Clone)]
struct Wire(Arc<Mutex<Board>>);

impl Wire {
    fn of(features: u64, config: &[u8]) -> Self {
        let config = [config, &[0; 64]].concat();
        Self(Arc::new(Mutex::new(Board { features, config, ..Board::default() })))
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap()
    }
}

impl Transport for Wire {
    fn device_type(&self) -> DeviceType {
        unreachable!("the driver knows")
    }

    fn read_device_features(&mut self) -> u64 {
        self.board().features
    }

    fn write_driver_features(&mut self, features: u64) {
        self.board().agreed = features;
    }

    fn max_queue_size(&mut self, _: u16) -> u32 {
        128
    }

    fn notify(&mut self, _: u16) {
        self.board().told += 1;
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.board().status)
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let mut board = self.board();
        board.status = status.bits();
        if board.stubborn {
            board.status &= !DeviceStatus::FEATURES_OK.bits();
        }
        if board.status == 0 {
            board.queues = Default::default();
            board.interrupt = false;
        }
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        self.board().features & VERSION_1 == 0
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: u64, available: u64, used: u64) {
        self.board().queues[usize::from(queue)] =
            Queue { size: size.into(), descriptors, available, used, taken: 0, given: 0 };
    }

    fn queue_unset(&mut self, queue: u16) {
        self.board().queues[usize::from(queue)] = Queue::default();
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.board().queues[usize::from(queue)].size > 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let mut board = self.board();
        let mut status = InterruptStatus::empty();
        status.set(InterruptStatus::QUEUE_INTERRUPT, std::mem::take(&mut board.interrupt));
        let changed = std::mem::take(&mut board.configuration);
        status.set(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT, changed);
        status
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<T> {
        let board = self.board();
        let bytes = &board.config[offset..offset + size_of::<T>()];
        Ok(T::read_from_bytes(bytes).unwrap())
    }

    fn write_config_space<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &mut self,
        _: usize,
        _: T,
    ) -> virtio_drivers::Result<()> {
        unreachable!("nothing is configured")
    }
}

const fn pick<T: Copy>(ordinary: T, under_miri: T) -> T {
    if cfg!(miri) { under_miri } else { ordinary }
}

// Network cards.

const OWN: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const MAC: u64 = 1 << 5;

fn nic(features: u64) -> (Nic<Heap, Wire>, Wire) {
    let wire = Wire::of(features, &OWN.0);
    (Nic::new(wire.clone()).unwrap(), wire)
}

fn send(nic: &impl Uplink, frame: &[u8]) -> Result<(), NotSent> {
    nic.send(&mut |room| {
        room[..frame.len()].copy_from_slice(frame);
        frame.len()
    })
}

/// The next frame that the card sends, and what stood before it.
fn sent(wire: &Wire) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut board = wire.board();
    let (head, pieces) = board.take(1)?;
    let [piece] = pieces.as_slice() else { panic!("{pieces:?}") };
    assert!(!piece.writable);
    let header = if board.agreed & VERSION_1 == 0 { 10 } else { 12 };
    let bytes = bytes(piece);
    board.give(1, head, 0);
    Some((bytes[..header].to_vec(), bytes[header..].to_vec()))
}

/// A frame arrives at the card; false where the driver has lent it no buffer.
fn arrive(wire: &Wire, frame: &[u8]) -> bool {
    let mut board = wire.board();
    let Some((head, pieces)) = board.take(0) else { return false };
    let header = if board.agreed & VERSION_1 == 0 { 10 } else { 12 };
    let [piece] = pieces.as_slice() else { panic!("{pieces:?}") };
    put(piece, &[&vec![0; header][..], frame].concat());
    board.give(0, head, header + frame.len());
    true
}

fn attend(nic: &impl Uplink) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    nic.attend(&mut |frame| frames.push(frame.to_vec()));
    frames
}

#[test]
fn a_card_takes_no_feature_but_its_address_and_the_standard() {
    let (card, wire) = nic(u64::MAX);
    assert_eq!(wire.board().agreed, VERSION_1 | MAC);
    assert_eq!(card.mac(), OWN);
    let (card, wire) = nic(0);
    assert_eq!(wire.board().agreed, 0);
    assert_ne!(card.mac(), OWN, "it offers none");
}

#[test]
fn a_device_that_refuses_its_own_features_is_not_used() {
    let wire = Wire::of(VERSION_1, &OWN.0);
    wire.board().stubborn = true;
    assert_eq!(Nic::<Heap, _>::new(wire.clone()).err(), Some(StartError::Features));
    assert_eq!(Drive::<Heap, _>::new(wire.clone()).err(), Some(StartError::Features));
    assert!(!wire.board().is_on());
}

#[test]
fn a_sent_frame_stands_behind_a_header_of_zeroes_and_interrupts_nobody() {
    for (features, header) in [(0, 10), (VERSION_1, 12)] {
        let (card, wire) = nic(features);
        // More than there are buffers: they are used again.
        for n in 0..pick(200u8, 70) {
            let frame = vec![n; 14 + usize::from(n)];
            send(&card, &frame).unwrap();
            assert_eq!(sent(&wire), Some((vec![0; header], frame)));
        }
        assert!(!wire.board().interrupt && sent(&wire).is_none());
    }
}

#[test]
fn a_frame_of_no_length_or_of_too_much_is_not_sent_and_its_buffer_is_free_again() {
    let (card, wire) = nic(VERSION_1);
    for length in [0, MAX_FRAME + 1, usize::MAX].repeat(100) {
        assert_eq!(card.send(&mut |_| length), Err(NotSent::Length));
    }
    assert!(sent(&wire).is_none());
    assert!(send(&card, &[7; MAX_FRAME]).is_ok());
    assert_eq!(sent(&wire).unwrap().1.len(), MAX_FRAME);
}

#[test]
fn a_card_that_is_slow_is_full_and_has_room_when_it_has_gone_on() {
    let (card, wire) = nic(VERSION_1);
    let under_way = (0..1000).take_while(|_| send(&card, &[1; 60]).is_ok()).count();
    assert_eq!((under_way, send(&card, &[2; 60])), (64, Err(NotSent::Full)));
    assert!(sent(&wire).is_some());
    assert_eq!(send(&card, &[3; 60]), Ok(()));
    assert_eq!(send(&card, &[4; 60]), Err(NotSent::Full));
}

#[test]
fn what_arrives_is_received_in_order_and_makes_room_for_more() {
    for features in [0, VERSION_1] {
        let (card, wire) = nic(features);
        for round in 0..5u8 {
            let frames: Vec<_> = (0..16u8).map(|n| vec![n ^ round; 60 + usize::from(n)]).collect();
            assert!(frames.iter().all(|frame| arrive(&wire, frame)));
            assert!(!arrive(&wire, &[0; 60]), "there are 16 buffers");
            assert!(wire.board().interrupt);
            let told = wire.board().told;
            assert_eq!(attend(&card), frames);
            assert!(!wire.board().interrupt && wire.board().told == told + 1);
        }
        assert!(attend(&card).is_empty(), "an interrupt for nothing");
    }
}

#[test]
fn an_answer_shorter_than_its_header_or_longer_than_its_buffer_is_no_frame() {
    let (card, wire) = nic(VERSION_1);
    for written in [0, 5, 12, 2049, u32::MAX as usize] {
        let mut board = wire.board();
        let (head, _) = board.take(0).unwrap();
        board.give(0, head, written);
    }
    assert!(attend(&card).is_empty());
    assert!(arrive(&wire, &[1; 60]));
    assert_eq!(attend(&card), [[1; 60]]);
}

#[test]
fn a_card_that_gives_back_what_it_was_not_given_is_turned_off() {
    for (queue, head) in [(0, 16), (0, u16::MAX), (1, 3), (1, 64)] {
        let (card, wire) = nic(VERSION_1);
        wire.board().give(queue, head, 20);
        assert!(attend(&card).is_empty());
        assert!(send(&card, &[1; 60]).is_err(), "queue {queue}, {head}");
        assert_eq!(send(&card, &[1; 60]), Err(NotSent::OutOfOrder));
        assert_eq!(wire.board().status, 0);
        assert!(attend(&card).is_empty());
    }
}

// Disks.

const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const SECTORS: u64 = 64;

fn disk(features: u64) -> (Drive<Heap, Wire>, Wire) {
    let mut config = SECTORS.to_le_bytes().to_vec();
    config.extend(8192u32.to_le_bytes());
    config.extend(4u32.to_le_bytes());
    let wire = Wire::of(features, &config);
    (Drive::new(wire.clone()).unwrap(), wire)
}

fn frames() -> Store {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(64 * 4096, 64 * 4096).unwrap(), &[]);
    Store::take(&mut pool, 64 * 4096).unwrap()
}

fn segments(store: &Store, parts: &[(u64, u64)]) -> Vec<Segment> {
    parts.iter().flat_map(|(offset, size)| store.segments(*offset, *size)).collect()
}

fn contents(store: &Store, offset: u64, size: u64) -> Vec<u8> {
    (offset..offset + size).step_by(4).flat_map(|at| store.word(at).to_le_bytes()).collect()
}

/// How many bytes so many sectors have.
fn bytes_in(sectors: u64) -> usize {
    usize::try_from(sectors * 512).unwrap()
}

/// A disk's side of its requests.
#[derive(Default)]
struct Platter {
    data: Vec<u8>,
    flushes: usize,
    waiting: VecDeque<(u16, Vec<Piece>)>,
}

impl Platter {
    fn new() -> Self {
        Self { data: vec![0; bytes_in(SECTORS)], ..Self::default() }
    }

    fn fetch(&mut self, wire: &Wire) {
        self.waiting.extend(std::iter::from_fn(|| wire.board().take(0)));
    }

    /// Does what waits in place `index`, with this status.
    fn perform(&mut self, wire: &Wire, index: usize, status: u8) {
        let (head, pieces) = self.waiting.remove(index).unwrap();
        let [header, data @ .., end] = pieces.as_slice() else { panic!("{pieces:?}") };
        assert!(!header.writable && header.size == 16 && end.writable && end.size == 1);
        let header = bytes(header);
        let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
        let mut at = bytes_in(sector);
        let mut written = 1;
        for piece in data {
            let there = &mut self.data[at..at + piece.size];
            at += piece.size;
            match header[0] {
                0 => {
                    put(piece, there);
                    written += piece.size;
                }
                1 => there.copy_from_slice(&bytes(piece)),
                other => panic!("type {other} has no data"),
            }
        }
        self.flushes += usize::from(header[0] == 4);
        put(end, &[status]);
        wire.board().give(0, head, written);
    }
}

fn done(disk: &impl HostDisk) -> Vec<Completion> {
    disk.attend();
    std::iter::from_fn(|| disk.completed()).collect()
}

fn submit(
    disk: &impl HostDisk,
    token: u64,
    operation: Operation,
    segments: &[Segment],
) -> Result<(), Refused> {
    disk.submit(&Request { token: Token(token), operation, segments })
}

#[test]
fn what_is_written_is_read_again_straight_into_the_frames() {
    for features in [0, VERSION_1 | FLUSH] {
        let (disk, wire) = disk(features);
        assert_eq!((disk.sectors(), disk.is_read_only()), (SECTORS, false));
        let (mut platter, store) = (Platter::new(), frames());
        let text: Vec<u8> = (0..1536u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
        store.write(100, &text);
        store.zero(8192, 4096);
        // Pieces of any size, whole sectors altogether.
        let from = segments(&store, &[(100, 700), (800, 836)]);
        submit(&disk, 1, Operation::Write(3), &from).unwrap();
        platter.fetch(&wire);
        platter.perform(&wire, 0, 0);
        assert_eq!(done(&disk), [Completion { token: Token(1), result: Ok(()) }]);
        assert_eq!(platter.data[1536..3072], text);
        submit(&disk, 2, Operation::Read(3), &segments(&store, &[(8192, 1536)])).unwrap();
        submit(&disk, 3, Operation::Flush, &[]).unwrap();
        platter.fetch(&wire);
        // A disk without a cache is not asked to flush one.
        let flushes = usize::from(features & FLUSH != 0);
        assert_eq!(platter.waiting.len(), 1 + flushes);
        (0..=flushes).rev().for_each(|index| platter.perform(&wire, index, 0));
        let tokens: Vec<_> = done(&disk).iter().map(|it| (it.token.0, it.result)).collect();
        assert_eq!(tokens, [(3, Ok(())), (2, Ok(()))]);
        assert_eq!(contents(&store, 8192, 1536), text);
        assert_eq!(platter.flushes, flushes);
    }
}

#[test]
fn what_a_disk_cannot_do_is_refused_and_never_reaches_it() {
    let store = frames();
    let (disk, wire) = disk(VERSION_1 | READ_ONLY | SEG_MAX | SIZE_MAX);
    let one = segments(&store, &[(0, 512)]);
    let cases = [
        (Operation::Write(0), one.clone(), Refused::ReadOnly),
        (Operation::Flush, one.clone(), Refused::Length),
        (Operation::Read(0), vec![], Refused::Length),
        (Operation::Read(0), segments(&store, &[(0, 511)]), Refused::Length),
        (Operation::Read(0), segments(&store, &[(0, 512), (4096, 4)]), Refused::Length),
        (Operation::Read(SECTORS), one.clone(), Refused::OutOfRange),
        (Operation::Read(u64::MAX), one.clone(), Refused::OutOfRange),
        (Operation::Read(SECTORS - 1), segments(&store, &[(0, 1024)]), Refused::OutOfRange),
        (Operation::Read(0), vec![one[0]; 5], Refused::Segments),
        (Operation::Read(0), segments(&store, &[(0, 8704)]), Refused::Segments),
    ];
    assert_eq!(disk.max_segments(), 4);
    for (operation, segments, refused) in cases {
        assert_eq!(submit(&disk, 0, operation, &segments), Err(refused), "{operation:?}");
    }
    assert!(wire.board().take(0).is_none() && disk.completed().is_none());
}

#[test]
fn as_many_requests_as_there_is_room_for_are_under_way() {
    let ((disk, wire), store) = (disk(VERSION_1 | FLUSH), frames());
    let many = vec![segments(&store, &[(0, 512)])[0]; MAX_SEGMENTS];
    for (segments, room) in [(&many[..1], 21), (&many[..], 3)] {
        let mut platter = Platter::new();
        let read = |token| submit(&disk, token, Operation::Read(0), segments);
        let taken = (0..100).take_while(|token| read(*token).is_ok()).count();
        assert_eq!((taken, read(0)), (room, Err(Refused::Full)));
        platter.fetch(&wire);
        platter.perform(&wire, 0, 0);
        assert_eq!(done(&disk).len(), 1);
        assert_eq!(read(0), Ok(()));
        platter.fetch(&wire);
        (0..room).for_each(|_| platter.perform(&wire, 0, 0));
        assert_eq!(done(&disk).len(), room);
    }
}

#[test]
fn what_the_disk_reports_is_told() {
    let ((disk, wire), store) = (disk(VERSION_1 | FLUSH), frames());
    let mut platter = Platter::new();
    for (status, result) in [
        (0, Ok(())),
        (1, Err(IoError::Device)),
        (2, Err(IoError::Unsupported)),
        (77, Err(IoError::Device)),
    ] {
        submit(&disk, 9, Operation::Read(1), &segments(&store, &[(0, 512)])).unwrap();
        platter.fetch(&wire);
        platter.perform(&wire, 0, status);
        assert_eq!(done(&disk), [Completion { token: Token(9), result }]);
    }
    // It says that it is done, and has written no status.
    submit(&disk, 9, Operation::Flush, &[]).unwrap();
    let (head, _) = wire.board().take(0).unwrap();
    wire.board().give(0, head, 0);
    assert_eq!(done(&disk)[0].result, Err(IoError::Device));
}

#[test]
fn a_disk_that_gives_back_what_it_was_not_given_is_turned_off_and_all_it_had_has_failed() {
    for head in [40, 128, u16::MAX] {
        let ((disk, wire), store) = (disk(VERSION_1), frames());
        let data = segments(&store, &[(0, 512)]);
        (0..3).for_each(|token| submit(&disk, token, Operation::Read(token), &data).unwrap());
        submit(&disk, 3, Operation::Flush, &[]).unwrap();
        wire.board().give(0, head, 1);
        let mut all = done(&disk);
        assert_eq!(all.remove(0), Completion { token: Token(3), result: Ok(()) });
        all.sort_by_key(|it| it.token);
        let failed = |token| Completion { token, result: Err(IoError::OutOfOrder) };
        assert_eq!(all, [0, 1, 2].map(|token| failed(Token(token))));
        assert_eq!(wire.board().status, 0);
        assert_eq!(submit(&disk, 4, Operation::Read(0), &data), Err(Refused::OutOfOrder));
        assert!(done(&disk).is_empty());
    }
}

/// What a disk without data is asked for: the header, and a range of sectors.
fn asked(wire: &Wire) -> (u16, u32, Vec<Piece>) {
    let (head, pieces) = wire.board().take(0).unwrap();
    (head, load(pieces[0].at), pieces)
}

#[test]
fn ranges_are_discarded_and_made_zeros_as_the_disk_allows() {
    let mut config = vec![0; 60];
    for (at, value) in [(0, 64u32), (36, 16), (40, 1), (44, 8), (48, 32), (52, 1), (56, 1)] {
        config[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let (discard, zeroes) = (1u64 << 13, 1u64 << 14);
    let wire = Wire::of(VERSION_1 | discard | zeroes, &config);
    let disk = Drive::<Heap, _>::new(wire.clone()).unwrap();
    let extras = Extras { discard: 16, discard_alignment: 8, zero: 32, zero_unmaps: true };
    assert_eq!(disk.extras(), extras);
    for (operation, kind, range) in [
        (Operation::Discard(8, 16), 11, (8, 16, 0)),
        (Operation::Zero(0, 32, true), 13, (0, 32, 1)),
        (Operation::Zero(60, 4, false), 13, (60, 4, 0)),
    ] {
        submit(&disk, 5, operation, &[]).unwrap();
        let (head, found, pieces) = asked(&wire);
        let [about, status] = pieces.as_slice() else { panic!("{pieces:?}") };
        assert_eq!((found, about.size, about.writable), (kind, 32, false));
        let words = (load::<u64>(about.at + 16), load::<u32>(about.at + 24), load(about.at + 28));
        assert_eq!(words, range);
        assert_eq!((load::<u64>(about.at + 8), status.size, status.writable), (0, 1, true));
        put(status, &[0]);
        wire.board().give(0, head, 1);
        assert_eq!(done(&disk), [Completion { token: Token(5), result: Ok(()) }]);
    }
    for (operation, refused) in [
        (Operation::Discard(8, 17), Refused::Unsupported),
        (Operation::Discard(8, 0), Refused::Length),
        (Operation::Zero(0, 33, true), Refused::Unsupported),
        (Operation::Zero(61, 4, true), Refused::OutOfRange),
        (Operation::Discard(u64::MAX, 1), Refused::OutOfRange),
    ] {
        assert_eq!(submit(&disk, 0, operation, &[]), Err(refused), "{operation:?}");
    }
    // One that does not offer it is not asked, nor one that can only be read.
    for features in [VERSION_1, VERSION_1 | READ_ONLY | discard | zeroes] {
        let wire = Wire::of(features, &config);
        let disk = Drive::<Heap, _>::new(wire).unwrap();
        let refused = submit(&disk, 0, Operation::Discard(0, 1), &[]).unwrap_err();
        assert!(matches!(refused, Refused::Unsupported | Refused::ReadOnly), "{refused}");
    }
}

#[test]
fn a_disk_says_what_it_calls_itself() {
    let ((disk, wire), store) = (disk(VERSION_1), frames());
    for size in [19, 21, 512] {
        let wrong = submit(&disk, 1, Operation::Serial, &segments(&store, &[(0, size)]));
        assert_eq!(wrong, Err(Refused::Length));
    }
    submit(&disk, 1, Operation::Serial, &segments(&store, &[(0, 20)])).unwrap();
    let (head, kind, pieces) = asked(&wire);
    let [_, text, status] = pieces.as_slice() else { panic!("{pieces:?}") };
    assert_eq!((kind, text.size, text.writable), (8, 20, true));
    put(text, b"archive");
    put(status, &[0]);
    wire.board().give(0, head, 21);
    assert_eq!(done(&disk), [Completion { token: Token(1), result: Ok(()) }]);
    assert_eq!(contents(&store, 0, 8)[..7], *b"archive");
}

#[test]
fn a_disk_that_needs_a_reset_or_has_lost_its_driver_is_turned_off() {
    for status in
        [DeviceStatus::DRIVER_OK | DeviceStatus::DEVICE_NEEDS_RESET, DeviceStatus::empty()]
    {
        let ((disk, wire), store) = (disk(VERSION_1), frames());
        let data = segments(&store, &[(0, 512)]);
        (0..3).for_each(|token| submit(&disk, token, Operation::Write(token), &data).unwrap());
        // An interrupt about the configuration, and all is well.
        wire.board().configuration = true;
        assert!(done(&disk).is_empty());
        wire.board().configuration = true;
        wire.board().status = status.bits();
        let mut all = done(&disk);
        all.sort_by_key(|it| it.token);
        let failed = |token| Completion { token: Token(token), result: Err(IoError::OutOfOrder) };
        assert_eq!(all, [0, 1, 2].map(failed));
        assert_eq!(wire.board().status, 0, "it reaches no memory any more");
        assert_eq!(submit(&disk, 4, Operation::Read(0), &data), Err(Refused::OutOfOrder));
        disk.give_up();
        assert!(done(&disk).is_empty());
    }
}

/// A request that is under way, what of the disk it is about, and where its data is.
struct Asked {
    token: Token,
    range: std::ops::Range<usize>,
    place: u64,
    reads: bool,
}

proptest! {
    #![proptest_config(Config {
        cases: pick(64, 2),
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn a_disk_does_what_it_is_asked_for_in_whatever_order(
        steps in prop::collection::vec((0u8..6, 0..SECTORS, 1u64..5, any::<u8>()), 1..pick(80, 20)),
    ) {
        let ((disk, wire), store) = (disk(VERSION_1 | FLUSH), frames());
        let mut platter = Platter::new();
        let mut model = vec![0u8; bytes_in(SECTORS)];
        let mut under_way: Vec<Asked> = Vec::new();
        for (token, (step, sector, count, seed)) in (0..).zip(steps) {
            let count = count.min(SECTORS - sector);
            let size = count * 512;
            let range = bytes_in(sector)..bytes_in(sector) + bytes_in(count);
            // No two that touch are under way: their order is nobody's concern.
            let touches = |it: &Asked| it.range.start < range.end && range.start < it.range.end;
            let is_free = |place: &u64| under_way.iter().all(|it| it.place != *place);
            let place = (0..).step_by(2048).find(is_free).unwrap();
            let is_new = under_way.len() < 16 && !under_way.iter().any(touches);
            let asked = Asked { token: Token(token), range: range.clone(), place, reads: step > 1 };
            match step {
                0..=1 if is_new => {
                    let text = vec![seed; range.len()];
                    store.write(place, &text);
                    let data = segments(&store, &[(place, 256), (place + 256, size - 256)]);
                    submit(&disk, token, Operation::Write(sector), &data).unwrap();
                    model[range].copy_from_slice(&text);
                    under_way.push(asked);
                }
                2..=3 if is_new => {
                    let data = segments(&store, &[(place, size)]);
                    submit(&disk, token, Operation::Read(sector), &data).unwrap();
                    under_way.push(asked);
                }
                _ => {
                    platter.fetch(&wire);
                    if !platter.waiting.is_empty() {
                        let index = usize::from(seed) % platter.waiting.len();
                        platter.perform(&wire, index, 0);
                    }
                    for Completion { token, result } in done(&disk) {
                        prop_assert_eq!(result, Ok(()));
                        let index = under_way.iter().position(|it| it.token == token).unwrap();
                        let Asked { range, place, reads, .. } = under_way.swap_remove(index);
                        let size = range.len() as u64;
                        prop_assert!(!reads || contents(&store, place, size) == model[range]);
                    }
                }
            }
        }
        platter.fetch(&wire);
        (0..platter.waiting.len()).for_each(|_| platter.perform(&wire, 0, 0));
        prop_assert_eq!(done(&disk).len(), under_way.len());
        prop_assert!(platter.data == model);
    }
}

// All of them.

#[test]
fn an_interrupt_reaches_its_device_and_whoever_listens_to_it() {
    let ((card, nic_wire), (disk, disk_wire)) = (nic(VERSION_1 | MAC), disk(VERSION_1));
    let mut devices = Devices::new(32);
    devices.add_nic(PhysAddr::new(0xa00), IntId(48), Ok(Arc::new(card)));
    devices.add_disk(PhysAddr::new(0xc00), IntId(49), Ok(Arc::new(disk)));
    let (frames, bells) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // A frame that nobody listens for is dropped.
    assert!(arrive(&nic_wire, &[1; 60]) && devices.attend(IntId(48)));
    let (on_frame, on_completed) = (frames.clone(), bells.clone());
    devices
        .on_frame(0, Box::new(move |frame| _ = on_frame.fetch_add(frame.len(), Ordering::SeqCst)));
    devices.on_completed(0, Box::new(move || _ = on_completed.fetch_add(1, Ordering::SeqCst)));
    assert!(arrive(&nic_wire, &[1; 60]) && devices.attend(IntId(48)));
    disk_wire.board().interrupt = true;
    assert!(devices.attend(IntId(49)));
    assert!(!disk_wire.board().interrupt && !nic_wire.board().interrupt);
    assert!(!devices.attend(IntId(50)));
    assert_eq!((frames.load(Ordering::SeqCst), bells.load(Ordering::SeqCst)), (60, 1));
    assert_eq!(devices.interrupts().collect::<Vec<_>>(), [IntId(48), IntId(49)]);
    let mut lines = Vec::new();
    devices.describe(|line| lines.push(line.to_string()));
    assert!(lines[0].contains("52:54:00:12:34:56") && lines[1].contains("64 sectors"), "{lines:?}");
}

#[test]
fn a_machine_without_the_device_says_why() {
    let none = Devices::new(0);
    assert_eq!(none.disk(0).err(), Some(Missing::NoPlace(DeviceKind::Disk)));
    let text = none.nic(0).err().unwrap().to_string();
    assert_eq!(
        text,
        "this machine has no virtio network card: its device tree has no place for one"
    );
    let mut devices = Devices::new(32);
    let why = Unusable::NotCoherent;
    devices.add_disk(PhysAddr::new(0xc00), IntId(49), Err(why));
    let unusable = Missing::Unusable { kind: DeviceKind::Disk, index: 0, why };
    assert_eq!(devices.disk(0).err(), Some(unusable));
    let few = Missing::TooFew { kind: DeviceKind::Disk, index: 1, count: 1 };
    assert_eq!(devices.disk(1).err(), Some(few));
    assert_eq!(devices.interrupts().count(), 0);
}
