//! Whole-hypervisor scenarios: a guest whose one network card sends to its other one rings its own bell.

use crate::common::*;
use plinth::exit::Width;
use plinth::machine::El1Register;
use plinth::machine::fake::{INTID, IRQ_VECTOR, Op};
use plinth::manifest::{self, CardConfig, MachineConfig, NetworkConfig};
use plinth::net::{MacAddr, PortConfig};
use plinth::vgic::GicVersion;
use plinth::vm::layout;

const SENDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const RECEIVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const NOBODY: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
/// Where the rings are in the kernel's image, the one by which is received and the one by which is sent, and what is in them.
const RECEIVE: u64 = ENTRY + 0x2000;
const TRANSMIT: u64 = ENTRY + 0x3000;
const BUFFERS: u64 = ENTRY + 0x4000;
const FRAMES: u64 = ENTRY + 0x8000;
/// In a ring.
const CHAINS: u16 = 64;
/// What a frame of the least length and the header before it take.
const SIZE: u32 = 12 + 60;
/// How often it sends: each time there is a buffer left for what comes.
const ROUNDS: usize = 60;
/// `SCTLR_EL1.EE`.
const BIG_ENDIAN: u64 = 1 << 25;
/// The interrupt of the card that receives, in the second virtio slot.
const CARD: u64 = 49;

fn frame(from: MacAddr) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes.extend([&RECEIVER.0[..], &from.0, &[0x88, 0xb5]].concat());
    bytes.resize(usize::try_from(SIZE).unwrap(), 7);
    bytes
}

/// A kernel with rings for both cards: room for what comes, and what is sent together, in which only the last frame, behind
/// so many `others`, is let through.
fn kernel(others: u16) -> Vec<u8> {
    let mut bytes = vec![0; 0xb000];
    let mut put = |at: u64, new: &[u8]| {
        let at = usize::try_from(at - ENTRY).unwrap();
        bytes[at..at + new.len()].copy_from_slice(new);
    };
    let mut chain = |ring: u64, number: u16, at: u64, flags: u16| {
        let descriptor =
            [&at.to_le_bytes()[..], &SIZE.to_le_bytes(), &flags.to_le_bytes()].concat();
        put(ring + 16 * u64::from(number), &descriptor);
        put(ring + 0x404 + 2 * u64::from(number), &number.to_le_bytes());
        put(ring + 0x402, &(number + 1).to_le_bytes());
    };
    let place = |first: u64, number: u16| first + 0x80 * u64::from(number);
    for number in 0..CHAINS {
        chain(RECEIVE, number, place(BUFFERS, number), 2);
    }
    for number in 0..=others {
        chain(TRANSMIT, number, place(FRAMES, number), 0);
    }
    for number in 0..=others {
        let from = if number == others { SENDER } else { NOBODY };
        put(place(FRAMES, number), &frame(from));
    }
    // Of what was sent it does not want to hear.
    put(TRANSMIT + 0x400, &[1]);
    bytes
}

/// A guest with two cards in one network, that marks 1 before it sends, 2 when that interrupts it, and 3 behind.
fn looped(gic: GicVersion, others: u16, big_endian: bool) -> Room {
    let card = |mac| CardConfig { network: 0, port: PortConfig::new(mac) };
    let nets = vec![card(SENDER), card(RECEIVER)];
    let one = Guest { kernel: elf(ENTRY, &kernel(others), 0xd000), nets, ..guest("one", 1) };
    let network = NetworkConfig { name: "net", uplink: false };
    let sources = [one.map(String::as_str, Vec::as_slice)];
    let bytes = manifest::write(&MachineConfig::default(), &[network], &sources).unwrap();
    let bundle = manifest::read(Box::leak(bytes.into_boxed_slice())).unwrap();
    let room = Room::of(gic, 1, 4, &bundle, RAM + (128 << 10), Box::new(|_, _| {}));

    let word = |value: u64| {
        let value = u32::try_from(value).unwrap();
        u64::from(if big_endian { value.swap_bytes() } else { value })
    };
    let store = |at, value| Op::Store(at, Width::Word, word(value));
    let set = |slot: u64, offset, value| {
        store(layout::VIRTIO.base.raw() + layout::VIRTIO_STRIDE * slot + offset, value)
    };
    let queue = |slot, index, at| {
        [
            set(slot, 0x030, index),
            set(slot, 0x044, 0),
            set(slot, 0x038, CHAINS.into()),
            set(slot, 0x080, at),
            set(slot, 0x090, at + 0x400),
            set(slot, 0x0a0, at + 0x600),
            set(slot, 0x044, 1),
        ]
    };
    let features =
        |slot| [(0x070, 3), (0x024, 1), (0x020, 1), (0x070, 11)].map(|(at, v)| set(slot, at, v));
    let sctlr = if big_endian { BIG_ENDIAN } else { 0 };
    let mut ops = vec![
        Op::SetVector(VECTORS),
        Op::SetEl1(El1Register::Sctlr, sctlr),
        store(gicd(0), 3),
        store(isenabler0(gic, 0), 0xffff_ffff),
        store(gicd(0x104), 1 << (CARD - 32)),
        store(gicd(0x830), 0x0101_0101),
        Op::Unmask,
    ];
    ops.extend([features(0), features(1)].concat());
    ops.extend(queue(1, 0, RECEIVE));
    ops.extend([set(1, 0x070, 15), set(0, 0x070, 15)]);
    for _ in 0..ROUNDS {
        // From the start of its ring again.
        ops.extend(queue(0, 1, TRANSMIT));
        ops.extend([Op::Mark(1), set(0, 0x050, 1), Op::Mark(3)]);
    }
    ops.push(psci(SYSTEM_OFF));
    let base = VECTORS + IRQ_VECTOR;
    let handler = [
        Op::Acknowledge,
        Op::BranchUnless(INTID, CARD, base + 20),
        Op::Mark(2),
        set(1, 0x064, 1),
        Op::EndOfInterrupt,
        Op::Eret,
    ];
    room.program(0, ENTRY, &ops).program(0, base, &handler);
    room
}

#[test]
fn what_one_card_of_a_guests_sends_interrupts_the_vcpu_by_its_other_one_at_the_same_exit() {
    // Of 40 others some are left for when the device goes on by itself.
    for (others, big_endian) in [(0, false), (0, true), (40, false), (40, true)] {
        for gic in BOTH {
            let mut room = looped(gic, others, big_endian);
            let (mut before, mut without_leaving) = (0, 0);
            while !room.hypervisor.has_finished() {
                room.step(0);
                let marks = room.marks(0, 0);
                without_leaving += marks[before..].windows(2).filter(|it| *it == [1, 2]).count();
                before = marks.len();
            }
            let case = format!("{gic:?}, {others} others, big-endian: {big_endian}");
            assert_eq!(room.marks(0, 0), [1, 2, 3].repeat(ROUNDS), "{case}");
            // It leaves its CPU after each 64 instructions, of which a round has 16.
            assert!(without_leaving > ROUNDS / 2, "{case}: {without_leaving}");
        }
    }
}
