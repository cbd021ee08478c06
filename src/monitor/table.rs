//! The monitor's answers as text for a terminal of 80 columns, as far as they fit.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write;

use super::reply::{
    Asked, ConsoleState, CpuSummary, HelpEntry, IrqEntry, MemoryReport, Reply, SchedEntry,
    StatsEntry, VcpuDump, VmDetails, VmState, VmSummary,
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
    vec![
        vm.id.to_string(),
        vm.name.clone(),
        String::from(state(vm.state)),
        vm.vcpus.to_string(),
        size(vm.memory),
        seconds(vm.cpu_micros),
        vm.exits.to_string(),
        vm.resets.to_string(),
    ]
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
        seconds(vm.uptime_micros),
        vm.on_crash,
        vm.on_reboot,
        vm.on_bad_access,
        vm.shutdown
    );
    text += &sched(core::slice::from_ref(&vm.sched));
    let rows: Vec<_> = vm
        .vcpu_list
        .iter()
        .map(|vcpu| {
            vec![
                vcpu.id.to_string(),
                vcpu.state.clone(),
                optional(vcpu.cpu),
                seconds(vcpu.cpu_micros),
                seconds(vcpu.steal_micros),
            ]
        })
        .collect();
    text += &table(&["vcpu<", "state<", "cpu", "cpu time", "stolen"], &rows);
    let rows: Vec<_> = vm
        .devices
        .iter()
        .map(|device| {
            vec![
                device.name.clone(),
                format!("{:#x}", device.address.0),
                format!("{:#x}", device.size),
                optional(device.irq),
            ]
        })
        .collect();
    text + &table(&["device<", "address", "size", "irq"], &rows)
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
    let rows: Vec<_> = cpus
        .iter()
        .map(|cpu| {
            vec![
                cpu.id.to_string(),
                format!("{:#x}", cpu.mpidr.0),
                cpu.running.clone().unwrap_or_else(|| String::from("-")),
                cpu.ready.to_string(),
                seconds(cpu.guest_micros),
                seconds(cpu.hypervisor_micros),
                seconds(cpu.idle_micros),
            ]
        })
        .collect();
    table(&["cpu<", "mpidr<", "running<", "ready", "guests", "hypervisor", "idle"], &rows)
}

fn memory(report: &MemoryReport) -> String {
    let mut text = format!(
        "guests: {} of {} free, {} in one piece\nheap: {} of {} free\n",
        size(report.free),
        size(report.total),
        size(report.largest_free),
        size(report.heap_free),
        size(report.heap_total)
    );
    let rows: Vec<_> =
        report.vms.iter().map(|vm| vec![vm.name.clone(), size(vm.ram), size(vm.tables)]).collect();
    text += &table(&["vm<", "ram", "tables"], &rows);
    text
}

fn irqs(irqs: &[IrqEntry]) -> String {
    let mark = |on: bool, mark: &str| String::from(if on { mark } else { "-" });
    let rows: Vec<_> = irqs
        .iter()
        .map(|irq| {
            vec![
                irq.intid.to_string(),
                optional(irq.target),
                mark(irq.enabled, "enabled"),
                mark(irq.pending, "pending"),
                mark(irq.active, "active"),
                format!("{:#04x}", irq.priority),
                optional(irq.count),
                irq.name.clone(),
            ]
        })
        .collect();
    let columns = ["irq", "cpu", "enabled<", "pending<", "active<", "priority", "count", "what<"];
    table(&columns, &rows)
}

fn sched(entries: &[SchedEntry]) -> String {
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            let reservation = match (entry.budget_micros, entry.period_micros) {
                (Some(budget), Some(period)) => format!("{budget}us/{period}us"),
                _ => String::from("-"),
            };
            vec![
                entry.name.clone(),
                optional(entry.weight),
                optional(entry.cap),
                reservation,
                ranges(&entry.cpus),
                String::from(entry.wfi.name()),
                seconds(entry.cpu_micros),
            ]
        })
        .collect();
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
            rows.push(vec![
                who.clone(),
                exit.reason.clone(),
                exit.count.to_string(),
                format!("{} us", exit.nanos / 1000),
                format!("{} ns", exit.nanos.checked_div(exit.count).unwrap_or(0)),
            ]);
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

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| String::from("-"), |value| value.to_string())
}

/// In the largest unit that keeps it whole, or in MiB.
fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes > 0 && bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        bytes if bytes >= 10 << 20 => format!("{} MiB", bytes >> 20),
        bytes => format!("{} KiB", bytes >> 10),
    }
}

fn seconds(micros: u64) -> String {
    format!("{}.{:03} s", micros / 1_000_000, micros / 1000 % 1000)
}

/// `0-1,3`.
fn ranges(numbers: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = numbers;
    while let Some((first, _)) = rest.split_first() {
        let run = rest.iter().zip(*first..=u8::MAX).take_while(|(a, b)| **a == *b).count().max(1);
        let (now, later) = rest.split_at(run.min(rest.len()));
        if !text.is_empty() {
            text.push(',');
        }
        let last = now.last().unwrap_or(first);
        let _ =
            if last == first { write!(text, "{first}") } else { write!(text, "{first}-{last}") };
        rest = later;
    }
    text
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
        #![proptest_config(crate::testing::cases(256, 4))]

        #[test]
        fn whatever_a_guest_sent_shows_as_lines(sent in "[\\x00-\\x7f\u{80}-\u{9f}ä]{0,80}") {
            let shown = clean(&sent);
            prop_assert!(!shown.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{:?}", shown);
        }
    }

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!(
            (size(0), size(512 << 20), size(1 << 30)),
            ("0 KiB".into(), "512 MiB".into(), "1 GiB".into())
        );
        assert_eq!(seconds(12_345_678), "12.345 s");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8, 255]), "0-2,5,7-8,255");
        assert_eq!(ranges(&[]), "");
    }
}
