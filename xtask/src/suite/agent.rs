//! A step about guest agents: the default guest's is asked for everything there is, goes, comes back, and lies.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::ctl::Run;
use super::debians::{self, BOOT_SECONDS};
use super::net::ask;
use super::session::said;
use super::{Bench, Step};

const MANIFEST: &str = r#"
[machine]
when_idle = "wait"

[[network]]
name = "lan"

[[vm]]
name = "debian"
kernel = "debian:kernel"
initrd = "debian:initrd"
cmdline = "console=ttyAMA0 quiet plinth.ip=10.0.0.1/24"
memory = "256M"
vcpus = 2
nets = ["lan"]
agent = true
shutdown = "agent"

[[vm]]
name = "mute"
kernel = "guest:heartbeat"
memory = "16M"
agent = true
"#;

const ANSWER_SECONDS: u64 = 30;

/// Answers one request with what a terminal should not get, and what nobody asked for before that.
const LIAR: &str = "p=$(grep -lx org.plinth.agent.0 /sys/class/virtio-ports/*/name); p=${p%/name}; exec 3<>/dev/${p##*/}; \
     (read -r l <&3; i=${l#*:}; printf '{\"id\":1,\"ok\":{}}\\n{\"id\":%s,\"error\":\"\\\\u001b[31mred\\\\u0007\"}\\n' ${i%%,*} >&3) & true";

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("debian/agent-gicv{gic}"), move |bench| asked(bench, gic).into())
    };
    vec![step("2"), step("3")]
}

fn asked(bench: &Bench, gic: &str) -> Result<()> {
    let mut run = debians::boot_to_ask(bench, "agent", MANIFEST, gic, &["debian"], &[])?;
    comes(&run)?;
    let told = run.json("agent debian info")?;
    let number = |name: &str| told[name].as_u64().with_context(|| format!("no {name}: {told}"));
    ensure!(told["kernel"].as_str().is_some_and(|kernel| kernel.starts_with("Linux ")), "{told}");
    ensure!((128 << 20..256 << 20).contains(&number("memory")?), "{told}");
    ensure!((64 << 20..number("memory")?).contains(&number("available")?), "{told}");
    ensure!(number("uptime_micros")? > 0 && told["addresses"][0] == "10.0.0.1/24", "{told}");
    ensure!(run.ctl("agent debian sync")? == "ok\n", "sync");
    // A guest without an agent has none, and is not waited for.
    let why = run.refused("agent mute ping")?;
    ensure!(why.contains("mute: no agent listens"), "{why}");
    goes(&mut run)?;
    let seen = ready(&run);
    ensure!(run.ctl("agent debian reboot")?.contains("agent"), "reboot");
    let deadline = Instant::now() + Duration::from_secs(BOOT_SECONDS);
    while ready(&run) == seen {
        ensure!(Instant::now() < deadline, "it does not begin again\n{}", run.session.text());
        sleep(Duration::from_millis(50));
    }
    comes(&run)?;
    ensure!(run.ctl("vm stop debian")?.contains("agent"), "stop");
    run.comes_to("debian", "off")?;
    let why = run.refused("agent debian ping")?;
    ensure!(why.contains("debian: the VM has stopped"), "{why}");
    run.ctl("poweroff")?;
    run.session.end_with(0, ANSWER_SECONDS)
}

/// How often the guest has come up.
fn ready(run: &Run<'_>) -> usize {
    said(&run.session.text(), "debian").matches("plinth-guest-ready").count()
}

/// The agent is there, or soon will be.
fn comes(run: &Run<'_>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS);
    loop {
        match run.json("agent debian ping") {
            Ok(told) if told["version"] == 1 => return Ok(()),
            Ok(told) => bail!("its agent says {told}"),
            Err(why) if Instant::now() > deadline => return Err(why),
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}

/// An agent that is held, one that is killed, one that lies, and one that is there again.
fn goes(run: &mut Run<'_>) -> Result<()> {
    ask(&mut run.session, "debian", 1001, "killall -STOP plinth-agent")?;
    let start = Instant::now();
    let mut late = run.command("agent debian ping").stderr(Stdio::piped()).spawn()?;
    sleep(Duration::from_millis(1500));
    // Others are answered meanwhile, unless the PC is so busy that it is over by then.
    ensure!(run.ctl("vm list")?.contains("debian"), "vm list");
    let is_slow = start.elapsed() > Duration::from_secs(4);
    ensure!(is_slow || late.try_wait()?.is_none(), "others had to wait");
    let busy = run.refused("agent debian info")?;
    let is_slow = start.elapsed() > Duration::from_secs(4);
    ensure!(is_slow || busy.contains("earlier command"), "{busy}");
    let late = String::from_utf8_lossy(&late.wait_with_output()?.stderr).into_owned();
    ensure!(late.contains("debian: no answer within 5 s"), "{late}");
    ensure!(start.elapsed() >= Duration::from_secs(4), "it was not waited for");
    ask(&mut run.session, "debian", 1002, "killall -KILL plinth-agent; sleep 1")?;
    let why = run.refused("agent debian ping")?;
    ensure!(why.contains("debian: no agent listens"), "{why}");
    let why = run.refused("vm stop debian")?;
    ensure!(why.contains("debian: no agent listens"), "{why}");
    ask(&mut run.session, "debian", 1003, LIAR)?;
    let why = run.refused("agent debian ping")?;
    ensure!(why.contains("debian: its agent: \u{fffd}[31mred\u{fffd}"), "{why:?}");
    ask(&mut run.session, "debian", 1004, "wait; exec 3>&-; (plinth-agent &) && sleep 1")?;
    comes(run)
}
