//! What the console and guests' sockets ask for and cannot do by themselves: guests' UARTs that have to look at their
//! lines, and the monitor's commands.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::mutex::TicketMutex;

use super::heap;
use super::power::{self, Verdict};
use super::this_cpu::ThisCpu;
use crate::console::{self, End, Work};
use crate::hypervisor::{Hypervisor, Line};
use crate::machine::Machine;
use crate::monitor::agent::Outcome;
use crate::monitor::asking::{Asking, Begun};
use crate::monitor::present::Present;
use crate::monitor::task::Task;
use crate::monitor::{self, gather, rights};
use crate::sched::VmId;
use crate::time::Ticks;
use crate::vm::dump;

/// How much is done at one go; the rest is due at once, after other interrupts.
const AT_ONCE: usize = 8;

/// A command that waits for what it is to show.
struct Errand {
    task: Task,
    vm: VmId,
    /// Then it is carried out all the same.
    until: Ticks,
}

/// One for each CPU at most: none takes up another command while there is one.
static ERRANDS: TicketMutex<Vec<Errand>> = TicketMutex::new(Vec::new());
/// Those that wait for a guest's agent. Others are taken up meanwhile. Locked after the errands.
static ASKING: TicketMutex<Asking> = TicketMutex::new(Asking::new());
/// When it is looked again whether they can be carried out; the counter's largest value for never.
static LOOK: AtomicU64 = AtomicU64::new(u64::MAX);
/// Nothing else is taken up until then.
static HELD: AtomicBool = AtomicBool::new(false);

/// How much longer than an answer to a guest took it is left alone afterwards, whichever guest comes next: all of
/// them together get a tenth of a CPU.
const REST: u64 = 9;
/// And at least so long, in microseconds.
const LEAST_REST_MICROS: u64 = 200;
/// When the next line of a guest's is answered.
static NEXT_LINE: AtomicU64 = AtomicU64::new(0);

/// When [`attend`] is due without an interrupt of the UART.
#[inline]
pub fn deadline(hypervisor: &Hypervisor) -> Option<Ticks> {
    let lines = hypervisor.has_lines();
    match LOOK.load(Ordering::Acquire) {
        // This is asked at each access to a device, and nearly always so.
        u64::MAX if !lines => console::deadline(),
        look => deadline_of_commands(look, lines),
    }
}

#[cold]
#[inline(never)]
fn deadline_of_commands(look: u64, lines: bool) -> Option<Ticks> {
    let looks = (look != u64::MAX).then_some(Ticks(look));
    // What else is to be done waits with the command: the UART's interrupts see to the line.
    if looks.is_some() && HELD.load(Ordering::Acquire) {
        return looks;
    }
    let line = lines.then(|| Ticks(NEXT_LINE.load(Ordering::Acquire)));
    console::deadline().into_iter().chain(line).chain(looks).min()
}

/// Attend to the console: on an interrupt of its UART, and when it is due.
pub fn attend(hypervisor: &Hypervisor, machine: &mut ThisCpu) {
    // What is typed after the focused guest has stopped goes to the next that runs.
    console::leave_the_dead(|id| hypervisor.vm(id).is_some_and(|vm| !vm.has_stopped()));
    console::ripen(|id| hypervisor.is_kept_waiting(id));
    console::visit();
    for _ in 0..AT_ONCE {
        match take_errand(hypervisor, machine.now()) {
            Err(NotReady) => return,
            Ok(Some((task, asked))) => perform(hypervisor, machine, task, asked),
            Ok(None) => match next_task(hypervisor, machine.now()) {
                None => return,
                Some(task) => take_up(hypervisor, machine, task),
            },
        }
    }
}

/// The console's come first.
fn next_task(hypervisor: &Hypervisor, now: Ticks) -> Option<Task> {
    console::take_work().map(Task::Console).or_else(|| {
        let has_rested = NEXT_LINE.load(Ordering::Acquire) <= now.0;
        if has_rested { hypervisor.take_line().map(Task::Line) } else { None }
    })
}

#[inline(never)] // what it puts on the stack is not to be there while others are served
fn take_up(hypervisor: &Hypervisor, machine: &mut ThisCpu, task: Task) {
    let now = machine.now();
    let begun = ASKING.lock().begin(hypervisor, now, task);
    match begun {
        Begun::Waits => note_look(hypervisor, now, &ERRANDS.lock()),
        Begun::Known(task, outcome) => perform(hypervisor, machine, task, Some(outcome)),
        Begun::Other(task) => match owed(hypervisor, machine, &task) {
            Some(vm) => put_off(hypervisor, now, task, vm),
            None => perform(hypervisor, machine, task, None),
        },
    }
}

/// A command has to wait for what it is to show.
struct NotReady;

/// A command that can be carried out, and what became of what it asks of an agent.
type Ready = (Task, Option<Outcome>);

/// A command that has what it waited for, or has waited long enough.
fn take_errand(hypervisor: &Hypervisor, now: Ticks) -> Result<Option<Ready>, NotReady> {
    if LOOK.load(Ordering::Acquire) == u64::MAX {
        return Ok(None);
    }
    let mut errands = ERRANDS.lock();
    let is_ready = |it: &Errand| it.until <= now || gather::is_done(hypervisor, it.vm);
    let ready = errands.iter().position(is_ready).map(|at| errands.swap_remove(at).task);
    let asked = if ready.is_none() { ASKING.lock().look(hypervisor, now) } else { None };
    note_look(hypervisor, now, &errands);
    match (ready, asked) {
        (Some(task), _) => Ok(Some((task, None))),
        (None, Some((task, outcome))) => Ok(Some((task, Some(outcome)))),
        (None, None) if errands.is_empty() => Ok(None),
        (None, None) => Err(NotReady),
    }
}

fn put_off(hypervisor: &Hypervisor, now: Ticks, task: Task, vm: VmId) {
    let until = now.saturating_add(hypervisor.frequency().micros(gather::PATIENCE_MICROS));
    let mut errands = ERRANDS.lock();
    errands.push(Errand { task, vm, until });
    note_look(hypervisor, now, &errands);
}

fn note_look(hypervisor: &Hypervisor, now: Ticks, errands: &[Errand]) {
    let held = !errands.is_empty();
    HELD.store(held, Ordering::Release);
    let look = now.saturating_add(hypervisor.frequency().micros(gather::LOOK_MICROS));
    let look = if held { Some(look) } else { ASKING.lock().deadline() };
    LOOK.store(look.map_or(u64::MAX, |look| look.0), Ordering::Release);
}

/// The VM that owes something of what a command is to show.
fn owed(hypervisor: &Hypervisor, machine: &mut ThisCpu, task: &Task) -> Option<VmId> {
    gather::begin(hypervisor, machine, &task.command()?)
}

fn perform(hypervisor: &Hypervisor, machine: &mut ThisCpu, task: Task, asked: Option<Outcome>) {
    match task {
        Task::Console(work) => perform_work(hypervisor, machine, work, asked),
        Task::Line(line) => answer_line(hypervisor, machine, &line, asked),
    }
}

/// A guest's line is answered, if the guest is still there then.
fn answer_line(
    hypervisor: &Hypervisor,
    machine: &mut ThisCpu,
    line: &Line,
    asked: Option<Outcome>,
) {
    let began = machine.now();
    let control = &mut present(hypervisor, machine, asked);
    let answer = rights::answer(&line.text, line.rights, control);
    if let Some(vm) = hypervisor.vm(line.vm) {
        vm.answer_line(line.connection, answer);
    }
    let ended = machine.now();
    let rest = REST.saturating_mul(ended.since(began).0);
    let rest = rest.max(hypervisor.frequency().micros(LEAST_REST_MICROS).0);
    NEXT_LINE.store(ended.0.saturating_add(rest), Ordering::Release);
}

fn perform_work(
    hypervisor: &Hypervisor,
    machine: &mut ThisCpu,
    work: Work,
    asked: Option<Outcome>,
) {
    match work {
        Work::Attend(id) => look(hypervisor, machine, id),
        Work::Command(line) => {
            let answer = monitor::shell(&line, &mut present(hypervisor, machine, asked));
            console::answer(&answer);
        }
        Work::Request(text) => {
            let answer = monitor::serve(&text, &mut present(hypervisor, machine, asked));
            console::reply(&answer);
        }
        Work::End(End::PowerOff) => {
            log::info!("powered off from the console");
            finish(hypervisor, machine);
        }
        Work::End(End::Restart) => {
            log::info!("started again from the console");
            show_all(hypervisor, machine);
            power::restart();
        }
    }
}

/// Show what is left to be shown, and power off.
pub fn finish(hypervisor: &Hypervisor, machine: &mut ThisCpu) -> ! {
    show_all(hypervisor, machine);
    power::off(Verdict::Ok)
}

fn show_all(hypervisor: &Hypervisor, machine: &mut ThisCpu) {
    while dump::go_on() {}
    console::flush();
    // What their UARTs still have.
    for vm in hypervisor.vms() {
        look(hypervisor, machine, vm.id());
    }
    console::flush();
}

/// A guest's UART looks at its line.
fn look(hypervisor: &Hypervisor, machine: &mut ThisCpu, id: VmId) {
    if let Some(vm) = hypervisor.vm(id) {
        let notify = vm.serial_input(machine.now());
        hypervisor.notify(machine, &vm, notify);
    }
}

fn present<'a>(
    hypervisor: &'a Hypervisor,
    machine: &'a mut ThisCpu,
    asked: Option<Outcome>,
) -> Present<'a, ThisCpu> {
    Present { hypervisor, machine, heap: heap::report, asked }
}
