//! Whole-hypervisor scenarios: what is answered at once is what the long way answers.
//!
//! The short way leaves a big-endian guest to the long one. So the same accesses by a guest of either kind, the values with
//! their bytes in the guest's order, have to come to the same.

use crate::common::*;
use plinth::exit::Width;
use plinth::hypervisor::HeapReport;
use plinth::machine::El1Register;
use plinth::machine::fake::{Op, Seen};
use plinth::monitor::Control;
use plinth::monitor::command::Command;
use plinth::monitor::gather;
use plinth::monitor::present::Present;
use plinth::monitor::task::Waited;
use plinth::vgic::GicVersion;
use plinth::vm::layout;
use proptest::prelude::*;

/// `SCTLR_EL1.EE`.
const BIG_ENDIAN: u64 = 1 << 25;

/// How many registers there are to load into.
const LOADS: u8 = 16;

#[derive(Clone, Copy, Debug)]
struct Access {
    at: u64,
    width: Width,
    store: Option<u64>,
}

fn access() -> impl Strategy<Value = Access> {
    let of = |window: layout::Window, offsets: &'static [u64]| {
        prop::sample::select(offsets).prop_map(move |offset| window.base.raw() + offset)
    };
    let at = prop_oneof![
        6 => of(layout::GICD, &[
            0x0, 0x4, 0x8, 0x80, 0x84, 0x100, 0x104, 0x184, 0x204, 0x284, 0x304, 0x384, 0x400, 0x424,
            0x425, 0x824, 0xc08, 0xc0c, 0xf00, 0xf10, 0xf20, 0xfe8, 0x1000, 0x6108, 0x610c, 0x6ffc,
            0xffe8,
        ]),
        1 => of(layout::GICR, &[0x0, 0x8, 0x14, 0x1_0100, 0x1_0180, 0x1_0200, 0x1_041b, 0x1_0c04]),
        2 => of(layout::UART, &[0x0, 0x4, 0x18, 0x24, 0x2c, 0x30, 0x34, 0x38, 0x3c, 0x40, 0x44, 0xfe0]),
        1 => of(layout::RTC, &[0x4, 0x8, 0x10, 0x14, 0x18, 0xff0]),
        1 => of(layout::GPIO, &[0x3fc, 0x400, 0x404, 0x408, 0x40c, 0x410, 0x414, 0x41c, 0xfe0]),
        1 => of(layout::VIRTIO, &[0x0, 0x4, 0x8, 0x3e0c]),
    ];
    let width = prop_oneof![
        1 => Just(Width::Byte), 1 => Just(Width::Half), 8 => Just(Width::Word), 1 => Just(Width::Double),
    ];
    let value = prop_oneof![
        any::<u64>(),
        Just(0),
        (0..64u32).prop_map(|n| 1 << n),
        Just(0x0101_0101_0101_0101),
    ];
    // What is not aligned gets an abort, which ends the guest's program.
    (at, width, prop::option::of(value)).prop_map(|(at, width, store)| Access {
        at: at & !(width.bytes() - 1),
        width,
        store,
    })
}

/// A value of that width with its bytes in the other order.
fn swapped(value: u64, width: Width) -> u64 {
    value.swap_bytes() >> (64 - 8 * width.bytes())
}

/// What a guest that does all this loads, and which exceptions it gets.
fn outcome(gic: GicVersion, accesses: &[Access], big_endian: bool) -> (Vec<u64>, Vec<Seen>) {
    let order = |value, width| if big_endian { swapped(value, width) } else { value };
    let mut room = Room::new(gic, 1, &[guest("one", 2)]);
    let sctlr = if big_endian { BIG_ENDIAN } else { 0 };
    let mut ops = vec![Op::SetVector(VECTORS), Op::SetEl1(El1Register::Sctlr, sctlr)];
    let (mut loads, mut to) = (Vec::new(), 0);
    for Access { at, width, store } in accesses {
        match store {
            Some(value) => ops.push(Op::Store(*at, *width, order(*value, *width))),
            None => {
                ops.push(Op::Load(*at, *width, to));
                loads.push(*width);
                to += 1;
            }
        }
    }
    // And where there is nothing.
    ops.push(Op::Load(0x2000_0000, Width::Word, 20));
    room.program(0, ENTRY, &ops);
    room.program(0, VECTORS + 0x200, &[Op::Branch(VECTORS + 0x200)]);
    room.run(200);
    let command: Command = "vm dump one".parse().unwrap();
    room.ask(0, |hypervisor, machine| gather::begin(hypervisor, machine, &command));
    room.run(4);
    let heap = || HeapReport { total: 0, free: 0 };
    let vcpus = room
        .ask(0, |hypervisor, machine| {
            Present { hypervisor, machine, heap, waited: Waited::Nothing }.dump("one").ok()
        })
        .expect("its registers");
    let register = |name: &str| {
        let mut all = vcpus[0].registers.iter();
        all.find(|register| register.name == name).map(|register| register.value.0)
    };
    assert_eq!(register("pc"), Some(VECTORS + 0x200), "the program was carried out");
    let values = loads
        .iter()
        .enumerate()
        .map(|(to, width)| order(register(&format!("x{to}")).expect("a register"), *width));
    let record = room.world.record();
    let injected = record.iter().map(|event| event.seen);
    let injected = injected.filter(|seen| matches!(seen, Seen::Injected(_)));
    (values.collect(), injected.collect())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { ProptestConfig::default().cases / 8 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_answered_at_once_is_what_the_long_way_answers(
        gic in prop_oneof![Just(GicVersion::V2), Just(GicVersion::V3)],
        accesses in prop::collection::vec(access(), 0..60),
    ) {
        let mut loads = 0;
        let accesses: Vec<_> = accesses
            .into_iter()
            .filter(|access| {
                // Nothing is there.
                let redistributor = (layout::GICR.base.raw()..layout::UART.base.raw()).contains(&access.at);
                gic == GicVersion::V3 || !redistributor
            })
            .filter(|access| {
                loads += u8::from(access.store.is_none());
                access.store.is_some() || loads <= LOADS
            })
            .collect();
        let quick = outcome(gic, &accesses, false);
        let long = outcome(gic, &accesses, true);
        prop_assert_eq!(quick, long);
    }
}
