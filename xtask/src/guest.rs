//! One guest as the user describes it, checked for everything that can be known before a machine
//! starts.

use std::fmt;
use std::path::{Path, PathBuf};

use plinth::addr::PAGE_SIZE;
use plinth::manifest::{MAX_CMDLINE, MAX_MEMORY, MAX_NAME};
use plinth::vcpu::MAX_VCPUS;

use crate::image::{self, Kernel};
use crate::size;

/// The memory of a guest that does not say how much it wants.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// One guest as described.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guest {
    pub name: String,
    pub kernel: PathBuf,
    pub initrd: Option<PathBuf>,
    pub cmdline: String,
    pub memory: u64,
    pub vcpus: u64,
}

/// One guest with its files read; it may boot.
#[derive(Debug)]
pub struct Payload {
    pub name: String,
    pub kernel: Vec<u8>,
    pub initrd: Option<Vec<u8>>,
    pub cmdline: String,
    pub memory: u64,
    pub vcpus: u8,
}

/// Which part of a description is wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    Name,
    Kernel,
    Initrd,
    Cmdline,
    Memory,
    Vcpus,
}

impl Field {
    /// The field that is called `key` in a manifest.
    pub fn by_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.key() == key)
    }

    /// Every field.
    pub const ALL: [Self; 6] =
        [Self::Name, Self::Kernel, Self::Initrd, Self::Cmdline, Self::Memory, Self::Vcpus];

    /// Its name in a manifest.
    pub fn key(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Cmdline => "cmdline",
            Self::Memory => "memory",
            Self::Vcpus => "vcpus",
        }
    }

    /// Its name on the command line.
    pub fn option(self) -> &'static str {
        match self {
            Self::Memory => "--guest-memory",
            Self::Kernel => "--kernel",
            Self::Initrd => "--initrd",
            Self::Cmdline => "--cmdline",
            Self::Vcpus => "--vcpus",
            Self::Name => "name",
        }
    }
}

/// Something that keeps a guest from booting.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    pub field: Field,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field.option(), self.text)
    }
}

impl Guest {
    /// Reads the guest's files and checks it whole; gives every problem, not the first.
    pub fn load(self) -> Result<Payload, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut note = |field, text| problems.push(Problem { field, text });

        let vcpus = match u8::try_from(self.vcpus) {
            Ok(vcpus) if (1..=MAX_VCPUS).contains(&usize::from(vcpus)) => vcpus,
            _ => {
                note(Field::Vcpus, format!("{} vCPUs; a guest has 1 to {MAX_VCPUS}", self.vcpus));
                1
            }
        };
        if self.name.len() > MAX_NAME || !self.name.bytes().all(|byte| byte.is_ascii_graphic()) {
            let text = format!("a name has at most {MAX_NAME} printable characters and no space");
            note(Field::Name, text);
        }
        if self.memory == 0 || !self.memory.is_multiple_of(PAGE_SIZE) {
            let (memory, unit) = (size::show(self.memory), size::show(PAGE_SIZE));
            note(Field::Memory, format!("{memory} is not a multiple of {unit}"));
        } else if self.memory > MAX_MEMORY {
            let (memory, most) = (size::show(self.memory), size::show(MAX_MEMORY));
            note(Field::Memory, format!("{memory}; a guest has at most {most}"));
        }
        if self.cmdline.len() > MAX_CMDLINE {
            note(Field::Cmdline, format!("it is longer than {MAX_CMDLINE} bytes"));
        } else if self.cmdline.contains(|c: char| c.is_control()) {
            note(Field::Cmdline, "it holds a control character".to_owned());
        }

        let kernel = read(&self.kernel).unwrap_or_else(|why| {
            note(Field::Kernel, why);
            Vec::new()
        });
        if !kernel.is_empty()
            && let Err(why) = kernel_fits(&kernel, self.memory)
        {
            note(Field::Kernel, format!("{}: {why}", self.kernel.display()));
        }
        let initrd = self.initrd.as_deref().map(|path| {
            let bytes = read(path).unwrap_or_else(|why| {
                note(Field::Initrd, why);
                Vec::new()
            });
            let room = self.memory.saturating_sub(kernel.len() as u64);
            if bytes.len() as u64 > room {
                let (size, memory) = (size::show(bytes.len() as u64), size::show(self.memory));
                let why = format!("its {size} do not fit beside the kernel in {memory} of memory");
                note(Field::Initrd, format!("{}: {why}", path.display()));
            }
            bytes
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let Self { name, cmdline, memory, .. } = self;
        Ok(Payload { name, kernel, initrd, cmdline, memory, vcpus })
    }
}

fn kernel_fits(kernel: &[u8], memory: u64) -> Result<(), String> {
    let needs = match image::recognise(kernel)? {
        Kernel::Image { image_size } | Kernel::GzipImage { image_size } => image_size,
        Kernel::Zboot | Kernel::Elf | Kernel::Flat => 0,
    };
    let needs = needs.max(kernel.len() as u64);
    if needs > memory {
        let (needs, memory) = (size::show(needs), size::show(memory));
        return Err(format!("it needs {needs}, more than the guest's {memory} of memory"));
    }
    Ok(())
}

/// A file's bytes; an empty file is a mistake whatever it was meant to be.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    if path.is_dir() {
        return Err(format!("{} is a folder", path.display()));
    }
    match std::fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Err(format!("{}: the file is empty", path.display())),
        Ok(bytes) => Ok(bytes),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("there is no file {}", path.display()))
        }
        Err(why) => Err(format!("cannot read {}: {why}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Field, Guest};

    fn file(name: &str, bytes: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("plinth-guest-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("the temporary folder is writable");
        path
    }

    fn guest(kernel: PathBuf) -> Guest {
        let (name, cmdline) = ("g".to_owned(), String::new());
        Guest { name, kernel, initrd: None, cmdline, memory: 4 << 20, vcpus: 1 }
    }

    fn fields(guest: Guest) -> Vec<Field> {
        guest
            .load()
            .map_or_else(|bad| bad.iter().map(|problem| problem.field).collect(), |_| vec![])
    }

    #[test]
    fn a_flat_binary_with_modest_wishes_is_accepted() {
        assert_eq!(fields(guest(file("flat", &[0xd5; 64]))), []);
    }

    #[test]
    fn vcpus_are_one_to_eight() {
        let kernel = file("vcpus", &[0xd5; 64]);
        for (vcpus, bad) in [(0, true), (1, false), (8, false), (9, true), (257, true)] {
            let found = fields(Guest { vcpus, ..guest(kernel.clone()) });
            assert_eq!(found == [Field::Vcpus], bad, "{vcpus}");
        }
    }

    #[test]
    fn an_initrd_must_leave_room_for_the_kernel() {
        let kernel = file("room", &[0xd5; 64]);
        let large = Some(file("large", &vec![1; 4 << 20]));
        assert_eq!(fields(Guest { initrd: large, ..guest(kernel.clone()) }), [Field::Initrd]);
        let small = Some(file("small", &vec![1; 3 << 20]));
        assert_eq!(fields(Guest { initrd: small, ..guest(kernel) }), []);
    }

    #[test]
    fn a_kernel_that_asks_for_more_memory_than_there_is_is_refused() {
        let mut bytes = vec![0; 64];
        bytes[16..24].copy_from_slice(&(64u64 << 20).to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        assert_eq!(fields(guest(file("greedy", &bytes))), [Field::Kernel]);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let initrd = Some(PathBuf::from("/nowhere/initrd"));
        let bad = Guest { initrd, vcpus: 0, memory: 1 << 10, ..guest("/nowhere/kernel".into()) };
        let all = [Field::Vcpus, Field::Memory, Field::Kernel, Field::Initrd];
        assert_eq!(fields(bad), all);
    }
}
