//! The hypervisor as the monitor sees and changes it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Display;
use core::mem;

use ::log::LevelFilter;

use super::agent::Answer;
use super::command::{SchedChange, Target, VmChange};
use super::reply::{
    Asked, ConsoleState, ConsoleTail, CpuSummary, DeviceEntry, ExitStats, Hex, IrqEntry,
    MemoryReport, NamedRegister, SchedEntry, StatsEntry, VcpuDump, VcpuSummary, VmDetails,
    VmMemory, VmState, VmSummary,
};
use super::task::Waited;
use super::{Control, Refusal};
use crate::console::{self, End, tail::Tail};
use crate::hypervisor::{HeapReport, Hypervisor, Phase};
use crate::machine::{CpuId, Machine};
use crate::manifest::{OnBadAccess, OnCrash, OnReboot, Shutdown, VmConfig};
use crate::sched::VmId;
use crate::sched::policy::{Class, Policy};
use crate::time::{Frequency, Ticks};
use crate::vcpu::VcpuId;
use crate::vm::snapshot::Registers;
use crate::vm::tally::{Exits, Reason};
use crate::vm::{Status, Stop, Vm, layout};

/// The hypervisor, from a CPU that has no guest's registers in hand.
pub struct Present<'a, M> {
    /// All there is.
    pub hypervisor: &'a Hypervisor,
    /// The CPU that carries commands out.
    pub machine: &'a mut M,
    /// Asks for the heap's state.
    pub heap: fn() -> HeapReport,
    /// What has become of what the command waited for.
    pub waited: Waited,
}

impl<'a, M: Machine> Present<'a, M> {
    fn frequency(&self) -> Frequency {
        self.hypervisor.frequency()
    }

    fn micros(&self, span: Ticks) -> u64 {
        self.frequency().to_micros(span)
    }

    fn find(&self, name: &str) -> Result<(VmId, &'a VmConfig), Refusal> {
        let mut all = self.hypervisor.configs();
        all.find(|(_, config)| config.name == name)
            .ok_or_else(|| Refusal::NoSuchVm(String::from(name)))
    }

    fn existing(&self, name: &str) -> Result<Arc<Vm>, Refusal> {
        let (id, _) = self.find(name)?;
        self.hypervisor.vm(id).ok_or_else(|| off(name))
    }

    fn summary(&self, id: VmId, config: &VmConfig) -> VmSummary {
        let vm = self.hypervisor.vm(id);
        VmSummary {
            id: id.0,
            name: config.name.clone(),
            state: state(vm.as_deref()),
            vcpus: config.vcpus,
            memory: config.memory,
            given_back: vm.as_deref().map_or(0, Vm::given_back),
            cpu_micros: self.micros(vm.as_deref().map_or(Ticks(0), |vm| self.ran(vm))),
            exits: vm.as_deref().map_or(0, exits),
            resets: vm.as_deref().map_or(0, Vm::resets),
        }
    }

    fn vcpu(&self, vm: &Vm, vcpu: VcpuId) -> VcpuSummary {
        let home = vm.home(vcpu);
        VcpuSummary {
            id: vcpu.0,
            state: self.vcpu_state(vm, vcpu),
            cpu: home.map(|cpu| cpu.0),
            cpu_micros: self.micros(self.hypervisor.usage(vm, vcpu, self.machine.now()).ran),
            steal_micros: vm.stolen_nanos(vcpu) / 1000,
        }
    }

    fn ran(&self, vm: &Vm) -> Ticks {
        let now = self.machine.now();
        let all = (0..vm.vcpu_count()).map(|id| self.hypervisor.usage(vm, VcpuId(id), now).ran);
        all.fold(Ticks(0), Ticks::saturating_add)
    }

    fn vcpu_state(&self, vm: &Vm, vcpu: VcpuId) -> String {
        self.hypervisor.vcpu_state(vm, vcpu).unwrap_or("off").into()
    }

    fn stats_of(&self, name: &str, vm: &Vm, vcpu: Option<VcpuId>) -> StatsEntry {
        let vcpus = (0..vm.vcpu_count()).map(VcpuId).filter(|id| vcpu.is_none_or(|v| v == *id));
        let tallies: Vec<_> = vcpus.filter_map(|id| vm.tally(id)).collect();
        let sum = |reason| {
            let exits = tallies.iter().map(|tally| tally.exits(reason));
            exits.fold(Exits::default(), |sum, exits| Exits {
                count: sum.count.saturating_add(exits.count),
                cost: sum.cost.saturating_add(exits.cost),
            })
        };
        let exits = Reason::ALL.into_iter().map(|reason| (reason, sum(reason)));
        StatsEntry {
            name: name.into(),
            vcpu: vcpu.map(|vcpu| vcpu.0),
            exits: exits
                .filter(|(_, exits)| exits.count > 0)
                .map(|(reason, Exits { count, cost })| ExitStats {
                    reason: reason.name().into(),
                    count,
                    nanos: self.frequency().to_nanos(cost),
                })
                .collect(),
        }
    }

    /// The VMs that exist and are meant: one, or all.
    fn meant(&self, name: Option<&str>) -> Result<Vec<Arc<Vm>>, Refusal> {
        Ok(match name {
            Some(name) => alloc::vec![self.existing(name)?],
            None => self.hypervisor.vms().collect(),
        })
    }

    fn sched_entry(&self, id: VmId, config: &VmConfig) -> SchedEntry {
        let policy = self.hypervisor.policy(id);
        let (mut weight, mut cap, mut budget_micros, mut period_micros) = (None, None, None, None);
        match policy.class {
            Class::Fair { weight: w, cap: c } => (weight, cap) = (Some(w), c),
            Class::Reserved { budget, period } => {
                (budget_micros, period_micros) = (Some(budget), Some(period));
            }
        }
        let cpus = self.cpu_ids().filter(|cpu| policy.affinity.contains(*cpu));
        let vm = self.hypervisor.vm(id);
        SchedEntry {
            name: config.name.clone(),
            weight,
            cap,
            budget_micros,
            period_micros,
            cpus: cpus.map(|cpu| cpu.0).collect(),
            wfi: policy.wfi,
            cpu_micros: self.micros(vm.as_deref().map_or(Ticks(0), |vm| self.ran(vm))),
        }
    }

    fn cpu_ids(&self) -> impl Iterator<Item = CpuId> + use<M> {
        (0..self.hypervisor.cpus()).filter_map(|cpu| u8::try_from(cpu).ok()).map(CpuId)
    }

    fn cpu(&self, cpu: CpuId) -> CpuSummary {
        let (clock, now) = (self.hypervisor.clock(cpu), self.machine.stamp());
        let running = clock.running().and_then(|entity| {
            let vm = self.hypervisor.vm(entity.vm)?;
            Some(format!("{}/{}", vm.name(), entity.vcpu.0))
        });
        let ready = self.hypervisor.queue(cpu).lock().waiting();
        CpuSummary {
            id: cpu.0,
            mpidr: Hex(clock.affinity()),
            running,
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
            guest_micros: self.micros(clock.spent(Phase::Guest, now)),
            hypervisor_micros: self.micros(clock.spent(Phase::Hypervisor, now)),
            idle_micros: self.micros(clock.spent(Phase::Idle, now)),
        }
    }

    /// The hypervisor's own interrupts, CPU by CPU.
    fn own_irqs(&self) -> Vec<IrqEntry> {
        let names = self.hypervisor.interrupts();
        let of_cpu = |cpu: CpuId| {
            let counts = self.hypervisor.clock(cpu).counts();
            names.iter().zip(counts).filter(|(_, count)| *count > 0).map(move |(own, count)| {
                IrqEntry {
                    intid: own.0.0,
                    target: Some(cpu.0),
                    name: own.1.into(),
                    enabled: true,
                    pending: false,
                    active: false,
                    priority: 0,
                    count: Some(count),
                }
            })
        };
        self.cpu_ids().flat_map(of_cpu).collect()
    }
}

impl<M: Machine> Control for Present<'_, M> {
    fn vms(&mut self) -> Vec<VmSummary> {
        self.hypervisor.configs().map(|(id, config)| self.summary(id, config)).collect()
    }

    fn vm(&mut self, name: &str) -> Result<VmDetails, Refusal> {
        let (id, config) = self.find(name)?;
        let vm = self.hypervisor.vm(id);
        let now = self.machine.now();
        let vcpus = |vm: &Vm| (0..vm.vcpu_count()).map(|id| self.vcpu(vm, VcpuId(id))).collect();
        Ok(VmDetails {
            summary: self.summary(id, config),
            uptime_micros: vm.as_deref().map_or(0, |vm| self.micros(vm.uptime(now))),
            on_crash: on_crash(config.on_crash).into(),
            on_reboot: on_reboot(config.on_reboot).into(),
            on_bad_access: on_bad_access(config.on_bad_access).into(),
            shutdown: config.shutdown.to_string(),
            sched: self.sched_entry(id, config),
            vcpu_list: vm.as_deref().map(vcpus).unwrap_or_default(),
            devices: vm.as_deref().map(devices).unwrap_or_default(),
            balloon: vm.as_deref().and_then(Vm::balloon),
        })
    }

    fn dump(&mut self, name: &str) -> Result<Vec<VcpuDump>, Refusal> {
        let vm = self.existing(name)?;
        let dump = |id| VcpuDump {
            id,
            state: self.vcpu_state(&vm, VcpuId(id)),
            registers: vm.registers(VcpuId(id)).as_ref().map(registers).unwrap_or_default(),
        };
        Ok((0..vm.vcpu_count()).map(dump).collect())
    }

    fn change(&mut self, name: &str, change: VmChange) -> Result<Option<Asked>, Refusal> {
        let (id, config) = self.find(name)?;
        let denied = |why: &dyn Display| Refusal::Denied(format!("{name}: {why}"));
        let (hypervisor, machine) = (self.hypervisor, &mut *self.machine);
        let done = match change {
            VmChange::Start => match mem::take(&mut self.waited) {
                Waited::Creation(created) => {
                    created.map(|vm| hypervisor.start(machine, &vm, VcpuId(0)))
                }
                Waited::Nothing | Waited::Agent(_) => hypervisor.start_vm(machine, id),
            },
            VmChange::Pause => hypervisor.pause(machine, id),
            VmChange::Resume => hypervisor.resume(machine, id),
            VmChange::Stop { force: false } => match &config.shutdown {
                Shutdown::Button => hypervisor.press_power_button(machine, id),
                Shutdown::Agent => {
                    self.agent(name)?;
                    return Ok(Some(Asked { asked: config.shutdown.to_string() }));
                }
                Shutdown::Console(text) => {
                    hypervisor.running(id).map_err(|why| denied(&why))?;
                    console::type_to(id, text).map_err(|why| denied(&why))?;
                    Ok(())
                }
            },
            VmChange::Stop { force: true } => hypervisor.stop(machine, id, Stop::Forced),
            VmChange::Reset => hypervisor.stop(machine, id, Stop::Restart),
            VmChange::Destroy => hypervisor.destroy(machine, id),
            VmChange::Balloon(size) => hypervisor.balloon(id, size),
        };
        done.map_err(|why| denied(&why))?;
        let asks = change == VmChange::Stop { force: false };
        Ok(asks.then(|| Asked { asked: config.shutdown.to_string() }))
    }

    fn agent(&mut self, name: &str) -> Result<Answer, Refusal> {
        let (id, _) = self.find(name)?;
        let denied = |why: &dyn Display| Refusal::Denied(format!("{name}: {why}"));
        match mem::take(&mut self.waited) {
            Waited::Agent(outcome) => outcome.map_err(|why| denied(&why)),
            Waited::Nothing | Waited::Creation(_) => match self.hypervisor.running(id) {
                Ok(_) => {
                    Err(denied(&"it has no port for an agent; its manifest says `agent = true`"))
                }
                Err(why) => Err(denied(&why)),
            },
        }
    }

    fn cpus(&mut self) -> Vec<CpuSummary> {
        self.cpu_ids().map(|cpu| self.cpu(cpu)).collect()
    }

    fn memory(&mut self) -> Result<MemoryReport, Refusal> {
        let (memory, heap) = (self.hypervisor.memory(), (self.heap)());
        let of_vm = |vm: Arc<Vm>| VmMemory {
            name: vm.name().into(),
            ram: vm.memory_size(),
            given_back: vm.given_back(),
            disks: vm.disk_size(),
            tables: vm.table_size(),
            heap: vm.heap_size(),
        };
        Ok(MemoryReport {
            total: memory.total,
            free: memory.free,
            largest_free: memory.largest_free,
            kept: memory.kept,
            heap_total: heap.total,
            heap_free: heap.free,
            vms: self.hypervisor.vms().map(of_vm).collect(),
        })
    }

    fn irqs(&mut self, name: Option<&str>) -> Result<Vec<IrqEntry>, Refusal> {
        let Some(name) = name else { return Ok(self.own_irqs()) };
        let vm = self.existing(name)?;
        let vgic = vm.vgic().lock();
        let entry = |line: crate::vgic::Line| IrqEntry {
            intid: line.intid.0,
            target: line.vcpu.map(|vcpu| vcpu.0),
            name: layout::interrupt_name(line.intid).into(),
            enabled: line.enabled,
            pending: line.pending,
            active: line.active,
            priority: line.priority,
            count: None,
        };
        Ok(vgic.lines().map(entry).collect())
    }

    fn sched(&mut self) -> Result<Vec<SchedEntry>, Refusal> {
        Ok(self.hypervisor.configs().map(|(id, config)| self.sched_entry(id, config)).collect())
    }

    fn set_sched(&mut self, name: &str, change: &SchedChange) -> Result<(), Refusal> {
        let (id, config) = self.find(name)?;
        let policy = changed(self.hypervisor.policy(id), change, config.vcpus)?;
        let done = self.hypervisor.set_policy(self.machine, id, policy);
        done.map_err(|refusal| Refusal::Denied(format!("{name}: {refusal}")))
    }

    fn stats(&mut self, name: Option<&str>) -> Result<Vec<StatsEntry>, Refusal> {
        let vms = self.meant(name)?;
        Ok(match name {
            None => vms.iter().map(|vm| self.stats_of(vm.name(), vm, None)).collect(),
            Some(name) => {
                let of = |vm: &Arc<Vm>| {
                    let ids = (0..vm.vcpu_count()).map(VcpuId).map(Some);
                    ids.map(|id| self.stats_of(name, vm, id)).collect::<Vec<_>>()
                };
                vms.iter().flat_map(of).collect()
            }
        })
    }

    fn reset_stats(&mut self, name: Option<&str>) -> Result<(), Refusal> {
        for vm in self.meant(name)? {
            for tally in (0..vm.vcpu_count()).filter_map(|id| vm.tally(VcpuId(id))) {
                tally.reset();
            }
        }
        Ok(())
    }

    fn set_log_level(&mut self, level: LevelFilter) -> Result<(), Refusal> {
        console::set_level(level);
        Ok(())
    }

    fn console(&mut self, target: Option<&Target>) -> Result<ConsoleState, Refusal> {
        if let Some(Target::Guest(name)) = target {
            self.find(name)?;
        }
        // A VM that the console does not know is one that does not exist at the moment.
        console::select(target).map_err(|why| match why {
            Refusal::NoSuchVm(name) => off(&name),
            why => why,
        })
    }

    fn tail(&mut self, name: &str, from: Option<u64>) -> Result<ConsoleTail, Refusal> {
        let (id, _) = self.find(name)?;
        let Tail { from, next, end, text } = console::tail(id, from).ok_or_else(|| off(name))?;
        Ok(ConsoleTail { from, next, end, text })
    }

    fn leave(&mut self) -> Result<(), Refusal> {
        console::leave_monitor()
    }

    fn end(&mut self, end: End) -> Result<(), Refusal> {
        console::end(end);
        Ok(())
    }
}

/// That a VM does not exist at the moment.
fn off(name: &str) -> Refusal {
    let (state, allowed) = ("off".into(), "`vm start` starts it".into());
    Refusal::State { name: name.into(), state, allowed }
}

/// `policy` with what is to change. A VM has a reservation or a weight, not both.
fn changed(policy: Policy, change: &SchedChange, vcpus: u8) -> Result<Policy, Refusal> {
    let class = match (change.reservation, policy.class) {
        (Some(Some(reservation)), _) => {
            if change.weight.is_some() || change.cap.is_some() {
                let why = "a VM with a reservation has no weight and no cap";
                return Err(Refusal::Denied(why.to_string()));
            }
            Class::Reserved { budget: reservation.budget, period: reservation.period }
        }
        (None, class @ Class::Reserved { .. }) => {
            if change.weight.is_some() || change.cap.is_some() {
                let why = "it has a reservation; `reservation=none` gives it back";
                return Err(Refusal::Denied(why.to_string()));
            }
            class
        }
        (_, class) => {
            let fair = if let Class::Fair { .. } = class { class } else { Class::default() };
            let Class::Fair { weight, cap } = fair else { return Ok(policy) };
            let cap = change.cap.unwrap_or(cap);
            let most = 100 * u16::from(vcpus);
            if cap.is_some_and(|cap| cap == 0 || cap > most) {
                return Err(Refusal::Denied(format!("a cap is 1 to {most} % for {vcpus} vCPUs")));
            }
            Class::Fair { weight: change.weight.unwrap_or(weight), cap }
        }
    };
    Ok(Policy {
        class,
        affinity: change.cpus.unwrap_or(policy.affinity),
        wfi: change.wfi.unwrap_or(policy.wfi),
    })
}

fn state(vm: Option<&Vm>) -> VmState {
    match vm {
        None => VmState::Off,
        Some(vm) => match vm.status() {
            Status::Stopped(Stop::Crashed) => VmState::Crashed,
            Status::Stopped(_) => VmState::Off,
            Status::Running | Status::Paused if vm.is_stopping() => VmState::Stopping,
            Status::Running if vm.is_loading() => VmState::Loading,
            Status::Running => VmState::Running,
            Status::Paused => VmState::Paused,
        },
    }
}

fn exits(vm: &Vm) -> u64 {
    let tallies = (0..vm.vcpu_count()).filter_map(|id| vm.tally(VcpuId(id)));
    tallies.flat_map(|tally| Reason::ALL.map(|reason| tally.exits(reason).count)).sum()
}

fn devices(vm: &Vm) -> Vec<DeviceEntry> {
    let entry = |(window, irq): (crate::addr::Region<crate::addr::Ipa>, Option<_>)| DeviceEntry {
        name: vm.device_name(window.start()).into(),
        address: Hex(window.start().raw()),
        size: window.size(),
        irq: irq.map(|irq: crate::vgic::IntId| irq.0),
    };
    vm.devices().map(entry).collect()
}

fn registers(vcpu: &Registers) -> Vec<NamedRegister> {
    let named = |name: &str, value| NamedRegister { name: name.into(), value: Hex(value) };
    let mut all = alloc::vec![named("pc", vcpu.regs.pc), named("pstate", vcpu.regs.pstate)];
    let general = vcpu.regs.x.iter().enumerate();
    all.extend(general.map(|(index, value)| named(&format!("x{index}"), *value)));
    all.extend(vcpu.system().map(|(name, value)| named(name, value)));
    all
}

const fn on_crash(on_crash: OnCrash) -> &'static str {
    match on_crash {
        OnCrash::Preserve => "preserve",
        OnCrash::Restart => "restart",
        OnCrash::Destroy => "destroy",
    }
}

const fn on_bad_access(on_bad_access: OnBadAccess) -> &'static str {
    match on_bad_access {
        OnBadAccess::Abort => "abort",
        OnBadAccess::Crash => "crash",
    }
}

const fn on_reboot(on_reboot: OnReboot) -> &'static str {
    match on_reboot {
        OnReboot::Restart => "restart",
        OnReboot::Stop => "stop",
        OnReboot::Destroy => "destroy",
    }
}
