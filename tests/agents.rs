//! Whole-hypervisor scenarios: the monitor's commands that a guest's agent has to do.

use crate::common::*;
use plinth::console::Work;
use plinth::hypervisor::{HeapReport, Hypervisor, Line};
use plinth::machine::fake::Op;
use plinth::manifest::{Rights, Shutdown};
use plinth::monitor::agent::{Answer, Failure, Outcome};
use plinth::monitor::asking::{Asking, Begun};
use plinth::monitor::present::Present;
use plinth::monitor::task::{Task, Waited};

use plinth::monitor::{serve, shell};
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::vgic::GicVersion::V3;
use plinth::virtio::console::channel::End;

/// Guests that spin: of which each has an agent's port, apart from the last, and is stopped by it, apart from the last two.
fn room(count: u8) -> Room {
    let named = |number: u8| {
        let agent = number + 1 < count;
        let shutdown = if number + 2 < count { Shutdown::Agent } else { Shutdown::Button };
        Guest { agent, shutdown, ..guest(&format!("g{number}"), 1) }
    };
    let guests: Vec<_> = (0..count).map(named).collect();
    let mut room = Room::new(V3, 1, &guests);
    for number in 0..count {
        room.program(number, ENTRY, &[Op::Branch(ENTRY)]);
    }
    room.run(200);
    room
}

/// A guest's end of the channel to the monitor, which its agent has opened.
fn open(room: &Room, vm: usize) -> End {
    let [port] = room.ports[vm].as_slice() else { panic!("one port") };
    assert_eq!(port.name, "org.plinth.agent.0");
    port.end.set_open(true);
    port.end.clone()
}

fn heard(end: &End) -> String {
    let mut bytes = [0; 256];
    let count = end.receive(&mut bytes);
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

fn typed(line: &str) -> Task {
    Task::Console(Work::Command(line.into()))
}

/// A line of the guest's with this number that may ask for everything.
fn sent(guest: u16, line: &str) -> Task {
    let connection = postcard::from_bytes(&[9, 1]).unwrap();
    let rights = Rights::Control;
    Task::Line(Line { vm: VmId(guest), connection, rights, text: line.into() })
}

/// Looks once a millisecond, from `now` on for `millis`.
fn look(asking: &mut Asking, room: &Room, now: u64, millis: u64) -> Option<(Task, Outcome)> {
    let each = u64::from(HZ / 1000);
    (1..=millis).find_map(|step| asking.look(room.hypervisor, Ticks(now + step * each)))
}

/// What the shell says to a command of which this became.
fn said(room: &mut Room, line: &str, asked: Option<Outcome>) -> String {
    let heap = || HeapReport { total: 0, free: 0 };
    room.ask(0, |hypervisor, machine| {
        let waited = asked.map_or(Waited::Nothing, Waited::Agent);
        shell(line, &mut Present { hypervisor, machine, heap, waited })
    })
}

#[test]
fn a_command_waits_for_the_agents_answer_and_others_do_not() {
    let (mut room, mut asking) = (room(3), Asking::new());
    let end = open(&room, 0);
    let begun = begin(&mut asking, room.hypervisor, Ticks(1000), typed("agent g0 info"));
    assert_eq!((begun, heard(&end).as_str()), (Begun::Waits, "{\"id\":1,\"do\":\"info\"}\n"));
    for line in ["vm list", "agent nobody ping", "agent g2 ping", "vm stop g1", "no command"] {
        let begun = begin(&mut asking, room.hypervisor, Ticks(1000), typed(line));
        assert_eq!(begun, Begun::Other(typed(line)), "{line}");
    }
    let busy = begin(&mut asking, room.hypervisor, Ticks(1000), typed("agent g0 ping"));
    assert_eq!(busy, Begun::Known(typed("agent g0 ping"), Err(Failure::Busy)));
    assert_eq!(look(&mut asking, &room, 1000, 4900), None);
    end.send(b"{\"id\":1,\"ok\":{\"kernel\":\"K\",\"memory\":1048576}}\n");
    let (work, outcome) = look(&mut asking, &room, 491_000, 1).expect("an answer");
    assert_eq!((work, asking.deadline()), (typed("agent g0 info"), None));
    let text = said(&mut room, "agent g0 info", Some(outcome));
    assert_eq!(text, "kernel     K\nmemory     1024 KiB\n");
}

#[test]
fn what_cannot_be_asked_is_said_at_once_and_what_is_not_answered_after_5_seconds() {
    let (mut room, mut asking) = (room(3), Asking::new());
    let begun = begin(&mut asking, room.hypervisor, Ticks(0), typed("agent g0 ping"));
    assert_eq!(begun, Begun::Known(typed("agent g0 ping"), Err(Failure::Absent)));
    let absent = said(&mut room, "agent g0 ping", Some(Err(Failure::Absent)));
    assert_eq!(absent, "g0: no agent listens\n");
    let none = said(&mut room, "agent g2 ping", None);
    assert_eq!(none, "g2: it has no port for an agent; its manifest says `agent = true`\n");
    assert_eq!(said(&mut room, "agent x ping", None), "there is no VM `x`; `vm list` shows them\n");
    let _end = open(&room, 0);
    assert_eq!(begin(&mut asking, room.hypervisor, Ticks(0), typed("agent g0 ping")), Begun::Waits);
    assert_eq!(look(&mut asking, &room, 0, 4999), None);
    let late = look(&mut asking, &room, 499_900, 2);
    assert_eq!(late, Some((typed("agent g0 ping"), Err(Failure::Late))));
}

#[test]
fn vm_stop_asks_the_agent_where_the_manifest_says_so() {
    let (mut room, mut asking) = (room(3), Asking::new());
    let end = open(&room, 0);
    let request = b"{\"id\":3,\"command\":\"vm stop g0\"}".to_vec();
    let request = Task::Console(Work::Request(request));
    assert_eq!(begin(&mut asking, room.hypervisor, Ticks(0), request.clone()), Begun::Waits);
    assert_eq!(heard(&end), "{\"id\":1,\"do\":\"shutdown\"}\n");
    end.send(b"{\"id\":1,\"ok\":{}}\n");
    // It goes down at once, and its answer is heard.
    end.set_open(false);
    let answered = look(&mut asking, &room, 0, 10);
    assert_eq!(answered, Some((request, Ok(Answer::default()))));
    let heap = || HeapReport { total: 0, free: 0 };
    let text = b"{\"id\":3,\"command\":\"vm stop g0\"}";
    let reply = room.ask(0, |hypervisor, machine| {
        let asked = Some(Ok(Answer::default()));
        let waited = asked.map_or(Waited::Nothing, Waited::Agent);
        serve(text, &mut Present { hypervisor, machine, heap, waited })
    });
    assert_eq!(reply, "{\"id\":3,\"ok\":true,\"result\":{\"asked\":\"agent\"}}");
    let refused = said(&mut room, "vm stop g0", Some(Err(Failure::Absent)));
    assert_eq!(refused, "g0: no agent listens\n");
    // Force asks nobody.
    let forced = typed("vm stop --force g0");
    assert_eq!(begin(&mut asking, room.hypervisor, Ticks(0), forced.clone()), Begun::Other(forced));
}

#[test]
fn a_vm_that_goes_meanwhile_is_not_waited_for() {
    let (mut room, mut asking) = (room(3), Asking::new());
    let _end = open(&room, 0);
    assert_eq!(begin(&mut asking, room.hypervisor, Ticks(0), typed("agent g0 sync")), Begun::Waits);
    room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, VmId(0))).expect("it is there");
    room.run(200);
    let gone = look(&mut asking, &room, 0, 10);
    assert_eq!(gone, Some((typed("agent g0 sync"), Err(Failure::Gone))));
    let off = typed("agent g0 sync");
    assert_eq!(begin(&mut asking, room.hypervisor, Ticks(0), off.clone()), Begun::Other(off));
    assert!(said(&mut room, "agent g0 sync", None).starts_with("g0: the VM does not exist"));
}

#[test]
fn eight_commands_wait_and_each_gets_its_own_answer() {
    let (room, mut asking) = (room(11), Asking::new());
    let ends: Vec<_> = (0..9).map(|vm| open(&room, vm)).collect();
    for vm in 0..8 {
        let begun =
            begin(&mut asking, room.hypervisor, Ticks(0), typed(&format!("agent g{vm} ping")));
        assert_eq!(begun, Begun::Waits);
    }
    let ninth = begin(&mut asking, room.hypervisor, Ticks(0), typed("agent g8 ping"));
    assert_eq!(ninth, Begun::Known(typed("agent g8 ping"), Err(Failure::Crowded)));
    // The last that was asked answers first.
    for (turn, (vm, end)) in (0..).zip(ends.iter().enumerate().take(8).rev()) {
        let number = vm + 1;
        assert_eq!(heard(end), format!("{{\"id\":{number},\"do\":\"ping\"}}\n"));
        end.send(format!("{{\"id\":{number},\"ok\":{{\"version\":{vm}}}}}\n").as_bytes());
        let (work, outcome) = look(&mut asking, &room, 2000 * turn, 20).expect("an answer");
        assert_eq!(work, typed(&format!("agent g{vm} ping")));
        assert_eq!(outcome.expect("it answers").version, u32::try_from(vm).ok());
    }
    assert_eq!(asking.deadline(), None);
}

#[test]
fn guests_that_ask_all_they_can_keep_neither_the_console_out_nor_each_other() {
    let (room, mut asking) = (room(11), Asking::new());
    let ends: Vec<_> = (0..9).map(|vm| open(&room, vm)).collect();
    let mut begin = |task| begin(&mut asking, room.hypervisor, Ticks(0), task);
    // One that goes on for ever, about agents that do not answer.
    let waits = |begun: &Begun| matches!(begun, Begun::Waits);
    let flood: Vec<_> = (0..9).map(|vm| begin(sent(9, &format!("agent g{vm} sync")))).collect();
    assert_eq!(flood.iter().filter(|begun| waits(begun)).count(), 2);
    let crowded = Begun::Known(sent(9, "agent g8 sync"), Err(Failure::Crowded));
    assert_eq!(flood.last(), Some(&crowded));
    // Others of its kind have their places, and the console all of its own, about agents that guests have asked as well.
    assert!((2..6).all(|vm| waits(&begin(sent(vm, &format!("agent g{vm} sync"))))));
    assert!((0..8).all(|vm| waits(&begin(typed(&format!("agent g{vm} ping"))))));
    // What is answered to the console comes soon, however many guests wait.
    let asked = heard(&ends[7]);
    assert_eq!(asked, "{\"id\":14,\"do\":\"ping\"}\n");
    ends[7].send(b"{\"id\":14,\"ok\":{\"version\":3}}\n");
    let mut ended = Vec::new();
    for step in 1..=17 {
        ended.extend(asking.look(room.hypervisor, Ticks(step * u64::from(HZ / 1000))));
    }
    let answer = ended.iter().find(|(task, _)| *task == typed("agent g7 ping"));
    assert_eq!(answer.unwrap().1.as_ref().unwrap().version, Some(3));
    let overtaken = |(task, outcome): &(Task, Outcome)| {
        task.guest().is_some() && *outcome == Err(Failure::Overtaken)
    };
    assert_eq!(ended.iter().filter(|ended| overtaken(ended)).count(), 6);
    assert_eq!(ended.len(), 7);
}

#[test]
fn vm_stop_of_the_console_is_asked_though_a_guest_waits_for_the_same_agent() {
    let (room, mut asking) = (room(4), Asking::new());
    let end = open(&room, 0);
    for attempt in 0..20 {
        let again = begin(&mut asking, room.hypervisor, Ticks(attempt), sent(1, "agent g0 sync"));
        assert_eq!(matches!(again, Begun::Waits), attempt == 0);
    }
    assert_eq!(begin(&mut asking, room.hypervisor, Ticks(0), typed("vm stop g0")), Begun::Waits);
    let asked = heard(&end);
    let (sync, stop) = asked.split_once('\n').unwrap();
    assert_eq!(sync, "{\"id\":1,\"do\":\"sync\"}");
    assert!(stop.ends_with(",\"do\":\"shutdown\"}\n"), "{stop}");
    // The guest does not get between, and what is said to it is nobody's.
    let again = begin(&mut asking, room.hypervisor, Ticks(0), sent(2, "agent g0 ping"));
    assert_eq!(again, Begun::Known(sent(2, "agent g0 ping"), Err(Failure::Busy)));
    end.send(b"{\"id\":1,\"ok\":{}}\n");
    let number: String = stop.chars().filter(char::is_ascii_digit).collect();
    end.send(format!("{{\"id\":{number},\"ok\":{{}}}}\n").as_bytes());
    let ended: Vec<_> = (1..=4)
        .filter_map(|step| asking.look(room.hypervisor, Ticks(step * u64::from(HZ / 1000))))
        .collect();
    let wanted = [
        (typed("vm stop g0"), Ok(Answer::default())),
        (sent(1, "agent g0 sync"), Err(Failure::Overtaken)),
    ];
    assert!(wanted.iter().all(|one| ended.contains(one)) && ended.len() == 2, "{ended:?}");
    assert_eq!(asking.deadline(), None);
}

/// Has a task begun with, as what it is.
fn begin(asking: &mut Asking, hypervisor: &Hypervisor, now: Ticks, task: Task) -> Begun {
    let command = task.command();
    asking.begin(hypervisor, now, task, command.as_ref())
}
