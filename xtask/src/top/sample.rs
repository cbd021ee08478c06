//! What the monitor's replies say, as far as they say it: a member that is missing or of another kind
//! is unknown, and an entry without a name is none.

use serde_json::Value;

/// A CPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    pub id: u64,
    /// What it runs now.
    pub running: Option<String>,
    /// How many vCPUs wait for it.
    pub ready: Option<u64>,
    pub guest_micros: Option<u64>,
    pub hypervisor_micros: Option<u64>,
    pub idle_micros: Option<u64>,
}

/// A VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vm {
    pub name: String,
    pub state: Option<String>,
    pub vcpus: Option<u64>,
    /// In bytes.
    pub memory: Option<u64>,
    /// What of that it is without.
    pub given_back: Option<u64>,
    pub cpu_micros: Option<u64>,
    pub exits: Option<u64>,
    pub resets: Option<u64>,
}

/// A vCPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vcpu {
    pub id: u64,
    pub state: Option<String>,
    /// The CPU it is on.
    pub cpu: Option<u64>,
    pub cpu_micros: Option<u64>,
    pub steal_micros: Option<u64>,
}

/// The machine's memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    pub total: Option<u64>,
    pub free: Option<u64>,
    pub heap_total: Option<u64>,
    pub heap_free: Option<u64>,
}

/// A VM's exits for one reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exit {
    pub vm: String,
    pub reason: String,
    pub count: Option<u64>,
    /// What they took in all.
    pub nanos: Option<u64>,
}

/// How a VM is scheduled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sched {
    pub name: String,
    pub weight: Option<u64>,
    pub cap: Option<u64>,
    pub budget_micros: Option<u64>,
    pub period_micros: Option<u64>,
}

/// `cpu`.
pub fn cpus(reply: &Value) -> Vec<Cpu> {
    let cpu = |entry: &Value| {
        Some(Cpu {
            id: number(entry, "id")?,
            running: text(entry, "running"),
            ready: number(entry, "ready"),
            guest_micros: number(entry, "guest_micros"),
            hypervisor_micros: number(entry, "hypervisor_micros"),
            idle_micros: number(entry, "idle_micros"),
        })
    };
    list(reply).iter().filter_map(cpu).collect()
}

/// `vm list`.
pub fn vms(reply: &Value) -> Vec<Vm> {
    let vm = |entry: &Value| {
        Some(Vm {
            name: text(entry, "name")?,
            state: text(entry, "state"),
            vcpus: number(entry, "vcpus"),
            memory: number(entry, "memory"),
            given_back: number(entry, "given_back"),
            cpu_micros: number(entry, "cpu_micros"),
            exits: number(entry, "exits"),
            resets: number(entry, "resets"),
        })
    };
    list(reply).iter().filter_map(vm).collect()
}

/// The vCPUs in `vm info`.
pub fn vcpus(reply: &Value) -> Vec<Vcpu> {
    let vcpu = |entry: &Value| {
        Some(Vcpu {
            id: number(entry, "id")?,
            state: text(entry, "state"),
            cpu: number(entry, "cpu"),
            cpu_micros: number(entry, "cpu_micros"),
            steal_micros: number(entry, "steal_micros"),
        })
    };
    reply.get("vcpu_list").map(list).unwrap_or_default().iter().filter_map(vcpu).collect()
}

/// `memory`.
pub fn memory(reply: &Value) -> Memory {
    Memory {
        total: number(reply, "total"),
        free: number(reply, "free"),
        heap_total: number(reply, "heap_total"),
        heap_free: number(reply, "heap_free"),
    }
}

/// `stats`: the sums of the VMs.
pub fn exits(reply: &Value) -> Vec<Exit> {
    let mut exits = Vec::new();
    for entry in list(reply) {
        let Some(vm) = text(entry, "name") else { continue };
        for exit in entry.get("exits").map(list).unwrap_or_default() {
            if let Some(reason) = text(exit, "reason") {
                let (count, nanos) = (number(exit, "count"), number(exit, "nanos"));
                exits.push(Exit { vm: vm.clone(), reason, count, nanos });
            }
        }
    }
    exits
}

/// `sched`.
pub fn sched(reply: &Value) -> Vec<Sched> {
    let entry = |entry: &Value| {
        Some(Sched {
            name: text(entry, "name")?,
            weight: number(entry, "weight"),
            cap: number(entry, "cap"),
            budget_micros: number(entry, "budget_micros"),
            period_micros: number(entry, "period_micros"),
        })
    };
    list(reply).iter().filter_map(entry).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(entry: &Value, name: &str) -> Option<u64> {
    entry.get(name)?.as_u64()
}

/// A text, without what could upset a terminal.
fn text(entry: &Value, name: &str) -> Option<String> {
    let text = entry.get(name)?.as_str()?;
    Some(text.chars().filter(|c| !c.is_control()).collect())
}
