//! What the monitor answers: plain data, one value for the shell's text and for the JSON.
//!
//! Times are in microseconds or nanoseconds as the name says, sizes in bytes. Addresses and registers
//! are hexadecimal text in JSON, as its numbers are not exact beyond 53 bits everywhere.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::agent::Answer;
use crate::console::View;
use crate::sched::policy::Wfi;
use crate::vm::balloon::BalloonReport;

/// An address or a register.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hex(pub u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:#018x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").unwrap_or_default();
        u64::from_str_radix(digits, 16).map(Self).map_err(|_| de::Error::custom("no 0x number"))
    }
}

/// The state of a VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// It can be started.
    Off,
    /// Its memory is being made ready and its image loaded.
    Loading,
    /// It runs, or could.
    Running,
    /// Its vCPUs and its time stand still.
    Paused,
    /// It is on its way to being off.
    Stopping,
    /// It did something it cannot go on from.
    Crashed,
}

/// A line of `vm list`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VmSummary {
    /// Its number, which the escape key knows it by.
    pub id: u16,
    /// Its name in the manifest.
    pub name: String,
    /// What it does.
    pub state: VmState,
    /// How many vCPUs it has.
    pub vcpus: u8,
    /// Its RAM, in bytes.
    pub memory: u64,
    /// What of that is back in the pool, as the guest does not use it.
    pub given_back: u64,
    /// The CPU time that all its vCPUs have had.
    pub cpu_micros: u64,
    /// How often its vCPUs have exited to the hypervisor.
    pub exits: u64,
    /// How often it was reset.
    pub resets: u32,
}

/// A vCPU in `vm info`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VcpuSummary {
    /// Its number in the VM.
    pub id: u8,
    /// `off`, `running`, `ready`, `waiting` or `paused`.
    pub state: String,
    /// The CPU it is on, or was last.
    pub cpu: Option<u8>,
    /// The CPU time it has had.
    pub cpu_micros: u64,
    /// How long it was ready to run and did not.
    pub steal_micros: u64,
}

/// A device in `vm info`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// What it is.
    pub name: String,
    /// Where it is, in the guest's addresses.
    pub address: Hex,
    /// Its size in bytes.
    pub size: u64,
    /// Its interrupt.
    pub irq: Option<u16>,
}

/// `vm info`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VmDetails {
    /// As in the list.
    #[serde(flatten)]
    pub summary: VmSummary,
    /// Its virtual time since it was created.
    pub uptime_micros: u64,
    /// What happens when it crashes.
    pub on_crash: String,
    /// What happens when it reboots.
    pub on_reboot: String,
    /// What happens when it makes an access that cannot be carried out.
    pub on_bad_access: String,
    /// How it is asked to power off: `button`, `agent`, or `console` and what is typed, in quotes.
    pub shutdown: String,
    /// How it is scheduled.
    pub sched: SchedEntry,
    /// Its vCPUs.
    pub vcpu_list: Vec<VcpuSummary>,
    /// Its devices.
    pub devices: Vec<DeviceEntry>,
    /// Its balloon, if it has one.
    pub balloon: Option<BalloonReport>,
}

/// `vm stop` without force, and what an agent is asked to bring about.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// How the VM was asked: as in [`VmDetails::shutdown`].
    pub asked: String,
}

/// `agent NAME ping` and `agent NAME info`. What the agent does not say is left out; texts are a guest's, without control
/// characters.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentReport {
    /// Which version of the convention it keeps to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The guest's kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// For how long the guest has been up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_micros: Option<u64>,
    /// The guest's memory as it sees it, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// What of it can be had, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    /// The guest's network addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

impl From<Answer> for AgentReport {
    fn from(answer: Answer) -> Self {
        let Answer { version, kernel, uptime, memory, available, addresses } = answer;
        let uptime_micros = uptime.map(|seconds| seconds.saturating_mul(1_000_000));
        Self { version, kernel, uptime_micros, memory, available, addresses }
    }
}

/// A register by its name.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct NamedRegister {
    /// As the manual has it.
    pub name: String,
    /// Its value.
    pub value: Hex,
}

/// A vCPU in `vm dump`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VcpuDump {
    /// Its number in the VM.
    pub id: u8,
    /// As in [`VcpuSummary`].
    pub state: String,
    /// The registers, `pc` and `pstate` first. None when it is off.
    pub registers: Vec<NamedRegister>,
}

/// A line of `cpu`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CpuSummary {
    /// Its number.
    pub id: u8,
    /// Its affinity.
    pub mpidr: Hex,
    /// The vCPU that it runs, as `NAME/0`.
    pub running: Option<String>,
    /// How many vCPUs wait for it.
    pub ready: u32,
    /// How long it has run guests.
    pub guest_micros: u64,
    /// How long it has been at EL2, not idle.
    pub hypervisor_micros: u64,
    /// How long it was idle.
    pub idle_micros: u64,
}

/// A VM in `memory`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VmMemory {
    /// Its name.
    pub name: String,
    /// Its RAM, in bytes.
    pub ram: u64,
    /// What of that is back in the pool, as the guest does not use it.
    pub given_back: u64,
    /// Its disks, in bytes: an image that several have is counted for the first.
    pub disks: u64,
    /// Its stage-2 tables, in bytes.
    pub tables: u64,
    /// What making it took of the hypervisor's heap, in bytes.
    pub heap: u64,
}

/// `memory`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// What there is for guests, in bytes.
    pub total: u64,
    /// What of it is free.
    pub free: u64,
    /// The largest block that is free.
    pub largest_free: u64,
    /// What of the machine's memory neither is free nor is a VM's: the hypervisor's image, its heap, the bundle.
    pub kept: u64,
    /// The hypervisor's heap.
    pub heap_total: u64,
    /// What of it is free.
    pub heap_free: u64,
    /// What the VMs have.
    pub vms: Vec<VmMemory>,
}

/// A line of `irq`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct IrqEntry {
    /// Its number.
    pub intid: u16,
    /// The vCPU or CPU whose private interrupt it is, or that it is routed to.
    pub target: Option<u8>,
    /// What it is, where that is known.
    pub name: String,
    /// It may be delivered.
    pub enabled: bool,
    /// It waits.
    pub pending: bool,
    /// It is being handled.
    pub active: bool,
    /// Its priority.
    pub priority: u8,
    /// How often it came, where that is counted.
    pub count: Option<u64>,
}

/// A line of `sched`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct SchedEntry {
    /// The VM's name.
    pub name: String,
    /// Its weight, where it shares fairly.
    pub weight: Option<u16>,
    /// Its cap in hundredths of a CPU.
    pub cap: Option<u16>,
    /// Its budget, where it has a reservation.
    pub budget_micros: Option<u32>,
    /// The period of that.
    pub period_micros: Option<u32>,
    /// The CPUs it may run on.
    pub cpus: Vec<u8>,
    /// Whether the hypervisor sees its vCPUs wait.
    pub wfi: Wfi,
    /// The CPU time it has had.
    pub cpu_micros: u64,
}

/// Exits for one reason.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ExitStats {
    /// Why.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// What they took in all, from the exit to the next entry.
    pub nanos: u64,
}

/// A part of `stats`: a VM, or one vCPU of it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct StatsEntry {
    /// The VM's name.
    pub name: String,
    /// The vCPU; none for the sum of all.
    pub vcpu: Option<u8>,
    /// For each reason that there was.
    pub exits: Vec<ExitStats>,
}

/// `console`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ConsoleState {
    /// Whose output is shown.
    pub view: View,
    /// The guest that gets what is typed; none when the monitor does.
    pub focus: Option<String>,
}

/// `console tail`. Positions count the bytes that the guest has sent since it was first started.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ConsoleTail {
    /// Where the text begins.
    pub from: u64,
    /// Where the next piece begins.
    pub next: u64,
    /// How many bytes the guest has sent.
    pub end: u64,
    /// What it sent, control characters and all. What is no UTF-8 is U+FFFD.
    pub text: String,
}

/// A line of `help`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct HelpEntry {
    /// How the command is written.
    pub command: &'static str,
    /// What it does.
    pub what: &'static str,
}

/// An answer. In JSON it is the value alone; [`Done`](Self::Done) is `null`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// `help`.
    Help(Vec<HelpEntry>),
    /// `vm list`.
    Vms(Vec<VmSummary>),
    /// `vm info`.
    Vm(Box<VmDetails>),
    /// `vm stop` without force, `agent NAME shutdown` and `agent NAME reboot`.
    Asked(Asked),
    /// `agent NAME ping` and `agent NAME info`.
    Agent(Box<AgentReport>),
    /// `vm dump`.
    Dump(Vec<VcpuDump>),
    /// `cpu`.
    Cpus(Vec<CpuSummary>),
    /// `memory`.
    Memory(MemoryReport),
    /// `irq`.
    Irqs(Vec<IrqEntry>),
    /// `sched`.
    Sched(Vec<SchedEntry>),
    /// `stats`.
    Stats(Vec<StatsEntry>),
    /// `console`.
    Console(ConsoleState),
    /// `console tail`.
    Tail(ConsoleTail),
    /// It is done, and there is nothing to say.
    Done,
}
