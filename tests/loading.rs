//! Whole-hypervisor scenarios: what comes before a VM's first instruction is done in its own time, can be
//! broken off anywhere, and leaves nothing behind when it fails.

use std::sync::{Arc, OnceLock};

use crate::common::*;
use plinth::hypervisor::Refusal;
use plinth::machine::Machine;
use plinth::machine::fake::{Op, Pause, Seen, World};
use plinth::memory::Operation;
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::vgic::GicVersion::{V2, V3};
use plinth::vm::{Status, Stop};
use proptest::prelude::*;

const BIG: VmId = VmId(0);
/// A time slice, in ticks.
const SLICE: u64 = 500;

/// CPUs for which time goes on by so many ticks with each look at the interrupts, as loading does after
/// each step, and with each instruction of a guest.
fn timed(cpus: u8, guests: &[Guest], ticks: u64) -> Room {
    let world: Arc<OnceLock<Arc<World>>> = Arc::default();
    let clock = world.clone();
    let on_pause = move |_, pause| {
        if let (Some(world), Pause::Busy) = (clock.get(), pause) {
            world.advance(Ticks(world.now().0 + ticks));
        }
    };
    let room = Room::with(V3, cpus, 4, guests, Box::new(on_pause));
    let _ = world.set(room.world.clone());
    room
}

/// A guest whose RAM takes some fifty steps.
fn big(kernel: Vec<u8>) -> Guest {
    Guest { memory: RAM + (6 << 20), kernel, ..guest("big", 1) }
}

/// A gzip file with `contents` in stored blocks (RFC 1951, 1952).
fn gzip(contents: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let mut blocks = contents.chunks(0x8000).peekable();
    while let Some(block) = blocks.next() {
        let size = u16::try_from(block.len()).unwrap();
        file.push(u8::from(blocks.peek().is_none()));
        file.extend(size.to_le_bytes());
        file.extend((!size).to_le_bytes());
        file.extend(block);
    }
    file.extend(crc32fast::hash(contents).to_le_bytes());
    file.extend(u32::try_from(contents.len()).unwrap().to_le_bytes());
    file
}

fn moments(room: &Room, mark: u64) -> Vec<u64> {
    let record = room.world.record();
    record.iter().filter(|e| e.seen == Seen::Marked(mark)).map(|e| e.at.0).collect()
}

#[test]
#[cfg_attr(miri, ignore = "zeroes 320 MiB")]
fn who_loads_shares_the_cpu_like_who_runs() {
    let larger = Guest { memory: RAM + (320 << 20), ..guest("big", 1) };
    let mut room = timed(1, &[larger, guest("busy", 1)], 2);
    room.program(0, ENTRY, &[Op::Mark(1), psci(SYSTEM_OFF)]);
    room.program(1, ENTRY, &[Op::Work(40), Op::Mark(2), Op::Branch(ENTRY)]);
    for _ in 0..100_000 {
        if !moments(&room, 1).is_empty() {
            break;
        }
        room.step(0);
    }
    let (began, busy) = (moments(&room, 1)[0], moments(&room, 2));
    let meanwhile: Vec<_> = busy.iter().copied().filter(|at| *at < began).collect();
    assert!(began > 20 * SLICE, "it took long enough to be in somebody's way: {began}");
    let gaps = meanwhile.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = gaps.max().expect("the other ran meanwhile");
    assert!(longest < SLICE + SLICE / 2, "the other waited {longest} ticks");
    // Half of the time is half as many rounds as there would have been alone.
    let (first, last) = (meanwhile[0], meanwhile[meanwhile.len() - 1]);
    let rounds = u64::try_from(meanwhile.len()).unwrap();
    let alone = busy.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
    let share = rounds * alone * 100 / (last - first);
    assert!((45..=55).contains(&share), "the other had {share} % of the CPU");
}

#[test]
fn a_vm_can_be_held_while_it_loads_and_goes_on_later() {
    let mut room = timed(1, &[big(guest("big", 1).kernel), guest("idle", 1)], 20);
    room.program(0, ENTRY, &[Op::Mark(1), psci(SYSTEM_OFF)]).program(1, ENTRY, &wait_loop());
    for _ in 0..3 {
        room.step(0);
    }
    assert!(room.vm(0).is_loading());
    room.ask(0, |hypervisor, machine| hypervisor.pause(machine, BIG)).unwrap();
    room.run(1000);
    assert!(room.vm(0).is_loading() && room.vm(0).status() == Status::Paused);
    room.ask(0, |hypervisor, machine| hypervisor.resume(machine, BIG)).unwrap();
    room.run(1000);
    assert_eq!(room.marks(0, 0), [1]);
    assert_eq!(room.vm(0).status(), Status::Stopped(Stop::Off));
}

/// What is done to a VM that loads.
#[derive(Clone, Copy, Debug)]
enum Break {
    Destroy,
    Restart,
    StopAndStart,
}

fn cases(full: u32) -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 1 } else { full },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(48))]

    /// However far it has got: taken apart it gives everything back, begun anew it runs.
    #[test]
    fn loading_can_be_broken_off_anywhere(
        after in prop::collection::vec(0usize..60, 1..4),
        how in prop::sample::select(vec![Break::Destroy, Break::Restart, Break::StopAndStart]),
        packed: bool, cpus in 1u8..3,
    ) {
        let kernel = guest("big", 1).kernel;
        let flat = [&[0x5a; 64][..], &vec![7; 300_000]].concat();
        let entry = if packed { 0x4008_0000 } else { ENTRY };
        let kernel = if packed { gzip(&flat) } else { kernel };
        let mut room = timed(cpus, &[big(kernel), guest("idle", 1)], 10);
        room.program(0, entry, &[Op::Mark(1), psci(SYSTEM_OFF)]).program(1, ENTRY, &wait_loop());
        for steps in after {
            for _ in 0..steps {
                for cpu in room.awake() {
                    room.step(cpu);
                }
            }
            let Some(vm) = room.hypervisor.vm(BIG) else { break };
            if !vm.is_loading() {
                break;
            }
            drop(vm);
            room.ask(0, |hypervisor, machine| match how {
                Break::Destroy => hypervisor.destroy(machine, BIG),
                Break::Restart => hypervisor.stop(machine, BIG, Stop::Restart),
                Break::StopAndStart => hypervisor.stop(machine, BIG, Stop::Forced),
            }).unwrap();
            room.run(30);
            if let Break::StopAndStart = how {
                let started = room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, BIG));
                prop_assert!(started.is_ok(), "{started:?}");
            }
        }
        room.run(4000);
        if let Some(vm) = room.hypervisor.vm(BIG) {
            prop_assert_eq!(room.marks(0, 0), [1]);
            prop_assert_eq!(vm.status(), Status::Stopped(Stop::Off));
            drop(vm);
            room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, BIG)).unwrap();
            room.run(100);
        }
        // What it had, its tables among it, is free again.
        let (memory, idle) = (room.hypervisor.memory(), room.vm(1));
        prop_assert_eq!(memory.free, memory.total - idle.memory_size() - idle.table_size());
    }
}

#[test]
fn a_kernel_that_turns_out_to_be_damaged_is_refused_and_gives_everything_back() {
    let mut damaged = gzip(&vec![7; 100_000]);
    let crc = damaged.len() - 8;
    damaged[crc] ^= 1;
    let guests = [big(damaged), guest("good", 1)];
    let memory = RAM + (6 << 20) + RAM + (256 << 10);
    let mut room = Room::of(V3, 1, 4, &bundle(&guests), memory, Box::new(|_, _| {}));
    room.program(1, ENTRY, &[Op::Work(20_000), Op::Mark(1), psci(SYSTEM_OFF)]);
    let total = room.hypervisor.memory().total;
    assert!(room.run(2000));
    assert!(room.hypervisor.vm(BIG).is_none(), "nothing is left of it");
    assert_eq!(room.marks(1, 0), [1]);
    assert!(!room.hypervisor.all_refused() && room.hypervisor.has_finished());
    let good = room.vm(1);
    let taken = good.memory_size() + good.table_size();
    assert_eq!(room.hypervisor.memory().free, total - taken);
}

#[test]
fn that_every_guest_was_refused_is_known_in_the_end() {
    let mut damaged = gzip(&vec![7; 100_000]);
    damaged.truncate(50_000);
    let mut room = Room::new(V2, 1, &[big(damaged)]);
    assert!(room.run(2000));
    assert!(room.hypervisor.all_refused() && room.hypervisor.has_finished());
}

/// Memory for the tables of RAM is needed only when the VM starts: however little is left then, it runs or
/// leaves no trace.
#[test]
fn a_vm_that_runs_out_of_frames_while_it_loads_gives_everything_back() {
    let (mut ran, mut refused) = (0, 0);
    for pages in (0..30).step_by(if cfg!(miri) { 15 } else { 1 }) {
        let memory = RAM + (pages << 12);
        let mut room = Room::of(V2, 1, 4, &bundle(&[guest("one", 1)]), memory, Box::new(|_, _| {}));
        let total = room.hypervisor.memory().total;
        if room.hypervisor.vm(BIG).is_none() {
            assert_eq!(room.hypervisor.memory().free, total);
            continue;
        }
        room.program(0, ENTRY, &[Op::Mark(1), psci(SYSTEM_OFF)]);
        room.run(500);
        if room.hypervisor.vm(BIG).is_some() {
            assert_eq!(room.marks(0, 0), [1]);
            ran += 1;
        } else {
            assert_eq!(room.hypervisor.memory().free, total);
            refused += 1;
        }
    }
    assert!(ran > 0 && (refused > 0 || cfg!(miri)), "{ran} ran, {refused} were refused late");
}

#[test]
fn what_is_wrong_with_the_first_bytes_is_said_at_once() {
    let guests = [guest("good", 1), big(gzip(b"070701 this is a cpio archive"))];
    let mut room = Room::of(V3, 1, 4, &bundle(&guests), 4 * RAM, Box::new(|_, _| {}));
    let refused = room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, VmId(1)));
    let Err(Refusal::Create(error)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("cpio"), "{error}");
}

/// The guest begins with its caches off, and with what its CPU has fetched there before.
#[test]
fn what_is_loaded_is_cleaned_and_then_instructions_are_forgotten() {
    let mut room = Room::new(V3, 1, &[guest("one", 1)]);
    room.program(0, ENTRY, &[Op::Mark(1), Op::Wfi]);
    let mut all = vec![];
    while room.marks(0, 0).is_empty() {
        room.step(0);
        all.extend(room.cpus[0].machine().upkeep().take());
    }
    let forgotten = all.iter().position(|it| *it == Operation::InvalidateInstructions);
    let forgotten = forgotten.expect("code has come there");
    let cleaned = |it: &Operation| match it {
        Operation::CleanInvalidateToPoc(region) => Some(*region),
        _ => None,
    };
    assert!(all[forgotten..].iter().all(|it| cleaned(it).is_none()), "that is the last of it");
    // All of RAM when it was zeroed, and once more where something was written: the kernel's bytes, and the tree's.
    let cleaned: Vec<_> = all.iter().filter_map(cleaned).collect();
    let again = |at: usize| cleaned[..at].iter().any(|before| before.contains_region(&cleaned[at]));
    let written: Vec<_> = (0..cleaned.len()).filter(|at| again(*at)).collect();
    let sizes: Vec<_> = written.iter().map(|at| cleaned[*at].size()).collect();
    assert!(sizes.contains(&64), "the kernel: {sizes:?}");
    assert!(sizes.iter().any(|size| (1000..65536).contains(size)), "the tree: {sizes:?}");
}
