//! The live view on a terminal. What is unknown shows as `-`, and what does not fit is cut off.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Gauge, Paragraph, Row, Table, TableState, Tabs};

use super::app::{App, Tab};
use super::model::{ExitRow, VmRow};
use super::sample::Sched;

/// What the keys do.
const KEYS: &str = "q quit  ←→ tabs  ↑↓ choose  p pause/resume  s start  r reset  k stop --force";

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, app: &App) {
    let [top, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    tabs(frame, top, app);
    match &app.tab {
        Tab::Overview => overview(frame, body, app),
        Tab::Vm(name) => vm(frame, body, app, name),
        Tab::Consoles => consoles(frame, body, app, None),
    }
    footer(frame, foot, app);
}

fn tabs(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let all = app.tabs();
    let now = all.iter().position(|tab| *tab == app.tab);
    let title = |tab: &Tab| match tab {
        Tab::Overview => "overview".to_owned(),
        Tab::Vm(name) => name.clone(),
        Tab::Consoles => "consoles".to_owned(),
    };
    let chosen = Style::new().add_modifier(Modifier::REVERSED);
    let tabs = Tabs::new(all.iter().map(title)).select(now).highlight_style(chosen);
    frame.render_widget(tabs, area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let alarm = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
    let line = if let Some(name) = &app.condemned {
        Line::styled(
            format!("power {name} off without asking it? y: yes, any other key: no"),
            alarm,
        )
    } else if let Some(message) = &app.message {
        Line::styled(message.as_str(), Style::new().fg(Color::Yellow))
    } else if let Some(why) = app.model.refusal() {
        Line::styled(why, Style::new().fg(Color::Yellow))
    } else {
        Line::raw(KEYS)
    };
    frame.render_widget(Paragraph::new(line), area);
}

fn overview(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let cpus = rows_of(app.model.cpus().len());
    let vms = rows_of(app.model.names().len());
    let [cpu_area, vm_area, memory_area, exit_area] = Layout::vertical([
        Constraint::Length(cpus.min(area.height / 3)),
        Constraint::Length(vms.min(area.height / 2)),
        Constraint::Length(3),
        Constraint::Fill(1),
    ])
    .areas(area);
    self::cpus(frame, cpu_area, app);
    self::vms(frame, vm_area, app);
    memory(frame, memory_area, app);
    exits(frame, exit_area, &app.model.exits(None));
}

/// How high a table of so many rows is, with its heading and border.
fn rows_of(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX).max(1).saturating_add(3)
}

fn cpus(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let row = |cpu: super::model::CpuRow| {
        Row::new([
            Cell::new(cpu.id.to_string()),
            Cell::new(bar(cpu.busy(), 20)),
            right(percent(cpu.busy())),
            right(percent(cpu.guests)),
            right(percent(cpu.hypervisor)),
            right(optional(cpu.ready)),
            Cell::new(cpu.running.unwrap_or_else(|| "-".to_owned())),
        ])
    };
    let widths = [4, 20, 7, 7, 10, 6].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    let heading = ["cpu", "", "   busy", " guests", "hypervisor", " ready", "runs"];
    let table = Table::new(app.model.cpus().into_iter().map(row), widths);
    frame.render_widget(table.header(bold(heading)).block(block("CPUs")), area);
}

fn vms(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let widths = [16, 10, 5, 9, 8, 10, 6].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    let heading =
        ["vm", "state", "vcpus", "   memory", "     cpu", "   exits/s", "resets", "shares"];
    let table = Table::new(app.model.vms().iter().map(vm_row), widths)
        .header(bold(heading))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block("VMs"));
    let mut state = TableState::default().with_selected(Some(app.chosen));
    frame.render_stateful_widget(table, area, &mut state);
}

fn vm_row(row: &VmRow) -> Row<'static> {
    let vm = &row.vm;
    let state = vm.state.clone().unwrap_or_else(|| "-".to_owned());
    let colour = match state.as_str() {
        "running" => Color::Green,
        "paused" | "stopping" | "loading" => Color::Yellow,
        "crashed" => Color::Red,
        _ => Color::Reset,
    };
    Row::new([
        Cell::new(vm.name.clone()),
        Cell::new(state).style(Style::new().fg(colour)),
        right(optional(vm.vcpus)),
        right(size(vm.memory.map(|all| all.saturating_sub(vm.given_back.unwrap_or(0))))),
        right(percent(row.share)),
        right(rate(row.exits_per_second)),
        right(optional(vm.resets)),
        Cell::new(row.sched.as_ref().map_or_else(|| "-".to_owned(), shares)),
    ])
}

/// How a VM is scheduled, in a few words.
fn shares(sched: &Sched) -> String {
    let mut words = Vec::new();
    words.extend(sched.weight.map(|weight| format!("weight {weight}")));
    words.extend(sched.cap.map(|cap| format!("cap {cap} %")));
    if let (Some(budget), Some(period)) = (sched.budget_micros, sched.period_micros) {
        words.push(format!("{budget} of {period} us"));
    }
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn memory(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let memory = app.model.memory().cloned().unwrap_or_default();
    let used = |total: Option<u64>, free: Option<u64>| total?.checked_sub(free?);
    let (ram, heap) = (used(memory.total, memory.free), used(memory.heap_total, memory.heap_free));
    #[allow(clippy::cast_precision_loss, reason = "for the eye")]
    let part = match (ram, memory.total) {
        (Some(used), Some(total)) if total > 0 => (used as f64 / total as f64).clamp(0.0, 1.0),
        _ => 0.0,
    };
    let label = format!(
        "guests {} of {}, hypervisor's heap {} of {}",
        size(ram),
        size(memory.total),
        size(heap),
        size(memory.heap_total)
    );
    let style = Style::new().fg(Color::Blue);
    let gauge = Gauge::default().gauge_style(style).ratio(part).label(label).block(block("memory"));
    frame.render_widget(gauge, area);
}

fn exits(frame: &mut Frame<'_>, area: Rect, exits: &[ExitRow]) {
    let row = |exit: &ExitRow| {
        Row::new([
            Cell::new(exit.reason.clone()),
            right(rate(exit.per_second)),
            right(
                exit.cost.map_or_else(|| "-".to_owned(), |nanos| format!("{:.1} us", nanos / 1e3)),
            ),
            right(optional(exit.count)),
        ])
    };
    let widths = [20, 10, 12, 14].map(Constraint::Length);
    let heading = ["reason", "   exits/s", "    one takes", "        in all"];
    let table = Table::new(exits.iter().map(row), widths);
    frame.render_widget(table.header(bold(heading)).block(block("exits")), area);
}

fn vm(frame: &mut Frame<'_>, area: Rect, app: &App, name: &str) {
    let vcpus = app.model.vcpus(name);
    let rows = app.model.exits(Some(name));
    let [vm_area, vcpu_area, exit_area, console_area] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(rows_of(vcpus.len()).min(area.height / 3)),
        Constraint::Length(rows_of(rows.len()).min(area.height / 3)),
        Constraint::Fill(1),
    ])
    .areas(area);
    let one: Vec<_> = app.model.vms().into_iter().filter(|row| row.vm.name == name).collect();
    let widths = [16, 10, 5, 9, 8, 10, 6].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    let heading =
        ["vm", "state", "vcpus", "   memory", "     cpu", "   exits/s", "resets", "shares"];
    let table = Table::new(one.iter().map(vm_row), widths);
    frame.render_widget(table.header(bold(heading)).block(block("VM")), vm_area);

    let row = |row: super::model::VcpuRow| {
        Row::new([
            Cell::new(row.vcpu.id.to_string()),
            Cell::new(row.vcpu.state.unwrap_or_else(|| "-".to_owned())),
            right(optional(row.vcpu.cpu)),
            Cell::new(bar(row.share, 20)),
            right(percent(row.share)),
            right(percent(row.stolen)),
        ])
    };
    let widths = [5, 10, 4, 20, 7, 7].map(Constraint::Length);
    let heading = ["vcpu", "state", " cpu", "", "   runs", " stolen"];
    let table = Table::new(vcpus.into_iter().map(row), widths);
    frame.render_widget(table.header(bold(heading)).block(block("vCPUs")), vcpu_area);
    exits(frame, exit_area, &rows);
    consoles(frame, console_area, app, Some(name));
}

fn consoles(frame: &mut Frame<'_>, area: Rect, app: &App, guest: Option<&str>) {
    let height = usize::from(area.height.saturating_sub(2));
    let lines = app.consoles.last(guest, height).into_iter().map(Line::raw);
    let text = Paragraph::new(lines.collect::<Vec<_>>());
    frame.render_widget(text.block(block("console")), area);
}

fn block(title: &str) -> Block<'_> {
    Block::new().borders(Borders::ALL).title(title)
}

fn bold<const N: usize>(heading: [&'static str; N]) -> Row<'static> {
    Row::new(heading).style(Style::new().add_modifier(Modifier::BOLD))
}

fn right(text: String) -> Cell<'static> {
    Cell::new(Line::raw(text).right_aligned())
}

/// `part` of `width` cells.
fn bar(part: Option<f64>, width: usize) -> String {
    let part = part.unwrap_or(0.0).clamp(0.0, 1.0);
    (0..width)
        .map(|at| if part * 20.0 > at as f64 * 20.0 / width as f64 { '█' } else { '·' })
        .collect()
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0))
}

fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "-".to_owned(),
        Some(rate) if rate >= 1e6 => format!("{:.1}M", rate / 1e6),
        Some(rate) if rate >= 1e4 => format!("{:.1}k", rate / 1e3),
        Some(rate) => format!("{rate:.0}"),
    }
}

fn optional(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn size(bytes: Option<u64>) -> String {
    match bytes {
        None => "-".to_owned(),
        Some(bytes) if bytes >= 10 << 20 => format!("{} MiB", bytes >> 20),
        Some(bytes) => format!("{} KiB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests;
