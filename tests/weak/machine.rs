//! What CPUs know of each other's vCPUs and devices.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use plinth::hypervisor::{Clock, Hypervisor};
use plinth::machine::CpuId;
use plinth::machine::fake::{Scripted, World};
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::vcpu::VcpuId;
use plinth::vgic::GicVersion::V3;
use plinth::vm::{Request, Vm};

use crate::common::{Room, guest};
use crate::{look, races, rounds};

const ID: VmId = VmId(0);
const VCPU: VcpuId = VcpuId(0);
const HERE: CpuId = CpuId(0);
const THERE: CpuId = CpuId(1);
/// How long the VM is paused.
const A_WHILE: u64 = 50;

/// A machine with two CPUs and a VM that nobody runs.
struct Stage {
    hypervisor: &'static Hypervisor,
    world: Arc<World>,
    vm: Arc<Vm>,
}

/// It takes as long to make as all that is done with it.
fn stage() -> MutexGuard<'static, Stage> {
    static STAGE: LazyLock<Mutex<Stage>> = LazyLock::new(|| {
        let room = Room::new(V3, 2, &[guest("one", 1)]);
        let vm = room.vm(0);
        Mutex::new(Stage { hypervisor: room.hypervisor, world: room.world, vm })
    });
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread does on a CPU.
fn on(cpu: CpuId, world: &Arc<World>) -> Scripted {
    Scripted::new(cpu, world.clone(), 4)
}

#[test]
fn a_request_is_seen_by_who_leaves_a_guest_or_its_cpu_is_known_not_to_run_it() {
    let stage = stage();
    let vm = &stage.vm;
    let prepare = |_| {
        vm.set_running(VCPU, Some(HERE));
        let _ = vm.take_requests(VCPU);
    };
    let leave = |(): &()| {
        vm.set_running(VCPU, None);
        vm.take_requests(VCPU).sync
    };
    let ask = |(): &()| {
        vm.post(VCPU, Request::Sync);
        vm.runs_on(VCPU)
    };
    races(prepare, leave, ask, |(), seen, runs_on| {
        assert!(seen || runs_on.is_none(), "who does not run it any more is kicked");
    });
}

#[test]
fn who_takes_a_request_sees_what_it_is_about() {
    let stage = stage();
    let vm = &stage.vm;
    let what = AtomicU64::new(0);
    let prepare = |_| {
        let _ = vm.take_requests(VCPU);
        what.store(0, Ordering::Relaxed);
    };
    let ask = |(): &()| {
        what.store(7, Ordering::Relaxed);
        vm.post(VCPU, Request::Sync);
    };
    let take = |(): &()| look(|| vm.take_requests(VCPU).sync.then(|| what.load(Ordering::Relaxed)));
    rounds(prepare, ask, take, |(), (), seen| {
        assert_eq!((seen, vm.take_requests(VCPU).sync), (7, false));
    });
}

#[test]
fn who_is_called_sees_why() {
    let stage = stage();
    let (hypervisor, world) = (stage.hypervisor, &stage.world);
    let what = AtomicU64::new(0);
    let prepare = |_| {
        hypervisor.heed_calls(THERE);
        what.store(0, Ordering::Relaxed);
    };
    let call = |(): &()| {
        let mut machine = on(HERE, world);
        what.store(7, Ordering::Relaxed);
        hypervisor.call(&mut machine, THERE);
    };
    let heed = |(): &()| look(|| hypervisor.is_called(THERE).then(|| what.load(Ordering::Relaxed)));
    rounds(prepare, call, heed, |(), (), seen| assert_eq!(seen, 7));
}

#[test]
fn a_device_that_becomes_due_is_seen_by_who_begins_to_keep_its_time_or_he_is_told() {
    let stage = stage();
    let vm = &stage.vm;
    let due = AtomicU64::new(0);
    let prepare = |_| {
        vm.set_timekeeper(HERE);
        due.store(0, Ordering::Relaxed);
    };
    let keep = |(): &()| {
        vm.set_timekeeper(THERE);
        due.load(Ordering::Relaxed)
    };
    let set = |(): &()| {
        due.store(7, Ordering::Relaxed);
        vm.timekeeper()
    };
    races(prepare, keep, set, |(), seen, keeper| {
        assert!(seen == 7 || keeper == Some(THERE), "it is due, and nobody looks");
    });
}

/// A CPU finds nothing due and is about to forget when it was to look; another one makes a device due.
#[test]
fn a_device_that_becomes_due_while_its_cpu_looks_is_not_forgotten() {
    let stage = stage();
    let (hypervisor, world, vm) = (stage.hypervisor, &stage.world, &stage.vm);
    let prepare = |_| {
        let mut machine = on(THERE, world);
        vm.set_timekeeper(HERE);
        hypervisor.press_power_button(&mut machine, ID).unwrap();
        // It has become due, and somebody else has seen to it.
        let at = hypervisor.next_event(HERE).unwrap();
        world.advance(at);
        let _ = vm.advance_devices(at);
        assert_eq!(vm.device_deadline(), None);
    };
    let look = |(): &()| hypervisor.advance_devices(&mut on(HERE, world));
    let press = |(): &()| {
        hypervisor.press_power_button(&mut on(THERE, world), ID).unwrap();
    };
    races(prepare, look, press, |(), (), ()| {
        let (device, cpu) = (vm.device_deadline(), hypervisor.next_event(HERE));
        assert!(device.is_none() || cpu.is_some_and(|at| Some(at) <= device), "{device:?} {cpu:?}");
        // All is over before the next round.
        let at = Ticks(world.now().0 + 1_000_000);
        world.advance(at);
        hypervisor.advance_devices(&mut on(HERE, world));
    });
}

#[test]
fn time_goes_on_for_a_paused_vm_as_long_as_a_cpu_has_a_vcpu_of_it() {
    let stage = stage();
    let (hypervisor, world, vm) = (stage.hypervisor, &stage.world, &stage.vm);
    let stands_still = || {
        let now = world.now();
        vm.uptime(now) == vm.uptime(Ticks(now.0 + A_WHILE))
    };
    let enter = |(): &()| vm.enter_cpu(world.now());
    let pause = |(): &()| hypervisor.pause(&mut on(THERE, world), ID).unwrap();
    races(
        |_| (),
        enter,
        pause,
        |(), entered, ()| {
            assert_eq!(stands_still(), !entered);
            if entered {
                vm.leave_cpu(world.now());
            }
            assert!(stands_still(), "nobody has seen that the last one has left");
            hypervisor.resume(&mut on(THERE, world), ID).unwrap();
        },
    );
}

#[test]
fn who_enters_a_vm_that_goes_on_has_its_time() {
    let stage = stage();
    let (hypervisor, world, vm) = (stage.hypervisor, &stage.world, &stage.vm);
    let offset = || vm.space(VCPU, HERE, false).counter_offset;
    let pause = |_| {
        hypervisor.pause(&mut on(THERE, world), ID).unwrap();
        world.advance(Ticks(world.now().0 + A_WHILE));
    };
    let enter = |(): &()| {
        look(|| {
            vm.enter_cpu(world.now()).then(|| {
                let offset = offset();
                vm.leave_cpu(world.now());
                offset
            })
        })
    };
    let resume = |(): &()| hypervisor.resume(&mut on(THERE, world), ID).unwrap();
    rounds(pause, enter, resume, |(), entered, ()| {
        assert_eq!(entered, offset(), "it has the time of before");
    });
}

#[test]
fn who_sees_that_a_cpu_works_knows_it() {
    let start = |clock: &Clock| clock.start(7, Ticks(1));
    let get = |clock: &Clock| look(|| clock.signs().map(|_| clock.affinity()));
    rounds(|_| Clock::default(), start, get, |_, (), got| assert_eq!(got, 7));
}
