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
use crate::monitor::asking::{Asking, Begun};
use crate::monitor::command::{Command, VmChange};
use crate::monitor::present::Present;
use crate::monitor::task::{Task, Waited};
use crate::monitor::{self, gather, rights};
use crate::sched::VmId;
use crate::time::Ticks;
use crate::vm::{Stop, dump};

/// How much is done at one go; the rest is due at once, after other interrupts.
const AT_ONCE: usize = 8;

/// A command that waits.
struct Errand {
    task: Task,
    vm: VmId,
    wait: Wait,
    /// What has become of what it waited for before.
    waited: Waited,
}

/// What for.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Wait {
    /// For other interrupts that were pending.
    Turn,
    /// For what it is to show, until then at most.
    Registers(Ticks),
    /// For a VM that is built, a step each time.
    Creation,
    /// For a VM that is to be destroyed, which is stopped before.
    Stop,
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
        match take_errand(hypervisor, machine) {
            Next::Wait => return,
            Next::More => {}
            Next::Ready(ready) => perform(hypervisor, machine, ready),
            Next::None => match next_task(hypervisor, machine.now()) {
                None => return,
                Some(task) => take_up(hypervisor, machine, task),
            },
        }
        if machine.interrupt_pending() {
            return;
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

/// What there is to be done of the commands that were taken up.
enum Next {
    /// Nothing.
    None,
    /// They all wait, and nothing else is taken up meanwhile.
    Wait,
    /// One has come nearer.
    More,
    /// This can be carried out.
    Ready(Ready),
}

/// A command that can be carried out, and what has become of what it waited for.
struct Ready {
    task: Task,
    waited: Waited,
}

#[inline(never)] // what it puts on the stack is not to be there while others are served
fn take_up(hypervisor: &Hypervisor, machine: &mut ThisCpu, task: Task) {
    let now = machine.now();
    let command = task.command();
    let begun = ASKING.lock().begin(hypervisor, now, task, command.as_ref());
    match begun {
        Begun::Waits => note_look(hypervisor, now, &ERRANDS.lock()),
        Begun::Known(task, outcome) => {
            perform(hypervisor, machine, Ready { task, waited: Waited::Agent(outcome) });
        }
        Begun::Other(task) => {
            let waited = Waited::Nothing;
            let wait = command.and_then(|command| owed(hypervisor, machine, &command));
            match wait {
                Some((vm, wait)) => put_off(hypervisor, now, Errand { task, vm, wait, waited }),
                // Reading it has taken as long as carrying it out may.
                None if machine.interrupt_pending() => {
                    let (vm, wait) = (VmId(0), Wait::Turn);
                    put_off(hypervisor, now, Errand { task, vm, wait, waited });
                }
                None => perform(hypervisor, machine, Ready { task, waited }),
            }
        }
    }
}

/// What a command has to wait for.
fn owed(hypervisor: &Hypervisor, machine: &mut ThisCpu, command: &Command) -> Option<(VmId, Wait)> {
    if let Command::VmChange(name, change @ (VmChange::Start | VmChange::Destroy)) = command {
        let (id, _) = hypervisor.configs().find(|(_, config)| config.name == *name)?;
        let wait = match hypervisor.vm(id) {
            None if *change == VmChange::Start => Wait::Creation,
            Some(vm) if *change == VmChange::Destroy && !vm.has_stopped() => Wait::Stop,
            _ => return None,
        };
        return Some((id, wait));
    }
    let vm = gather::begin(hypervisor, machine, command)?;
    let patience = hypervisor.frequency().micros(gather::PATIENCE_MICROS);
    Some((vm, Wait::Registers(machine.now().saturating_add(patience))))
}

/// Goes on with a command that was taken up.
fn take_errand(hypervisor: &Hypervisor, machine: &mut ThisCpu) -> Next {
    if LOOK.load(Ordering::Acquire) == u64::MAX {
        return Next::None;
    }
    let now = machine.now();
    let mut errands = ERRANDS.lock();
    let has_come = |it: &Errand| match it.wait {
        Wait::Turn | Wait::Creation | Wait::Stop => true,
        Wait::Registers(until) => until <= now || gather::is_done(hypervisor, it.vm),
    };
    let taken = errands.iter().position(has_come).map(|at| errands.swap_remove(at));
    let asked = if taken.is_none() { ASKING.lock().look(hypervisor, now) } else { None };
    note_look(hypervisor, now, &errands);
    let is_last = errands.is_empty();
    drop(errands);
    match (taken, asked) {
        (Some(errand), _) => go_on(hypervisor, machine, errand),
        (None, Some((task, outcome))) => {
            Next::Ready(Ready { task, waited: Waited::Agent(outcome) })
        }
        (None, None) if is_last => Next::None,
        (None, None) => Next::Wait,
    }
}

/// Does a part of what a command waits for, if that is for this CPU to do.
fn go_on(hypervisor: &Hypervisor, machine: &mut ThisCpu, mut errand: Errand) -> Next {
    match errand.wait {
        Wait::Turn | Wait::Registers(_) => {
            let Errand { task, waited, .. } = errand;
            return Next::Ready(Ready { task, waited });
        }
        Wait::Creation => {
            if let Some(created) = hypervisor.create_step(machine, errand.vm).transpose() {
                (errand.wait, errand.waited) = (Wait::Turn, Waited::Creation(created));
            }
        }
        Wait::Stop => {
            // If it is being stopped already, so much the better.
            let _ = hypervisor.stop(machine, errand.vm, Stop::Forced);
            errand.wait = Wait::Turn;
        }
    }
    put_off(hypervisor, machine.now(), errand);
    Next::More
}

fn put_off(hypervisor: &Hypervisor, now: Ticks, errand: Errand) {
    let mut errands = ERRANDS.lock();
    errands.push(errand);
    note_look(hypervisor, now, &errands);
}

fn note_look(hypervisor: &Hypervisor, now: Ticks, errands: &[Errand]) {
    HELD.store(!errands.is_empty(), Ordering::Release);
    let look = if errands.is_empty() {
        ASKING.lock().deadline()
    } else if errands.iter().all(|it| matches!(it.wait, Wait::Registers(_))) {
        Some(now.saturating_add(hypervisor.frequency().micros(gather::LOOK_MICROS)))
    } else {
        Some(now)
    };
    LOOK.store(look.map_or(u64::MAX, |look| look.0), Ordering::Release);
}

fn perform(hypervisor: &Hypervisor, machine: &mut ThisCpu, Ready { task, waited }: Ready) {
    match task {
        Task::Console(work) => perform_work(hypervisor, machine, work, waited),
        Task::Line(line) => answer_line(hypervisor, machine, &line, waited),
    }
}

/// A guest's line is answered, if the guest is still there then.
fn answer_line(hypervisor: &Hypervisor, machine: &mut ThisCpu, line: &Line, waited: Waited) {
    let began = machine.now();
    let control = &mut present(hypervisor, machine, waited);
    let answer = rights::answer(&line.text, line.rights, control);
    if let Some(vm) = hypervisor.vm(line.vm) {
        vm.answer_line(line.connection, answer);
    }
    let ended = machine.now();
    let rest = REST.saturating_mul(ended.since(began).0);
    let rest = rest.max(hypervisor.frequency().micros(LEAST_REST_MICROS).0);
    NEXT_LINE.store(ended.0.saturating_add(rest), Ordering::Release);
}

fn perform_work(hypervisor: &Hypervisor, machine: &mut ThisCpu, work: Work, waited: Waited) {
    match work {
        Work::Attend(id) => look(hypervisor, machine, id),
        Work::Command(line) => {
            let answer = monitor::shell(&line, &mut present(hypervisor, machine, waited));
            console::answer(&answer);
        }
        Work::Request(text) => {
            let answer = monitor::serve(&text, &mut present(hypervisor, machine, waited));
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
    waited: Waited,
) -> Present<'a, ThisCpu> {
    Present { hypervisor, machine, heap: heap::report, waited }
}
