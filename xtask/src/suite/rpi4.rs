//! Steps on QEMU's Raspberry Pi 4, `raspi4b`: the same hypervisor boots there, however it is entered.

mod card;

use anyhow::{Context, Result, bail};

use super::assigned;
use super::ctl::Run;
use super::many::{Guest, manifest};
use super::session::{Session, said};
use super::{Bench, Outcome, Step, net};
use crate::board::Board;
use crate::{paths, qemu};

const SECONDS: u64 = 150;

/// What the hypervisor says when all CPUs have come.
const FOUR_CPUS: &str = "4 CPUs at EL2";

type Test = fn(&Bench) -> Result<()>;

pub fn steps() -> Vec<Step> {
    let tests: [(&str, Test); 8] = [
        ("payloads-pass-on-four-cpus", payloads),
        ("a-cpu-that-hangs-is-a-reset", hang),
        ("debian-powers-off", debian),
        ("default-manifest-boots", default_manifest),
        ("ctl-reaches-the-monitor", ctl),
        ("a-guest-owns-the-pl011", owner),
        ("a-guest-owns-the-pins", pins),
        ("a-guest-owns-spi-and-i2c", buses),
    ];
    let steps = tests.into_iter().map(|(name, test)| step(name, test));
    steps.chain(card::steps()).collect()
}

fn step(name: &str, test: impl Fn(&Bench) -> Result<()> + 'static) -> Step {
    Step::new(format!("rpi4/{name}"), move |bench| match too_old() {
        // Where CI sets the machine up, it is to have a QEMU that is new enough.
        Some(_) if std::env::var_os("CI").is_some() => {
            qemu::need(Board::Rpi4).and_then(|_| test(bench)).into()
        }
        Some(why) => Outcome::Skipped(why),
        None => test(bench).into(),
    })
}

/// Why there is no such board: QEMU is there, and too old.
fn too_old() -> Option<String> {
    let (major, minor) = qemu::emulates(qemu::find()?.version, Board::Rpi4).err()?;
    Some(format!("needs QEMU >= {major}.{minor}"))
}

/// Bare-metal guests that look at all they can get, on all CPUs.
fn payloads(bench: &Bench) -> Result<()> {
    bench.machine()?;
    let guest = |payload: &'static str, more| Guest { name: payload.to_owned(), payload, more };
    let guests = [
        guest("hello", "memory = \"64M\""),
        guest("smp", "memory = \"64M\"\nvcpus = 4"),
        guest("gic", "memory = \"64M\"\nvcpus = 2"),
        // What is drawn from the seed that the tree was given.
    ];
    let file = manifest(bench, "rpi4.toml", &guests)?;
    let file = file.to_string_lossy();
    let mut session = Session::start(bench, &["--board", "rpi4", &file], SECONDS)?;
    session.end_with(0, SECONDS + 10)?;
    let text = session.text();
    all_passed(&text, &guests.map(|guest| guest.name))?;
    if !text.contains(FOUR_CPUS) || text.contains("no rng-seed") {
        bail!("not all CPUs came, or the board has no seed\n{text}");
    }
    Ok(())
}

/// The reset is the board's own; and on a board FIQs are the Secure world's, as QEMU's are not: nobody takes one here.
fn hang(bench: &Bench) -> Result<()> {
    bench.machine()?;
    let guest = Guest { name: "idle".to_owned(), payload: "heartbeat", more: "memory = \"16M\"" };
    let file = manifest(bench, "rpi4-hang.toml", &[guest])?;
    let args = ["--board", "rpi4", &*file.to_string_lossy(), "--hv-args"];
    let args = [&args[..], &["watchdog=2 provoke=hang-deaf@0"]].concat();
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect("plinth: CPU 0 hangs at EL2", SECONDS)?;
    session.expect("says CPU 3", SECONDS)?;
    session.expect("plinth: restart", SECONDS)?;
    session.expect(FOUR_CPUS, SECONDS)
}

fn all_passed(text: &str, guests: &[String]) -> Result<()> {
    match guests.iter().find(|guest| !said(text, guest).contains("GUEST-TEST: ok")) {
        Some(guest) => bail!("{guest} has not passed\n{text}"),
        None => Ok(()),
    }
}

/// A Debian guest with two vCPUs comes up and ends the run.
fn debian(bench: &Bench) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let cmdline = "console=ttyAMA0 plinth.test=poweroff";
    let args = ["--board", "rpi4", "--single", "--vcpus", "2", "--cmdline", cmdline];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.wait_for(FOUR_CPUS, SECONDS)?;
    session.wait_for("plinth-guest-ready 42002", SECONDS)?;
    session.end_with(0, SECONDS)
}

/// What `cargo xtask run --board rpi4` boots: two Debian guests beside a bare-metal one, with a network and disks.
fn default_manifest(bench: &Bench) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let mut session = Session::start(bench, &["--board", "rpi4"], 2 * SECONDS)?;
    let wanted = [
        ("debian1", "plinth-guest-ready 42002"),
        ("debian2", "plinth-guest-ready 42002"),
        ("heartbeat", "heartbeat 2"),
    ];
    for (guest, what) in wanted {
        session.says(guest, what, 2 * SECONDS)?;
    }
    // The board has no virtio device of its own: networks between guests and disks in memory are there all the same.
    let disk = "mke2fs /dev/vda >/dev/null && mount -t ext2 /dev/vda /mnt && cd /mnt && \
                dd if=/dev/urandom of=file bs=64k count=32 && sha256sum file >sum && cd && \
                umount /mnt && mount -t ext2 /dev/vda /mnt && cd /mnt && sha256sum -c sum && cd && \
                umount /mnt && e2fsck -f -n /dev/vda";
    net::ask(&mut session, "debian1", 1001, "ping -c 1 -w 20 10.0.0.2")?;
    net::ask(&mut session, "debian1", 1002, disk)
}

/// The monitor's frames go over this board's serial line too.
fn ctl(bench: &Bench) -> Result<()> {
    let guest = Guest { name: "one".to_owned(), payload: "share", more: "memory = \"32M\"" };
    let file = manifest(bench, "rpi4-ctl.toml", &[guest])?;
    let mut run = Run::start(bench, &file, &["--board", "rpi4"], &["share: "])?;
    let cpus = run.json("cpu")?;
    if cpus.as_array().map(Vec::len) != Some(4) {
        bail!("there are not 4 CPUs: {cpus}");
    }
    run.ctl("vm pause one")?;
    run.comes_to("one", "paused")?;
    run.restart()?;
    run.session.expect("share: ", SECONDS)?;
    run.ctl("poweroff").context("ctl poweroff")?;
    run.session.end_with(0, SECONDS)
}

/// The pins belong to a guest, and to no other.
fn pins(bench: &Bench) -> Result<()> {
    bench.machine()?;
    let guest = |name: &str, more| Guest { name: name.to_owned(), payload: "owner", more };
    let mine = "memory = \"16M\"\ncmdline = \"gpio=fe200000\"\nassign = [\"/soc/gpio@7e200000\"]";
    let guests = [guest("owner", mine), guest("thief", mine)];
    let file = manifest(bench, "rpi4-pins.toml", &guests)?;
    let args = ["--board", "rpi4", &file.to_string_lossy()];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect("owner: the pins at 0xfe200000 are mine", SECONDS)?;
    session.expect("GUEST-TEST: ok", SECONDS)?;
    session.end_with(0, SECONDS)?;
    session.wait_for("thief: refused: assign: /soc/gpio@7e200000", 1)
}

/// SPI and I2C, of which the tree has most not in use, belong to a guest. All I2C blocks share an interrupt.
fn buses(bench: &Bench) -> Result<()> {
    bench.machine()?;
    let more = "memory = \"16M\"\ncmdline = \"spi=fe204000 i2c=fe804000\"\n\
                assign = [\"spi@7e204000\", \"i2c@7e205000\", \"i2c@7e804000\"]";
    let guest = Guest { name: "owner".to_owned(), payload: "owner", more };
    let file = manifest(bench, "rpi4-buses.toml", &[guest])?;
    let args = ["--board", "rpi4", &file.to_string_lossy()];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect("owner: the buses at 0xfe204000 and 0xfe804000 are mine", SECONDS)?;
    session.expect("GUEST-TEST: ok", SECONDS)?;
    session.end_with(0, SECONDS)
}

/// The board's other UART and its interrupt belong to a guest.
fn owner(bench: &Bench) -> Result<()> {
    bench.machine()?;
    let more = "memory = \"16M\"\ncmdline = \"uart=fe201000,153\"\n\
                assign = [\"/soc/serial@7e201000\"]";
    let guest = Guest { name: "owner".to_owned(), payload: "owner", more };
    let file = manifest(bench, "rpi4-owner.toml", &[guest])?;
    let socket = paths::scratch("rpi4-uart")?;
    let _ = std::fs::remove_file(&socket);
    let line = format!("unix:{},server=on,wait=on", socket.display());
    let args = ["--board", "rpi4", &file.to_string_lossy(), "--other-serial", &line];
    let mut session = Session::start(bench, &args, SECONDS)?;
    let mut uart = assigned::connect(&socket)?;
    session.expect("owner: the UART at 0xfe201000 is mine", SECONDS)?;
    assigned::talk(&mut uart)?;
    session.expect("GUEST-TEST: ok", SECONDS)?;
    session.end_with(0, SECONDS)?;
    let _ = std::fs::remove_file(&socket);
    Ok(())
}
