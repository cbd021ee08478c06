//! Steps that boot the default Debian guest.

use anyhow::Result;

use super::session::Session;
use super::{Bench, Step};

/// Enough for a boot on a slow machine that does other things too.
const BOOT_SECONDS: u64 = 150;
const ANSWER_SECONDS: u64 = 30;
const RUN_SECONDS: u64 = 400;

/// What a test does with a guest that has come up to its prompt.
type AtPrompt = fn(&mut Session) -> Result<()>;

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for gic in ["2", "3"] {
        for vcpus in [1, 4] {
            let name = format!("debian/boot-gicv{gic}-{vcpus}-vcpus");
            let step = move |bench: &Bench| boot(bench, gic, vcpus, vcpus, "cortex-a72").into();
            steps.push(Step::new(name, step));
        }
    }
    for (gic, cpu) in [("3", "max"), ("2", "neoverse-n1")] {
        let name = format!("debian/boot-{cpu}");
        steps.push(Step::new(name, move |bench| boot(bench, gic, 2, 2, cpu).into()));
    }
    for gic in ["2", "3"] {
        let name = format!("debian/boot-gicv{gic}-8-vcpus-on-2-cpus");
        steps.push(Step::new(name, move |bench| boot(bench, gic, 8, 2, "cortex-a72").into()));
    }
    steps.push(Step::new("debian/uses-stolen-time", |bench| {
        bench.with_what_it_takes(Some("stolen time"), || stolen_time(bench))
    }));
    let at_prompt: [(&str, Option<&str>, AtPrompt); 5] = [
        ("answers-what-is-typed", None, typed),
        ("reads-virtio-entropy", Some("virtio devices"), entropy),
        ("reboots-in-place", None, reboot),
        ("power-off-ends-the-run", None, power_off),
        ("the-power-button-shuts-down", Some("monitor to press it"), power_button),
    ];
    for (name, lacks, test) in at_prompt {
        for gic in ["2", "3"] {
            steps.push(Step::new(format!("debian/{name}-gicv{gic}"), move |bench| {
                bench.with_what_it_takes(lacks, || {
                    start(bench, gic).and_then(|mut session| test(&mut session))
                })
            }));
        }
    }
    steps
}

fn marker(vcpus: u32) -> String {
    format!("plinth-guest-ready {}", 42_000 + vcpus)
}

/// The guest comes up with all its vCPUs, on `cpus` physical ones.
fn boot(bench: &Bench, gic: &str, vcpus: u32, cpus: u32, cpu: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let (vcpus, cpus, marker) = (vcpus.to_string(), cpus.to_string(), marker(vcpus));
    let guest = ["--single", "--vcpus", &vcpus];
    let machine = ["--gic", gic, "--smp", &cpus, "--cpu", cpu, "--until", &marker];
    let mut session = Session::start(bench, &[&guest[..], &machine].concat(), BOOT_SECONDS)?;
    session.end_with(0, BOOT_SECONDS + 10)
}

/// The kernel finds the stolen time structures of all its CPUs.
fn stolen_time(bench: &Bench) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let args = ["--single", "--vcpus", "2", "--until", "arm-pv: using stolen time PV"];
    let mut session = Session::start(bench, &args, BOOT_SECONDS)?;
    session.end_with(0, BOOT_SECONDS + 10)
}

/// A session whose guest has come up to its prompt.
fn start(bench: &Bench, gic: &str) -> Result<Session> {
    bench.machine()?;
    bench.debian()?;
    let mut session = Session::start(bench, &["--single", "--gic", gic], RUN_SECONDS)?;
    prompt(&mut session)?;
    Ok(session)
}

fn prompt(session: &mut Session) -> Result<()> {
    session.expect(&marker(2), BOOT_SECONDS)?;
    session.expect("# ", ANSWER_SECONDS)
}

fn typed(session: &mut Session) -> Result<()> {
    // The answer is not in the question, so an echo alone does not pass.
    session.send("echo answer-$((6 * 7)) $(uname -m)\r")?;
    session.expect("answer-42 aarch64", ANSWER_SECONDS)?;
    // Longer than any FIFO on the way.
    session.send(&format!("echo {} | wc -c | sed s/^/length-/\r", "x".repeat(200)))?;
    session.expect("length-201", ANSWER_SECONDS)?;
    session.send("sleep 1000\r")?;
    session.expect("\n", ANSWER_SECONDS)?;
    // Ctrl-C is the guest's to handle.
    session.send("\x03")?;
    session.expect("# ", ANSWER_SECONDS)
}

/// Its own driver finds the device, and gets as many bytes as are asked for, not all alike.
fn entropy(session: &mut Session) -> Result<()> {
    session
        .send("cd /sys/class/misc/hw_random; echo virtio_rng.0 > rng_current; cat rng_current\r")?;
    session.expect("\nvirtio_rng.0", ANSWER_SECONDS)?;
    session
        .send("dd if=/dev/hwrng of=/run/a bs=4096 count=8; wc -c < /run/a | sed s/^/bytes-/\r")?;
    session.expect("bytes-32768", ANSWER_SECONDS)?;
    session.send("gzip -c /run/a | wc -c | sed 's/^3....$/no-pattern/'\r")?;
    session.expect("\nno-pattern", ANSWER_SECONDS)
}

fn reboot(session: &mut Session) -> Result<()> {
    session.send("touch /run/here; ls /run | wc -l | sed s/^/files-/\r")?;
    session.expect("files-1", ANSWER_SECONDS)?;
    session.send("reboot -f\r")?;
    prompt(session)?;
    // Memory starts anew, and the console still takes input.
    session.send("ls /run | wc -l | sed s/^/files-/\r")?;
    session.expect("files-0", ANSWER_SECONDS)
}

/// `vm stop` asks the guest, which shuts down by itself.
fn power_button(session: &mut Session) -> Result<()> {
    session.send("\x01m")?;
    session.expect("plinth> ", ANSWER_SECONDS)?;
    session.send("vm stop debian\r")?;
    session.expect("debian: stopped", ANSWER_SECONDS)?;
    session.end_with(0, ANSWER_SECONDS)?;
    if session.text().contains("(forced)") {
        anyhow::bail!("it was forced\n{}", session.text());
    }
    Ok(())
}

fn power_off(session: &mut Session) -> Result<()> {
    session.send("poweroff -f\r")?;
    session.end_with(0, ANSWER_SECONDS)
}
