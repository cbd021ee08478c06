//! Other CPUs: started by PSCI, then given one function at a time.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::machine::machine;
use crate::sysreg::{affinity, cpu, mask_interrupts, unmask_interrupts};
use crate::{MAX_CPUS, entry, gic, psci, timer};

/// What a started CPU runs; it gets the context id of `CPU_ON`.
pub type Main = fn(u64);

static MAINS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
static ONLINE: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];
static JOBS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
static VALUES: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// A CPU's number from its affinity, as [`crate::sysreg::cpu`] has it for the own one.
pub fn number(affinity: u64) -> usize {
    ((affinity & 0xf) | ((affinity >> 4) & 0xf0)) as usize
}

/// The affinities of all CPUs but this one.
pub fn others() -> impl Iterator<Item = u64> {
    let own = affinity();
    machine().cpus().iter().copied().filter(move |&other| other != own)
}

/// `CPU_ON` for `target` with `main` and a context id; PSCI's answer.
pub fn start(target: u64, main: Main, context: u64) -> i64 {
    MAINS[number(target)].store(main as *const () as usize, Ordering::SeqCst);
    psci::cpu_on(target, entry::secondary_entry as *const () as u64, context)
}

/// Where [`entry`] goes on with a secondary CPU.
pub(crate) extern "C" fn secondary(context: u64, daif: u64, sctlr: u64) -> ! {
    entry::remember(daif, sctlr);
    let main = MAINS[cpu()].load(Ordering::SeqCst);
    // SAFETY: `start` stored a function of this type before it started us.
    let main = unsafe { core::mem::transmute::<usize, Main>(main) };
    main(context);
    psci::cpu_off();
    panic!("CPU_OFF returned");
}

/// The SGI that tells a CPU in [`serve`] to look for work.
pub const WAKE: u32 = 15;

/// Serves [`call`] and [`post`] for ever, interrupts unmasked.
pub fn serve(_: u64) {
    let own = cpu();
    gic::init_cpu();
    unmask_interrupts();
    JOBS[own].store(0, Ordering::Relaxed);
    ONLINE[own].store(true, Ordering::Release);
    loop {
        // Masked, so that the SGI of `post` cannot slip in between the look and the WFI.
        mask_interrupts();
        let job = JOBS[own].load(Ordering::Acquire);
        if job == 0 {
            crate::instruction!("wfi");
        }
        unmask_interrupts();
        if job == 0 {
            continue;
        }
        // SAFETY: only `post` stores here, a function of this type.
        let job = unsafe { core::mem::transmute::<usize, fn(u64) -> u64>(job) };
        let value = job(VALUES[own].load(Ordering::Relaxed));
        VALUES[own].store(value, Ordering::Relaxed);
        JOBS[own].store(0, Ordering::Release);
    }
}

/// Starts every CPU of the tree on [`serve`]; how many of them came up, this one included.
pub fn start_all() -> usize {
    let mut up = 1;
    for target in others() {
        let started = start(target, serve, 0) == 0;
        let online = || ONLINE[number(target)].load(Ordering::Acquire);
        up += usize::from(started && timer::wait_until(5000, online));
    }
    up
}

/// Gives CPU number `cpu` a function to run; [`finished`] has its value.
pub fn post(cpu: usize, job: fn(u64) -> u64, argument: u64) {
    VALUES[cpu].store(argument, Ordering::Relaxed);
    JOBS[cpu].store(job as *const () as usize, Ordering::Release);
    let affinity = machine().cpus().iter().find(|&&affinity| number(affinity) == cpu);
    gic::send(WAKE, gic::Target::Affinity(*affinity.expect("a CPU of the tree")));
}

/// The value of what CPU number `cpu` was given last; `None` if it takes more than 10 s.
pub fn finished(cpu: usize) -> Option<u64> {
    timer::wait_until(10_000, || JOBS[cpu].load(Ordering::Acquire) == 0)
        .then(|| VALUES[cpu].load(Ordering::Relaxed))
}

/// Runs a function on CPU number `cpu` and waits for its value.
pub fn call(cpu: usize, job: fn(u64) -> u64, argument: u64) -> Option<u64> {
    post(cpu, job, argument);
    finished(cpu)
}
