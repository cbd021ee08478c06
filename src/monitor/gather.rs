//! What a command is to show and CPUs have in hand: the registers of vCPUs that run.
//!
//! It is asked for before the command is carried out; CPUs leave copies as they come by EL2. No call
//! waits: the command is carried out when all is there, or when it has not come in time, and then shows
//! what there is.

use super::command::Command;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::sched::VmId;
use crate::vcpu::VcpuId;
use crate::vm::Vm;

/// How long a command waits at most, in microseconds. CPUs that run answer in less than one.
pub const PATIENCE_MICROS: u64 = 250_000;
/// How often it is looked whether all is there, in microseconds.
pub const LOOK_MICROS: u64 = 200;

/// Ask for what `command` is to show. Returns the VM that owes something; `None` when the command can be
/// carried out at once.
pub fn begin<M: Machine>(
    hypervisor: &Hypervisor,
    machine: &mut M,
    command: &Command,
) -> Option<VmId> {
    let Command::VmDump(name) = command else { return None };
    let (id, _) = hypervisor.configs().find(|(_, config)| config.name == *name)?;
    let vm = hypervisor.vm(id)?;
    for cpu in vcpus(&vm).filter_map(|vcpu| vm.want_registers(vcpu)) {
        if cpu != machine.id() {
            hypervisor.call(machine, cpu);
        }
    }
    (!is_complete(hypervisor, &vm)).then_some(id)
}

/// Whether a VM owes nothing any more.
pub fn is_done(hypervisor: &Hypervisor, id: VmId) -> bool {
    hypervisor.vm(id).is_none_or(|vm| is_complete(hypervisor, &vm))
}

fn is_complete(hypervisor: &Hypervisor, vm: &Vm) -> bool {
    vcpus(vm).all(|vcpu| {
        // One that is off or out of reset has none that anybody could give.
        let has_none = || vm.is_to_start(vcpu) || hypervisor.vcpu_state(vm, vcpu).is_none();
        vm.has_registers(vcpu) || has_none()
    })
}

fn vcpus(vm: &Vm) -> impl Iterator<Item = VcpuId> {
    (0..vm.vcpu_count()).map(VcpuId)
}
