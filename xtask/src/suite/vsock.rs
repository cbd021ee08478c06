//! Steps about sockets: Debian guests talk to the monitor.

use anyhow::Result;

use super::debians;
use super::net::ask;
use super::session::Session;
use super::{Bench, Step};

/// Ada may look, Bob may do anything, and Eve nothing.
const GUESTS: [(&str, &str, &str); 3] = [
    (
        "ada",
        "",
        r#"vcpus = 2
vsock = { monitor = "read" }"#,
    ),
    ("bob", "", r#"vsock = { monitor = "control", cid = 40 }"#),
    ("eve", "", "vsock = true"),
];

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("debian/vsock-gicv{gic}"), move |bench| sockets(bench, gic).into())
    };
    vec![step("2"), step("3")]
}

fn sockets(bench: &Bench, gic: &str) -> Result<()> {
    let mut session = debians::boot(
        bench,
        "vsock",
        &debians::manifest("192M", &GUESTS),
        gic,
        &["ada", "bob", "eve"],
    )?;
    monitor(&mut session)
}

fn monitor(session: &mut Session) -> Result<()> {
    let say = "say() { echo \"$*\" | plinth-vsock connect 2 1; }";
    ask(session, "ada", 1001, &format!("{say}; [ $(plinth-vsock cid) = 3 ]"))?;
    // The answer is what the console gets: three guests, all of them running.
    ask(session, "ada", 1002, "[ $(say vm list | grep -c running) = 3 ]")?;
    // What is no command, and what is not for this guest, is answered with why.
    ask(session, "ada", 1003, "say vm fly | grep -q 'use: vm list'")?;
    ask(session, "ada", 1004, "say vm pause eve | grep -q 'and this takes \"control\"'")?;
    ask(session, "ada", 1005, "say vm list | grep eve | grep -q running")?;
    // Several lines, and more at once than both sides hold: each is answered, in its turn.
    let flood =
        "yes 'sched' | head -n 2000 | plinth-vsock connect 2 1 | grep -c eve | grep -qx 2000";
    ask(session, "ada", 1006, flood)?;
    ask(session, "ada", 1007, "! plinth-vsock connect 2 2 </dev/null")?;
    // As the channel has it, for programs.
    debians::focus(session, 1)?;
    let json = "json() { say \"{\\\"id\\\":7,\\\"command\\\":\\\"$*\\\"}\"; }";
    ask(session, "bob", 1008, &format!("{say}; {json}; [ $(plinth-vsock cid) = 40 ]"))?;
    ask(session, "bob", 1009, "json vm pause eve | grep -q '\"id\":7,\"ok\":true'")?;
    ask(session, "bob", 1010, "json vm list | grep -q paused && say vm dump ada | grep -q elr")?;
    ask(session, "bob", 1011, "json vm resume eve | grep -q '\"ok\":true'")?;
    debians::focus(session, 2)?;
    ask(session, "eve", 1012, "! echo vm list | plinth-vsock connect 2 1")
}
