//! Debian's packages: installing QEMU and its tools, and fetching packages of another architecture without being
//! root. Mirrors are never named here; they are those that the machine itself uses.

mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::doctor::which;

pub use sources::Source;

/// The package that has QEMU.
pub const QEMU: &str = "qemu-system-arm";
/// The package that has `qemu-img`.
pub const QEMU_IMG: &str = "qemu-utils";
/// The package that has a C++ compiler.
pub const CXX: &str = "g++";

/// The system we run on, from `/etc/os-release`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct System {
    pub id: String,
    pub version: u32,
    pub codename: String,
}

impl System {
    /// This machine's.
    pub fn this() -> Self {
        Self::read(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    fn read(text: &str) -> Self {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let version = field("VERSION_ID").split('.').next().unwrap_or_default().parse();
        let codename = field("VERSION_CODENAME");
        Self { id: field("ID"), version: version.unwrap_or(u32::MAX), codename }
    }

    /// Debian's component for firmware that is not free.
    pub fn firmware_component(&self) -> &'static str {
        if self.id == "debian" && self.version < 12 { "non-free" } else { "non-free-firmware" }
    }

    /// The suite that has a newer QEMU than the system's own, where that one is old.
    fn backports(&self) -> Option<String> {
        let old = self.id == "debian" && self.version <= 12 && !self.codename.is_empty();
        old.then(|| format!("{}-backports", self.codename))
    }
}

/// What installing a package of QEMU's takes.
#[derive(Debug, Eq, PartialEq)]
pub struct Plan {
    /// A sources file to write first: its path and contents.
    pub file: Option<(PathBuf, String)>,
    /// The commands, in order.
    pub commands: Vec<Vec<String>>,
}

impl Plan {
    /// The plan for `package` on `system`, whose package sources are `sources`.
    pub fn new(package: &str, system: &System, sources: &[Source]) -> Self {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut install = words("apt-get install --yes --no-install-recommends");
        let mut file = None;
        if let Some(suite) = system.backports() {
            let known = sources.iter().any(|source| source.has_suite(&suite));
            let base = sources.iter().find(|source| source.has_suite(&system.codename));
            if let (false, Some(base)) = (known, base) {
                let path = PathBuf::from("/etc/apt/sources.list.d/plinth-backports.sources");
                file = Some((path, base.with_suite(&suite).to_string()));
            }
            if known || file.is_some() {
                install.extend(["-t".to_owned(), suite]);
            }
        }
        install.push(package.to_owned());
        Self { file, commands: vec![words("apt-get update"), install] }
    }

    /// The plan as lines to be pasted into a root shell.
    pub fn script(&self) -> String {
        let mut lines = Vec::new();
        if let Some((path, text)) = &self.file {
            lines.push(format!("cat > {} <<'EOF'\n{text}EOF", path.display()));
        }
        lines.extend(self.commands.iter().map(|command| command.join(" ")));
        lines.join("\n")
    }

    fn carry_out(&self) -> Result<()> {
        if let Some((path, text)) = &self.file {
            eprintln!("xtask: writing {}", path.display());
            std::fs::write(path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        self.commands.iter().try_for_each(|command| run_apt(command))
    }
}

/// The plan for a package on this machine.
pub fn plan(package: &str) -> Plan {
    Plan::new(package, &System::this(), &sources::this())
}

/// Whether installing QEMU can bring a newer one than the system's own.
pub fn has_newer_qemu() -> bool {
    which("apt-get").is_some() && System::this().backports().is_some()
}

/// Installs a package when we are root and this is a Debian; otherwise the error says how to. `lack` is what
/// is wrong with what there is of it, if anything.
pub fn install(package: &str, lack: &str) -> Result<()> {
    if which("apt-get").is_none() {
        let what = match package {
            CXX => "one, or name it in CXX",
            _ => "QEMU 7.2 or later for the aarch64 system, and its tools",
        };
        bail!("{lack}; install {what}");
    }
    let plan = plan(package);
    if !rustix::process::geteuid().is_root() {
        bail!("{lack}; as root, run:\n{}", plan.script());
    }
    eprintln!("xtask: installing {package}");
    let Err(why) = plan.carry_out() else { return Ok(()) };
    let plain = Plan::new(package, &System { version: u32::MAX, ..System::this() }, &[]);
    if plain.commands == plan.commands {
        return Err(why.context(format!("{lack}, and cannot be installed")));
    }
    // A mirror without the backports suite must not stand in the way of the system's own QEMU.
    eprintln!("xtask: {why:#}; trying without backports");
    if let Some((path, _)) = &plan.file {
        let _ = std::fs::remove_file(path);
    }
    plain.carry_out().with_context(|| format!("{lack}, and cannot be installed"))
}

fn run_apt(words: &[String]) -> Result<()> {
    let Some((program, args)) = words.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    show(&mut command)
}

/// Runs a command with its output as progress on our standard error.
fn show(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(std::process::Stdio::null()).stdout(std::io::stderr());
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        let task = args.iter().find(|arg| !arg.starts_with('-') && !arg.contains("::"));
        bail!("`{name} {}` failed ({status})", task.map_or("", |task| task));
    }
    Ok(())
}

/// A private apt for one architecture, with its own lists and state: it needs no root and leaves
/// the system's packages alone.
pub struct PrivateApt {
    folder: PathBuf,
    options: Vec<String>,
}

impl PrivateApt {
    /// Sets one up in `folder`, for packages of these components of the distribution.
    pub fn new(folder: &Path, architecture: &str, components: &[&str]) -> Result<Self> {
        for tool in ["apt-get", "dpkg-deb"] {
            if which(tool).is_none() {
                bail!("there is no {tool} on this system");
            }
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path)
                .with_context(|| format!("cannot make {}", path.display()))?;
        }
        let mut options = vec![
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
            format!("Dir::State::Lists={}", folder.join("lists").display()),
            format!("Dir::Cache={}", folder.join("cache").display()),
            "Dir::State::status=/dev/null".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Acquire::http::Timeout=20".to_owned(),
            "Acquire::https::Timeout=20".to_owned(),
            "APT::Update::Error-Mode=any".to_owned(),
        ];
        // Of the system's sources only the distribution's own: another one that lacks this
        // architecture would make the update fail.
        let codename = System::this().codename;
        let all = sources::this();
        let own: Vec<_> =
            all.iter().filter_map(|source| source.only_release(&codename, components)).collect();
        if !own.is_empty() && !codename.is_empty() {
            let list = folder.join("own.sources");
            let text: Vec<_> = own.iter().map(ToString::to_string).collect();
            std::fs::write(&list, text.join("\n"))
                .with_context(|| format!("cannot write {}", list.display()))?;
            options.push(format!("Dir::Etc::SourceList={}", list.display()));
            options.push("Dir::Etc::SourceParts=/dev/null".to_owned());
        }
        Ok(Self { folder: folder.to_owned(), options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("LC_ALL", "C");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// Reads the mirrors' lists.
    pub fn update(&self) -> Result<()> {
        show(self.command("apt-get").args(["-q", "update"]))
    }

    /// What a package depends on, by name.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let output = self.command("apt-cache").args(["depends", package]).output();
        let output = output.context("cannot run apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(|name| name.trim_matches(['<', '>']).to_owned()).collect())
    }

    /// Downloads a package, unpacks it into a folder, and gives its version.
    pub fn unpack_one(&self, package: &str, into: &Path) -> Result<String> {
        show(self.command("apt-get").args(["-q", "download", package]))?;
        let path = self.downloaded()?.into_iter().next().context("apt-get left no package")?;
        let output = Command::new("dpkg-deb").arg("-f").arg(&path).arg("Version").output();
        let version = output.context("cannot run dpkg-deb")?.stdout;
        show(Command::new("dpkg-deb").arg("-x").arg(&path).arg(into))?;
        std::fs::remove_file(&path)?;
        Ok(String::from_utf8_lossy(&version).trim().to_owned())
    }

    /// Downloads packages and unpacks them into one folder.
    pub fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        show(self.command("apt-get").args(["-q", "download"]).args(packages))?;
        for path in self.downloaded()? {
            show(Command::new("dpkg-deb").arg("-x").arg(&path).arg(into))?;
            std::fs::remove_file(&path)?;
        }
        Ok(())
    }

    /// The packages that were downloaded and not yet unpacked.
    fn downloaded(&self) -> Result<Vec<PathBuf>> {
        let mut packages = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                packages.push(path);
            }
        }
        Ok(packages)
    }
}

#[cfg(test)]
mod tests {
    use super::sources::parse;
    use super::{Plan, QEMU, System};

    // Not a mirror: any will do, because the plan takes the one it is given.
    const LIST: &str = "Types: deb\nURIs: http://mirror.invalid/debian\n\
                        Suites: bookworm bookworm-updates\nComponents: main\n\
                        Signed-By: /usr/share/keyrings/key.gpg\n";

    fn system(id: &str, version: u32, codename: &str) -> System {
        System { id: id.to_owned(), version, codename: codename.to_owned() }
    }

    #[test]
    fn the_system_is_read_from_os_release() {
        let text = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
        assert_eq!(System::read(text), system("debian", 12, "bookworm"));
        assert_eq!(System::read("").version, u32::MAX);
    }

    #[test]
    fn an_old_debian_gets_qemu_from_backports_of_its_own_mirror() {
        let script =
            Plan::new(QEMU, &system("debian", 12, "bookworm"), &parse(LIST, true)).script();
        for part in [
            "URIs: http://mirror.invalid/debian\nSuites: bookworm-backports\nComponents: main\n",
            "Signed-By: /usr/share/keyrings/key.gpg",
            "apt-get update\napt-get install --yes --no-install-recommends -t bookworm-backports \
             qemu-system-arm",
        ] {
            assert!(script.contains(part), "{script}");
        }
    }

    #[test]
    fn backports_that_are_there_already_are_not_added_again() {
        let list = LIST.replace("bookworm-updates", "bookworm-backports");
        let plan = Plan::new(QEMU, &system("debian", 12, "bookworm"), &parse(&list, true));
        assert_eq!(plan.file, None);
        assert!(plan.script().contains("-t bookworm-backports"));
    }

    #[test]
    fn a_newer_debian_and_others_install_the_plain_package() {
        for system in [system("debian", 13, "trixie"), system("ubuntu", 24, "noble")] {
            let plan = Plan::new(QEMU, &system, &parse(LIST, true));
            assert_eq!(plan.file, None);
            assert!(plan.script().ends_with("--no-install-recommends qemu-system-arm"));
        }
    }
}
