//! Steps that drive several guests by `cargo xtask ctl`, as a script would.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::command;
use super::many::{Guest, manifest};
use super::session::Session;
use super::{Bench, Step};
use crate::paths;

const RUN_SECONDS: u64 = 240;
const START_SECONDS: u64 = 60;
const ANSWER_SECONDS: u64 = 30;

/// The guests, all of them the payload `share`, which never stops saying how far it is.
const GUESTS: [&str; 3] = ["one", "two", "three"];

type Scene = fn(&mut Run<'_>) -> Result<()>;

pub fn steps() -> Vec<Step> {
    let scenes: [(&str, Scene); 7] = [
        ("asks-all-there-is", asks),
        ("dumps-what-runs", dumps),
        ("reads-every-console", tails),
        ("drives-a-life", life),
        ("many-at-once", many),
        ("starts-the-machine-again", restart),
        ("ends-the-run", end),
    ];
    let mut steps = Vec::new();
    for (name, scene) in scenes {
        for (gic, cpus) in [("3", "2"), ("2", "1")] {
            let name = format!("ctl/{name}-gicv{gic}-{cpus}-cpus");
            steps.push(Step::new(name, move |bench| {
                Run::of_three(bench, gic, cpus).and_then(|mut run| scene(&mut run)).into()
            }));
        }
    }
    steps
}

/// Guests in a run whose socket is known.
pub struct Run<'b> {
    bench: &'b Bench,
    pub session: Session,
    socket: PathBuf,
}

impl<'b> Run<'b> {
    /// Runs a manifest until all that is to be said at the `start` has been.
    pub fn start(bench: &'b Bench, manifest: &Path, args: &[&str], start: &[&str]) -> Result<Self> {
        Self::start_within(bench, manifest, args, start, RUN_SECONDS)
    }

    /// The same; the run ends by itself after so many seconds.
    pub fn start_within(
        bench: &'b Bench,
        manifest: &Path,
        args: &[&str],
        start: &[&str],
        seconds: u64,
    ) -> Result<Self> {
        bench.machine()?;
        let socket = paths::scratch("ctl-test")?;
        let (file, path) = (manifest.to_string_lossy(), socket.to_string_lossy());
        let args = [&[&file, "--socket", &path], args].concat();
        let mut session = Session::start(bench, &args, seconds)?;
        for said in start {
            session.wait_for(said, START_SECONDS)?;
        }
        Ok(Self { bench, session, socket })
    }

    /// Starts the machine again, until the hypervisor is there.
    pub fn restart(&mut self) -> Result<()> {
        self.ctl("reboot").context("ctl reboot")?;
        self.session.expect("plinth: restart", ANSWER_SECONDS)?;
        self.session.expect("CPUs at EL2", START_SECONDS)
    }

    /// The three guests.
    fn of_three(bench: &'b Bench, gic: &str, cpus: &str) -> Result<Self> {
        let guest = |name: &&str| Guest {
            name: (*name).to_owned(),
            payload: "share",
            more: "memory = \"32M\"",
        };
        let guests: Vec<_> = GUESTS.iter().map(guest).collect();
        let manifest = manifest(bench, "ctl.toml", &guests)?;
        let start = GUESTS.map(|guest| format!("[{guest}] share: "));
        let start = start.each_ref().map(String::as_str);
        Self::start(bench, &manifest, &["--gic", gic, "--smp", cpus, "--memory", "512M"], &start)
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.bench.program);
        command.args(["ctl", "--socket"]).arg(&self.socket).args(line.split(' '));
        command
    }

    /// What `ctl` prints for a command that is carried out.
    pub fn ctl(&self, line: &str) -> Result<String> {
        let text = command::succeed(&mut self.command(line), ANSWER_SECONDS);
        text.with_context(|| format!("ctl {line}"))
    }

    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.ctl(&format!("--json {line}"))?;
        serde_json::from_str(&text).with_context(|| format!("ctl {line}: {text}"))
    }

    /// What `ctl` says of a command that is refused.
    pub fn refused(&self, line: &str) -> Result<String> {
        let done = command::run(&mut self.command(line), ANSWER_SECONDS)?;
        if done.status.code() != Some(1) || !done.output.starts_with("error: ") {
            bail!("ctl {line} is not refused: {}, {}", done.status, done.output);
        }
        Ok(done.output)
    }

    /// A VM as `vm list` has it.
    fn vm(&self, name: &str) -> Result<Value> {
        let list = self.json("vm list")?;
        let found = list.as_array().and_then(|vms| vms.iter().find(|vm| vm["name"] == name));
        found.cloned().with_context(|| format!("no {name} in {list}"))
    }

    /// Waits until a VM is in this state.
    pub fn comes_to(&self, name: &str, state: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS);
        loop {
            let vm = self.vm(name)?;
            if vm["state"] == state {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{name} is not {state}: {vm}");
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// How much CPU time a VM has had.
    pub fn time(&self, name: &str) -> Result<u64> {
        self.vm(name)?["cpu_micros"].as_u64().context("a VM has no CPU time")
    }

    fn runs(&self, name: &str) -> Result<bool> {
        let before = self.time(name)?;
        sleep(Duration::from_secs(1));
        Ok(self.time(name)? > before)
    }
}

fn asks(run: &mut Run<'_>) -> Result<()> {
    for command in [
        "help",
        "vm list",
        "vm info one",
        "cpu",
        "memory",
        "irq",
        "irq one",
        "sched",
        "stats",
        "stats one",
        "console",
    ] {
        let text = run.ctl(command)?;
        // The guest polls, so it has no interrupt enabled.
        if text.lines().count() < 2 && !["console", "irq one"].contains(&command) {
            bail!("ctl {command} says little: {text}");
        }
    }
    for (command, word) in [("vm info nobody", "nobody"), ("vm fly", "use: vm"), ("fly", "help")] {
        let why = run.refused(command)?;
        if !why.contains(word) {
            bail!("ctl {command}: {why}");
        }
    }
    // Nothing of all that is on the console.
    let text = run.session.text();
    if text.contains('\u{1e}') || text.contains("\"ok\":") || text.contains("cut off") {
        bail!("a frame is on the console\n{text}");
    }
    run.session.alive()
}

/// Guests that never wait show their registers, whoever has a CPU at the moment.
fn dumps(run: &mut Run<'_>) -> Result<()> {
    for _ in 0..10 {
        for guest in GUESTS {
            let dump = run.json(&format!("vm dump {guest}"))?;
            let registers = dump[0]["registers"].as_array().cloned().unwrap_or_default();
            let pc = registers.iter().find(|register| register["name"] == "pc");
            if registers.len() < 40 || pc.is_none_or(|pc| pc["value"] == "0x0000000000000000") {
                bail!("the dump of {guest} says little: {dump}");
            }
        }
    }
    run.session.alive()
}

/// Each guest's output can be read, also of those that the console does not show.
fn tails(run: &mut Run<'_>) -> Result<()> {
    for view in ["all", "focus"] {
        run.ctl(&format!("console {view}"))?;
        for guest in GUESTS {
            let tail = run.json(&format!("console tail {guest}"))?;
            if !tail["text"].as_str().is_some_and(|text| text.contains("share: ")) {
                bail!("{guest} has said nothing while the console shows {view}: {tail}");
            }
            let next = &tail["next"];
            let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS);
            loop {
                let more = run.json(&format!("console tail {guest} {next}"))?;
                if more["from"] != *next {
                    bail!("{guest} goes on elsewhere than at {next}: {more}");
                }
                if more["text"].as_str().is_some_and(|text| text.contains("share: ")) {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("{guest} says no more while the console shows {view}: {more}");
                }
                sleep(Duration::from_millis(100));
            }
        }
    }
    run.ctl("vm destroy two")?;
    run.comes_to("two", "off")?;
    // What it had left unread can still be shown; then it is refused.
    let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS);
    loop {
        match run.refused("console two") {
            Ok(why) if why.contains("two is off") => break,
            Ok(why) => bail!("{why}"),
            Err(why) if Instant::now() > deadline => return Err(why),
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
    run.session.alive()
}

fn life(run: &mut Run<'_>) -> Result<()> {
    run.ctl("vm pause two")?;
    run.comes_to("two", "paused")?;
    if run.runs("two")? || !run.runs("one")? {
        bail!("pausing two holds one, or does not hold two");
    }
    run.refused("vm start two")?;
    run.ctl("vm resume two")?;
    run.comes_to("two", "running")?;
    if !run.runs("two")? {
        bail!("two does not go on");
    }
    run.ctl("vm stop --force one")?;
    run.comes_to("one", "off")?;
    run.session.expect("[two] share: ", ANSWER_SECONDS)?;
    run.ctl("vm start one")?;
    run.comes_to("one", "running")?;
    run.session.expect("one: started again", ANSWER_SECONDS)?;
    run.session.expect("[one] share: ", ANSWER_SECONDS)?;
    if run.vm("one")?["resets"] != 0 {
        bail!("a start counts as a reset");
    }
    let resets = run.vm("three")?["resets"].as_u64().unwrap_or(0);
    run.ctl("vm reset three")?;
    run.comes_to("three", "running")?;
    if run.vm("three")?["resets"].as_u64() != Some(resets + 1) {
        bail!("three was not reset");
    }
    comes_and_goes(run)?;
    run.ctl("sched set three weight=500")?;
    let sched = run.json("sched")?;
    let entry = sched.as_array().and_then(|all| all.iter().find(|one| one["name"] == "three"));
    if entry.is_none_or(|entry| entry["weight"] != 500) {
        bail!("the weight is not 500: {sched}");
    }
    run.session.alive()
}

/// A VM that is destroyed and built anew, again and again, leaves as much memory as it found.
fn comes_and_goes(run: &mut Run<'_>) -> Result<()> {
    run.ctl("vm destroy one")?;
    run.comes_to("one", "off")?;
    let before = run.json("memory")?["free"].clone();
    for _ in 0..20 {
        // Refused for a moment while some CPU has not let go of the one before.
        let mut tries = 0..50;
        while run.ctl("vm start one").is_err() && tries.next().is_some() {
            std::thread::sleep(Duration::from_millis(20));
        }
        run.comes_to("one", "running")?;
        run.ctl("vm destroy one")?;
        run.comes_to("one", "off")?;
    }
    let mut after = before.clone();
    for _ in 0..50 {
        after = run.json("memory")?["free"].clone();
        if after == before && after.is_u64() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("{after} bytes are free after 20 lives, {before} were before")
}

/// Several programs ask at once, each many things: each gets its own answers, and guests go on.
fn many(run: &mut Run<'_>) -> Result<()> {
    let mut children = Vec::new();
    for guest in GUESTS {
        let mut command = run.command("--json");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start ctl")?;
        let mut input = child.stdin.take().context("no input")?;
        let lines = format!("vm info {guest}\n").repeat(50);
        std::io::Write::write_all(&mut input, lines.as_bytes())?;
        children.push((guest, child));
    }
    for (guest, child) in children {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let names: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap_or_default()["name"].clone())
            .collect();
        if !output.status.success() || names.len() != 50 || names.iter().any(|name| name != guest) {
            bail!("{}: {guest} asked about itself and got\n{text}{errors}", output.status);
        }
    }
    for guest in GUESTS {
        run.session.expect(&format!("[{guest}] share: "), ANSWER_SECONDS)?;
    }
    run.session.alive()
}

/// Everything begins anew, also what was changed; the connection stays.
fn restart(run: &mut Run<'_>) -> Result<()> {
    run.ctl("vm pause one")?;
    run.comes_to("one", "paused")?;
    run.restart()?;
    for guest in GUESTS {
        run.session.expect(&format!("[{guest}] share: "), START_SECONDS)?;
    }
    run.comes_to("one", "running")?;
    end(run)
}

fn end(run: &mut Run<'_>) -> Result<()> {
    run.ctl("poweroff")?;
    run.session.end_with(0, ANSWER_SECONDS)?;
    if run.socket.exists() {
        bail!("the socket is left behind");
    }
    let why = run.refused("vm list")?;
    if !why.contains("no run is in progress") {
        bail!("{why}");
    }
    Ok(())
}
