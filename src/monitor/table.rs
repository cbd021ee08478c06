//! The monitor's answers as text for a terminal of 80 columns, as far as they fit.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Display, Write};

use super::reply::{
    AgentReport, Asked, ConsoleState, CpuSummary, DeviceEntry, HelpEntry, IrqEntry, MemoryReport,
    Reply, SchedEntry, StatsEntry, VcpuDump, VcpuSummary, VmDetails, VmMemory, VmState, VmSummary,
};
use crate::console::View;
use crate::console::text::{Cleaner, Restart};

/// The text of an answer, its lines ended by line feeds.
pub fn render(reply: &Reply) -> String {
    match reply {
        Reply::Help(entries) => help(entries),
        Reply::Vms(vms) => table(&VM_COLUMNS, &vms.iter().map(vm_row).collect::<Vec<_>>()),
        Reply::Vm(vm) => details(vm),
        Reply::Asked(Asked { asked }) => format!("asked by its {asked}\n"),
        Reply::Agent(report) => agent(report),
        Reply::Dump(vcpus) => vcpus.iter().map(dump).collect(),
        Reply::Cpus(cpus) => self::cpus(cpus),
        Reply::Memory(report) => memory(report),
        Reply::Irqs(irqs) => self::irqs(irqs),
        Reply::Sched(entries) => sched(entries),
        Reply::Stats(entries) => stats(entries),
        Reply::Console(state) => console(state),
        Reply::Tail(tail) => clean(&tail.text),
        Reply::Done => String::from("ok\n"),
    }
}

/// A guest's output as it may stand on a terminal, in lines that are ended.
pub fn clean(text: &str) -> String {
    let (mut cleaner, mut clean) = (Cleaner::default(), Vec::new());
    let restart = Restart { prefix: b"", terminal: false };
    for byte in text.bytes() {
        if cleaner.feed(byte, restart, &mut clean) {
            clean.push(b'\n');
        }
    }
    // What a carriage return begins again is a line of its own here.
    clean.retain(|byte| *byte != b'\r');
    if clean.last().is_some_and(|last| *last != b'\n') {
        clean.push(b'\n');
    }
    String::from_utf8_lossy(&clean).into_owned()
}

const VM_COLUMNS: [&str; 8] =
    ["id<", "name<", "state<", "vcpus", "memory", "cpu time", "exits", "resets"];

fn vm_row(vm: &VmSummary) -> Vec<String> {
    row(&[
        &vm.id,
        &vm.name,
        &state(vm.state),
        &vm.vcpus,
        &present(vm),
        &Seconds(vm.cpu_micros),
        &vm.exits,
        &vm.resets,
    ])
}

/// How much memory it has, and of how much where that is less than all.
fn present(vm: &VmSummary) -> String {
    let all = Size(vm.memory);
    match vm.given_back {
        0 => all.to_string(),
        back => format!("{} of {all}", Size(vm.memory.saturating_sub(back))),
    }
}

const fn state(state: VmState) -> &'static str {
    match state {
        VmState::Off => "off",
        VmState::Loading => "loading",
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::Stopping => "stopping",
        VmState::Crashed => "crashed",
    }
}

fn help(entries: &[HelpEntry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let _ = writeln!(text, "{:<26}  {}", entry.command, entry.what);
    }
    text
}

fn details(vm: &VmDetails) -> String {
    let mut text = table(&VM_COLUMNS, &[vm_row(&vm.summary)]);
    let _ = writeln!(
        text,
        "up {}; on crash: {}; on reboot: {}; on a bad access: {}; shutdown: {}",
        Seconds(vm.uptime_micros),
        vm.on_crash,
        vm.on_reboot,
        vm.on_bad_access,
        vm.shutdown
    );
    if let Some(balloon) = &vm.balloon {
        let _ = writeln!(
            text,
            "balloon: {} of {} are to be left, {} are; {} are given back, {} were reported free in all; it keeps {}{}",
            Size(balloon.target),
            Size(vm.summary.memory),
            Size(balloon.actual),
            Size(balloon.given_back),
            Size(balloon.reported),
            Size(balloon.min),
            if balloon.waits { "; it waits for memory" } else { "" }
        );
    }
    text += &sched(core::slice::from_ref(&vm.sched));
    let vcpu = |vcpu: &VcpuSummary| {
        let times = [vcpu.cpu_micros, vcpu.steal_micros].map(Seconds);
        row(&[&vcpu.id, &vcpu.state, &OrDash(vcpu.cpu), &times[0], &times[1]])
    };
    let rows: Vec<_> = vm.vcpu_list.iter().map(vcpu).collect();
    text += &table(&["vcpu<", "state<", "cpu", "cpu time", "stolen"], &rows);
    let device = |device: &DeviceEntry| {
        let (address, size) =
            (format_args!("{:#x}", device.address.0), format_args!("{:#x}", device.size));
        row(&[&device.name, &address, &size, &OrDash(device.irq)])
    };
    let rows: Vec<_> = vm.devices.iter().map(device).collect();
    text + &table(&["device<", "address", "size", "irq"], &rows)
}

fn agent(report: &AgentReport) -> String {
    let mut text = String::new();
    let mut say = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{what:<9}  {value}");
        }
    };
    say("version", report.version.map(|version| version.to_string()));
    say("kernel", report.kernel.clone());
    say("up", report.uptime_micros.map(|micros| Seconds(micros).to_string()));
    say("memory", report.memory.map(|bytes| Size(bytes).to_string()));
    say("available", report.available.map(|bytes| Size(bytes).to_string()));
    say("addresses", (!report.addresses.is_empty()).then(|| report.addresses.join(" ")));
    if text.is_empty() { String::from("ok\n") } else { text }
}

fn dump(vcpu: &VcpuDump) -> String {
    let mut text = format!("vcpu {}: {}\n", vcpu.id, vcpu.state);
    for row in vcpu.registers.chunks(3) {
        for register in row {
            let _ = write!(text, "  {:<6} {:#018x}", register.name, register.value.0);
        }
        text.push('\n');
    }
    text
}

fn cpus(cpus: &[CpuSummary]) -> String {
    let cpu = |cpu: &CpuSummary| {
        row(&[
            &cpu.id,
            &format_args!("{:#x}", cpu.mpidr.0),
            &cpu.running.as_deref().unwrap_or("-"),
            &cpu.ready,
            &Seconds(cpu.guest_micros),
            &Seconds(cpu.hypervisor_micros),
            &Seconds(cpu.idle_micros),
        ])
    };
    let rows: Vec<_> = cpus.iter().map(cpu).collect();
    table(&["cpu<", "mpidr<", "running<", "ready", "guests", "hypervisor", "idle"], &rows)
}

fn memory(report: &MemoryReport) -> String {
    let mut text = format!(
        "guests: {} of {} free, {} in one piece\nhypervisor: {} kept, heap: {} of {} free\n",
        Size(report.free),
        Size(report.total),
        Size(report.largest_free),
        Size(report.kept),
        Size(report.heap_free),
        Size(report.heap_total)
    );
    let vm = |vm: &VmMemory| {
        let sizes = [vm.ram, vm.given_back, vm.disks, vm.tables, vm.heap].map(Size);
        let [ram, back, disks, tables, heap] = &sizes;
        row(&[&vm.name, ram, back, disks, tables, heap])
    };
    let rows: Vec<_> = report.vms.iter().map(vm).collect();
    text += &table(&["vm<", "ram", "given back", "disks", "tables", "heap"], &rows);
    text
}

fn irqs(irqs: &[IrqEntry]) -> String {
    let mark = |on: bool, mark: &'static str| if on { mark } else { "-" };
    let irq = |irq: &IrqEntry| {
        row(&[
            &irq.intid,
            &OrDash(irq.target),
            &mark(irq.enabled, "enabled"),
            &mark(irq.pending, "pending"),
            &mark(irq.active, "active"),
            &format_args!("{:#04x}", irq.priority),
            &OrDash(irq.count),
            &irq.name,
        ])
    };
    let rows: Vec<_> = irqs.iter().map(irq).collect();
    let columns = ["irq", "cpu", "enabled<", "pending<", "active<", "priority", "count", "what<"];
    table(&columns, &rows)
}

fn sched(entries: &[SchedEntry]) -> String {
    let entry = |entry: &SchedEntry| {
        let reservation = match (entry.budget_micros, entry.period_micros) {
            (Some(budget), Some(period)) => format!("{budget}us/{period}us"),
            _ => String::from("-"),
        };
        row(&[
            &entry.name,
            &OrDash(entry.weight),
            &OrDash(entry.cap),
            &reservation,
            &Ranges(&entry.cpus),
            &entry.wfi.name(),
            &Seconds(entry.cpu_micros),
        ])
    };
    let rows: Vec<_> = entries.iter().map(entry).collect();
    table(&["vm<", "weight", "cap", "reservation", "cpus<", "wfi<", "cpu time"], &rows)
}

fn stats(entries: &[StatsEntry]) -> String {
    let mut rows = Vec::new();
    for entry in entries {
        let who = match entry.vcpu {
            Some(vcpu) => format!("{}/{vcpu}", entry.name),
            None => entry.name.clone(),
        };
        for exit in &entry.exits {
            let each = exit.nanos.checked_div(exit.count).unwrap_or(0);
            rows.push(row(&[
                &who,
                &exit.reason,
                &exit.count,
                &format_args!("{} us", exit.nanos / 1000),
                &format_args!("{each} ns"),
            ]));
        }
    }
    table(&["vm<", "reason<", "exits", "in all", "each"], &rows)
}

fn console(state: &ConsoleState) -> String {
    let shown = match state.view {
        View::All => "all guests",
        View::Focus => "only the guest with the focus",
    };
    let focus = state.focus.as_deref().unwrap_or("the monitor");
    format!("shown: {shown}; focus: {focus}\n")
}

/// Columns as wide as their widest cell. A heading with `<` has its column set to the left.
fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let title = |heading: &str| String::from(heading.trim_end_matches('<'));
    let head: Vec<String> = headings.iter().map(|heading| title(heading)).collect();
    let lines = || [&head].into_iter().chain(rows);
    let width = |column: usize| {
        lines()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in lines() {
        let mut line = String::new();
        for ((cell, heading), width) in row.iter().zip(headings).zip(&widths) {
            let _ = if heading.ends_with('<') {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The cells of a row.
fn row(cells: &[&dyn Display]) -> Vec<String> {
    cells.iter().map(|cell| cell.to_string()).collect()
}

/// What there may be.
struct OrDash<T>(Option<T>);

impl<T: Display> Display for OrDash<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// Bytes, in the largest unit that keeps them whole, or in MiB.
struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes > 0 && bytes.is_multiple_of(1 << 30) => write!(f, "{} GiB", bytes >> 30),
            bytes if bytes >= 10 << 20 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{} KiB", bytes >> 10),
        }
    }
}

/// Microseconds, as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

/// `0-1,3`.
struct Ranges<'a>(&'a [u8]);

impl Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((first, _)) = rest.split_first() {
            let run =
                rest.iter().zip(*first..=u8::MAX).take_while(|(a, b)| **a == *b).count().max(1);
            let (now, later) = rest.split_at(run.min(rest.len()));
            let last = now.last().unwrap_or(first);
            write!(f, "{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
            if !later.is_empty() {
                f.write_str(",")?;
            }
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let rows = [vec!["a".into(), "10".into()], vec!["long".into(), "7".into()]];
        assert_eq!(table(&["n<", "count"], &rows), "n     count\na        10\nlong      7\n");
    }

    #[test]
    fn a_guests_output_does_nothing_to_the_terminal_that_shows_it() {
        let sent = "\x1b[31mred\x1b[0m\x07\r\n10%\r20%\r\n\x1e{}\n\x1b[2Jlogin: ";
        assert_eq!(clean(sent), "red\n10%\n20%\n{}\nlogin: \n");
        assert_eq!(clean(""), "");
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn whatever_a_guest_sent_shows_as_lines(sent in "[\\x00-\\x7f\u{80}-\u{9f}ä]{0,80}") {
            let shown = clean(&sent);
            prop_assert!(!shown.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{:?}", shown);
        }
    }

    #[test]
    fn numbers_are_written_as_people_read_them() {
        let sizes = [0, 512 << 20, 1 << 30].map(|bytes| Size(bytes).to_string());
        assert_eq!(sizes, ["0 KiB", "512 MiB", "1 GiB"]);
        assert_eq!(Seconds(12_345_678).to_string(), "12.345 s");
        assert_eq!(Ranges(&[0, 1, 2, 5, 7, 8, 255]).to_string(), "0-2,5,7-8,255");
        assert_eq!(Ranges(&[]).to_string(), "");
    }
}
