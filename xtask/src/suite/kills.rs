//! Steps in which guests that use all there is are destroyed at any moment: while they are loaded, start CPUs, wait, fault, have
//! requests under way and give memory back. Nothing of them stays, and nobody else notices.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::ctl::Run;
use super::many::{Guest, manifest_with};
use super::secrets::begin;
use super::session::said;
use super::soak::{KEPT, taken};
use super::{Bench, Outcome, Step};

const SECONDS: u64 = 60;
/// How often each of the two.
const KILLS: usize = 40;
/// How long one of them lives at most, in milliseconds.
const LONGEST: u64 = 200;

const HEAD: &str =
    "[machine]\nwhen_idle = \"wait\"\nscrollback = \"4K\"\n\n[[network]]\nname = \"lan\"\n\n";
const BOTH: [&str; 2] = ["one", "two"];

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str, cpus: &'static str| {
        Step::new(format!("run/killed-at-any-moment-gicv{gic}-{cpus}-cpus"), move |bench| {
            killed(bench, gic, cpus)
                .map_or_else(|why| Outcome::Failed(format!("{why:#}")), Outcome::Remarked)
        })
    };
    vec![step("2", "2"), step("3", "1")]
}

/// Each has all devices there are, and the other at the end of its wires.
fn storm(seed: usize, other: &str) -> String {
    format!(
        "memory = \"32M\"\nvcpus = 2\nautostart = false\ncmdline = \"seed={seed} operations=1000000000\"\n\
         disks = [{{ size = \"1M\" }}]\nnets = [\"lan\"]\nballoon = {{ min = \"16M\" }}\nagent = true\n\
         vsock = {{ group = \"storm\", monitor = \"read\" }}\nports = [{{ name = \"wire\", to = \"{other}\" }}]"
    )
}

fn killed(bench: &Bench, gic: &str, cpus: &str) -> Result<String> {
    let [one, two] = [storm(1, "two"), storm(2, "one")];
    let guest = |name: &str, payload, more| Guest { name: name.to_owned(), payload, more };
    let guests = [
        guest("idle", "heartbeat", "memory = \"16M\""),
        guest("one", "hostile", &one),
        guest("two", "hostile", &two),
    ];
    let manifest = manifest_with(bench, "killed.toml", HEAD, &guests)?;
    let args = ["--gic", gic, "--smp", cpus, "--memory", "512M"];
    let mut run = Run::start(bench, &manifest, &args, &["heartbeat 1"])?;
    let run = &mut run;
    // Once for lists and buffers that grow and stay.
    let mut destroyed = 1;
    BOTH.into_iter().try_for_each(|name| begin(run, name))?;
    sleep(Duration::from_millis(500));
    end(run, &BOTH, destroyed)?;
    let before = taken(run)?;
    let beats = said(&run.session.text(), "idle").matches("heartbeat").count();
    // Moments that do not depend on each other (the constants of Knuth's MMIX).
    let mut random = 2026u64;
    let mut next = || {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    for _ in 0..KILLS {
        BOTH.into_iter().try_for_each(|name| begin(run, name))?;
        sleep(Duration::from_millis(next() % LONGEST));
        destroyed += 1;
        let first = (next() % 2) as usize;
        end(run, &[BOTH[first], BOTH[1 - first]], destroyed)?;
    }
    let after = taken(run)?;
    ensure!(
        after.frames == before.frames && after.heap <= before.heap + KEPT,
        "{after:?} are taken when they are gone, and {before:?} were before"
    );
    let text = run.session.text();
    let more = said(&text, "idle").matches("heartbeat").count() - beats;
    ensure!(more > 0, "the guest beside them stands still\n{text}");
    let bad = text.lines().find(|line| line.starts_with("plinth: "));
    ensure!(bad.is_none(), "the hypervisor says `{}`\n{text}", bad.unwrap_or_default());
    run.ctl("poweroff")?;
    run.session.end_with(0, SECONDS)?;
    let heap = after.heap.saturating_sub(before.heap);
    Ok(format!("{} kills, {heap} bytes of the heap more are in use", 2 * KILLS))
}

/// Destroys these, for the `times`th time each, and waits until they are gone.
fn end(run: &mut Run<'_>, names: &[&str], times: usize) -> Result<()> {
    for name in names {
        run.ctl(&format!("vm destroy {name}"))?;
    }
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    let gone =
        |text: &str, name: &str| text.matches(&format!("{name}: destroyed")).count() >= times;
    while !names.iter().all(|name| gone(&run.session.text(), name)) {
        run.session.alive()?;
        ensure!(Instant::now() < deadline, "{names:?} are not gone\n{}", run.session.text());
        sleep(Duration::from_millis(10));
    }
    Ok(())
}
