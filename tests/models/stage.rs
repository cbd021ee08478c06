//! A machine whose CPUs are threads, and what else acts on it: devices, and who asks something at the monitor.

use std::cell::RefCell;
use std::env;
use std::sync::{Arc, Mutex};

use plinth::cpu::{Cpu, Step};
use plinth::host::allotment::Allotment;
use plinth::hypervisor::Hypervisor;
use plinth::machine::CpuId;
use plinth::machine::fake::{OnPause, Pause, Scripted, World};
use plinth::manifest::Manifest;
use plinth::time::Ticks;
use plinth::vgic::{GicVersion, IntId};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner, thread};

use crate::common::{Room, host};
use crate::ram;

/// How often the priorities of a schedule change.
const CHANGES: usize = 8;
/// An execution that takes longer goes on for ever.
const STEPS: usize = 4_000_000;
/// How many ticks a step takes at least.
const STEP: u64 = 8;
/// So does a CPU that makes more steps.
const STEPS_OF_CPU: u32 = 4_000;
/// The schedules are the same each time.
const SEED: u64 = 2026;
/// A guest that executes so many instructions gives way to others whatever their priority: it may wait for them.
const PATIENCE: u32 = 64;

/// How many times as many schedules are tried where `MODEL_TIMES` does not say another number.
const TIMES: usize = 3;

/// Tries `model` by so many schedules of each kind.
pub fn explore(schedules: usize, model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    if let Ok(schedule) = env::var("MODEL_REPLAY") {
        return run(ReplayScheduler::new_from_encoded(&schedule), model);
    }
    let times = env::var("MODEL_TIMES").map_or(TIMES, |times| times.parse().expect("a number"));
    run(RandomScheduler::new_from_seed(SEED, times * schedules), model.clone());
    run(PctScheduler::new_from_seed(SEED, CHANGES, times * schedules), model);
}

fn run(scheduler: impl Scheduler + 'static, model: Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || model());
}

/// One of those below `choices`.
pub fn choose(choices: u64) -> u64 {
    thread_rng().gen_range(0..choices)
}

/// What is done on a CPU when a device interrupts it.
type Deed = Box<dyn FnOnce(&Hypervisor, &mut Scripted)>;

thread_local! {
    /// What devices' interrupts stand for: one number each.
    static DEEDS: RefCell<Vec<Option<Deed>>> = const { RefCell::new(Vec::new()) };
}

/// The number of the first.
const FIRST: u16 = 64;

fn on_device(hypervisor: &Hypervisor, machine: &mut Scripted, intid: IntId) {
    let index = usize::from(intid.0 - FIRST);
    let deed = DEEDS.with_borrow_mut(|deeds| deeds.get_mut(index).and_then(Option::take));
    deed.expect("each interrupt is taken once")(hypervisor, machine);
}

/// A device interrupts a CPU, which does this.
pub fn interrupt(world: &World, cpu: u64, deed: impl FnOnce(&Hypervisor, &mut Scripted) + 'static) {
    let index = DEEDS.with_borrow_mut(|deeds| {
        deeds.push(Some(Box::new(deed)));
        deeds.len() - 1
    });
    let cpu = CpuId(u8::try_from(cpu).unwrap());
    world.interrupt(cpu, IntId(FIRST + u16::try_from(index).unwrap()));
}

/// A machine with so many CPUs and this much memory.
pub fn room(
    gic: GicVersion,
    cpus: u8,
    bundle: &Manifest<'static>,
    memory: u64,
    disks: Allotment,
) -> Room {
    DEEDS.with_borrow_mut(Vec::clear);
    let pauses = Mutex::new(0u32);
    let on_pause: Box<OnPause> = Box::new(move |_, pause| {
        let mut count = pauses.lock().unwrap();
        *count += 1;
        let give_way = pause == Pause::Busy && (*count).is_multiple_of(PATIENCE);
        drop(count);
        if give_way {
            thread::yield_now();
        }
    });
    Room::in_frames(host(gic, cpus), 4, bundle, ram::frames(memory), disks, on_pause, on_device)
}

/// What one of those who act is about.
#[derive(Clone, Copy, Debug)]
enum State {
    Busy,
    /// It waits for this moment, if any.
    Asleep(Option<Ticks>),
    Gone,
}

struct Inner {
    /// CPUs, then actors.
    states: Vec<State>,
    /// All CPUs sleep, and nothing can ever wake one.
    quiet: bool,
}

/// Who acts, and who waits.
pub struct Stage {
    world: Arc<World>,
    cpus: usize,
    inner: Mutex<Inner>,
}

/// Somebody other than a CPU.
pub struct Actor {
    stage: Arc<Stage>,
    number: usize,
}

/// What an actor does.
pub type Act = Box<dyn FnOnce(&Actor) + Send>;

impl Stage {
    fn is_wanted(&self, number: usize) -> bool {
        number < self.cpus && self.world.wanted(CpuId(u8::try_from(number).unwrap()))
    }

    /// Waits until `at`, or a CPU is interrupted. Returns false when neither can ever happen any more.
    fn sleep(&self, number: usize, at: Option<Ticks>) -> bool {
        loop {
            // No other goes on while this is looked at.
            let mut inner = self.inner.lock().unwrap();
            if self.is_wanted(number) || at.is_some_and(|at| at <= self.world.now()) {
                inner.states[number] = State::Busy;
                return true;
            }
            inner.states[number] = State::Asleep(at);
            let waits = |(number, state): (usize, &State)| match state {
                State::Busy => false,
                State::Asleep(_) => !self.is_wanted(number),
                State::Gone => true,
            };
            let all_wait = inner.states.iter().enumerate().all(waits);
            let moments = inner.states.iter().filter_map(|state| match state {
                State::Asleep(at) => *at,
                State::Busy | State::Gone => None,
            });
            match moments.min() {
                Some(next) if all_wait => self.world.advance(next),
                None if all_wait => inner.quiet = true,
                _ => {}
            }
            if inner.quiet {
                return false;
            }
            drop(inner);
            thread::yield_now();
        }
    }

    fn leave(&self, number: usize) {
        self.inner.lock().unwrap().states[number] = State::Gone;
    }

    fn run_cpu(
        &self,
        number: usize,
        mut cpu: Cpu<'static, Scripted>,
    ) -> (Cpu<'static, Scripted>, bool) {
        let mut steps = 0;
        let finished = loop {
            steps += 1;
            if steps > STEPS_OF_CPU {
                let record = self.world.record();
                panic!(
                    "CPU {number} goes on for ever: {:?}",
                    &record[record.len().saturating_sub(60)..]
                );
            }
            if cpu.machine().sleeps() {
                let next = cpu.machine().next_event();
                if !self.sleep(number, next) {
                    break false;
                }
            } else if cpu.step() == Step::Finished {
                break true;
            }
            // Steps take time, also those in which no guest runs.
            self.world.advance(self.world.now().saturating_add(Ticks(STEP)));
        };
        self.leave(number);
        (cpu, finished)
    }
}

impl Actor {
    pub fn world(&self) -> &World {
        &self.stage.world
    }

    /// Waits for so many ticks.
    pub fn wait(&self, ticks: u64) {
        let at = self.world().now().saturating_add(Ticks(ticks));
        self.stage.sleep(self.number, Some(at));
    }

    /// Looks every so many ticks, but not for ever.
    pub fn wait_until(&self, ticks: u64, what: &str, mut is_so: impl FnMut() -> bool) {
        for _ in 0..400 {
            if is_so() {
                return;
            }
            self.wait(ticks);
        }
        panic!("{what}: never");
    }
}

/// Runs the machine until nothing can ever happen any more; `acts` go on beside its CPUs.
pub fn run_with(room: &mut Room, acts: Vec<Act>) {
    let cpus = std::mem::take(&mut room.cpus);
    let inner = Inner { states: vec![State::Busy; cpus.len() + acts.len()], quiet: false };
    let (world, inner) = (room.world.clone(), Mutex::new(inner));
    let stage = Arc::new(Stage { world, cpus: cpus.len(), inner });
    let actors = acts.into_iter().enumerate().map(|(index, act)| {
        let actor = Actor { stage: stage.clone(), number: cpus.len() + index };
        thread::spawn(move || {
            act(&actor);
            actor.stage.leave(actor.number);
        })
    });
    let actors: Vec<_> = actors.collect();
    let cpus = cpus.into_iter().enumerate().map(|(number, cpu)| {
        let stage = stage.clone();
        thread::spawn(move || stage.run_cpu(number, cpu))
    });
    let cpus: Vec<_> = cpus.collect();
    for (number, cpu) in cpus.into_iter().enumerate() {
        let (cpu, finished) = cpu.join().unwrap();
        room.finished[number] |= finished;
        room.cpus.push(cpu);
    }
    actors.into_iter().for_each(|actor| actor.join().unwrap());
}
