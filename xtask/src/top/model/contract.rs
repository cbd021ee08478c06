//! The monitor's own types, as the hypervisor writes them, are what the live view reads.

use std::time::Duration;

use plinth::monitor::reply::{
    ConsoleTail, CpuSummary, ExitStats, Hex, MemoryReport, SchedEntry, StatsEntry, VcpuSummary,
    VmDetails, VmState, VmSummary,
};
use serde::Serialize;

use super::{Model, Part};
use crate::top::consoles::Consoles;

fn take(model: &mut Model, part: Part, second: u64, reply: &impl Serialize) {
    let reply = serde_json::to_value(reply).map_err(|why| why.to_string());
    model.take(part, Duration::from_secs(second), &reply);
}

fn vm(exits: u64) -> VmSummary {
    VmSummary {
        id: 0,
        name: "web".to_owned(),
        state: VmState::Paused,
        vcpus: 2,
        memory: 1 << 29,
        given_back: 1 << 28,
        cpu_micros: 500_000 * exits,
        exits,
        resets: 3,
    }
}

#[test]
fn nothing_that_the_hypervisor_tells_is_unknown_to_the_view() {
    let mut model = Model::default();
    for (second, count) in [(1, 0), (2, 1)] {
        take(&mut model, Part::Vms, second, &vec![vm(count)]);
        let cpu = CpuSummary {
            id: 0,
            mpidr: Hex(0),
            running: Some("web/0".to_owned()),
            ready: 1,
            guest_micros: count,
            hypervisor_micros: count,
            idle_micros: 2 * count,
        };
        take(&mut model, Part::Cpus, second, &vec![cpu]);
        let exits = vec![ExitStats { reason: "wfi".to_owned(), count, nanos: 10 * count }];
        let stats = StatsEntry { name: "web".to_owned(), vcpu: None, exits };
        take(&mut model, Part::Stats, second, &vec![stats]);
        let sched = SchedEntry { name: "web".to_owned(), weight: Some(7), ..Default::default() };
        take(&mut model, Part::Sched, second, &vec![sched.clone()]);
        let vcpu = VcpuSummary {
            id: 0,
            state: "ready".to_owned(),
            cpu: Some(1),
            cpu_micros: 1000 * count,
            steal_micros: 1000 * count,
        };
        let details = VmDetails {
            summary: vm(count),
            uptime_micros: 0,
            on_crash: "stop".to_owned(),
            on_reboot: "reset".to_owned(),
            on_bad_access: "abort".to_owned(),
            shutdown: "button".to_owned(),
            sched,
            vcpu_list: vec![vcpu],
            devices: Vec::new(),
            balloon: None,
        };
        take(&mut model, Part::Vcpus("web".to_owned()), second, &details);
        let memory = MemoryReport {
            total: 4,
            free: 3,
            largest_free: 2,
            kept: 1,
            heap_total: 2,
            heap_free: 1,
            vms: Vec::new(),
        };
        take(&mut model, Part::Memory, second, &memory);
    }
    let vms = model.vms();
    assert_eq!(vms[0].share, Some(0.5));
    assert_eq!(vms[0].exits_per_second, Some(1.0));
    assert_eq!(
        (vms[0].vm.vcpus, vms[0].vm.memory, vms[0].vm.given_back, vms[0].vm.resets),
        (Some(2), Some(1 << 29), Some(1 << 28), Some(3))
    );
    assert_eq!(vms[0].sched.as_ref().and_then(|sched| sched.weight), Some(7));
    assert_eq!(model.state("web"), Some("paused"));
    let cpus = model.cpus();
    assert_eq!((cpus[0].busy(), cpus[0].ready), (Some(0.5), Some(1)));
    assert_eq!(cpus[0].running.as_deref(), Some("web/0"));
    let vcpus = model.vcpus("web");
    assert_eq!((vcpus[0].share, vcpus[0].stolen), (Some(0.001), Some(0.001)));
    assert_eq!((vcpus[0].vcpu.cpu, vcpus[0].vcpu.state.as_deref()), (Some(1), Some("ready")));
    let exits = model.exits(None);
    assert_eq!((exits[0].per_second, exits[0].cost), (Some(1.0), Some(10.0)));
    let memory = model.memory().cloned().unwrap_or_default();
    assert_eq!((memory.total, memory.free), (Some(4), Some(3)));
    assert_eq!((memory.heap_total, memory.heap_free), (Some(2), Some(1)));
}

#[test]
fn the_hypervisors_pieces_of_output_are_what_the_view_reads() {
    let mut consoles = Consoles::default();
    let tail = ConsoleTail { from: 3, next: 9, end: 20, text: "hello\n".to_owned() };
    consoles.take("web", &serde_json::to_value(tail).unwrap());
    assert_eq!(consoles.last(Some("web"), 9), ["hello"]);
    let command: plinth::monitor::command::Command = consoles.command("web").parse().unwrap();
    assert_eq!(command, plinth::monitor::command::Command::ConsoleTail("web".into(), Some(9)));
}
