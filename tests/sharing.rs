//! Guests that want more than one CPU's time, and where their vCPUs go.

use crate::common::*;
use plinth::machine::CpuId;
use plinth::machine::fake::Op;
use plinth::sched::policy::{CpuSet, Policy};
use plinth::vgic::GicVersion::V3;

/// Marks its way, and is busy for ever.
fn busy(entry: u64) -> [Op; 3] {
    [Op::Mark(1), Op::Work(50), Op::Branch(entry)]
}

#[test]
fn a_vcpu_turned_on_beside_one_that_is_bound_to_its_cpu_goes_where_it_gets_its_share() {
    let mut bound = guest("bound", 1);
    bound.policy = Policy { affinity: CpuSet::EMPTY.with(CpuId(1)), ..Policy::default() };
    let mut room = Room::new(V3, 2, &[guest("pair", 2), bound]);
    let first = ENTRY + 8;
    // By then the bound one's CPU has nobody else to load.
    let ops = [Op::Work(20_000), Op::Hvc([CPU_ON, 1, SECOND, 0])];
    room.program(0, ENTRY, &ops).program(0, first, &busy(first)).program(0, SECOND, &busy(SECOND));
    room.program(1, ENTRY, &busy(ENTRY));
    room.run(4000);
    // The pair's vCPUs share a weight of 100, as much as the bound one has for its own: half of CPU 0 each.
    let [one, two] = [0, 1].map(|vcpu| room.marks(0, vcpu).len());
    assert!(one.abs_diff(two) * 10 < one, "{one} and {two}");
}
