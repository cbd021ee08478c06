//! Steps about networks: Debian guests reach each other where the manifest joins them, and nowhere else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::debians::{self, BOOT_SECONDS, RUN_SECONDS};
use super::session::{Session, said};
use super::{Bench, Step};

const ANSWER_SECONDS: u64 = 90;

const LAN: &str = "[[network]]\nname = \"lan\"\n\n";

/// The first two are in one VLAN, the third is in another, of the same network.
const THREE: [(&str, &str, &str); 3] = [
    (
        "ada",
        "plinth.ip=10.0.0.1/24",
        r#"vcpus = 2
nets = [ { network = "lan", vlan = 10 } ]"#,
    ),
    (
        "bob",
        "plinth.ip=10.0.0.2/24",
        r#"nets = [ { network = "lan", vlan = 10, mac = "52:54:00:00:00:0b" } ]"#,
    ),
    ("eve", "plinth.ip=10.0.0.3/24", r#"nets = [ { network = "lan", vlan = 20 } ]"#),
];

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("debian/network-gicv{gic}"), move |bench| three(bench, gic).into())
    };
    let outside = |gic: &'static str| {
        Step::new(format!("debian/network-outside-gicv{gic}"), move |bench| {
            outside(bench, gic).into()
        })
    };
    vec![step("2"), step("3"), outside("2"), outside("3")]
}

/// The network of QEMU's user mode, whose gateway leads to this PC.
const WAN: &str = "[[network]]\nname = \"wan\"\nuplink = true\n\n";

const OUTSIDE: [(&str, &str, &str); 2] = [
    ("ada", "plinth.ip=10.0.2.21/24 plinth.gateway=10.0.2.2", r#"nets = ["wan"]"#),
    ("bob", "plinth.ip=10.0.2.22/24 plinth.gateway=10.0.2.2", r#"nets = ["wan"]"#),
];

/// How much a guest loads, and sends back, in bytes.
const LOAD: usize = 1 << 20;

/// Serves a guest on this PC, as HTTP/1.0: each request's body, of so many bytes at most, is what comes next as the answer
/// to a request without one. Gives the port.
fn serve(kept: Arc<Mutex<Vec<u8>>>) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port on this PC")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // One that fails is noticed by the guest.
            let _ = answer(stream, &mut lock(&kept));
        }
    });
    Ok(port)
}

fn lock(kept: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `path` of the server behind this port of the PC has.
fn load(port: u16, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("the port is not there")?;
    stream.set_read_timeout(Some(Duration::from_secs(ANSWER_SECONDS)))?;
    write!(&stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("the guest does not answer")?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("it is no answer")?;
    if !answer.starts_with(b"HTTP/1.1 200 ") && !answer.starts_with(b"HTTP/1.0 200 ") {
        bail!("the guest refuses: {}", String::from_utf8_lossy(&answer[..end]));
    }
    Ok(answer.split_off(end + 4))
}

/// A port of the PC that nobody has.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("no port on this PC")?.local_addr()?.port())
}

fn answer(stream: TcpStream, kept: &mut Vec<u8>) -> Result<()> {
    let mut lines = BufReader::new(&stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(number) = line.strip_prefix("content-length:") {
            length = number.trim().parse::<usize>()?.min(LOAD);
        }
    }
    if length > 0 {
        let mut body = vec![0; length];
        lines.read_exact(&mut body)?;
        *kept = body;
        return Ok((&stream).write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")?);
    }
    write!(&stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", kept.len())?;
    Ok((&stream).write_all(kept)?)
}

/// A guest loads from this PC and sends there, and what comes back is what was sent; the other one loads that, too, and
/// gives it to this PC when it is asked.
fn outside(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let manifest = WAN.to_owned() + &debians::manifest("256M", &OUTSIDE);
    let manifest = debians::kept("outside", &manifest)?;
    let first = (0..LOAD).map(|n| (n % 241).to_le_bytes()[0]).collect();
    let kept = Arc::new(Mutex::new(first));
    let port = serve(kept.clone())?;
    let way_in = free_port()?;
    let forward = format!("{way_in}:10.0.2.22:80");
    let manifest = manifest.to_string_lossy();
    let args = [&manifest, "--gic", gic, "--smp", "2", "--memory", "1G", "--forward", &forward];
    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    for guest in ["ada", "bob"] {
        session.says(guest, "plinth-guest-ready", BOOT_SECONDS)?;
    }
    let load = format!("wget -q -O /run/x http://10.0.2.2:{port}/ && sha256sum /run/x");
    ask(&mut session, "ada", 1001, &format!("ping -c 1 -w 20 10.0.2.2 && {load}"))?;
    // Text: busybox takes a zero byte for the end.
    let send = format!(
        "base64 /dev/urandom | head -c {LOAD} >/run/x && sha256sum /run/x && \
         wget -q -O /dev/null --post-file /run/x http://10.0.2.2:{port}/ && {load}"
    );
    ask(&mut session, "ada", 1002, &send)?;
    debians::focus(&mut session, 1)?;
    let begin = format!("ping -c 1 -w 20 10.0.2.21 && {load} && httpd -h /run");
    ask(&mut session, "bob", 1003, &begin)?;
    if self::load(way_in, "/x")? != *lock(&kept) {
        bail!("what bob gives this PC is not what ada has sent to it");
    }
    let text = session.text();
    let [ada, bob] = ["ada", "bob"].map(|guest| sums(&said(&text, guest)));
    match (&ada[..], &bob[..]) {
        ([first, sent, back], [last]) if sent == back && back == last && first != sent => Ok(()),
        _ => bail!("sums of ada {ada:?}, of bob {bob:?}\n{text}"),
    }
}

/// Has the guest that is focused, `guest`, carry out a command, which succeeds. Each has a number of its own.
pub fn ask(session: &mut Session, guest: &str, number: u32, command: &str) -> Result<()> {
    // What shows that it is done is not in the question, so an echo alone does not pass.
    session.send(&format!("{command} && echo done-$(({number} * 7))\r"))?;
    session.says(guest, &format!("done-{}", number * 7), ANSWER_SECONDS)
}

/// A guest of two vCPUs has two pairs of queues. What each vCPU loads goes out by its own, and comes in by the same: its
/// kernel says for each packet by which, and counts those that come in from 1. Some of the first may come in by the other: the
/// card may know another conversation whose number agrees in the bits that it keeps. The card's interrupt goes to the vCPU that
/// loads: elsewhere the kernel would acknowledge there what it finds, by that vCPU's queue, and so the conversation would
/// belong to both.
const BY_PAIRS: &str = "\
    cd /sys/class/net/eth0/queues && [ \"$(echo *)\" = 'rx-0 rx-1 tx-0 tx-1' ] && \
    cd /sys/kernel/tracing && mount -t tracefs tracefs . && cd /sys/kernel/tracing && \
    echo 1 >events/net/net_dev_start_xmit/enable && \
    echo 1 >events/net/napi_gro_receive_entry/enable && \
    irq=$(($(grep virtio1 /proc/interrupts | cut -d: -f1))) && \
    count() { echo $1 $(grep -c $1 trace) >&2; grep -c $1 trace; } && \
    most() { [ $(count $1=$2) -gt $((20 + $(count $1=$3))) ]; } && \
    by() { echo $1 >/proc/irq/$irq/smp_affinity && echo >trace; \
    taskset $1 wget -q -O /dev/null http://10.0.0.2/x; \
    most xmit.*mapping $2 $((1 - $2)) && most receive.*mapping $(($2 + 1)) $((2 - $2)); } && \
    by 1 0 && by 2 1 && cd";

fn three(bench: &Bench, gic: &str) -> Result<()> {
    let manifest = LAN.to_owned() + &debians::manifest("256M", &THREE);
    let mut session = debians::boot(bench, "net", &manifest, gic, &["ada", "bob", "eve"])?;
    // TCP both ways at once, 4 MiB each, and the bytes are those that were sent.
    let serve = "dd if=/dev/urandom of=/run/x bs=64k count=64 2>/dev/null && httpd -h /run && \
                 sha256sum /run/x";
    ask(&mut session, "ada", 1001, serve)?;
    debians::focus(&mut session, 1)?;
    ask(&mut session, "bob", 1002, &format!("ip link show eth0 && {serve}"))?;
    let load = |from: &str| format!("wget -q -O - http://{from}/x | sha256sum");
    let begin = format!("({} && echo load-$((6 * 7))) &\r", load("10.0.0.1"));
    session.send(&begin)?;
    debians::focus(&mut session, 0)?;
    ask(&mut session, "ada", 1003, &load("10.0.0.2"))?;
    session.says("bob", "load-42", ANSWER_SECONDS)?;
    // Who is in another VLAN is not there.
    ask(&mut session, "ada", 1004, "ping -c 2 -w 5 10.0.0.2 && ! ping -c 2 -w 5 10.0.0.3")?;
    debians::focus(&mut session, 2)?;
    let nobody = "! ping -c 2 -w 5 10.0.0.1 && ! ping -c 2 -w 5 10.0.0.2";
    ask(&mut session, "eve", 1005, nobody)?;
    let heard = "[ $(cat /sys/class/net/eth0/statistics/rx_packets) = 0 ] && echo heard-$((0 * 1))";
    ask(&mut session, "eve", 1006, heard)?;
    // A new driver begins anew, while the other one sends.
    debians::focus(&mut session, 0)?;
    let again = "cd /sys/bus/virtio/drivers/virtio_net && for i in 1 2 3; do \
                 echo virtio1 >unbind && echo virtio1 >bind && \
                 ip address add 10.0.0.1/24 dev eth0 && ip link set eth0 up; done && cd && \
                 ping -c 1 -w 20 10.0.0.2 && wget -q -O - http://10.0.0.2/x | sha256sum";
    ask(&mut session, "ada", 1007, again)?;

    ask(&mut session, "ada", 1008, BY_PAIRS)?;

    let text = session.text();
    let [ada, bob] = ["ada", "bob"].map(|guest| sums(&said(&text, guest)));
    // Each has said its own sum, and then the other's as often as it has loaded it.
    match (&ada[..], &bob[..]) {
        ([a, from_b, again], [b, from_a]) if a == from_a && b == from_b && b == again && a != b => {
        }
        _ => bail!("sums of ada {ada:?}, of bob {bob:?}\n{text}"),
    }
    if !said(&text, "bob").contains("52:54:00:00:00:0b") {
        bail!("bob's card does not have the address of the manifest\n{text}");
    }
    Ok(())
}

/// The SHA-256 sums in what a guest has said: each is followed by two spaces and a name. What comes before may be the
/// end of another line.
pub fn sums(said: &str) -> Vec<String> {
    let before = |(end, _)| said.get(usize::checked_sub(end, 64)?..end);
    let is_sum = |word: &&str| word.bytes().all(|byte| byte.is_ascii_hexdigit());
    said.match_indices("  ").filter_map(before).filter(is_sum).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::sums;

    #[test]
    fn a_sum_is_found_behind_the_end_of_another_line() {
        let (a, b) = ("0123456789abcdef".repeat(4), "f".repeat(64));
        let said = format!("brd ff:ff{a}  /run/x# sha256sum{b}  -done-7  # ");
        assert_eq!(sums(&said), [a, b]);
    }
}
