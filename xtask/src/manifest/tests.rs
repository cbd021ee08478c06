//! Claims about manifests: what they mean, and what is said of those that mean nothing.

mod defaults;
mod devices;
mod disks;
mod networks;

use std::path::{Path, PathBuf};

use plinth::addr::Ipa;
use plinth::machine::CpuId;
use plinth::manifest::{
    Devices, MachineConfig, OnBadAccess, OnCrash, OnReboot, Shutdown, View, WhenIdle,
};
use plinth::sched::policy::{Class, CpuSet, Wfi};

use super::reader::{Draft, parse};
use super::{load, position};
use crate::guest::{self, Guest};
use crate::source::Source;

fn good(text: &str) -> Draft {
    let (draft, mistakes) = parse(text, Path::new("/base"));
    assert_eq!(mistakes, []);
    draft
}

/// All mistakes as `line:column: text`, in the file's order.
fn mistakes(text: &str) -> Vec<String> {
    let (draft, mut mistakes) = parse(text, Path::new("/base"));
    let looked_over = |entry: &super::reader::Entry| {
        let problems = guest::look_over(&entry.guest);
        // The files of these tests do not exist.
        let problems = problems.iter().filter(|one| !one.text.contains("there is no file"));
        problems.map(|problem| entry.mistake(problem)).collect::<Vec<_>>()
    };
    mistakes.extend(draft.entries.iter().flat_map(looked_over));
    mistakes.sort();
    let show = |mistake: &super::Mistake| {
        let (line, column) = position(text, mistake.at);
        format!("{line}:{column}: {}", mistake.text)
    };
    mistakes.iter().map(show).collect()
}

/// One VM with these lines in its table.
fn vm(lines: &str) -> String {
    format!("[[vm]]\nname = \"a\"\nkernel = \"k\"\n{lines}\n")
}

fn guest(lines: &str) -> Guest {
    good(&vm(lines)).entries.remove(0).guest
}

/// The only mistake of a VM with `line`, which is the file's fourth.
fn mistake(line: &str) -> String {
    let found = mistakes(&vm(line));
    let [one] = found.as_slice() else { panic!("`{line}`: {found:#?}") };
    one.strip_prefix("4:").unwrap_or_else(|| panic!("{one}")).to_owned()
}

fn cpus(numbers: &[u8]) -> CpuSet {
    numbers.iter().fold(CpuSet::EMPTY, |set, number| set.with(CpuId(*number)))
}

#[test]
fn a_full_entry_is_read_and_paths_are_relative_to_the_file() {
    let guest = &good(
        "[[vm]]\nname = \"a\"\nkernel = \"k/Image\"\ninitrd = \"/abs/rd\"\ncmdline = \"quiet\"\n\
         memory = \"256M\"\nvcpus = 4\ncpus = \"0-1,3\"\nweight = 250\ncap = \"150%\"\n\
         autostart = false\non_crash = \"restart\"\non_reboot = \"stop\"\non_bad_access = \"crash\"\ndevices = []\n\
         ram_base = 0x8000_0000\nwfi = \"trap\"\n\
         shutdown = { console = \"halt\\n\" }\nassign = [\"serial1\", \"/soc/uart@0\"]\n",
    )
    .entries[0]
        .guest;
    assert_eq!(guest.kernel, Source::File(PathBuf::from("/base/k/Image")));
    assert_eq!(guest.initrd, Some(Source::File(PathBuf::from("/abs/rd"))));
    assert_eq!((guest.memory, guest.vcpus, guest.cmdline.as_str()), (256 << 20, 4, "quiet"));
    assert_eq!(guest.policy.class, Class::Fair { weight: 250, cap: Some(150) });
    assert_eq!((guest.policy.affinity, guest.policy.wfi), (cpus(&[0, 1, 3]), Wfi::Trap));
    assert_eq!((guest.autostart, guest.devices), (false, Devices::NONE));
    assert_eq!((guest.on_crash, guest.on_reboot), (OnCrash::Restart, OnReboot::Stop));
    assert_eq!(guest.on_bad_access, OnBadAccess::Crash);
    assert_eq!(guest.shutdown, Shutdown::Console("halt\n".to_owned()));
    assert_eq!(guest.assign, ["serial1", "/soc/uart@0"]);
    assert_eq!(guest.ram_base, Ipa::new(0x8000_0000));
}

#[test]
fn the_machine_table_is_about_the_console_and_the_end() {
    let text = "[machine]\nescape = \"ctrl-b\"\nview = \"focus\"\nscrollback = \"128K\"\n\
                when_idle = \"wait\"\n";
    let machine = good(&format!("{text}{}", vm(""))).machine;
    let view = View::Focus;
    let expected =
        MachineConfig { escape: 2, view, scrollback: 128 << 10, when_idle: WhenIdle::Wait };
    assert_eq!(machine, expected);
}

#[test]
fn all_mistakes_come_at_once_each_with_line_column_and_field() {
    let text = "[machine]\nescape = \"Esc\"\nveiw = \"all\"\n\
                [[vm]]\nname = \"a\"\n  kernel = 3\ncolour = \"red\"\n\n\
                [[vm]]\nname = \"a\"\nmemory = \"12\"\nvcpus = \"two\"\ncpus = [0, 256, \"x\"]\n";
    assert_eq!(
        mistakes(text),
        [
            "2:10: machine, escape: `Esc` will not do; want \"Ctrl-A\" to \"Ctrl-Z\", but not Ctrl-I, Ctrl-J or Ctrl-M",
            "3:1: machine, veiw: unknown field; did you mean `view`? \
         Known are escape, view, scrollback, when_idle, defaults",
            "6:12: vm 1, kernel: want a text in quotes, got a number",
            "7:1: vm 1, colour: unknown field; known are name, kernel, initrd, cmdline, memory, \
         ram_base, vcpus, cpus, weight, cap, reservation, wfi, autostart, on_crash, on_reboot, on_bad_access, shutdown, devices, assign, nets, disks, keys, ports, agent, vsock, balloon",
            "9:1: vm 2, kernel: the field is missing",
            "10:8: vm 2, name: `a` is the name of vm 1 already; each name is given once",
            "11:10: vm 2, memory: `12` is not a size: the unit K, M or G is missing, e.g. 512M or 2G",
            "12:9: vm 2, vcpus: `two` will not do; want a whole number from 1 to 8",
            "13:12: vm 2, cpus: 256 will not do; want a whole number from 0 to 255",
            "13:17: vm 2, cpus: `x` will not do; want a whole number from 0 to 255",
        ]
    );
}

#[test]
fn each_field_says_what_it_takes() {
    for (line, said) in [
        ("memory = \"1K\"", "10: vm 1, memory: 1K is not a multiple of 4K"),
        ("memory = \"1T\"", "10: vm 1, memory: 1024G; a guest has at most 255G"),
        ("balloon = true", "11: vm 1, balloon: want a table as in { min = \"128M\" }, or false"),
        ("balloon = {}", "11: vm 1, balloon.min: the field is missing"),
        ("balloon = { min = \"3M\" }", "19: vm 1, balloon.min: 3M is not a multiple of 2M"),
        ("balloon = { min = \"1G\" }", "11: vm 1, balloon: it cannot keep 1G of 512M"),
        (
            "balloon = { min = \"8M\" }\nassign = [\"serial1\"]",
            "11: vm 1, balloon: a balloon and devices of the board's do not go together",
        ),
        ("balloon = { min = \"8M\", most = 1 }", "25: vm 1, balloon.most: unknown field"),
        ("memory = 512", "10: vm 1, memory: 512 will not do; want a size in quotes with a unit"),
        ("vcpus = 0", "9: vm 1, vcpus: 0 will not do; want a whole number from 1 to 8"),
        ("vcpus = -1", "9: vm 1, vcpus: -1 will not do"),
        ("vcpus = 1.5", "9: vm 1, vcpus: want a whole number from 1 to 8, got a number with a"),
        ("weight = 0", "10: vm 1, weight: 0 will not do; want a whole number from 1 to 10000"),
        ("weight = 10001", "10: vm 1, weight: 10001 will not do"),
        ("cap = 0", "7: vm 1, cap: 0 will not do; want hundredths of a CPU"),
        ("cap = \"50\"", "7: vm 1, cap: `50` will not do"),
        ("cap = 101", "7: vm 1, cap: 101 % is more than 1 vCPUs can use"),
        ("cpus = \"\"", "8: vm 1, cpus: `` will not do; want CPU numbers"),
        ("cpus = \"3-1\"", "8: vm 1, cpus: `3-1` will not do"),
        ("cpus = \"0,256\"", "8: vm 1, cpus: `0,256` will not do"),
        ("cpus = []", "8: vm 1, cpus: it names no CPU"),
        ("cpus = true", "8: vm 1, cpus: want CPU numbers"),
        ("wfi = true", "7: vm 1, wfi: want \"auto\" or \"trap\", got true or false"),
        ("autostart = \"yes\"", "13: vm 1, autostart: `yes` will not do; want true or false"),
        (
            "on_crash = \"reboot\"",
            "12: vm 1, on_crash: `reboot` will not do; want \"preserve\" or \"restart\" or \"destroy\"",
        ),
        (
            "on_bad_access = \"stop\"",
            "17: vm 1, on_bad_access: `stop` will not do; want \"abort\" or \"crash\"",
        ),
        ("on_reboot = 1", "13: vm 1, on_reboot: 1 will not do; want \"restart\" or \"stop\""),
        (
            "shutdown = \"poweroff\"",
            "12: vm 1, shutdown: `poweroff` will not do; want \"button\", \"agent\" or a table as in { console",
        ),
        ("shutdown = true", "12: vm 1, shutdown: want \"button\", \"agent\" or a table"),
        ("shutdown = {}", "12: vm 1, shutdown: want \"button\", \"agent\" or a table"),
        ("shutdown = { console = 1 }", "24: vm 1, shutdown.console: want a text in quotes, got a"),
        (
            "shutdown = { console = \"\" }",
            "24: vm 1, shutdown.console: it is 0 bytes long; 1 to 64 are possible",
        ),
        (
            "shutdown = { consol = \"x\" }",
            "14: vm 1, shutdown.consol: unknown field; did you mean `console`?",
        ),
        ("assign = \"uart\"", "10: vm 1, assign: `uart` will not do; want a list of nodes"),
        ("assign = [\"a b\"]", "11: vm 1, assign: a node is named by 1 to 128 printable"),
        ("devices = \"rtc\"", "11: vm 1, devices: `rtc` will not do; want a list of devices"),
        (
            "devices = [\"rtc\", \"rct\"]",
            "19: vm 1, devices: there is no device `rct`; did you mean `rtc`? Known are rtc",
        ),
        ("ram_base = 0x4010_0000", "12: vm 1, ram_base: 0x40100000 will not do; want an address"),
        ("ram_base = 0x3000_0000", "12: vm 1, ram_base: "),
        ("ram_base = \"0x40_0000_0000\"", "12: vm 1, ram_base: `0x40_0000_0000` will not do"),
        ("ram_base = 0x3f_ffe0_0000", "12: vm 1, ram_base: RAM of 512M from 0x3fffe00000 on would"),
        ("initrd = \"\"", "10: vm 1, initrd: the path is empty"),
        ("initrd = \"debian:x\"", "10: vm 1, initrd: `x` is no file of the Debian guest"),
        ("cmdline = \"a\\tb\"", "11: vm 1, cmdline: it holds the control character '\\t'"),
        ("reservation = 3", "15: vm 1, reservation: 3 will not do; want a table as in { budget"),
    ] {
        let found = mistake(line);
        assert!(found.starts_with(said), "{line}: {found}");
    }
}

#[test]
fn what_is_typed_to_shut_a_guest_down_has_at_most_64_bytes() {
    let line = |text: &str| format!("shutdown = {{ console = \"{text}\" }}");
    let button = guest("shutdown = \"button\"").shutdown;
    assert_eq!(button, Shutdown::Button);
    for text in ["s".repeat(64), "\u{e4}".repeat(32)] {
        assert_eq!(guest(&line(&text)).shutdown, Shutdown::Console(text));
    }
    for text in ["s".repeat(65), "\u{e4}".repeat(33)] {
        assert!(mistake(&line(&text)).contains("bytes long; 1 to 64 are possible"));
    }
}

#[test]
fn a_names_letters_are_few_and_printable() {
    for name in ["", "two words", &"n".repeat(33), "\u{e4}"] {
        let found = mistakes(&format!("[[vm]]\nname = \"{name}\"\nkernel = \"k\"\n"));
        assert_eq!(
            found,
            ["2:8: vm 1, name: a name has 1 to 32 printable ASCII characters and no space"],
        );
    }
}

#[test]
fn a_name_is_no_word_of_the_monitors() {
    for name in ["a=b", "reset", "all", "focus", "tail", "--force"] {
        let found = mistakes(&format!("[[vm]]\nname = \"{name}\"\nkernel = \"k\"\n"));
        assert!(
            found.concat().starts_with(&format!("2:8: vm 1, name: the monitor takes `{name}`")),
            "{found:?}"
        );
    }
}

#[test]
fn values_have_more_than_one_spelling() {
    let affinity = |line| guest(line).policy.affinity;
    for line in ["cpus = \"0-2\"", "cpus = [0, 1, 2]", "cpus = \" 0 , 1 - 2\"", "cpus = \"2,0-1\""]
    {
        assert_eq!(affinity(line), cpus(&[0, 1, 2]), "{line}");
    }
    assert_eq!(affinity("cpus = 255"), cpus(&[255]));
    for line in ["vcpus = 2\ncap = 150", "vcpus = 2\ncap = \"150%\""] {
        assert_eq!(guest(line).policy.class, Class::Fair { weight: 100, cap: Some(150) });
    }
    for line in ["ram_base = 1073741824", "ram_base = \"0x4000_0000\"", "ram_base = \"1073741824\""]
    {
        assert_eq!(guest(line).ram_base, Ipa::new(0x4000_0000), "{line}");
    }
    assert_eq!(guest("devices = [\"rtc\", \"rtc\"]").devices, Devices::RTC);
}

#[test]
fn every_part_of_a_reservation_is_looked_at() {
    let found = |inside: &str| mistakes(&vm(&format!("reservation = {{ {inside} }}")));
    let reservation = |inside: &str| guest(&format!("reservation = {{ {inside} }}")).policy.class;
    assert_eq!(
        reservation("budget = \"2ms\", period = \"10ms\""),
        Class::Reserved { budget: 2000, period: 10_000 }
    );
    for (inside, said) in [
        ("period = \"10ms\"", "reservation.budget: the field is missing"),
        (
            "budget = 2, period = \"10ms\"",
            "reservation.budget: want a text in quotes, got a number",
        ),
        ("budget = \"2\", period = \"10ms\"", "reservation.budget: `2` is no span of time; want a"),
        (
            "budget = \"49us\", period = \"1ms\"",
            "reservation.budget: 49us; a budget is 50us to the",
        ),
        ("budget = \"2ms\", period = \"1ms\"", "reservation.budget: 2ms; a budget is 50us to the"),
        (
            "budget = \"50us\", period = \"499us\"",
            "reservation.period: 499us; a period is 500us to 1s",
        ),
        ("budget = \"1ms\", period = \"9999s\"", "reservation.period: `9999s` is no span of time"),
        (
            "budget = \"1ms\", period = \"1s\", perod = 1",
            "reservation.perod: unknown field; did you mean `period`?",
        ),
    ] {
        let found = found(inside);
        assert!(found.len() == 1 && found[0].contains(said), "{inside}: {found:#?}");
    }
    assert_eq!(found("budget = 1, period = 2").len(), 2);
    let both = "weight = 3\nreservation = { budget = \"2ms\", period = \"10ms\" }";
    assert_eq!(
        mistakes(&vm(both)),
        ["5:1: vm 1, reservation: there is a weight as well; a guest has either"]
    );
}

#[test]
fn what_is_not_toml_is_located() {
    assert!(mistakes("[[vm]]\nname = \"a\nkernel\n").iter().any(|one| one.starts_with("2:")));
    assert!(mistakes("x = 1\n")[1].starts_with("1:1: x: unknown field"));
    assert!(mistakes("")[0].contains("no [[vm]]"));
    assert!(mistakes("vm = 3\n")[0].contains("[[vm]]"));
    assert!(mistakes("vm = [3]\n")[0].contains("not a table"));
    let found = mistakes(&format!("machine = 1\n{}", vm("")));
    assert_eq!(found, ["1:1: the machine is written as a [machine] table"]);
}

#[test]
fn a_field_given_twice_does_not_hide_other_mistakes() {
    let found = mistakes(&vm("vcpus = 1\nvcpus = 2\nweight = 0"));
    assert!(found.len() == 2 && found[0].starts_with("5:1: duplicate key"), "{found:#?}");
    assert!(found[1].starts_with("6:10: vm 1, weight"), "{found:#?}");
}

#[test]
fn there_are_at_most_128_guests() {
    let many = |count: usize| {
        let guest = |n| format!("[[vm]]\nname = \"g{n}\"\nkernel = \"k\"\n");
        mistakes(&(0..count).map(guest).collect::<String>())
    };
    assert_eq!(many(128), Vec::<String>::new());
    assert_eq!(many(130), ["385:1: vm 129 is one too many; 128 are possible"]);
}

#[test]
fn columns_count_characters() {
    assert_eq!(position("a\n\u{e4}\u{e4}x", 6), (2, 3));
    assert_eq!((position("", 0), position("ab", 9)), ((1, 1), (1, 3)));
}

#[test]
fn a_missing_kernel_file_is_told_with_the_place_of_its_field() {
    let path = std::env::temp_dir().join(format!("plinth-{}.toml", std::process::id()));
    let text = "[[vm]]\nname = \"a\"\n\nkernel = \"none-such\"\nvcpus = 9\n";
    std::fs::write(&path, text).expect("the temporary folder is writable");
    let error = load(&path).expect_err("there is no such kernel").to_string();
    assert!(error.contains(".toml:4:10: vm 1, kernel: there is no file"), "{error}");
    assert!(error.contains("\nerror: ") && error.contains(".toml:5:9: vm 1, vcpus: 9"), "{error}");
}

#[test]
fn no_text_makes_reading_panic() {
    let text = concat!(
        "[machine]\nescape = \"Ctrl-A\"\nscrollback = \"64K\"\n[machine.defaults]\nvcpus = 2\n",
        "[[vm]]\nname = \"\u{e4}\"\nkernel = \"k\"\ncpus = \"0-1,3\"\ncap = \"150%\"\n",
        "reservation = { budget = \"2ms\", period = \"10ms\" }\nram_base = 0x8000_0000\n",
        "nets = [\"l\", { network = \"l\", mac = \"52:54:00:00:00:01\", trunk = [1], native = 1,\n",
        "rate = \"1Mbit\" }]\n[[network]]\nname = \"l\"\nuplink = true\n",
    );
    for (at, one) in text.char_indices() {
        let (before, after) = (&text[..at], &text[at + one.len_utf8()..]);
        let put = |put: &str| [before, put, after].concat();
        for text in [before.to_owned(), put(""), put("\""), put("{"), put("-"), put("9\u{e4}")] {
            mistakes(&text);
        }
    }
}

#[test]
fn the_default_manifest_is_a_good_example() {
    let text = include_str!("../../../platform/qemu_virt/guests.toml");
    let names: Vec<_> = good(text).entries.iter().map(|entry| entry.guest.name.clone()).collect();
    assert_eq!(names, ["debian1", "debian2", "heartbeat"]);
    assert_eq!(mistakes(text), Vec::<String>::new());
}
