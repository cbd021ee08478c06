//! What the console asks for and cannot do by itself: guests' UARTs that have to look at their lines,
//! and the monitor's commands.

use super::heap;
use super::power::{self, Verdict};
use super::this_cpu::ThisCpu;
use crate::console::{self, Work};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::monitor;
use crate::monitor::present::Present;
use crate::sched::VmId;

/// How much is done at one go; the rest is due at once, after other interrupts.
const AT_ONCE: usize = 8;

/// Attend to the console: on an interrupt of its UART, and when it is due.
pub fn attend(hypervisor: &Hypervisor, machine: &mut ThisCpu) {
    // What is typed after the focused guest has stopped goes to the next that runs.
    console::leave_the_dead(|id| hypervisor.vm(id).is_some_and(|vm| !vm.has_stopped()));
    console::ripen(|id| hypervisor.is_kept_waiting(id));
    console::visit();
    for _ in 0..AT_ONCE {
        match console::take_work() {
            None => return,
            Some(Work::Attend(id)) => look(hypervisor, machine, id),
            Some(Work::Command(line)) => {
                let answer = monitor::shell(&line, &mut present(hypervisor, machine));
                console::answer(&answer);
            }
            Some(Work::Request(text)) => {
                let answer = monitor::serve(&text, &mut present(hypervisor, machine));
                console::reply(&answer);
            }
            Some(Work::PowerOff) => {
                log::info!("powered off from the console");
                finish(hypervisor, machine);
            }
        }
    }
}

/// Show what is left to be shown, and power off.
pub fn finish(hypervisor: &Hypervisor, machine: &mut ThisCpu) -> ! {
    console::flush();
    // What their UARTs still have.
    for vm in hypervisor.vms() {
        look(hypervisor, machine, vm.id());
    }
    console::flush();
    power::off(Verdict::Ok)
}

/// A guest's UART looks at its line.
fn look(hypervisor: &Hypervisor, machine: &mut ThisCpu, id: VmId) {
    if let Some(vm) = hypervisor.vm(id) {
        let notify = vm.serial_input(machine.now());
        hypervisor.notify(machine, &vm, notify);
    }
}

fn present<'a>(hypervisor: &'a Hypervisor, machine: &'a mut ThisCpu) -> Present<'a, ThisCpu> {
    Present { hypervisor, machine, heap: heap::report }
}
