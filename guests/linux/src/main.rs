//! `plinth-vsock`: what comes by standard input goes to a vsock socket, and what comes from there to standard output.
//!
//! Each direction ends by itself: the end of the input is told to the other side, and its end is the end of the
//! output.

use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::process::ExitCode;
use std::thread;

use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

const USAGE: &str =
    "usage: plinth-vsock connect CID PORT   connect to a port of a machine: 2 is the hypervisor,
                                      whose port 1 is the monitor
       plinth-vsock listen PORT        wait for one connection
       plinth-vsock cid                print the CID of this guest";

/// How much is moved at once, in bytes.
const PIECE: usize = 64 << 10;

/// What went wrong.
enum Failure {
    /// It was called as it cannot be.
    Usage,
    /// The system says no.
    System(&'static str, io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage => f.write_str(USAGE),
            Self::System(what, error) => write!(f, "plinth-vsock: {what}: {error}"),
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<(), Failure> {
    match args {
        ["connect", cid, port] => {
            let (cid, port) = (number(cid)?, number(port)?);
            talk(
                &VsockStream::connect_with_cid_port(cid, port)
                    .map_err(because("cannot connect"))?,
            )
        }
        ["listen", port] => {
            let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, number(port)?)
                .map_err(because("cannot listen"))?;
            let (stream, _) = listener.accept().map_err(because("nobody came"))?;
            talk(&stream)
        }
        ["cid"] => {
            let cid = vsock::get_local_cid().map_err(because("there is no vsock device"))?;
            println!("{cid}");
            Ok(())
        }
        _ => Err(Failure::Usage),
    }
}

fn number(text: &str) -> Result<u32, Failure> {
    text.parse().map_err(|_| Failure::Usage)
}

fn because(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::System(what, error)
}

/// Moves bytes both ways until the other side has ended.
fn talk(stream: &VsockStream) -> Result<(), Failure> {
    let sender = stream.try_clone().map_err(because("cannot send"))?;
    let sending = thread::spawn(move || {
        let sent = copy(&mut io::stdin().lock(), &mut &sender);
        let _ = sender.shutdown(Shutdown::Write);
        sent
    });
    copy(&mut &*stream, &mut io::stdout().lock()).map_err(because("the connection is lost"))?;
    // Who reads it may have something to say when it has all.
    let _ = nix::unistd::close(1);
    // And the other side may still want what is on its way. Nobody at a terminal is waited for.
    if !io::stdin().is_terminal() {
        let sent = sending.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        sent.map_err(because("not all was sent"))?;
    }
    Ok(())
}

/// Copies to the end, and keeps nothing back meanwhile.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&piece[..count])?;
        to.flush()?;
    }
}
