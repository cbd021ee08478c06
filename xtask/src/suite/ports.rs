//! Steps about virtio consoles: Debian guests use their second console, and channels to each other.

use anyhow::{Result, bail};

use super::debians;
use super::net::{ask, sums};
use super::session::said;
use super::{Bench, Step};

const ANSWER_SECONDS: u64 = 90;

/// Bob is typed to by his virtio console.
const GUESTS: [(&str, &str, &str); 2] = [
    (
        "ada",
        "",
        r#"vcpus = 2
ports = [ { name = "data", to = "bob" }, { name = "silent", to = "mute" } ]"#,
    ),
    (
        "bob",
        "plinth.tty=hvc0",
        r#"keys = "virtio"
ports = [ { name = "data", to = "ada" } ]"#,
    ),
];

/// This one never opens its end.
const MUTE: &str = r#"
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
    let manifest = debians::manifest("256M", &GUESTS) + MUTE;
    let mut session = debians::boot(bench, "ports", &manifest, gic, &["ada", "bob"])?;
    // What is written to the second console appears beside the first's output, and that still has the keys.
    ask(&mut session, "ada", 1001, "seq 1 3000 >/dev/hvc0 && sleep 1")?;
    let all: String = (1..=3000).map(|number| number.to_string()).collect();
    session.says("ada", &all, ANSWER_SECONDS)?;
    let port = "port() { for p in /sys/class/virtio-ports/*; do \
                [ \"$(cat $p/name 2>/dev/null)\" = \"$1\" ] && echo /dev/${p##*/}; done; }";
    ask(&mut session, "ada", 1002, &format!("{port}; p=$(port data); exec 3<>$p"))?;
    // Bob's shell is on hvc0, and gets what is typed.
    debians::focus(&mut session, 1)?;
    ask(
        &mut session,
        "bob",
        1003,
        &format!("[ \"$(tty)\" = /dev/hvc0 ] && {port}; p=$(port data); exec 3<>$p; echo x >&3"),
    )?;
    // A reader comes to the end as long as its guest does not know that the other end is open: each has heard of it when it could write.
    debians::focus(&mut session, 0)?;
    ask(&mut session, "ada", 1011, "echo x >&3 && read y <&3 && [ $y = x ]")?;
    debians::focus(&mut session, 1)?;
    ask(&mut session, "bob", 1012, "read y <&3 && [ $y = x ]")?;
    // Both ways at once, and the bytes are those that were sent.
    let make = "dd if=/dev/urandom of=/run/x bs=64k count=8 2>/dev/null && sha256sum /run/x";
    let talk = |number: u32| {
        format!(
            "{make}; (head -c 524288 <&3 | sha256sum && echo got-$(({number} * 7))) & \
             cat /run/x >&3\r"
        )
    };
    session.send(&talk(1004))?;
    debians::focus(&mut session, 0)?;
    session.send(&talk(1005))?;
    session.says("ada", &format!("got-{}", 1005 * 7), ANSWER_SECONDS)?;
    session.says("bob", &format!("got-{}", 1004 * 7), ANSWER_SECONDS)?;
    ask(&mut session, "ada", 1006, "wait; exec 3>&-")?;
    let text = session.text();
    let [ada, bob] = ["ada", "bob"].map(|guest| sums(&said(&text, guest)));
    match (&ada[..], &bob[..]) {
        ([a, from_b], [b, from_a]) if a == from_a && b == from_b && a != b => {}
        _ => bail!("sums of ada {ada:?}, of bob {bob:?}\n{text}"),
    }
    // Who has closed its end is seen to have: a reader comes to the end.
    debians::focus(&mut session, 1)?;
    ask(&mut session, "bob", 1007, "wait; timeout 60 cat <&3 | wc -c | grep -qx 0; exec 3>&-")?;
    debians::focus(&mut session, 0)?;
    // Nobody is at the other end: what is written waits, and nobody else does.
    ask(&mut session, "ada", 1008, "q=$(port silent); ! timeout 2 sh -c \"echo x >$q\"")?;
    // A new driver begins anew. It is given time to find its ports: Linux's own has a race where it is taken away before.
    let bus = "/sys/bus/virtio/drivers/virtio_console";
    let again = format!(
        "l=$(readlink -f /sys/class/virtio-ports/${{p#/dev/}}); l=${{l%/virtio-ports*}}; d=${{l##*/}}; \
         for i in 1 2; do echo $d >{bus}/unbind && echo $d >{bus}/bind && sleep 1; done; \
         p=$(port data); [ -c $p ]"
    );
    ask(&mut session, "ada", 1009, &again)?;
    session.send("(echo again >$p) &\r")?;
    debians::focus(&mut session, 1)?;
    ask(&mut session, "bob", 1010, "timeout 60 head -n 1 <$p | grep -qx again")
}
