//! A step about streams between guests: Debian guests of a group are connected by their sockets, and no others.

use anyhow::{Result, bail};

use super::debians::{self, BOOT_SECONDS};
use super::net::{ask, sums};
use super::session::{Session, said};
use super::{Bench, Step};

const ANSWER_SECONDS: u64 = 90;

/// Ada and Bob may be connected; Eve is alone.
const GUESTS: [(&str, &str, &str); 3] = [
    (
        "ada",
        "",
        r#"vcpus = 2
vsock = { group = "talk", monitor = "read" }"#,
    ),
    ("bob", "", r#"vsock = { group = "talk", cid = 40 }"#),
    ("eve", "", r#"vsock = { group = "alone" }"#),
];

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("debian/vsock-streams-gicv{gic}"), move |bench| {
            streams(bench, gic).into()
        })
    };
    vec![step("2"), step("3")]
}

fn streams(bench: &Bench, gic: &str) -> Result<()> {
    let mut session = debians::boot(
        bench,
        "streams",
        &debians::manifest("192M", &GUESTS),
        gic,
        &["ada", "bob", "eve"],
    )?;
    bytes(&mut session)?;
    ends(&mut session)?;
    refusals(&mut session)?;
    reboot(&mut session)
}

/// Connects as soon as somebody listens.
const TO: &str = "to() { until plinth-vsock connect $1 $2; do sleep 1; done; }";
/// Whether it is said at once that nobody can be connected to there.
const NO: &str = "no() { plinth-vsock connect $1 $2 </dev/null 2>&1 | grep -q 'reset by peer'; }";

/// 1 MiB both ways at once, and the bytes are those that were sent.
fn bytes(session: &mut Session) -> Result<()> {
    let make = "dd if=/dev/urandom of=/run/x bs=64k count=16 2>/dev/null && sha256sum /run/x";
    let talk = |how: &str, number: u32| {
        format!("{make}; {how} </run/x | sha256sum && echo got-$(({number} * 7))\r")
    };
    debians::focus(session, 1)?;
    session.send(&talk("plinth-vsock listen 5000", 1001))?;
    debians::focus(session, 0)?;
    ask(session, "ada", 1002, &format!("{TO}; {NO}; [ $(plinth-vsock cid) = 3 ]"))?;
    session.send(&talk("to 40 5000", 1003))?;
    session.says("ada", &format!("got-{}", 1003 * 7), ANSWER_SECONDS)?;
    session.says("bob", &format!("got-{}", 1001 * 7), ANSWER_SECONDS)?;
    let text = session.text();
    let [ada, bob] = ["ada", "bob"].map(|guest| sums(&said(&text, guest)));
    match (&ada[..], &bob[..]) {
        ([a, from_b], [b, from_a]) if a == from_a && b == from_b && a != b => Ok(()),
        _ => bail!("sums of ada {ada:?}, of bob {bob:?}\n{text}"),
    }
}

/// The end of one direction is seen, and the other goes on: Bob answers when he has heard all.
fn ends(session: &mut Session) -> Result<()> {
    debians::focus(session, 1)?;
    let answer = "{ cat >/run/q; echo heard $(wc -c </run/q); } >/run/f";
    let listen = format!(
        "mkfifo /run/f; (plinth-vsock listen 5001 </run/f | {answer}) & {NO}; [ $(plinth-vsock cid) = 40 ]"
    );
    ask(session, "bob", 1004, &listen)?;
    debians::focus(session, 0)?;
    // The monitor answers beside it.
    let both = "head -c 100000 /dev/zero | to 40 5001 | grep -qx 'heard 100000' && \
                echo vm list | plinth-vsock connect 2 1 | grep bob | grep -q running";
    ask(session, "ada", 1005, both)
}

/// Nobody is connected where nobody listens, nor to who is not in the group, nor to nobody.
fn refusals(session: &mut Session) -> Result<()> {
    ask(session, "ada", 1006, "no 40 9 && no 5 5002 && no 77 5002 && no 4294967295 1")?;
    // Somebody listens there, but not to Eve.
    debians::focus(session, 1)?;
    let show = "while read x; do echo $x-$((146 * 7)); done";
    let listen = format!(
        "mkfifo /run/g; exec 4<>/run/g; (plinth-vsock listen 5002 <&4 | {show}) & sleep 1; no 5 5002"
    );
    ask(session, "bob", 1007, &listen)?;
    debians::focus(session, 2)?;
    ask(session, "eve", 1008, &format!("{NO}; no 40 5002 && no 3 5002 && no 2 1"))
}

/// Who is connected to a guest that begins again is told, and may be connected to it again. Linux shows a reset as the end to
/// who reads, and to who writes as a pipe that is broken.
fn reboot(session: &mut Session) -> Result<()> {
    debians::focus(session, 0)?;
    let over = "{ cat; echo over-$((147 * 7)); }";
    let connect = format!(
        "mkfifo /run/g; exec 4<>/run/g; (plinth-vsock connect 40 5002 <&4 2>/run/why | {over}) & \
         echo up >&4"
    );
    ask(session, "ada", 1009, &connect)?;
    session.says("bob", &format!("up-{}", 146 * 7), ANSWER_SECONDS)?;
    debians::focus(session, 1)?;
    session.send("reboot -f\r")?;
    session.says("ada", &format!("over-{}", 147 * 7), ANSWER_SECONDS)?;
    session.wait_for("bob: reset", ANSWER_SECONDS)?;
    session.expect("[bob] plinth-guest-ready 42001", BOOT_SECONDS)?;
    session
        .send("plinth-vsock listen 5002 </dev/null | grep -qx again && echo new-$((1011 * 7))\r")?;
    debians::focus(session, 0)?;
    let again = "echo more >&4; wait; grep -q 'Broken pipe' /run/why && echo again | to 40 5002";
    ask(session, "ada", 1010, again)?;
    session.says("bob", &format!("new-{}", 1011 * 7), ANSWER_SECONDS)
}
