//! A step about notifications between guests: while Linux sends much, hardly a packet costs an exit. Time is counted in
//! instructions (`--icount`), so it matters little what else the PC does.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::ctl::Run;
use super::net::ask;
use super::{Bench, Outcome, Step, debians};

/// How much is sent, in MiB.
const SENT: u64 = 32;
/// What a packet on a wire has of that.
const PAYLOAD: u64 = 1448;
/// How many exits a guest may have for 1000 of them. Measured are 141 and 178 (GICv3, GICv2) where it is sent, 83 and 125 where
/// it comes in. The driver wants an interrupt for each segment that was sent, and has two exits for each interrupt.
const MOST: u64 = 230;

const MANIFEST: &str = r#"
[[network]]
name = "lan"

[machine.defaults]
memory = "256M"

[[vm]]
name = "ada"
kernel = "debian:kernel"
initrd = "debian:initrd"
cmdline = "console=ttyAMA0 quiet plinth.ip=10.0.0.1/24"
cpus = [0]
nets = ["lan"]

[[vm]]
name = "bob"
kernel = "debian:kernel"
initrd = "debian:initrd"
cmdline = "console=ttyAMA0 quiet plinth.ip=10.0.0.2/24"
cpus = [1]
nets = ["lan"]
"#;

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("debian/network-exits-gicv{gic}"), move |bench| {
            few(bench, gic)
                .map_or_else(|why| Outcome::Failed(format!("{why:#}")), Outcome::Remarked)
        })
    };
    vec![step("2"), step("3")]
}

fn few(bench: &Bench, gic: &str) -> Result<String> {
    let mut run =
        debians::boot_to_ask(bench, "exits", MANIFEST, gic, &["ada", "bob"], &["--icount"])?;
    let file = format!("dd if=/dev/zero of=/run/x bs=1M count={SENT} 2>/dev/null && httpd -h /run");
    ask(&mut run.session, "ada", 1001, &file)?;
    run.session.send("\x011")?;
    // Once for nothing: who is where is known then.
    let load = "wget -q -O - http://10.0.0.1/x | wc -c";
    ask(&mut run.session, "bob", 1002, load)?;
    // The line costs exits, too.
    let line = load.replace("wget", "echo");
    let [before, idle] = counted(&mut run, 1003, &line)?;
    let [then, after] = counted(&mut run, 1004, load)?;
    let packets = (SENT << 20) / PAYLOAD;
    let mut told = Vec::new();
    for guest in ["ada", "bob"] {
        let of = |counts: &HashMap<&str, u64>| counts.get(guest).copied().unwrap_or(0);
        let console = of(&idle).saturating_sub(of(&before));
        let exits = (of(&after) - of(&then)).saturating_sub(console);
        told.push(format!("{guest}: {exits} exits for {packets} packets' data"));
        if exits * 1000 > MOST * packets || exits == 0 {
            bail!("{}", told.join(", "));
        }
    }
    Ok(told.join(", "))
}

/// The exits of both guests before and after bob has carried out a command.
fn counted(
    run: &mut Run<'_>,
    number: u32,
    command: &str,
) -> Result<[HashMap<&'static str, u64>; 2]> {
    let before = exits(run)?;
    ask(&mut run.session, "bob", number, command)?;
    Ok([before, exits(run)?])
}

fn exits(run: &Run<'_>) -> Result<HashMap<&'static str, u64>> {
    let of = |guest: &'static str| {
        let stats = run.json(&format!("stats {guest}"))?;
        let all = sum(&stats);
        (all > 0).then_some((guest, all)).with_context(|| format!("no exits of {guest} in {stats}"))
    };
    ["ada", "bob"].into_iter().map(of).collect()
}

/// All counts of exits in an answer to `stats`.
fn sum(value: &Value) -> u64 {
    match value {
        Value::Object(fields) if fields.contains_key("reason") => {
            fields.get("count").and_then(Value::as_u64).unwrap_or(0)
        }
        Value::Object(fields) => fields.values().map(sum).sum(),
        Value::Array(items) => items.iter().map(sum).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn exits_are_summed_up_over_vcpus_and_reasons() {
        let text = r#"[{"vcpu": 0, "exits": [{"reason": "wfi", "count": 3, "nanos": 9}]},
                       {"vcpu": 1, "exits": [{"reason": "mmio", "count": 4, "nanos": 9}]}]"#;
        assert_eq!(sum(&serde_json::from_str(text).expect("good text")), 7);
    }
}
