//! Steps that measure how guests share CPUs, by the work that `guests/share` gets done. Virtual time is
//! counted in instructions (`--icount`), so the numbers do not depend on this PC.

use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use super::many::{Guest, manifest_with};
use super::session::{Session, said};
use super::{Bench, Step};
use crate::paths;

/// A second of virtual time takes many of this PC's.
const SECONDS: u64 = 300;

/// The quarters of a second between which work is counted: all guests have started before the first, and
/// none has stopped by the last.
const FROM: u64 = 2;
const TO: u64 = 8;

pub fn steps() -> Vec<Step> {
    let mut steps = vec![
        Step::new("shares/weights-of-2-to-1", |bench| weights(bench).into()),
        Step::new("shares/a-cap-holds-on-an-idle-machine", |bench| cap(bench).into()),
        Step::new("shares/a-reservation-is-kept-beside-spinners", |bench| {
            reservation(bench).into()
        }),
    ];
    steps.push(Step::new("shares/a-disks-long-queue-is-its-guests-own-affair", |bench| {
        long_queue(bench).into()
    }));
    steps.push(Step::new("shares/devices-that-are-never-done-starve-nobody", |bench| {
        devices(bench).into()
    }));
    steps.push(Step::new("debian/loading-holds-nobody-up", |bench| loading(bench).into()));
    steps.push(Step::new("debian/stolen-time-shows-in-proc-stat", |bench| stolen(bench).into()));
    for gic in ["2", "3"] {
        steps.push(Step::new(format!("shares/storms-starve-nobody-gicv{gic}"), move |bench| {
            storms(bench, gic).into()
        }));
    }
    steps
}

fn guest<'a>(name: &str, payload: &'a str, more: &'a str) -> Guest<'a> {
    Guest { name: name.to_owned(), payload, more }
}

/// The work that each of the guests `names` did between two moments.
fn work(
    bench: &Bench,
    file: &str,
    guests: &[Guest<'_>],
    args: &[&str],
    names: &[&str],
) -> Result<Vec<f64>> {
    let text = run(bench, file, "", guests, args, names)?;
    names.iter().map(|name| done(&said(&text, name))).collect()
}

/// What is on the console when the guests `names` have done so. The manifest begins with `head`.
fn run(
    bench: &Bench,
    file: &str,
    head: &str,
    guests: &[Guest<'_>],
    args: &[&str],
    names: &[&str],
) -> Result<String> {
    bench.machine()?;
    let manifest = manifest_with(bench, file, head, guests)?;
    let manifest = manifest.to_string_lossy();
    let args = [&[&manifest, "--icount"], args].concat();
    let mut session = Session::start(bench, &args, SECONDS)?;
    // The line after the last is begun when that is whole.
    for name in names {
        session.says(name, &line(TO + 1), SECONDS)?;
    }
    Ok(session.text())
}

/// The work done between the two moments, by what a guest has said.
fn done(said: &str) -> Result<f64> {
    let at = |quarter| -> Result<f64> {
        let (_, rest) =
            said.split_once(&line(quarter)).with_context(|| format!("nothing of {quarter}"))?;
        let number = rest.split_once("share:").map_or(rest, |(number, _)| number);
        number.trim().parse().with_context(|| format!("`{number}` is no number"))
    };
    Ok(at(TO)? - at(FROM)?)
}

/// How a guest's line about a quarter of a second begins; the work done so far follows.
fn line(quarter: u64) -> String {
    format!("share: {quarter} ")
}

fn within(what: &str, got: f64, want: f64, tolerance: f64) -> Result<()> {
    println!("{what}: {got:.3}, to be {want:.3}");
    if (got / want - 1.0).abs() > tolerance {
        bail!("{what} is {got:.3} instead of {want:.3}");
    }
    Ok(())
}

fn weights(bench: &Bench) -> Result<()> {
    let guests = [
        guest("two", "share", "memory = \"16M\"\nweight = 200"),
        guest("one", "share", "memory = \"16M\"\nweight = 100"),
    ];
    let done = work(bench, "weights.toml", &guests, &["--smp", "1"], &["two", "one"])?;
    within("progress of weight 200 to that of weight 100", done[0] / done[1], 2.0, 0.05)
}

fn cap(bench: &Bench) -> Result<()> {
    // One CPU: with several, QEMU counts the instructions of all of them as everybody's time. The second
    // guest hardly runs; a single guest's lines would have no name before them.
    let done = |more| -> Result<f64> {
        let guests =
            [guest("worker", "share", more), guest("idle", "heartbeat", "memory = \"16M\"")];
        Ok(work(bench, "cap.toml", &guests, &["--smp", "1"], &["worker"])?[0])
    };
    let (free, capped) = (done("memory = \"16M\"")?, done("memory = \"16M\"\ncap = \"25%\"")?);
    within("progress under a cap of 25 % to that without", capped / free, 0.25, 0.05)
}

fn reservation(bench: &Bench) -> Result<()> {
    let reserved = "memory = \"16M\"\nreservation = { budget = \"3ms\", period = \"10ms\" }";
    let guests = [
        guest("reserved", "share", reserved),
        guest("spinner", "share", "memory = \"16M\"\nweight = 10000"),
        guest("other", "share", "memory = \"16M\"\nweight = 10000"),
    ];
    let names = ["reserved", "spinner", "other"];
    let done = work(bench, "reserved.toml", &guests, &["--smp", "1"], &names)?;
    let all: f64 = done.iter().sum();
    within("share of 3 ms in every 10 ms", done[0] / all, 0.3, 0.05)
}

/// The work of a guest beside one that works as well, which several steps compare with: it is always the same.
fn beside_work(bench: &Bench) -> Result<f64> {
    static KNOWN: OnceLock<f64> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let two = ["worker", "other"].map(|name| guest(name, "share", "memory = \"16M\""));
    let done = work(bench, "beside-work.toml", &two, &["--smp", "1"], &["worker"])?[0];
    Ok(*KNOWN.get_or_init(|| done))
}

/// A guest whose disk has work for minutes. Where it waits for that it takes its share of the CPU, and no more; where no vCPU of its
/// can be charged, a twentieth.
fn long_queue(bench: &Bench) -> Result<()> {
    let done = |other: &str, more: &str| -> Result<f64> {
        let more = format!("memory = \"16M\"\n{more}");
        let guests = [guest("worker", "share", "memory = \"16M\""), guest("other", other, &more)];
        Ok(work(bench, "long-queue.toml", &guests, &["--smp", "1"], &["worker"])?[0])
    };
    const DISK: &str = "disks = [{ size = \"256M\" }]\n";
    let beside_work = beside_work(bench)?;
    let beside_disk = done("backlog", DISK)?;
    within(
        "progress beside a long queue to that beside work",
        beside_disk / beside_work,
        1.0,
        0.1,
    )?;
    let suspended = done("backlog", &format!("{DISK}cmdline = \"suspend\""))?;
    within(
        "that beside one whose guest sleeps, to alone",
        suspended / beside_work / 2.0,
        0.95,
        0.02,
    )
}

/// Guests whose devices are never done: one after the other, one that sends frames to another guest, one that asks and is answered by
/// the machine's network card, and one that reads from the machine's disk. Each answer and each read is an interrupt of the machine's.
fn devices(bench: &Bench) -> Result<()> {
    const HEAD: &str = "[[network]]\nname = \"lan\"\nuplink = true\n\n";
    let worker = "memory = \"16M\"\nnets = [{ network = \"lan\", mac = \"52:54:00:00:00:02\" }]";
    let usual = beside_work(bench)?;
    let disk = paths::scratch("storm-disk")?;
    std::fs::File::create(&disk).and_then(|file| file.set_len(1 << 20)).context("no disk")?;
    let path = disk.to_string_lossy().into_owned();
    let net = "nets = [\"lan\"]";
    for (kind, more, what, least) in [
        ("frames", net, "frames", 0.95),
        // What the machine's card brings in is the time of whoever runs.
        ("net", net, "answers", 0.85),
        ("disk", "disks = [{ host = 0, read_only = true }]", "reads", 0.95),
    ] {
        let more = format!("memory = \"16M\"\ncmdline = \"storm={kind}\"\n{more}");
        let guests = [guest("worker", "share", worker), guest("storm", "storm", &more)];
        let args = ["--smp", "1", "--disk", &path];
        let text = run(bench, &format!("storm-{kind}.toml"), HEAD, &guests, &args, &["worker"])?;
        let share = done(&said(&text, "worker"))? / usual;
        let times = said(&text, "storm").matches(&format!("storm: {what} ")).count() << 14;
        println!("{kind}: {times} {what}, progress beside it to that beside work: {share:.3}");
        if times == 0 {
            bail!("{kind}: no storm of {what}\n{text}");
        }
        if share < least {
            bail!("beside a storm of {kind} a guest gets {share:.3} of what it should");
        }
    }
    let _ = std::fs::remove_file(disk);
    Ok(())
}

/// A guest with a reservation gets it while Debian, with much memory, is loaded beside it, and again after a
/// reset.
fn loading(bench: &Bench) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let manifest = paths::work().join("loading.toml");
    let text = "[[vm]]\nname = \"watch\"\nkernel = \"guest:gap\"\nmemory = \"16M\"\n\
                reservation = { budget = \"1ms\", period = \"2ms\" }\n\n\
                [[vm]]\nname = \"debian\"\nkernel = \"debian:kernel\"\ninitrd = \"debian:initrd\"\n\
                cmdline = \"console=ttyAMA0\"\nmemory = \"1G\"\nautostart = false\n";
    paths::write_if_changed(&manifest, text.as_bytes())?;
    let args = [&*manifest.to_string_lossy(), "--icount", "--smp", "1", "--memory", "2G"];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect("gap: 1 ", SECONDS)?;
    for order in ["\x01mvm start debian\r", "vm reset debian\r"] {
        session.send(order)?;
        // Linux's first word comes after all that is to be done before it.
        session.expect("[debian] [    0.000000] Booting Linux", SECONDS)?;
    }
    // The quarter of a second in which that was, and the next, are to be told whole.
    let last = gaps(&said(&session.text(), "watch")).last().map_or(1, |&(quarter, _)| quarter);
    session.says("watch", &format!("gap: {} ", last + 3), SECONDS)?;
    let gaps = gaps(&said(&session.text(), "watch"));
    let longest = gaps.iter().map(|&(_, gap)| gap).max();
    let longest = longest.context("it has not said how long it waited")?;
    println!("kept from the CPU for {longest} µs at most, in {} quarters of a second", gaps.len());
    // Its budget may come at the start of one period and at the end of the next: 2 ms in between.
    if longest > 2_300 {
        bail!("a guest with 1 ms in every 2 ms was kept from the CPU for {longest} µs");
    }
    Ok(())
}

/// The quarters of a second that the guest `gap` has told of whole, and how long it was kept from the CPU in each.
fn gaps(said: &str) -> Vec<(u64, u64)> {
    // The last may not be whole yet.
    let (whole, _) = said.rsplit_once("gap: ").unwrap_or_default();
    let numbers = |text: &str| {
        let (quarter, gap) = text.split_once(' ')?;
        Some((quarter.parse().ok()?, gap.trim().parse().ok()?))
    };
    whole.split("gap: ").filter_map(numbers).collect()
}

/// Linux tells the time that another guest had from the time that it had itself.
fn stolen(bench: &Bench) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let manifest = paths::work().join("stolen.toml");
    let text = "[[vm]]\nname = \"debian\"\nkernel = \"debian:kernel\"\ninitrd = \"debian:initrd\"\n\
                cmdline = \"console=ttyAMA0\"\nmemory = \"256M\"\n\n\
                [[vm]]\nname = \"rival\"\nkernel = \"guest:spin\"\nmemory = \"16M\"\n";
    paths::write_if_changed(&manifest, text.as_bytes())?;
    let args = [&*manifest.to_string_lossy(), "--smp", "1"];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect("plinth-guest-ready 42001", SECONDS)?;
    session.expect("# ", 60)?;
    session.send("stolen() { set -- $(head -1 /proc/stat); echo $9; }\r")?;
    session.send("before=$(stolen); i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done\r")?;
    // Hundredths of a second; the loop takes seconds, half of which the other guest has.
    session.send("[ $(($(stolen) - before)) -gt 10 ] && echo told-$((6 * 7))\r")?;
    session.expect("told-42", 120)
}

fn storms(bench: &Bench, gic: &str) -> Result<()> {
    let storm = |kind| format!("memory = \"16M\"\nvcpus = 2\ncmdline = \"storm={kind}\"");
    let kinds = ["wfe", "wfi", "sgi", "timer"];
    let lines = kinds.map(storm);
    let mut guests: Vec<_> =
        kinds.iter().zip(&lines).map(|(kind, more)| guest(kind, "storm", more)).collect();
    let args = ["--smp", "1", "--gic", gic];
    // Two, as a single guest's lines have no name before them.
    let two = ["worker", "second"].map(|name| guest(name, "share", "memory = \"16M\""));
    let alone = work(bench, "alone.toml", &two, &args, &["worker", "second"])?;
    guests.push(guest("worker", "share", "memory = \"16M\""));
    let beside = work(bench, "storms.toml", &guests, &args, &["worker"])?;
    // Five guests share the CPU, some of which give up parts of their share; what the hypervisor spends
    // on a storm is charged to it.
    let share = beside[0] / (alone[0] + alone[1]);
    println!("share beside four storms: {share:.3} of the CPU");
    if share < 0.2 * 0.95 {
        bail!("beside four storms a guest gets {share:.3} of the CPU, less than a fifth");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::done;

    #[test]
    fn a_number_in_pieces_is_read_whole() {
        let said = "share: 1 5share: 2 10share: 3 15share: 8 110share: 9 ";
        assert_eq!(done(said).unwrap(), 100.0);
        assert!(done("share: 2 10").is_err());
    }
}
