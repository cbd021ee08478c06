//! Whole-hypervisor scenarios: many VMs, as many as there is memory for, and vCPUs that wander between CPUs.

use crate::common::*;
use plinth::hypervisor::Refusal;
use plinth::machine::fake::Op;
use plinth::sched::VmId;
use plinth::vcpu::VcpuId;
use plinth::vgic::GicVersion::{V2, V3};
use plinth::vm::create::Host;
use plinth::vm::idregs::{IdFacts, IdRegs};
use plinth::vm::sysreg::SysReg;

/// What a VM's page tables, devices' pages and the like take beside its RAM, at most.
const BESIDE: u64 = 128 << 10;

fn guests(count: usize, vcpus: u8) -> Vec<Guest> {
    (0..count).map(|number| guest(&format!("vm{number}"), vcpus)).collect()
}

/// Jain's index of fairness: 1 where all have the same.
fn fairness(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// VMs whose vCPUs all compute on two CPUs: what each does in which stretch of time.
fn share(vms: usize, vcpus: u8, steps: usize) {
    let mut room = Room::new(V3, 2, &guests(vms, vcpus));
    let start: Vec<Op> = (1..vcpus).map(|vcpu| cpu_on(vcpu.into(), SECOND)).collect();
    for vm in 0..u8::try_from(vms).unwrap() {
        room.program(vm, ENTRY, &[start.as_slice(), &[Op::Branch(SECOND)]].concat());
        room.program(vm, SECOND, &[Op::Work(50), Op::Mark(1), Op::Branch(SECOND)]);
    }
    room.run(steps);
    let (record, mut marks) = (room.world.record(), vec![Vec::new(); vms]);
    for event in &record {
        if let (plinth::machine::fake::Seen::Marked(1), Some((vmid, _))) = (event.seen, event.vcpu)
        {
            let vm = (0..vms)
                .find(|vm| vmid == crate::common::vmid(&room.vm(u16::try_from(*vm).unwrap())));
            marks[vm.unwrap()].push(event.at.0);
        }
    }
    let begun = marks.iter().map(|marks| marks[0]).max().unwrap();
    let shares: Vec<usize> =
        marks.iter().map(|marks| marks.iter().filter(|at| **at >= begun).count()).collect();
    let fairness = fairness(&shares);
    let waits = marks.iter().flat_map(|marks| marks.windows(2)).map(|pair| pair[1] - pair[0]);
    let longest = waits.max().unwrap();
    println!(
        "{vms} VMs of {vcpus}: fairness {fairness:.4}, longest wait {longest} ticks, shares {shares:?}"
    );
    assert!(shares.iter().all(|share| *share > 100), "{shares:?}");
    assert!(fairness >= 0.95, "{shares:?}");
    assert!(longest < HZ.into(), "one of them does nothing for a second");
    // Each has come to the CPU after the last mark of all of them within that time, too.
    let end = record.last().unwrap().at.0;
    assert!(marks.iter().all(|marks| end - marks.last().unwrap() < HZ.into()));
}

#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn sixty_four_vms_on_two_cpus_have_equal_shares_and_none_starves() {
    share(64, 1, 25_000);
}

#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn sixteen_vms_of_eight_vcpus_on_two_cpus_have_equal_shares_and_none_starves() {
    share(16, 8, 25_000);
}

/// VMs until there is no memory for one more, then none, time and again.
#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn vms_are_made_until_one_is_refused_and_all_taken_apart_a_hundred_times() {
    let all: Vec<Guest> =
        guests(12, 1).into_iter().map(|guest| Guest { autostart: false, ..guest }).collect();
    let stays = Guest { autostart: true, ..guest("stays", 1) };
    let bundle = bundle(&[[stays].as_slice(), &all].concat());
    let memory = 6 * (RAM + BESIDE);
    let mut room = Room::of(V2, 2, 4, &bundle, memory, Box::new(|_, _| {}));
    room.program(0, ENTRY, &[Op::Work(60), Op::Mark(1), Op::Branch(ENTRY)]);
    room.run(50);
    let free = room.hypervisor.memory().free;
    let mut most = None;
    for round in 0..100 {
        let mut made = Vec::new();
        let refusal = (1..13).find_map(|id| {
            let created =
                room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, VmId(id)).map(drop));
            // It is loaded, some of it or all.
            for step in 0..round % 40 {
                room.step(step % 2);
            }
            made.extend(created.is_ok().then_some(id));
            created.err().map(|refusal| (id, refusal))
        });
        let (refused, refusal) = refusal.expect("there is memory for all of them");
        assert!(matches!(refusal, Refusal::Create(_)), "{refusal:?}");
        assert!(room.hypervisor.vm(VmId(refused)).is_none(), "there is a part of a VM");
        assert_eq!(room.hypervisor.alive() as usize, 1 + made.len());
        assert!(made.len() >= 3, "{made:?}");
        assert_eq!(*most.get_or_insert(made.len()), made.len(), "round {round}");
        for id in made {
            room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, VmId(id))).unwrap();
        }
        // The CPUs have to let go of them.
        for step in 0..24 {
            room.step(step % 2);
        }
        assert_eq!(
            (room.hypervisor.memory().free, room.hypervisor.alive()),
            (free, 1),
            "round {round}"
        );
    }
    let marks = room.marks(0, 0).len();
    room.run(50);
    assert!(room.marks(0, 0).len() > marks, "the other one goes on");
}

/// Each ID register is read by each vCPU, again and again while they change their CPUs.
#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn every_vcpu_reads_the_same_id_registers_on_every_cpu() {
    const DIFFERS: u64 = VECTORS;
    for gic in [V2, V3] {
        let facts = IdFacts { ipa_bits: 40, gicv3: gic == V3 };
        // All there can be, so that whatever is shown is not zero.
        let shown = |reg: SysReg| plinth::vm::idregs::read(reg, u64::MAX, &facts);
        let host = Host { id_registers: IdRegs::new(&facts, |_| u64::MAX), ..host(gic, 2) };
        let guests = [guest("one", 3), guest("two", 2)];
        let mut room = Room::on(host, 4, &bundle(&guests), 5 * (RAM + BESIDE), Box::new(|_, _| {}));
        let mut reads = Vec::new();
        for reg in (1..8).flat_map(|crm| (0..8).map(move |op2| SysReg::new(3, 0, 0, crm, op2))) {
            reads.extend([Op::Mrs(reg, 5), Op::BranchUnless(5, shown(reg), DIFFERS)]);
        }
        assert!(
            reads
                .iter()
                .filter(|op| matches!(op, Op::BranchUnless(_, value, _) if *value != 0))
                .count()
                > 4
        );
        for (vm, vcpus) in [(0u8, 3u8), (1, 2)] {
            let others: Vec<Op> = (1..vcpus).map(|vcpu| cpu_on(vcpu.into(), SECOND)).collect();
            room.program(vm, ENTRY, &[others.as_slice(), &[Op::Branch(SECOND)]].concat());
            let round =
                [reads.as_slice(), &[Op::Work(300), Op::Mark(1), Op::Branch(SECOND)]].concat();
            room.program(vm, SECOND, &round);
            room.program(vm, DIFFERS, &[Op::Mark(2), Op::Branch(DIFFERS)]);
        }
        room.run(15_000);
        let record = room.world.record();
        for (vm, vcpus) in [(0u8, 3u8), (1, 2)] {
            for vcpu in 0..vcpus {
                let marks = room.marks(vm, vcpu);
                assert!(
                    marks.len() > 20 && marks.iter().all(|mark| *mark == 1),
                    "{vm} {vcpu}: {marks:?}"
                );
                let who = Some((vmid(&room.vm(vm.into())), VcpuId(vcpu)));
                let cpus = record.iter().filter(|event| event.vcpu == who).map(|event| event.cpu);
                let cpus = cpus.collect::<std::collections::HashSet<_>>();
                println!("vCPU {vcpu} of {vm} on {cpus:?}");
            }
        }
        let wandered = record.iter().filter_map(|event| Some((event.vcpu?, event.cpu)));
        let places = wandered.collect::<std::collections::HashSet<_>>();
        assert!(places.len() > 5, "none of five vCPUs has changed its CPU");
    }
}
