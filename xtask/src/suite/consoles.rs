//! Steps that drive several guests through the one serial line they share.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::many::{self, Guest};
use super::session::{Session, said};
use super::{Bench, Step};
use crate::paths;

const START_SECONDS: u64 = 60;
const ANSWER_SECONDS: u64 = 30;
const RUN_SECONDS: u64 = 240;
/// Until all that was typed at once is answered.
const HAMMER_SECONDS: u64 = 200;

/// The most guests that a manifest can name, each with as many vCPUs as it can have.
const CROWD: usize = 64;

/// The guests, all of them the payload `echo`.
const GUESTS: [&str; 3] = ["ada", "bob", "eve"];

type Scene = fn(&mut Session) -> Result<()>;

pub fn steps() -> Vec<Step> {
    let scenes: [(&str, Scene); 6] = [
        ("keys-and-scrollback", keys),
        ("a-flood-slows-nobody", flood),
        ("monitor-and-frames", monitor),
        ("more-typed-than-answered", hammer),
        ("no-guest-left", no_guest),
        ("power-off", power_off),
    ];
    let mut steps = Vec::new();
    for (name, scene) in scenes {
        for (gic, cpus) in [("3", "2"), ("2", "1")] {
            let name = format!("consoles/{name}-gicv{gic}-{cpus}-cpus");
            steps.push(Step::new(name, move |bench| {
                start(bench, gic, cpus).and_then(|mut session| scene(&mut session)).into()
            }));
        }
    }
    // What is asked for there is, and where memory is short each guest has less.
    for memory in ["1G", "704M"] {
        let name = format!("consoles/most-scrollback-of-{CROWD}-guests-{memory}");
        steps.push(Step::new(name, move |bench| crowd(bench, memory).into()));
    }
    steps.push(Step::new("consoles/last-words-of-a-destroyed-guest", |bench| {
        last_words(bench).into()
    }));
    steps
}

fn manifest(bench: &Bench) -> Result<PathBuf> {
    let kernel = bench.payloads()?.join("echo");
    let kernel = kernel.display();
    let vm = |name: &&str| {
        format!("[[vm]]\nname = \"{name}\"\nkernel = \"{kernel}\"\nmemory = \"32M\"\n\n")
    };
    let guests: String = GUESTS.iter().map(vm).collect();
    let path = paths::work().join("consoles.toml");
    let text = format!("[machine]\nwhen_idle = \"wait\"\n\n{guests}");
    paths::write_if_changed(&path, text.as_bytes())?;
    Ok(path)
}

/// A session whose guests have all come to their prompts, which are no whole lines.
fn start(bench: &Bench, gic: &str, cpus: &str) -> Result<Session> {
    bench.machine()?;
    let manifest = manifest(bench)?;
    let args = [&manifest.to_string_lossy(), "--gic", gic, "--smp", cpus, "--memory", "512M"];
    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    session.wait_for("console: Ctrl-A, then:", START_SECONDS)?;
    for guest in GUESTS {
        session.says(guest, "echo> ", START_SECONDS)?;
    }
    Ok(session)
}

fn keys(session: &mut Session) -> Result<()> {
    session.send("first\r")?;
    session.expect("[ada] echo: first", ANSWER_SECONDS)?;
    // To a guest by its number, and to the next one.
    session.send("\x011second\r")?;
    session.expect("[bob] echo: second", ANSWER_SECONDS)?;
    session.send("\x01nthird\r")?;
    session.expect("[eve] echo: third", ANSWER_SECONDS)?;
    // Doubled, the escape key is a byte like others: control characters of a guest do not show.
    session.send("a\x01\x01b\r")?;
    session.expect("[eve] echo: ab", ANSWER_SECONDS)?;
    // Only the one that is typed to is shown, as it is.
    session.send("\x01a")?;
    session.expect("only what has the focus is shown", ANSWER_SECONDS)?;
    session.send("missed\r")?;
    session.expect("\necho: missed\r\necho> ", ANSWER_SECONDS)?;
    session.send("\x010alone\r")?;
    session.expect("\necho: alone\r\n", ANSWER_SECONDS)?;
    // What eve says now nobody sees, until the focus shows what was missed.
    session.send("\x012flood\r")?;
    session.expect("flood: line 20 ", ANSWER_SECONDS)?;
    session.send("\x011")?;
    session.expect("console: bob", ANSWER_SECONDS)?;
    session.send("quiet\r")?;
    session.expect("\necho: quiet\r\n", ANSWER_SECONDS)?;
    session.send("\x012")?;
    session.expect("console: eve (guest 2)", ANSWER_SECONDS)?;
    session.expect("flood: line ", ANSWER_SECONDS)?;
    session.send("\x01?")?;
    session.expect("2 eve (focus)", ANSWER_SECONDS)
}

fn flood(session: &mut Session) -> Result<()> {
    session.send("flood\r")?;
    session.expect("[ada] flood: line 100 ", ANSWER_SECONDS)?;
    for (key, guest) in [("1", "bob"), ("2", "eve")] {
        session.send(&format!("\x01{key}"))?;
        session.expect(&format!("console: {guest}"), ANSWER_SECONDS)?;
        session.send("still there\r")?;
        session.says(guest, "echo: still there", START_SECONDS)?;
    }
    // None of the flood is missing or mixed with another's output. A line that took long may be in
    // pieces, each with its name.
    let text = session.text();
    let ada = said(&text, "ada");
    let Some((_, mut rest)) = ada.split_once("flood: line 0 ") else { bail!("no flood\n{text}") };
    for next in 1..100 {
        let line =
            format!("of a guest that never stops talking, whoever listensflood: line {next} ");
        match rest.strip_prefix(&line) {
            Some(more) => rest = more,
            None => bail!("line {next} of the flood is missing or torn\n{text}"),
        }
    }
    Ok(())
}

fn monitor(session: &mut Session) -> Result<()> {
    session.send("\x01m")?;
    session.expect("plinth> ", ANSWER_SECONDS)?;
    // Completion, a mistake corrected, history.
    session.send("he\tzz\x7f\x7f\r")?;
    session.expect("vm stop [--force] NAME", ANSWER_SECONDS)?;
    session.send("vm list\r")?;
    for guest in GUESTS {
        session.expect(&format!(" {guest} "), ANSWER_SECONDS)?;
        session.expect("running", ANSWER_SECONDS)?;
    }
    session.send("\x1b[A\r")?;
    session.expect("plinth> vm list", ANSWER_SECONDS)?;
    session.send("nonsense\r")?;
    session.expect("`nonsense` is no command; try `help`", ANSWER_SECONDS)?;
    // A frame is answered whoever has the focus.
    session.send("\x1e{\"id\":17,\"command\":\"vm list\"}\n")?;
    session.expect(
        "\x1e{\"id\":17,\"ok\":true,\"result\":[{\"id\":0,\"name\":\"ada\"",
        ANSWER_SECONDS,
    )?;
    session.send("\x1enonsense\n")?;
    session.expect("\x1e{\"id\":null,\"ok\":false,", ANSWER_SECONDS)?;
    session.send("quit\r")?;
    session.expect("console: ada (guest 0)", ANSWER_SECONDS)?;
    session.send("back\x1e{\"id\":18,\"command\":\"vm fly\"}\n again\r")?;
    session.expect("\x1e{\"id\":18,\"ok\":false,\"error\":\"use: vm ", ANSWER_SECONDS)?;
    session.expect("[ada] echo: back again", ANSWER_SECONDS)
}

/// Types faster than the line takes what is answered: the heap is not to be what gives in.
fn hammer(session: &mut Session) -> Result<()> {
    let broken = "another frame began before its end";
    session.send(&"\x1e".repeat(30_000))?;
    session.send("\n")?;
    session.expect(broken, ANSWER_SECONDS)?;
    session.send("\x1e{\"id\":19,\"command\":\"console\"}\n")?;
    session.expect("\x1e{\"id\":19,\"ok\":true", HAMMER_SECONDS)?;
    session.send("\x01m")?;
    session.send(&"\t".repeat(30_000))?;
    session.send("cpu\r")?;
    session.expect("plinth> cpu", HAMMER_SECONDS)?;
    session.send(&"cpu\r".repeat(1_000))?;
    // Refused while commands wait. Once it is not, they are done.
    let deadline = Instant::now() + Duration::from_secs(HAMMER_SECONDS);
    loop {
        session.send("\x1e{\"id\":20,\"command\":\"console\"}\n")?;
        if session.expect("\x1e{\"id\":20,\"ok\":true", 2).is_ok() {
            break;
        }
        if Instant::now() > deadline {
            bail!("it is not answered\n{}", session.text());
        }
    }
    session.send("quit\r")?;
    session.expect("console: ada (guest 0)", ANSWER_SECONDS)?;
    session.send("still there\r")?;
    session.says("ada", "echo: still there", START_SECONDS)
}

/// The monitor without a guest: it keeps what is typed to it, whoever is started.
fn no_guest(session: &mut Session) -> Result<()> {
    session.send("\x01m")?;
    for guest in GUESTS {
        session.send(&format!("vm destroy {guest}\r"))?;
        session.expect(&format!("plinth> vm destroy {guest}"), ANSWER_SECONDS)?;
        // The answer says that it has begun.
        session.expect(&format!("{guest}: destroyed"), ANSWER_SECONDS)?;
    }
    session.send("quit\r")?;
    session.expect("there is no guest to go to", ANSWER_SECONDS)?;
    session.send("vm start bob\r")?;
    session.expect("INFO  bob: ", ANSWER_SECONDS)?;
    session.send("vm list\r")?;
    session.expect("plinth> vm list", ANSWER_SECONDS)?;
    session.expect(" bob ", ANSWER_SECONDS)?;
    session.send("quit\r")?;
    session.expect("console: bob (guest 1)", ANSWER_SECONDS)?;
    session.expect("echo> ", ANSWER_SECONDS)?;
    session.send("back\r")?;
    session.expect("echo: back", ANSWER_SECONDS)
}

/// Of as many guests as there can be, each with as much scrollback as it can have, none is refused.
fn crowd(bench: &Bench, memory: &str) -> Result<()> {
    bench.machine()?;
    let more = "memory = \"8M\"\nvcpus = 8";
    let guest = |index| Guest { name: format!("g{index}"), payload: "echo", more };
    let guests: Vec<_> = (1..=CROWD).map(guest).collect();
    let manifest = many::manifest(bench, "scrollback.toml", &guests)?;
    let manifest = manifest.to_string_lossy();
    let hv_args = "scrollback=1M colour=off";
    let args = [&manifest, "--smp", "2", "--memory", memory, "--hv-args", hv_args];
    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    session.wait_for("console: Ctrl-A, then:", START_SECONDS)?;
    for Guest { name, .. } in &guests {
        session.says(name, "echo> ", START_SECONDS)?;
    }
    // All that is said of them has to fit as well.
    for (id, command) in (1..).zip(["stats", "irq", "sched", "vm list", "stats g1", "memory"]) {
        session.send(&format!("\x1e{{\"id\":{id},\"command\":\"{command}\"}}\n"))?;
        session.expect(&format!("\x1e{{\"id\":{id},\"ok\":true"), START_SECONDS)?;
    }
    let short = session.text().contains("KiB of scrollback each, not 1024: memory is short");
    if short != (memory != "1G") {
        bail!("scrollback is not what memory allows\n{}", session.text());
    }
    session.alive()
}

/// What a guest said that nobody saw can be read when it is no more.
fn last_words(bench: &Bench) -> Result<()> {
    bench.machine()?;
    let guest = |name: &str, payload, more| Guest { name: name.to_owned(), payload, more };
    let guests = [
        guest("ada", "echo", "memory = \"32M\""),
        guest("brief", "hello", "memory = \"32M\"\nautostart = false"),
    ];
    let manifest = many::manifest(bench, "last-words.toml", &guests)?;
    let mut session = Session::start(bench, &[&manifest.to_string_lossy()], RUN_SECONDS)?;
    session.wait_for("echo> ", START_SECONDS)?;
    session.send("\x01a")?;
    session.expect("only what has the focus is shown", ANSWER_SECONDS)?;
    session.send("\x1e{\"id\":1,\"command\":\"vm start brief\"}\n")?;
    session.expect("\x1e{\"id\":1,\"ok\":true", ANSWER_SECONDS)?;
    session.expect("INFO  brief: ", ANSWER_SECONDS)?;
    let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS);
    loop {
        session.send("\x1e{\"id\":2,\"command\":\"vm list\"}\n")?;
        if session.expect("\"name\":\"brief\",\"state\":\"off\"", 1).is_ok() {
            break;
        }
        if Instant::now() > deadline {
            bail!("it does not stop\n{}", session.text());
        }
    }
    session.send("\x1e{\"id\":3,\"command\":\"vm destroy brief\"}\n")?;
    session.expect("\x1e{\"id\":3,\"ok\":true", ANSWER_SECONDS)?;
    session.send("\x011")?;
    session.expect("console: brief (guest 1) is off", ANSWER_SECONDS)?;
    session.expect("GUEST-TEST: ok", ANSWER_SECONDS)
}

fn power_off(session: &mut Session) -> Result<()> {
    session.send("\x01x")?;
    session.expect("power off? x again to do so", ANSWER_SECONDS)?;
    session.send("x")?;
    session.expect("plinth: power off (ok)", ANSWER_SECONDS)?;
    session.end_with(0, ANSWER_SECONDS)
}
