//! Builds the hypervisor: cargo makes an ELF file, and the bytes of its loaded segments are the
//! raw arm64 Image that QEMU, U-Boot and the Raspberry Pi's firmware load.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::paths;

/// The target without FP/SIMD registers, so that the hypervisor never touches a guest's.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// The target of programs for Linux guests that need nothing of a system's.
pub const LINUX_TARGET: &str = "aarch64-unknown-linux-musl";
/// Such a program: what connects a shell to a socket.
pub const LINUX_PROGRAM: &str = "plinth-vsock";

/// The only place for the image's code generation flags. Position independent, because firmware
/// loads it anywhere; frame pointers, for the backtraces it prints; and what has several callers is copied
/// into them where that is hardly larger than a call. The default for `opt-level = "s"` is 50. What exits
/// pass through says `#[inline]`.
const RUSTFLAGS: [&str; 6] = [
    "-C",
    "relocation-model=pie",
    "-C",
    "force-frame-pointers=yes",
    "-C",
    "llvm-args=-inline-threshold=30",
];

/// A built hypervisor.
pub struct Hypervisor {
    /// What the machine loads.
    pub raw: PathBuf,
    /// The same with symbols and line numbers.
    pub elf: PathBuf,
}

/// `cargo`, of the toolchain that runs us.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::root());
    // What `cargo run` sets for us is ours, and would make build scripts run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// `cargo TASK` for the bare machine, with the image's flags; the Rust target is installed first.
pub fn cargo_bare(task: &str) -> Result<Command> {
    need_target()?;
    let mut cargo = cargo();
    cargo.args([task, "--target", TARGET, "--package", "plinth"]);
    // The encoded variable outranks RUSTFLAGS and every configuration file, so that the image is
    // the same whatever the user's are.
    let flags: Vec<String> = RUSTFLAGS.map(String::from).into_iter().chain(short_names()).collect();
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env_remove("RUSTFLAGS");
    Ok(cargo)
}

/// Panics name files of other crates from the crate on, whoever builds the image: shorter, and the same
/// everywhere.
fn short_names() -> Vec<String> {
    let own = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = own.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let sources = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    let registries = sources.into_iter().flatten().filter_map(Result::ok);
    let mut flags: Vec<String> =
        registries.map(|one| format!("--remap-path-prefix={}=", one.path().display())).collect();
    flags.sort();
    flags
}

/// Builds the hypervisor; cargo shows its progress.
pub fn hypervisor() -> Result<Hypervisor> {
    let mut cargo = cargo_bare("build")?;
    cargo.args(["--release", "--bin", "plinth"]).stdout(std::io::stderr());
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the hypervisor does not build");
    }
    let elf = paths::target().join(TARGET).join("release").join("plinth");
    let bytes = std::fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let image = flatten(&bytes).with_context(|| format!("cannot use {}", elf.display()))?;
    if image.get(56..60) != Some(b"ARM\x64") {
        bail!("{} does not begin with an arm64 Image header", elf.display());
    }
    let raw = paths::target().join("plinth.img");
    paths::write_if_changed(&raw, &image)?;
    Ok(Hypervisor { raw, elf })
}

/// Builds the guest payloads and gives the folder their ELF files are in.
pub fn guests() -> Result<PathBuf> {
    need_target()?;
    let folder = paths::root().join("guests");
    let mut cargo = cargo();
    cargo.args(["build", "--release", "--quiet", "--target", TARGET]).current_dir(&folder);
    cargo.env("CARGO_TARGET_DIR", paths::target().join("guests"));
    cargo.stdout(std::io::stderr());
    if !cargo.status().context("cannot run cargo")?.success() {
        bail!("the guest payloads do not build");
    }
    Ok(paths::target().join("guests").join(TARGET).join("release"))
}

/// Builds the program for Linux guests, linked to nothing of a system's, and gives its file.
pub fn linux_program() -> Result<PathBuf> {
    need(LINUX_TARGET)?;
    let folder = paths::root().join("guests/linux");
    let mut cargo = cargo();
    cargo.args(["build", "--release", "--quiet", "--locked", "--target", LINUX_TARGET]);
    // The linker that comes with Rust: no other is needed.
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    cargo.env("CARGO_TARGET_DIR", paths::target().join("guests")).env_remove("RUSTFLAGS");
    cargo.current_dir(&folder).stdout(std::io::stderr());
    if !cargo.status().context("cannot run cargo")?.success() {
        bail!("guests/linux does not build");
    }
    let built = paths::target().join("guests").join(LINUX_TARGET).join("release");
    Ok(built.join(LINUX_PROGRAM))
}

/// The names of the guest payloads.
pub fn payloads() -> Result<Vec<String>> {
    let folder = paths::root().join("guests/src/bin");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Whether the image's Rust target is installed.
pub fn has_target() -> bool {
    has(TARGET)
}

/// Installs the image's Rust target when it is missing.
pub fn need_target() -> Result<()> {
    need(TARGET)
}

/// Whether a Rust target is installed, wherever Rust came from.
fn has(target: &str) -> bool {
    sysroot().is_ok_and(|root| root.join("lib/rustlib").join(target).is_dir())
}

/// Installs a Rust target when it is missing.
pub fn need(target: &str) -> Result<()> {
    if has(target) {
        return Ok(());
    }
    eprintln!("xtask: installing the Rust target {target}");
    let status = Command::new("rustup").args(["target", "add", target]).status();
    if status.is_ok_and(|status| status.success()) && has(target) {
        return Ok(());
    }
    bail!("the Rust target {target} is missing; install it with `rustup target add {target}`");
}

/// The Rust target that the PC itself is.
pub fn host() -> Result<String> {
    let about = rustc(&["--version", "--verbose"])?;
    let name = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(name.context("rustc does not say what it runs on")?.to_owned())
}

fn sysroot() -> Result<PathBuf> {
    Ok(Path::new(rustc(&["--print", "sysroot"])?.trim()).to_owned())
}

/// What the compiler says.
fn rustc(args: &[&str]) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(args).current_dir(paths::root()).stderr(Stdio::null());
    let output = command.output().context("cannot run rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The bytes that an ELF file's segments put into memory, from the lowest address on; what `objcopy
/// -O binary` makes, without asking for an objcopy. Memory after the last byte (`.bss`) is left to
/// the image's own header and start-up code.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    /// More than any image; a stray segment must not fill the disk.
    const LIMIT: u64 = 256 << 20;
    let header = FileHeader64::<Endianness>::parse(elf)?;
    let endian = header.endian()?;
    let loaded = || {
        let headers = header.program_headers(endian, elf).unwrap_or_default().iter();
        headers.filter(|one| one.p_type(endian) == PT_LOAD && one.p_filesz(endian) > 0)
    };
    let base = loaded().map(|one| one.p_paddr(endian)).min().context("it has nothing to load")?;
    let mut image = Vec::new();
    for segment in loaded() {
        let data = segment.data(endian, elf).ok().context("a segment is cut off")?;
        let start = segment.p_paddr(endian) - base;
        if start > LIMIT {
            bail!("its segments are more than {LIMIT} bytes apart");
        }
        let start = usize::try_from(start)?;
        let end = start + data.len();
        if image.len() < end {
            image.resize(end, 0);
        }
        image[start..end].copy_from_slice(data);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::flatten;

    /// An ELF file with two loaded segments: `abcd` at 0x1000 and `ef` at 0x1008 with a tail that
    /// is not in the file.
    fn elf() -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        for (value, size) in [
            (2u64, 2),
            (183, 2),
            (1, 4),
            (0x1000, 8),
            (64, 8),
            (0, 8),
            (0, 4),
            (64, 2),
            (56, 2),
            (2, 2),
            (0, 2),
            (0, 2),
            (0, 2),
        ] {
            bytes.extend(&value.to_le_bytes()[..size]);
        }
        for (offset, address, in_file, in_memory) in
            [(176u64, 0x1000u64, 4u64, 4u64), (180, 0x1008, 2, 64)]
        {
            bytes.extend([1u8, 0, 0, 0, 5, 0, 0, 0]);
            for value in [offset, address, address, in_file, in_memory, 4] {
                bytes.extend(value.to_le_bytes());
            }
        }
        bytes.extend(b"abcdef");
        bytes
    }

    #[test]
    fn segments_keep_their_distance_and_bss_is_left_out() {
        assert_eq!(flatten(&elf()).expect("a good file"), b"abcd\0\0\0\0ef");
    }

    #[test]
    fn a_file_that_ends_too_soon_is_an_error() {
        let whole = elf();
        for length in 0..whole.len() {
            assert!(flatten(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
