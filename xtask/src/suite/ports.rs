//! Steps about virtio consoles: Debian guests use their second console, and find the ports of channels to each other.

use anyhow::Result;

use super::net::ask;
use super::session::Session;
use super::{Bench, Step};
use crate::paths;

/// Enough for two boots on a slow machine that does other things too.
const BOOT_SECONDS: u64 = 200;
const ANSWER_SECONDS: u64 = 90;
const RUN_SECONDS: u64 = 600;

/// Bob is typed to by his virtio console. The last guest never opens its end.
const MANIFEST: &str = r#"
[machine.defaults]
memory = "256M"

[[vm]]
name = "ada"
kernel = "debian:kernel"
initrd = "debian:initrd"
cmdline = "console=ttyAMA0 quiet"
vcpus = 2
ports = [ { name = "data", to = "bob" }, { name = "silent", to = "mute" } ]

[[vm]]
name = "bob"
kernel = "debian:kernel"
initrd = "debian:initrd"
cmdline = "console=ttyAMA0 quiet plinth.tty=hvc0"
keys = "virtio"
ports = [ { name = "data", to = "ada" } ]

[[vm]]
name = "mute"
kernel = "guest:heartbeat"
memory = "16M"
ports = [ { name = "silent", to = "ada" } ]
"#;

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("debian/console-ports-gicv{gic}"), move |bench| ports(bench, gic).into())
    };
    vec![step("2"), step("3")]
}

fn ports(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let manifest = paths::target().join("xtask/ports.toml");
    paths::write_if_changed(&manifest, MANIFEST.as_bytes())?;
    let manifest = manifest.to_string_lossy();
    let args = [&manifest, "--gic", gic, "--smp", "2", "--memory", "1G"];
    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    session.says("ada", "plinth-guest-ready", BOOT_SECONDS)?;
    session.says("bob", "plinth-guest-ready", BOOT_SECONDS)?;
    // What is written to the second console appears beside the first's output, and that still has the keys.
    ask(&mut session, "ada", 1001, "seq 1 3000 >/dev/hvc0 && sleep 1")?;
    let all: String = (1..=3000).map(|number| number.to_string()).collect();
    session.says("ada", &all, ANSWER_SECONDS)?;
    let port = "port() { for p in /sys/class/virtio-ports/*; do \
                [ \"$(cat $p/name 2>/dev/null)\" = \"$1\" ] && echo /dev/${p##*/}; done; }";
    ask(&mut session, "ada", 1002, &format!("{port}; p=$(port data); exec 3<>$p"))?;
    // Bob's shell is on hvc0, and gets what is typed.
    session.send("\x011")?;
    ask(
        &mut session,
        "bob",
        1003,
        &format!("[ \"$(tty)\" = /dev/hvc0 ] && {port}; p=$(port data); exec 3<>$p"),
    )
}
