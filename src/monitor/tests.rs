//! The monitor over a hypervisor that only notes what it is told.

use super::*;
use crate::console::View;
use crate::manifest::Rights;
use crate::testing::some;
use alloc::vec;
use proptest::prelude::*;
use reply::{ExitStats, Hex, NamedRegister, VmState};

/// Two VMs, `web` and `control`, and what was asked.
#[derive(Default)]
struct Fake {
    done: Vec<String>,
}

impl Fake {
    fn find(&self, name: &str) -> Result<VmSummary, Refusal> {
        let known = ["web", "control"].iter().position(|known| *known == name);
        let id = known.ok_or_else(|| Refusal::NoSuchVm(name.into()))?;
        Ok(VmSummary {
            id: u16::try_from(id).unwrap(),
            name: name.into(),
            state: VmState::Running,
            vcpus: 2,
            memory: 512 << 20,
            given_back: id as u64 * (200 << 20),
            cpu_micros: 1_500_000,
            exits: 1234,
            resets: 0,
        })
    }

    fn note(&mut self, name: &str, what: String) -> Result<(), Refusal> {
        self.find(name)?;
        self.done.push(format!("{name}: {what}"));
        Ok(())
    }
}

impl Control for Fake {
    fn vms(&mut self) -> Vec<VmSummary> {
        ["web", "control"].iter().map(|name| self.find(name).unwrap()).collect()
    }

    fn vm(&mut self, name: &str) -> Result<VmDetails, Refusal> {
        Ok(VmDetails {
            summary: self.find(name)?,
            uptime_micros: 2_000_000,
            on_crash: "stop".into(),
            on_reboot: "reset".into(),
            on_bad_access: "abort".into(),
            shutdown: "button".into(),
            sched: self.sched()?.remove(0),
            vcpu_list: Vec::new(),
            devices: Vec::new(),
            balloon: None,
        })
    }

    fn dump(&mut self, name: &str) -> Result<Vec<VcpuDump>, Refusal> {
        self.find(name)?;
        let registers = vec![NamedRegister { name: "pc".into(), value: Hex(0x4020_0000) }];
        Ok(vec![VcpuDump { id: 0, state: "paused".into(), registers }])
    }

    fn change(&mut self, name: &str, change: VmChange) -> Result<Option<Asked>, Refusal> {
        if change == VmChange::Resume {
            let (state, allowed) = ("running".into(), "only a paused VM can be resumed".into());
            return Err(Refusal::State { name: name.into(), state, allowed });
        }
        self.note(name, format!("{change:?}"))?;
        let asks = change == VmChange::Stop { force: false };
        Ok(asks.then(|| Asked { asked: "console \"halt\\n\"".into() }))
    }

    fn agent(&mut self, name: &str) -> Result<Answer, Refusal> {
        self.find(name)?;
        let kernel = Some("Linux 6.12".into());
        Ok(Answer { version: Some(1), kernel, uptime: Some(7), ..Answer::default() })
    }

    fn cpus(&mut self) -> Vec<CpuSummary> {
        let running = Some("web/0".into());
        vec![CpuSummary {
            id: 0,
            mpidr: Hex(0x8000_0000),
            running,
            ready: 1,
            guest_micros: 1,
            hypervisor_micros: 2,
            idle_micros: 3,
        }]
    }

    fn memory(&mut self) -> Result<MemoryReport, Refusal> {
        Ok(MemoryReport {
            total: 1 << 30,
            free: 1 << 29,
            largest_free: 1 << 28,
            kept: 2 << 20,
            heap_total: 4 << 20,
            heap_free: 1 << 20,
            vms: Vec::new(),
        })
    }

    fn irqs(&mut self, name: Option<&str>) -> Result<Vec<IrqEntry>, Refusal> {
        name.map(|name| self.find(name)).transpose()?;
        Ok(vec![IrqEntry {
            intid: 33,
            target: None,
            name: "uart".into(),
            enabled: true,
            pending: false,
            active: false,
            priority: 0xa0,
            count: Some(7),
        }])
    }

    fn sched(&mut self) -> Result<Vec<SchedEntry>, Refusal> {
        let cpus = vec![0, 1, 3];
        Ok(vec![SchedEntry { name: "web".into(), weight: Some(100), cpus, ..Default::default() }])
    }

    fn set_sched(&mut self, name: &str, change: &SchedChange) -> Result<(), Refusal> {
        self.note(name, format!("weight {:?}", change.weight))
    }

    fn stats(&mut self, name: Option<&str>) -> Result<Vec<StatsEntry>, Refusal> {
        let name = name.unwrap_or("web");
        self.find(name)?;
        let exits = vec![ExitStats { reason: "mmio".into(), count: 4, nanos: 10_000 }];
        Ok(vec![StatsEntry { name: name.into(), vcpu: None, exits }])
    }

    fn reset_stats(&mut self, name: Option<&str>) -> Result<(), Refusal> {
        self.note(name.unwrap_or("web"), "stats reset".into())
    }

    fn set_log_level(&mut self, level: LevelFilter) -> Result<(), Refusal> {
        self.done.push(format!("log {level}"));
        Ok(())
    }

    fn console(&mut self, target: Option<&Target>) -> Result<ConsoleState, Refusal> {
        let focus = match target {
            Some(Target::Guest(name)) => Some(self.find(name)?.name),
            _ => None,
        };
        Ok(ConsoleState { view: View::All, focus })
    }

    fn tail(&mut self, name: &str, from: Option<u64>) -> Result<ConsoleTail, Refusal> {
        self.find(name)?;
        let (text, from) = ("a\tb\x1b[0m\r\n\x1e\"ä".into(), from.unwrap_or(7));
        Ok(ConsoleTail { from, next: 20, end: 20, text })
    }

    fn leave(&mut self) -> Result<(), Refusal> {
        self.done.push("left".into());
        Ok(())
    }

    fn end(&mut self, end: End) -> Result<(), Refusal> {
        self.done.push(format!("{end:?}"));
        Ok(())
    }
}

fn shell_says(line: &str) -> String {
    shell(line, &mut Fake::default())
}

fn json_says(command: &str) -> String {
    let request = format!(r#"{{"id":3,"command":"{command}"}}"#);
    serve(request.as_bytes(), &mut Fake::default())
}

#[test]
fn one_answer_is_a_table_for_people_and_json_for_programs() {
    assert_eq!(
        shell_says("vm list"),
        "id  name     state    vcpus              memory  cpu time  exits  resets\n\
         0   web      running      2             512 MiB   1.500 s   1234       0\n\
         1   control  running      2  312 MiB of 512 MiB   1.500 s   1234       0\n"
    );
    assert_eq!(
        json_says("vm info control").split(",\"uptime").next().unwrap(),
        r#"{"id":3,"ok":true,"result":{"id":1,"name":"control","state":"running","vcpus":2,"memory":536870912,"given_back":209715200,"cpu_micros":1500000,"exits":1234,"resets":0"#
    );
    assert_eq!(
        json_says("vm dump web"),
        r#"{"id":3,"ok":true,"result":[{"id":0,"state":"paused","registers":[{"name":"pc","value":"0x0000000040200000"}]}]}"#
    );
    assert_eq!(
        json_says("console web"),
        r#"{"id":3,"ok":true,"result":{"view":"all","focus":"web"}}"#
    );
}

fn guest_says(line: &str, rights: Rights) -> (String, Vec<String>) {
    let mut fake = Fake::default();
    let answer = rights::answer(line.as_bytes(), rights, &mut fake);
    (String::from_utf8(answer).unwrap(), fake.done)
}

#[test]
fn a_guest_that_may_look_changes_nothing_and_does_not_look_into_others() {
    let changes = [
        "vm pause web",
        "vm dump web",
        "console tail web",
        "console web",
        "sched set web weight=5",
        "stats reset",
        "log level warn",
        "quit",
        "poweroff",
        "reboot",
    ];
    for line in changes {
        let words: Vec<_> = line.split(' ').take(2).collect();
        let (answer, done) = guest_says(line, Rights::Read);
        assert_eq!(
            answer,
            format!(
                "`{}` is not for this guest: its manifest says vsock.monitor = \"read\", and this takes \"control\"\n",
                words.join(" ")
            )
        );
        assert_eq!(done, <[String; 0]>::default());
        assert!(rights::permitted(line.as_bytes(), Rights::Read).is_none());
        let request = format!(r#"{{"id":9,"command":"{line}"}}"#);
        let (answer, done) = guest_says(&request, Rights::Read);
        assert!(
            answer.starts_with("{\"id\":9,\"ok\":false") && answer.ends_with("}\n"),
            "{answer}"
        );
        assert!(done.is_empty() && rights::permitted(request.as_bytes(), Rights::Read).is_none());
        assert_eq!(guest_says(line, Rights::Control).0, shell_says(line));
        assert!(rights::permitted(line.as_bytes(), Rights::Control).is_some());
    }
    for line in
        ["help", "vm list", "vm info web", "cpu", "memory", "irq", "sched", "stats web", "console"]
    {
        assert_eq!(guest_says(line, Rights::Read).0, shell_says(line));
        assert!(guest_says(line, Rights::None).0.contains("says vsock.monitor = \"none\""));
    }
}

#[test]
fn a_guests_line_may_be_anything() {
    for line in some([
        &b"\xff\xfe"[..],
        b"",
        b" ",
        b"{",
        b"{\"id\":1}",
        b"\0\x1b[2J",
        &[b'['; 4000],
        &[b'{'; 4000],
    ]) {
        let answer = rights::answer(line, Rights::Control, &mut Fake::default());
        assert!(answer.ends_with(b"\n") && answer.len() < 1000);
        assert!(rights::permitted(line, Rights::Control).is_none());
    }
    let (answer, _) = guest_says("  {\"id\":3,\"command\":\"vm list\"}", Rights::Read);
    assert_eq!(answer, json_says("vm list") + "\n");
    assert_eq!(guest_says("vm list\r", Rights::Read).0, shell_says("vm list"));
}

#[test]
fn every_command_of_the_help_has_both_answers() {
    for usage in usage::USAGES {
        let line = match usage.words {
            ["sched", "set"] => "sched set web weight=5".into(),
            ["log", "level"] => "log level warn".into(),
            ["vm", "list"] => "vm list".into(),
            ["agent"] => "agent web info".into(),
            ["vm", "resume"] => continue,
            ["vm", "balloon"] => "vm balloon web 256M".into(),
            ["vm", ..] | ["console", "tail"] => format!("{} web", usage.words.join(" ")),
            words => words.join(" "),
        };
        let (text, json) = (shell_says(&line), json_says(&line));
        assert!(text.ends_with('\n') && !text.starts_with("use:"), "{line}: {text}");
        assert!(json.starts_with(r#"{"id":3,"ok":true,"result":"#), "{line}: {json}");
    }
}

#[test]
fn a_refusal_says_why_in_both() {
    for (line, why) in [
        ("vm info nobody", "there is no VM `nobody`; `vm list` shows them"),
        ("vm resume web", "web is running; only a paused VM can be resumed"),
        ("frobnicate", "`frobnicate` is no command; try `help`"),
    ] {
        assert_eq!(shell_says(line), format!("{why}\n"));
        assert_eq!(json_says(line), format!(r#"{{"id":3,"ok":false,"error":"{why}"}}"#));
    }
}

#[test]
fn what_is_ordered_is_done() {
    let mut fake = Fake::default();
    for line in [
        "vm stop --force web",
        "sched set web weight=5",
        "log level off",
        "quit",
        "poweroff",
        "reboot",
    ] {
        assert_eq!(shell(line, &mut fake), "ok\n");
    }
    let done = [
        "web: Stop { force: true }",
        "web: weight Some(5)",
        "log OFF",
        "left",
        "PowerOff",
        "Restart",
    ];
    assert_eq!(fake.done, done);
}

#[test]
fn who_stops_a_vm_without_force_is_told_how_it_was_asked() {
    assert_eq!(shell_says("vm stop web"), "asked by its console \"halt\\n\"\n");
    assert_eq!(
        json_says("vm stop web"),
        r#"{"id":3,"ok":true,"result":{"asked":"console \"halt\\n\""}}"#
    );
    assert_eq!(shell_says("vm stop --force web"), "ok\n");
}

#[test]
fn a_guests_output_is_escaped_for_programs_and_clean_for_people() {
    assert_eq!(
        json_says("console tail web 3"),
        r#"{"id":3,"ok":true,"result":{"from":3,"next":20,"end":20,"text":"a\tb\u001B[0m\r\n\u001E\"ä"}}"#
    );
    assert_eq!(shell_says("console tail web"), "a\tb\n\"ä\n");
}

#[test]
fn help_tells_of_all_commands_or_of_one() {
    assert_eq!(shell_says("help").lines().count(), usage::USAGES.len());
    let one = "vm pause NAME               stop its vCPUs and its time\n";
    assert_eq!(shell_says("help vm pause"), one);
    assert!(shell_says("help vm").lines().all(|line| line.starts_with("vm ")));
    assert_eq!(shell_says("help nonsense"), "`nonsense` is no command; try `help`\n");
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    #[test]
    fn any_frame_is_answered_with_one_line_of_json(text in prop::collection::vec(any::<u8>(), 0..100)) {
        let answer = serve(&text, &mut Fake::default());
        #[derive(serde::Deserialize)]
        struct Answer {
            ok: bool,
        }
        let mut unescaped = [0; 1000];
        let read = serde_json_core::from_str_escaped::<Answer>(&answer, &mut unescaped);
        prop_assert!(read.is_ok_and(|(answer, _)| !answer.ok), "{answer}");
        prop_assert!(!answer.contains(|c: char| c.is_control()));
    }
}
