//! Where the socket of a run is, and which runs are alive.
//!
//! A run's socket is `ctl-ID` in xtask's scratch folder, where ID is the process id. Only its owner may
//! connect. What a killed run left behind is recognised, as nobody accepts, and removed.

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::Mode;

use crate::paths;

/// What the names of sockets begin with.
const KIND: &str = "ctl";

/// The longest path that a socket's address holds (`sockaddr_un`), in bytes.
const LONGEST: usize = 107;

/// A socket that is listened on. Its file goes with it.
pub struct Socket {
    pub listener: UnixListener,
    pub path: PathBuf,
}

impl Socket {
    /// A new socket at `path`, or at this process's own place.
    pub fn bind(path: Option<&Path>) -> Result<Self> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => paths::scratch(KIND)?,
        };
        remove_stale(&path)?;
        let address = Address::of(&path)?;
        // The file is made by `bind`, and nobody else may ever connect.
        let umask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        let listener = UnixListener::bind(&address.path);
        rustix::process::umask(umask);
        let listener = listener.with_context(|| format!("no socket at {}", path.display()))?;
        let socket = Self { listener, path };
        std::fs::set_permissions(&socket.path, Permissions::from_mode(0o600))
            .context("a socket's permissions")?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Connects to a run: the one whose socket or id is given, else the only one there is.
pub fn connect(socket: Option<&Path>, run: Option<u32>) -> Result<UnixStream> {
    if let Some(path) = socket {
        return match open(path)? {
            Some(stream) => Ok(stream),
            None => bail!("no run is in progress at {}", path.display()),
        };
    }
    let folder = paths::work();
    if let Some(run) = run {
        return match open(&folder.join(format!("{KIND}-{run}")))? {
            Some(stream) => Ok(stream),
            None => bail!("there is no run {run}; in progress are: {}", list(&alive(&folder))),
        };
    }
    let mut runs = alive(&folder);
    match (runs.pop(), runs.as_slice()) {
        (Some((_, stream)), []) => Ok(stream),
        (Some(last), _) => {
            runs.push(last);
            bail!("several runs are in progress; choose by --run: {}", list(&runs))
        }
        (None, _) => bail!("no run is in progress; `cargo xtask run` starts one"),
    }
}

/// The runs whose sockets are in `folder` and answer, by id.
fn alive(folder: &Path) -> Vec<(u32, UnixStream)> {
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_prefix(KIND).and_then(|rest| rest.strip_prefix('-'));
        if let Some(id) = id.and_then(|id| id.parse().ok())
            && let Ok(Some(stream)) = open(&entry.path())
        {
            runs.push((id, stream));
        }
    }
    runs.sort_by_key(|(id, _)| *id);
    runs
}

fn list(runs: &[(u32, UnixStream)]) -> String {
    if runs.is_empty() {
        return "none".to_owned();
    }
    runs.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(", ")
}

/// Connects to the socket at `path`; none when nobody listens there.
fn open(path: &Path) -> Result<Option<UnixStream>> {
    match Address::of(path).map(|address| UnixStream::connect(&address.path)) {
        Ok(Ok(stream)) => Ok(Some(stream)),
        Ok(Err(why))
            if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&why.kind()) =>
        {
            Ok(None)
        }
        Ok(Err(why)) => Err(why).with_context(|| format!("cannot connect to {}", path.display())),
        // Its folder is not there.
        Err(_) => Ok(None),
    }
}

/// Removes the socket of a run that is no more.
fn remove_stale(path: &Path) -> Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    if !meta.file_type().is_socket() {
        bail!("{shown} is there already, and is no socket");
    }
    if open(path)?.is_some() {
        bail!("{shown} is the socket of another run");
    }
    std::fs::remove_file(path).with_context(|| format!("cannot remove {shown}"))
}

/// A path to a socket that is short enough for an address.
struct Address {
    path: PathBuf,
    /// The folder that the path leads through.
    _folder: Option<File>,
}

impl Address {
    fn of(path: &Path) -> Result<Self> {
        if path.as_os_str().len() <= LONGEST {
            return Ok(Self { path: path.to_owned(), _folder: None });
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let name = path.file_name().context("a socket needs a name")?;
        let folder =
            File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _folder: Some(folder) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::{Socket, alive, open};
    use crate::paths;

    /// A folder that is gone after the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = paths::scratch(&format!("sockets-{name}")).unwrap();
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_the_owner_may_connect_and_the_file_goes_with_the_run() {
        let folder = Folder::new("owner");
        let path = folder.0.join("ctl-1");
        let socket = Socket::bind(Some(&path)).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(open(&path).unwrap().is_some());
        let taken = Socket::bind(Some(&path)).err().unwrap();
        assert!(taken.to_string().contains("another run"), "{taken}");
        drop(socket);
        assert!(!path.exists() && open(&path).unwrap().is_none());
    }

    #[test]
    fn what_a_killed_run_left_is_not_alive_and_makes_way() {
        let folder = Folder::new("stale");
        let path = folder.0.join("ctl-12");
        // Its file stays, as it does when a process is killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let other = Socket::bind(Some(&folder.0.join("ctl-13"))).unwrap();
        std::fs::write(folder.0.join("ctl-14"), "no socket").unwrap();
        let ids = || alive(&folder.0).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(), [13]);
        let again = Socket::bind(Some(&path)).unwrap();
        assert_eq!(ids(), [12, 13]);
        assert!(Socket::bind(Some(&folder.0.join("ctl-14"))).is_err());
        drop((again, other));
        assert!(ids().is_empty());
    }

    #[test]
    fn a_path_may_be_longer_than_an_address() {
        let folder = Folder::new("long");
        let deep = folder.0.join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("ctl-1");
        let _socket = Socket::bind(Some(&path)).unwrap();
        assert!(path.exists() && open(&path).unwrap().is_some());
    }
}
