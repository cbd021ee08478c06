//! What the console asks for and cannot do by itself: guests' UARTs that have to look at their lines,
//! and the monitor's commands.

use alloc::string::String;
use alloc::vec::Vec;

use ::log::LevelFilter;

use super::power::{self, Verdict};
use super::this_cpu::ThisCpu;
use crate::console::{self, Work};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::monitor::command::{SchedChange, Target, VmChange};
use crate::monitor::reply::{
    ConsoleState, CpuSummary, IrqEntry, MemoryReport, SchedEntry, StatsEntry, VcpuDump, VmDetails,
    VmState, VmSummary,
};
use crate::monitor::{self, Control, Refusal};
use crate::sched::VmId;

/// How much is done at one go; the rest is due at once, after other interrupts.
const AT_ONCE: usize = 8;

/// Attend to the console: on an interrupt of its UART, and when it is due.
pub fn attend(hypervisor: &Hypervisor, machine: &mut ThisCpu) {
    // What is typed after the focused guest has stopped goes to the next that runs.
    console::leave_the_dead(|id| hypervisor.vm(id).is_some_and(|vm| !vm.has_stopped()));
    console::visit();
    for _ in 0..AT_ONCE {
        match console::take_work() {
            None => return,
            Some(Work::Attend(id)) => look(hypervisor, machine, id),
            Some(Work::Command(line)) => {
                let answer = monitor::shell(&line, &mut Present { hypervisor });
                console::answer(&answer);
            }
            Some(Work::Request(text)) => {
                let answer = monitor::serve(&text, &mut Present { hypervisor });
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
        hypervisor.notify(machine, vm, notify);
    }
}

/// The hypervisor as it is, under the monitor's control.
struct Present<'h> {
    hypervisor: &'h Hypervisor,
}

impl Present<'_> {
    fn no<T>(name: &str) -> Result<T, Refusal> {
        Err(Refusal::Denied(alloc::format!("{name} is not there yet")))
    }
}

impl Control for Present<'_> {
    fn vms(&mut self) -> Vec<VmSummary> {
        let summary = |vm: &crate::vm::Vm| VmSummary {
            id: vm.id().0,
            name: String::from(vm.name()),
            state: match (vm.has_stopped(), vm.is_stopping()) {
                (true, _) => VmState::Off,
                (false, true) => VmState::Stopping,
                (false, false) => VmState::Running,
            },
            vcpus: vm.vcpu_count(),
            memory: 0,
            cpu_micros: 0,
            exits: 0,
            resets: 0,
        };
        self.hypervisor.vms().iter().map(summary).collect()
    }

    fn vm(&mut self, _: &str) -> Result<VmDetails, Refusal> {
        Self::no("vm info")
    }

    fn dump(&mut self, _: &str) -> Result<Vec<VcpuDump>, Refusal> {
        Self::no("vm dump")
    }

    fn change(&mut self, _: &str, _: VmChange) -> Result<(), Refusal> {
        Self::no("changing a VM")
    }

    fn cpus(&mut self) -> Vec<CpuSummary> {
        Vec::new()
    }

    fn memory(&mut self) -> Result<MemoryReport, Refusal> {
        Self::no("memory")
    }

    fn irqs(&mut self, _: Option<&str>) -> Result<Vec<IrqEntry>, Refusal> {
        Self::no("irq")
    }

    fn sched(&mut self) -> Result<Vec<SchedEntry>, Refusal> {
        Self::no("sched")
    }

    fn set_sched(&mut self, _: &str, _: &SchedChange) -> Result<(), Refusal> {
        Self::no("sched set")
    }

    fn stats(&mut self, _: Option<&str>) -> Result<Vec<StatsEntry>, Refusal> {
        Self::no("stats")
    }

    fn reset_stats(&mut self, _: Option<&str>) -> Result<(), Refusal> {
        Self::no("stats")
    }

    fn set_log_level(&mut self, level: LevelFilter) -> Result<(), Refusal> {
        console::set_level(level);
        Ok(())
    }

    fn console(&mut self, target: Option<&Target>) -> Result<ConsoleState, Refusal> {
        console::select(target)
    }

    fn leave(&mut self) -> Result<(), Refusal> {
        console::leave_monitor();
        Ok(())
    }

    fn power_off(&mut self) -> Result<(), Refusal> {
        console::power_off();
        Ok(())
    }
}
