//! One guest as the user describes it, checked for everything that can be known before a machine
//! starts.

use std::fmt;
use std::ops::RangeInclusive;

use plinth::addr::{Ipa, PAGE_SIZE};
use plinth::manifest::{
    DiskConfig, DiskContents, MAX_CMDLINE, MAX_MEMORY, MAX_NAME, RAM_LIMIT, Shutdown, VmConfig,
};
use plinth::memory::elastic::UNIT;
use plinth::monitor::command::{NAME_RULE, can_be_meant};
use plinth::sched::policy::Class;
use plinth::vcpu::MAX_VCPUS;
use plinth::vm::layout::RAM_BASE;

use crate::image::{self, Kernel};
use crate::size;
use crate::source::{Source, Store};

/// How many vCPUs a guest may have.
#[expect(clippy::cast_possible_truncation, reason = "it is 8")]
pub const VCPUS: RangeInclusive<u8> = 1..=MAX_VCPUS as u8;

/// One guest as described.
pub type Guest = VmConfig<Source, String>;

/// One guest with its files read; it may boot.
pub type Payload = VmConfig<Vec<u8>, String>;

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
    Wfi,
    Autostart,
    OnCrash,
    OnReboot,
    OnBadAccess,
    Shutdown,
    Devices,
    Assign,
    Nets,
    Disks,
    Keys,
    Ports,
    Agent,
    Vsock,
    Balloon,
}

/// What there is to say of a field.
struct Row {
    field: Field,
    /// Its name in a manifest.
    key: &'static str,
    /// Its name on the command line, where it differs.
    option: Option<&'static str>,
    /// A manifest may set it for all guests at once.
    shared: bool,
}

/// Every field, in the order of their declaration.
const ROWS: [Row; 26] = [
    own(Field::Name, "name", None),
    own(Field::Kernel, "kernel", Some("--kernel")),
    own(Field::Initrd, "initrd", Some("--initrd")),
    own(Field::Cmdline, "cmdline", Some("--cmdline")),
    shared(Field::Memory, "memory", Some("--guest-memory")),
    shared(Field::RamBase, "ram_base", None),
    shared(Field::Vcpus, "vcpus", Some("--vcpus")),
    shared(Field::Cpus, "cpus", None),
    shared(Field::Weight, "weight", None),
    shared(Field::Cap, "cap", None),
    shared(Field::Reservation, "reservation", None),
    shared(Field::Wfi, "wfi", None),
    shared(Field::Autostart, "autostart", None),
    shared(Field::OnCrash, "on_crash", None),
    shared(Field::OnReboot, "on_reboot", None),
    shared(Field::OnBadAccess, "on_bad_access", None),
    shared(Field::Shutdown, "shutdown", None),
    shared(Field::Devices, "devices", None),
    own(Field::Assign, "assign", None),
    shared(Field::Nets, "nets", None),
    own(Field::Disks, "disks", None),
    shared(Field::Keys, "keys", None),
    own(Field::Ports, "ports", None),
    shared(Field::Agent, "agent", None),
    shared(Field::Vsock, "vsock", None),
    shared(Field::Balloon, "balloon", None),
];

const fn own(field: Field, key: &'static str, option: Option<&'static str>) -> Row {
    Row { field, key, option, shared: false }
}

const fn shared(field: Field, key: &'static str, option: Option<&'static str>) -> Row {
    Row { field, key, option, shared: true }
}

const _: () = {
    let mut index = 0;
    while index < ROWS.len() {
        assert!(ROWS[index].field as usize == index, "a row is found by its field's number");
        index += 1;
    }
};

impl Field {
    /// Every field.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.field)
    }

    /// Those that a manifest may set for all guests at once.
    pub fn defaults() -> impl Iterator<Item = Self> {
        ROWS.iter().filter(|row| row.shared).map(|row| row.field)
    }

    /// Its name in a manifest.
    pub fn key(self) -> &'static str {
        ROWS[self as usize].key
    }

    /// Its name on the command line.
    pub fn option(self) -> &'static str {
        ROWS[self as usize].option.unwrap_or(self.key())
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

/// Every problem of a guest that can be seen without fetching or building anything.
pub fn look_over(guest: &Guest) -> Vec<Problem> {
    examine(guest, None).1
}

/// Fetches and builds those of a guest's files that need it.
pub fn fetch(guest: &Guest, store: &Store) -> anyhow::Result<()> {
    [Some(&guest.kernel), guest.initrd.as_ref()]
        .into_iter()
        .flatten()
        .chain(guest.disks.iter().filter_map(DiskConfig::image))
        .try_for_each(|source| source.fetch(store))
}

/// Reads a guest's files and checks it whole; gives every problem, not the first.
pub fn load(guest: &Guest, store: &Store) -> Result<Payload, Vec<Problem>> {
    let (payload, problems) = examine(guest, Some(store));
    if problems.is_empty() { Ok(payload) } else { Err(problems) }
}

fn examine(guest: &Guest, store: Option<&Store>) -> (Payload, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut note = |field, text| problems.push(Problem { field, text });
    let mut check = |field, done: Result<(), String>| {
        if let Err(why) = done {
            note(field, why);
        }
    };
    check(Field::Name, check_name(&guest.name));
    check(Field::Memory, check_memory(guest.memory));
    if let Some(min) = guest.balloon {
        check(Field::Balloon, balloon_fits(min, guest.memory));
        if !guest.assign.is_empty() {
            let text = "a balloon and devices of the board's do not go together: such a device may read \
                        and write memory that has been given to others; say `balloon = false`";
            check(Field::Balloon, Err(text.to_owned()));
        }
    }
    if guest.ram_base > RAM_BASE {
        check(Field::RamBase, ram_fits(guest.ram_base, guest.memory));
    }
    check(Field::Cmdline, check_cmdline(&guest.cmdline));
    if guest.shutdown == Shutdown::Agent && !guest.agent {
        let text = "by its agent, and it has none; say `agent = true`";
        check(Field::Shutdown, Err(text.to_owned()));
    }
    check(Field::Cap, cap_fits(guest.policy.class, guest.vcpus));

    // What is not looked at yet has no bytes, and fits.
    let ready = |source: &Source| source.is_at_hand() || store.is_some();
    let none = Store::default();
    let read = |source: &Source| source.read(store.unwrap_or(&none));
    let kernel = Some(&guest.kernel).filter(|source| ready(source)).map(read);
    let kernel = kernel.unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|why| {
        check(Field::Kernel, Err(why));
        Vec::new()
    });
    if !kernel.is_empty() {
        let fits = kernel_fits(&kernel, guest.memory);
        check(Field::Kernel, fits.map_err(|why| format!("{}: {why}", guest.kernel)));
    }
    let kernel = image::without_sections(kernel);
    let initrd = guest.initrd.as_ref().filter(|source| ready(source)).map(|source| {
        let bytes = read(source).unwrap_or_else(|why| {
            check(Field::Initrd, Err(why));
            Vec::new()
        });
        let room = guest.memory.saturating_sub(kernel.len() as u64);
        if bytes.len() as u64 > room {
            let (initrd, kernel) =
                (size::show(bytes.len() as u64), size::show(kernel.len() as u64));
            let memory = size::show(guest.memory);
            let text = format!(
                "{initrd} and the kernel's {kernel} do not fit into the guest's {memory} of memory"
            );
            check(Field::Initrd, Err(text));
        }
        bytes
    });
    let mut payload = Payload { kernel, initrd, ..guest.map(String::clone, |_| Vec::new()) };
    for (number, (disk, packed)) in (1..).zip(guest.disks.iter().zip(&mut payload.disks)) {
        let Some(image) = disk.image() else { continue };
        let bytes = match store {
            Some(store) => image.read(store),
            None => image.look_at().map(|()| Vec::new()),
        };
        match bytes {
            Ok(bytes) => packed.contents = DiskContents::Image(bytes),
            Err(why) => check(Field::Disks, Err(format!("disk {number}: {why}"))),
        }
    }
    (payload, problems)
}

/// Whether `name` can be a guest's.
pub fn check_name(name: &str) -> Result<(), String> {
    let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
    if name.is_empty() || name.len() > MAX_NAME || !printable {
        return Err(format!("a name has 1 to {MAX_NAME} printable ASCII characters and no space"));
    }
    if !can_be_meant(name) {
        return Err(format!("the monitor takes `{name}` for something else: {NAME_RULE}"));
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

/// What a guest with a balloon keeps.
pub fn check_balloon(min: u64) -> Result<(), String> {
    if min > 0 && min.is_multiple_of(UNIT) {
        return Ok(());
    }
    Err(format!("{} is not a multiple of {}", size::show(min), size::show(UNIT)))
}

fn balloon_fits(min: u64, memory: u64) -> Result<(), String> {
    check_balloon(min)?;
    if min <= memory {
        return Ok(());
    }
    Err(format!("it cannot keep {} of {}", size::show(min), size::show(memory)))
}

fn ram_fits(base: Ipa, memory: u64) -> Result<(), String> {
    if base.raw().saturating_add(memory) <= RAM_LIMIT {
        return Ok(());
    }
    let memory = size::show(memory);
    Err(format!("RAM of {memory} from {:#x} on would end beyond {RAM_LIMIT:#x}", base.raw()))
}

fn cap_fits(class: Class, vcpus: u8) -> Result<(), String> {
    match class {
        Class::Fair { cap: Some(cap), .. } if cap > 100 * u16::from(vcpus) => {
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

    use super::{Field, Guest, load, look_over};
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
        let problems = load(&guest, &Store::default()).err().unwrap_or_default();
        assert_eq!(problems, look_over(&guest), "what is at hand is looked at in either way");
        problems.iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn a_flat_binary_with_modest_wishes_is_accepted() {
        assert_eq!(fields(guest(file("flat", &[0xd5; 64]))), []);
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
        assert_eq!(look_over(&guest), []);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let initrd = Some(Source::File(PathBuf::from("/nowhere/initrd")));
        let name = "two words".to_owned();
        let bad = Guest { name, initrd, memory: 1 << 10, ..guest("/nowhere/kernel".into()) };
        let all = [Field::Name, Field::Memory, Field::Kernel, Field::Initrd];
        assert_eq!(fields(bad), all);
    }
}
