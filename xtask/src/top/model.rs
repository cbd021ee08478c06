//! From samples to rates to rows.
//!
//! Pure. Counters become rates over the time between two samples; where one is missing, or a counter
//! went back (a VM was reset, or counts began anew), the rate is unknown until the next.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::sample::{self, Cpu, Exit, Memory, Sched, Vcpu, Vm};

/// What is asked for, again and again.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Part {
    Vms,
    Cpus,
    Memory,
    Stats,
    Sched,
    /// One VM's vCPUs.
    Vcpus(String),
}

impl Part {
    /// The monitor's command for it.
    pub fn command(&self) -> String {
        match self {
            Self::Vms => "vm list".to_owned(),
            Self::Cpus => "cpu".to_owned(),
            Self::Memory => "memory".to_owned(),
            Self::Stats => "stats".to_owned(),
            Self::Sched => "sched".to_owned(),
            Self::Vcpus(name) => format!("vm info {name}"),
        }
    }
}

/// The two latest samples of one part, with their times.
#[derive(Clone, Debug)]
struct Series<T> {
    now: Option<(Duration, Vec<T>)>,
    before: Option<(Duration, Vec<T>)>,
}

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self { now: None, before: None }
    }
}

impl<T> Series<T> {
    fn push(&mut self, at: Duration, sample: Vec<T>) {
        self.before = self.now.replace((at, sample));
    }

    fn now(&self) -> &[T] {
        self.now.as_ref().map(|(_, sample)| sample.as_slice()).unwrap_or_default()
    }

    /// The same entry in the sample before, and the seconds since then.
    fn before(&self, same: impl Fn(&T) -> bool) -> Option<(&T, f64)> {
        let ((now, _), (then, sample)) = (self.now.as_ref()?, self.before.as_ref()?);
        let seconds = now.saturating_sub(*then).as_secs_f64();
        let entry = sample.iter().find(|entry| same(entry))?;
        (seconds > 0.0).then_some((entry, seconds))
    }
}

/// How much a counter went up.
fn rise(now: Option<u64>, before: Option<u64>) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "for the eye")]
    now?.checked_sub(before?).map(|rise| rise as f64)
}

/// A line about a CPU. Parts of its time are from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct CpuRow {
    pub id: u64,
    pub guests: Option<f64>,
    pub hypervisor: Option<f64>,
    pub ready: Option<u64>,
    pub running: Option<String>,
}

impl CpuRow {
    /// The part of its time in which it was not idle.
    pub fn busy(&self) -> Option<f64> {
        Some(self.guests? + self.hypervisor?)
    }
}

/// A line about a VM.
#[derive(Clone, Debug, PartialEq)]
pub struct VmRow {
    pub vm: Vm,
    /// How many CPUs' time it has, as 1.5.
    pub share: Option<f64>,
    pub exits_per_second: Option<f64>,
    pub sched: Option<Sched>,
}

/// A line about a vCPU.
#[derive(Clone, Debug, PartialEq)]
pub struct VcpuRow {
    pub vcpu: Vcpu,
    /// The part of the time it ran.
    pub share: Option<f64>,
    /// The part of the time it was ready and did not run.
    pub stolen: Option<f64>,
}

/// A line about exits for one reason.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitRow {
    pub reason: String,
    pub per_second: Option<f64>,
    /// What one takes, in nanoseconds.
    pub cost: Option<f64>,
    pub count: Option<u64>,
}

/// All that is known of a run.
#[derive(Debug, Default)]
pub struct Model {
    vms: Series<Vm>,
    cpus: Series<Cpu>,
    exits: Series<Exit>,
    memory: Option<Memory>,
    sched: Vec<Sched>,
    vcpus: BTreeMap<String, Series<Vcpu>>,
    refused: BTreeMap<Part, String>,
}

impl Model {
    /// Takes the reply about `part` that came at `at`.
    pub fn take(&mut self, part: Part, at: Duration, reply: &Result<Value, String>) {
        let value = match reply {
            Ok(value) => {
                self.refused.remove(&part);
                value
            }
            Err(why) => {
                self.refused.insert(part, why.clone());
                return;
            }
        };
        match part {
            Part::Vms => {
                self.vms.push(at, sample::vms(value));
                let vms = self.vms.now();
                self.vcpus.retain(|name, _| vms.iter().any(|vm| vm.name == *name));
                self.refused.retain(|part, _| !matches!(part, Part::Vcpus(_)));
            }
            Part::Cpus => self.cpus.push(at, sample::cpus(value)),
            Part::Memory => self.memory = Some(sample::memory(value)),
            Part::Stats => self.exits.push(at, sample::exits(value)),
            Part::Sched => self.sched = sample::sched(value),
            Part::Vcpus(name) => {
                self.vcpus.entry(name).or_default().push(at, sample::vcpus(value));
            }
        }
    }

    /// Why something is not known, if the monitor said so.
    pub fn refusal(&self) -> Option<String> {
        let (part, why) = self.refused.first_key_value()?;
        Some(format!("{}: {why}", part.command()))
    }

    /// The names of all VMs.
    pub fn names(&self) -> Vec<String> {
        self.vms.now().iter().map(|vm| vm.name.clone()).collect()
    }

    /// A VM's state.
    pub fn state(&self, name: &str) -> Option<&str> {
        self.vms.now().iter().find(|vm| vm.name == name)?.state.as_deref()
    }

    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    pub fn cpus(&self) -> Vec<CpuRow> {
        let row = |cpu: &Cpu| {
            let before = self.cpus.before(|before| before.id == cpu.id).map(|(before, _)| before);
            let rise = |of: fn(&Cpu) -> Option<u64>| rise(of(cpu), of(before?));
            let (guests, hypervisor) =
                (rise(|cpu| cpu.guest_micros), rise(|cpu| cpu.hypervisor_micros));
            let idle = rise(|cpu| cpu.idle_micros);
            let all = guests.unwrap_or(0.0) + hypervisor.unwrap_or(0.0) + idle.unwrap_or(0.0);
            let part =
                |time: Option<f64>| idle.and(time).filter(|_| all > 0.0).map(|time| time / all);
            CpuRow {
                id: cpu.id,
                guests: part(guests),
                hypervisor: part(hypervisor),
                ready: cpu.ready,
                running: cpu.running.clone(),
            }
        };
        self.cpus.now().iter().map(row).collect()
    }

    pub fn vms(&self) -> Vec<VmRow> {
        let row = |vm: &Vm| {
            let before = self.vms.before(|before| before.name == vm.name);
            VmRow {
                vm: vm.clone(),
                share: before.and_then(|(before, seconds)| {
                    Some(rise(vm.cpu_micros, before.cpu_micros)? / (seconds * 1e6))
                }),
                exits_per_second: before
                    .and_then(|(before, seconds)| Some(rise(vm.exits, before.exits)? / seconds)),
                sched: self.sched.iter().find(|entry| entry.name == vm.name).cloned(),
            }
        };
        self.vms.now().iter().map(row).collect()
    }

    pub fn vcpus(&self, name: &str) -> Vec<VcpuRow> {
        let Some(series) = self.vcpus.get(name) else { return Vec::new() };
        let row = |vcpu: &Vcpu| {
            let before = series.before(|before| before.id == vcpu.id);
            let part = |of: fn(&Vcpu) -> Option<u64>| {
                let (before, seconds) = before?;
                Some(rise(of(vcpu), of(before))? / (seconds * 1e6))
            };
            VcpuRow {
                vcpu: vcpu.clone(),
                share: part(|vcpu| vcpu.cpu_micros),
                stolen: part(|vcpu| vcpu.steal_micros),
            }
        };
        series.now().iter().map(row).collect()
    }

    /// Exits by reason, the most frequent first: of one VM, or of all.
    pub fn exits(&self, vm: Option<&str>) -> Vec<ExitRow> {
        let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
        for exit in self.exits.now().iter().filter(|exit| vm.is_none_or(|vm| exit.vm == *vm)) {
            let sum = sums.entry(&exit.reason).or_default();
            sum.count = sum.count.saturating_add(exit.count.unwrap_or(0));
            let before =
                self.exits.before(|before| before.vm == exit.vm && before.reason == exit.reason);
            // A reason that was not there before began at 0.
            let new = self.exits.before(|_| true).map(|(_, seconds)| (Some(0), Some(0), seconds));
            let before = before.map(|(before, seconds)| (before.count, before.nanos, seconds));
            if let Some((count, nanos, seconds)) = before.or(new)
                && let Some(count) = rise(exit.count, count)
            {
                sum.known = true;
                sum.rise += count;
                sum.nanos += rise(exit.nanos, nanos).unwrap_or(0.0);
                sum.seconds = seconds;
            }
        }
        let mut rows: Vec<ExitRow> =
            sums.into_iter().map(|(reason, sum)| sum.row(reason)).collect();
        let rate = |row: &ExitRow| row.per_second.unwrap_or(-1.0);
        rows.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(b.count.cmp(&a.count)));
        rows
    }
}

#[derive(Default)]
struct Sum {
    count: u64,
    known: bool,
    rise: f64,
    nanos: f64,
    seconds: f64,
}

impl Sum {
    fn row(&self, reason: &str) -> ExitRow {
        let rose = self.known && self.rise > 0.0;
        ExitRow {
            reason: reason.to_owned(),
            per_second: self.known.then(|| self.rise / self.seconds),
            cost: rose.then(|| self.nanos / self.rise),
            count: Some(self.count),
        }
    }
}

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(super) mod tests;
