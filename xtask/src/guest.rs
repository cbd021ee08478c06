//! One guest as the user describes it, checked for everything that can be known before a machine
//! starts.

use std::fmt;
use std::ops::RangeInclusive;

use plinth::addr::{Ipa, PAGE_SIZE};
use plinth::manifest::{
    DEFAULT_MEMORY, Devices, MAX_CMDLINE, MAX_MEMORY, MAX_NAME, OnCrash, OnReboot, RAM_LIMIT,
    VmSource,
};
use plinth::sched::policy::{Class, Policy};
use plinth::vcpu::MAX_VCPUS;
use plinth::vm::layout::RAM_BASE;

use crate::image::{self, Kernel};
use crate::size;
use crate::source::{Source, Store};

/// How many vCPUs a guest may have.
pub const VCPUS: RangeInclusive<u64> = 1..=MAX_VCPUS as u64;

/// One guest as described.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guest {
    pub name: String,
    pub kernel: Source,
    pub initrd: Option<Source>,
    pub cmdline: String,
    pub memory: u64,
    pub ram_base: Ipa,
    pub vcpus: u64,
    pub policy: Policy,
    pub autostart: bool,
    pub on_crash: OnCrash,
    pub on_reboot: OnReboot,
    pub devices: Devices,
}

/// One guest with its files read; it may boot.
#[derive(Debug)]
pub struct Payload {
    guest: Guest,
    pub vcpus: u8,
    pub kernel: Vec<u8>,
    pub initrd: Option<Vec<u8>>,
}

/// Which part of a description is wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    Name,
    Kernel,
    Initrd,
    Cmdline,
    Memory,
    RamBase,
    Vcpus,
    Cpus,
    Weight,
    Cap,
    Reservation,
    Autostart,
    OnCrash,
    OnReboot,
    Devices,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 15] = [
        Self::Name,
        Self::Kernel,
        Self::Initrd,
        Self::Cmdline,
        Self::Memory,
        Self::RamBase,
        Self::Vcpus,
        Self::Cpus,
        Self::Weight,
        Self::Cap,
        Self::Reservation,
        Self::Autostart,
        Self::OnCrash,
        Self::OnReboot,
        Self::Devices,
    ];

    /// Those that a manifest may set for all guests at once.
    pub const DEFAULTS: [Self; 11] = [
        Self::Memory,
        Self::RamBase,
        Self::Vcpus,
        Self::Cpus,
        Self::Weight,
        Self::Cap,
        Self::Reservation,
        Self::Autostart,
        Self::OnCrash,
        Self::OnReboot,
        Self::Devices,
    ];

    /// Its name in a manifest.
    pub fn key(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Cmdline => "cmdline",
            Self::Memory => "memory",
            Self::RamBase => "ram_base",
            Self::Vcpus => "vcpus",
            Self::Cpus => "cpus",
            Self::Weight => "weight",
            Self::Cap => "cap",
            Self::Reservation => "reservation",
            Self::Autostart => "autostart",
            Self::OnCrash => "on_crash",
            Self::OnReboot => "on_reboot",
            Self::Devices => "devices",
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
            other => other.key(),
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
    /// A guest of this name and kernel, for which nothing else was asked.
    pub fn new(name: String, kernel: Source) -> Self {
        let plain = VmSource::new("", &[]);
        Self {
            name,
            kernel,
            initrd: None,
            cmdline: String::new(),
            memory: DEFAULT_MEMORY,
            ram_base: plain.ram_base,
            vcpus: plain.vcpus.into(),
            policy: plain.policy,
            autostart: plain.autostart,
            on_crash: plain.on_crash,
            on_reboot: plain.on_reboot,
            devices: plain.devices,
        }
    }

    /// Every problem that can be seen without fetching or building anything.
    pub fn look_over(&self) -> Vec<Problem> {
        self.examine(None).1
    }

    /// Fetches and builds those of the guest's files that need it.
    pub fn fetch(&self, store: &Store) -> anyhow::Result<()> {
        [Some(&self.kernel), self.initrd.as_ref()]
            .into_iter()
            .flatten()
            .try_for_each(|source| source.fetch(store))
    }

    /// Reads the guest's files and checks it whole; gives every problem, not the first.
    pub fn load(&self, store: &Store) -> Result<Payload, Vec<Problem>> {
        let (payload, problems) = self.examine(Some(store));
        if problems.is_empty() { Ok(payload) } else { Err(problems) }
    }

    fn examine(&self, store: Option<&Store>) -> (Payload, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut note = |field, text| problems.push(Problem { field, text });
        let mut check = |field, done: Result<(), String>| {
            if let Err(why) = done {
                note(field, why);
            }
        };
        check(Field::Vcpus, check_vcpus(self.vcpus));
        check(Field::Name, check_name(&self.name));
        check(Field::Memory, check_memory(self.memory));
        if self.ram_base > RAM_BASE {
            check(Field::RamBase, ram_fits(self.ram_base, self.memory));
        }
        check(Field::Cmdline, check_cmdline(&self.cmdline));
        check(Field::Cap, cap_fits(self.policy.class, self.vcpus));

        // What is not looked at yet has no bytes, and fits.
        let ready = |source: &Source| source.is_at_hand() || store.is_some();
        let none = Store::default();
        let read = |source: &Source| source.read(store.unwrap_or(&none));
        let kernel = Some(&self.kernel).filter(|source| ready(source)).map(read);
        let kernel = kernel.unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|why| {
            check(Field::Kernel, Err(why));
            Vec::new()
        });
        if !kernel.is_empty() {
            let fits = kernel_fits(&kernel, self.memory);
            check(Field::Kernel, fits.map_err(|why| format!("{}: {why}", self.kernel)));
        }
        let initrd = self.initrd.as_ref().filter(|source| ready(source)).map(|source| {
            let bytes = read(source).unwrap_or_else(|why| {
                check(Field::Initrd, Err(why));
                Vec::new()
            });
            let room = self.memory.saturating_sub(kernel.len() as u64);
            if bytes.len() as u64 > room {
                let (initrd, kernel) =
                    (size::show(bytes.len() as u64), size::show(kernel.len() as u64));
                let memory = size::show(self.memory);
                let text = format!(
                    "{initrd} and the kernel's {kernel} do not fit into the guest's {memory} of memory"
                );
                check(Field::Initrd, Err(text));
            }
            bytes
        });
        let vcpus = u8::try_from(self.vcpus).unwrap_or(u8::MAX);
        (Payload { guest: self.clone(), vcpus, kernel, initrd }, problems)
    }
}

impl Payload {
    /// The guest for the writer of bundles.
    pub fn source(&self) -> VmSource<'_> {
        let Guest { memory, ram_base, policy, autostart, on_crash, on_reboot, devices, .. } =
            self.guest;
        VmSource {
            memory,
            ram_base,
            vcpus: self.vcpus,
            policy,
            autostart,
            on_crash,
            on_reboot,
            devices,
            initrd: self.initrd.as_deref(),
            cmdline: &self.guest.cmdline,
            ..VmSource::new(&self.guest.name, &self.kernel)
        }
    }

    /// Its memory in bytes.
    pub fn memory(&self) -> u64 {
        self.guest.memory
    }

    /// Its kernel's command line.
    pub fn cmdline(&self) -> &str {
        &self.guest.cmdline
    }
}

/// Whether `name` can be a guest's.
pub fn check_name(name: &str) -> Result<(), String> {
    let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
    if name.is_empty() || name.len() > MAX_NAME || !printable {
        return Err(format!("a name has 1 to {MAX_NAME} printable ASCII characters and no space"));
    }
    Ok(())
}

/// Whether `cmdline` can be a kernel's command line.
pub fn check_cmdline(cmdline: &str) -> Result<(), String> {
    if cmdline.len() > MAX_CMDLINE {
        return Err(format!("it is {} bytes long; {MAX_CMDLINE} are possible", cmdline.len()));
    }
    match cmdline.chars().find(|c| c.is_control()) {
        Some(control) => Err(format!("it holds the control character {control:?}")),
        None => Ok(()),
    }
}

/// Whether a guest can have so much memory.
pub fn check_memory(memory: u64) -> Result<(), String> {
    let shown = size::show(memory);
    if memory == 0 || !memory.is_multiple_of(PAGE_SIZE) {
        return Err(format!("{shown} is not a multiple of {}", size::show(PAGE_SIZE)));
    }
    if memory > MAX_MEMORY {
        return Err(format!("{shown}; a guest has at most {}", size::show(MAX_MEMORY)));
    }
    Ok(())
}

fn check_vcpus(vcpus: u64) -> Result<(), String> {
    if VCPUS.contains(&vcpus) {
        return Ok(());
    }
    Err(format!("{vcpus} vCPUs; a guest has {} to {}", VCPUS.start(), VCPUS.end()))
}

fn ram_fits(base: Ipa, memory: u64) -> Result<(), String> {
    if base.raw().saturating_add(memory) <= RAM_LIMIT {
        return Ok(());
    }
    let memory = size::show(memory);
    Err(format!("RAM of {memory} from {:#x} on would end beyond {RAM_LIMIT:#x}", base.raw()))
}

fn cap_fits(class: Class, vcpus: u64) -> Result<(), String> {
    match class {
        Class::Fair { cap: Some(cap), .. } if u64::from(cap) > vcpus.saturating_mul(100) => {
            Err(format!("{cap} % is more than {vcpus} vCPUs can use; it is 1 to 100 for each vCPU"))
        }
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use plinth::addr::Ipa;
    use plinth::sched::policy::Class;

    use super::{Field, Guest};
    use crate::source::{Source, Store};

    fn file(name: &str, bytes: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("plinth-guest-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("the temporary folder is writable");
        path
    }

    fn guest(kernel: PathBuf) -> Guest {
        Guest { memory: 4 << 20, ..Guest::new("g".to_owned(), Source::File(kernel)) }
    }

    fn fields(guest: Guest) -> Vec<Field> {
        let problems = guest.load(&Store::default()).err().unwrap_or_default();
        assert_eq!(problems, guest.look_over(), "what is at hand is looked at in either way");
        problems.iter().map(|problem| problem.field).collect()
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
        let large = Some(Source::File(file("large", &vec![1; 4 << 20])));
        assert_eq!(fields(Guest { initrd: large, ..guest(kernel.clone()) }), [Field::Initrd]);
        let small = Some(Source::File(file("small", &vec![1; 3 << 20])));
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
    fn a_cap_is_at_most_all_of_the_vcpus() {
        let kernel = file("cap", &[0xd5; 64]);
        for (cap, vcpus, bad) in [(100, 1, false), (101, 1, true), (150, 2, false), (201, 2, true)]
        {
            let mut guest = Guest { vcpus, ..guest(kernel.clone()) };
            guest.policy.class = Class::Fair { weight: 100, cap: Some(cap) };
            assert_eq!(fields(guest) == [Field::Cap], bad, "{cap}");
        }
    }

    #[test]
    fn ram_ends_below_256_gib() {
        let kernel = file("base", &[0xd5; 64]);
        for (base, bad) in [(0x4020_0000, false), (0x3f_ffc0_0000, false), (0x3f_ffe0_0000, true)] {
            let guest = Guest { ram_base: Ipa::new(base), ..guest(kernel.clone()) };
            assert_eq!(fields(guest) == [Field::RamBase], bad, "{base:#x}");
        }
    }

    #[test]
    fn nothing_is_fetched_to_look_a_guest_over() {
        let guest = Guest::new("g".to_owned(), Source::Payload("no-such-payload".to_owned()));
        assert_eq!(guest.look_over(), []);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let initrd = Some(Source::File(PathBuf::from("/nowhere/initrd")));
        let bad = Guest { initrd, vcpus: 0, memory: 1 << 10, ..guest("/nowhere/kernel".into()) };
        let all = [Field::Vcpus, Field::Memory, Field::Kernel, Field::Initrd];
        assert_eq!(fields(bad), all);
    }
}
