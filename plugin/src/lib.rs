//! A QEMU TCG plugin that counts the instructions that a machine executes, by exception level, and
//! measures the stretches that its vCPUs stay at EL2. `cargo xtask bench` builds and loads it.
//!
//! | module | what it is |
//! |---|---|
//! | [`qemu`] | QEMU's interface |
//! | [`a64`] | what has to be known of an instruction |
//! | [`stretch`] | what is executed at EL2 at a time |
//! | [`report`] | the file that is written |
//!
//! Arguments: `out=FILE`, the report; `marks=N`, how many markers it may have (10000); `tree=FILE`, where
//! to put the device tree that the first guest is started with; `threads=on`, each vCPU has a thread of its
//! own, which a machine with more than one has to have. When several take turns in one thread, as they do
//! with `-icount`, QEMU 10.0 takes one for the other in what it has translated, and spoils constants there
//! (`gen_cpu_index` in its `accel/tcg/plugin-gen.c`).
//!
//! QEMU translates code block by block, and a block belongs to one exception level. So the counter of a
//! block's instructions is chosen when it is translated, and executing them only adds to it. A block can
//! be left in its middle by an exception: a number is therefore added for each run of instructions of
//! which only the last can do that, which is exact wherever somebody looks.

mod a64;
mod qemu;
mod report;
mod stretch;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use qemu::{Block, Counter, Executed, Info, Instruction, PluginId, Register, Registers, Tb};
use report::{ByClass, CLASSES, Now, Report};
use stretch::{Entry, Stretches};

/// The version of QEMU's interface that this is written for.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "QEMU's name")]
pub static qemu_plugin_version: c_int = qemu::API_VERSION;

/// How many markers a report has unless told otherwise.
const MARKS: u64 = 10_000;

/// Indices of [`ByClass`].
const EL2: usize = 4;
const EL3: usize = 5;
/// A guest's class is that of the same exception level without a hypervisor, and so much more.
const GUEST: usize = 2;

/// The largest device tree that is taken for one.
const LARGEST_TREE: u32 = 2 << 20;

/// `ESR_EL2.EC`: what is handled in its own way below.
mod class {
    pub const HVC: u8 = 0x16;
    pub const SMC: u8 = 0x17;
    pub const SYSTEM_REGISTER: u8 = 0x18;
    pub const INSTRUCTION_ABORT: u8 = 0x20;
    pub const DATA_ABORT: u8 = 0x24;
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

/// What the callbacks share.
struct Plugin {
    counters: [Counter; CLASSES],
    /// 1 while the vCPU is in a stretch at EL2.
    in_stretch: Counter,
    registers: OnceLock<Known>,
    guest_seen: AtomicBool,
    el0_seen: AtomicBool,
    tree: Option<PathBuf>,
    told: Mutex<Told>,
}

/// What is told at the end, and the report.
struct Told {
    report: Report<BufWriter<File>>,
    stretches: Stretches,
}

/// The registers that are read. A CPU without EL2 has none of its registers.
struct Known {
    state: Option<Register>,
    x0: Option<Register>,
    hcr: Option<Register>,
    esr: Option<Register>,
    hpfar: Option<Register>,
}

/// QEMU loads the plugin.
///
/// # Safety
/// QEMU calls it, with the arguments that its interface says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    info: *const Info,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    let texts = (0..count).map(|index| {
        // SAFETY: QEMU gives `count` texts, which live as long as the plugin.
        unsafe { CStr::from_ptr(*arguments.add(index)) }.to_string_lossy().into_owned()
    });
    // SAFETY: QEMU gives a description of itself that is valid during the call.
    let vcpus = unsafe { (*info).max_vcpus };
    let twice = |_| "it is loaded twice".to_owned();
    if let Err(why) = Plugin::new(texts, vcpus).and_then(|plugin| PLUGIN.set(plugin).map_err(twice))
    {
        eprintln!("plinth-count: {why}");
        return 1;
    }
    // SAFETY: QEMU gave the number and is installing us; the callbacks use what `PLUGIN` shares.
    unsafe { qemu::register(id, vcpu_begins, translated, machine_ends) };
    0
}

impl Plugin {
    fn new(arguments: impl Iterator<Item = String>, vcpus: c_int) -> Result<Self, String> {
        let (mut out, mut tree, mut room, mut threads) = (None, None, MARKS, false);
        for argument in arguments {
            match argument.split_once('=') {
                Some(("out", path)) => out = Some(PathBuf::from(path)),
                Some(("tree", path)) => tree = Some(PathBuf::from(path)),
                Some(("threads", "on")) => threads = true,
                Some(("marks", number)) => {
                    let wrong = |_| format!("marks: `{number}` is not a number");
                    room = number.parse().map_err(wrong)?;
                }
                _ => return Err(format!("unknown argument `{argument}`")),
            }
        }
        if vcpus > 1 && !threads {
            return Err("several CPUs take a thread each: not -icount, but threads=on".to_owned());
        }
        let out = out.ok_or("no out=FILE")?;
        let wrong = |why: io::Error| format!("cannot write {}: {why}", out.display());
        let file = BufWriter::new(File::create(&out).map_err(wrong)?);
        let report = Report::new(file, room).map_err(wrong)?;
        let [counters @ .., in_stretch] = Counter::several::<{ CLASSES + 1 }>();
        Ok(Self {
            counters,
            in_stretch,
            registers: OnceLock::new(),
            guest_seen: AtomicBool::new(false),
            el0_seen: AtomicBool::new(false),
            tree,
            told: Mutex::new(Told { report, stretches: Stretches::default() }),
        })
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self, vcpu: u32) -> ByClass {
        self.counters.map(|counter| counter.get(vcpu))
    }

    fn now(&self, vcpu: u32) -> Now {
        let mut all = ByClass::default();
        for counts in (0..qemu::vcpus()).map(|vcpu| self.own(vcpu)) {
            all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        Now { all, own: self.own(vcpu) }
    }

    /// Counts a block's instructions, and sees to it that what is rare is told.
    fn translate(&self, block: &Block, class: usize) {
        if class == EL2 {
            let start = block.instructions().next().map_or(0, |first| first.address());
            let start = usize::try_from(start).unwrap_or(0);
            block.call_if_zero(self.in_stretch, stretch_begins, Registers::Read, start);
        } else if class < EL2 {
            // Later blocks are translated when it is known; a few of the first keep their call.
            if class >= GUEST && !self.guest_seen.load(Ordering::Relaxed) {
                block.call(guest_begins, Registers::Read, 0);
            }
            if class.is_multiple_of(2) && !self.el0_seen.load(Ordering::Relaxed) {
                block.call(el0_begins, Registers::Untouched, 0);
            }
        }
        let counter = self.counters[class];
        // The run's first instruction, where the number is added, and its length.
        let mut run: Option<(Instruction<'_>, u64)> = None;
        let finish = |run: &mut Option<(Instruction<'_>, u64)>| {
            if let Some((first, length)) = run.take() {
                first.add(counter, length);
            }
        };
        for instruction in block.instructions() {
            let word = instruction.word();
            let address = || usize::try_from(instruction.address()).unwrap_or(0);
            let marker = a64::marker(word);
            let ends_stretch: Option<Executed> = match word {
                _ if class != EL2 => None,
                _ if a64::is_exception_return(word) => Some(stretch_returns),
                _ if a64::is_wait_for_interrupt(word) => Some(stretch_waits),
                _ if a64::is_look_for_interrupts(word) => Some(stretch_looks),
                _ => None,
            };
            if marker.is_some() || ends_stretch.is_some() {
                // Who is called must see all that came before, and not this one.
                finish(&mut run);
            }
            if let Some(number) = marker {
                instruction.call(marked, number.into());
            }
            if let Some(callback) = ends_stretch {
                instruction.call(callback, address());
            }
            match &mut run {
                Some((_, length)) => *length += 1,
                None => run = Some((instruction, 1)),
            }
            if a64::may_leave(word) {
                finish(&mut run);
            }
        }
        finish(&mut run);
    }

    fn end_stretch(&self, vcpu: u32, end: u64, wait: bool) {
        self.in_stretch.set(vcpu, 0);
        let before = self.counters[EL2].get(vcpu);
        self.told().stretches.end(vcpu as usize, end, before, wait);
    }

    /// Saves the device tree that the vCPU's `x0` points to, if it does.
    ///
    /// # Safety
    /// The caller is a callback that is registered with [`Registers::Read`].
    unsafe fn save_tree(&self, path: &PathBuf) -> Option<()> {
        // SAFETY: as the caller promises.
        let at = unsafe { self.registers.get()?.x0?.read() };
        // SAFETY: the caller is a callback for what a vCPU executes.
        let header = unsafe { qemu::memory(at, 8)? };
        let field = |at: usize| Some(u32::from_be_bytes(*header.get(at..)?.first_chunk()?));
        let (magic, size) = (field(0)?, field(4)?);
        if magic == 0xd00d_feed && size <= LARGEST_TREE {
            // SAFETY: as above.
            let tree = unsafe { qemu::memory(at, size as usize)? };
            std::fs::write(path, tree).ok()?;
        }
        Some(())
    }
}

impl Known {
    /// The class of what the vCPU executes now.
    ///
    /// # Safety
    /// The caller is the callback for translations.
    unsafe fn class(&self) -> usize {
        // SAFETY: as the caller promises.
        let read = |register: Option<Register>| register.map_or(0, |it| unsafe { it.read() });
        // PSTATE.EL is where SPSR_ELx.M[3:2] is.
        match read(self.state) >> 2 & 0b11 {
            3 => EL3,
            2 => EL2,
            el if read(self.hcr) & 1 == 0 => usize::from(el == 1),
            el => GUEST + usize::from(el == 1),
        }
    }

    /// What brought the vCPU to the vector at `offset`.
    ///
    /// # Safety
    /// The caller is a callback that is registered with [`Registers::Read`].
    unsafe fn entry(&self, offset: u32) -> Entry {
        // SAFETY: as the caller promises.
        let read = |register: Option<Register>| register.map_or(0, |it| unsafe { it.read() });
        let mut entry = Entry { vector: offset, class: 0, detail: 0 };
        // The four kinds come in the same order wherever the exception is from; the first is synchronous.
        if offset & 0x180 != 0 {
            return entry;
        }
        let esr = read(self.esr);
        entry.class = (esr >> 26 & 0x3f) as u8;
        entry.detail = match entry.class {
            class::DATA_ABORT | class::INSTRUCTION_ABORT => {
                (read(self.hpfar) >> 4 << 12) | (esr >> 6 & 1)
            }
            class::HVC | class::SMC => read(self.x0) & 0xffff_ffff,
            class::SYSTEM_REGISTER => esr & 0x01ff_fc1f,
            _ => 0,
        };
        entry
    }
}

unsafe extern "C" fn vcpu_begins(_: PluginId, _: c_uint) {
    let Some(plugin) = PLUGIN.get() else { return };
    plugin.registers.get_or_init(|| {
        let names = [c"cpsr", c"x0", c"HCR_EL2", c"ESR_EL2", c"HPFAR_EL2"];
        // SAFETY: this is the callback for a new vCPU.
        let [state, x0, hcr, esr, hpfar] = unsafe { Register::find(names) };
        Known { state, x0, hcr, esr, hpfar }
    });
}

unsafe extern "C" fn translated(_: PluginId, tb: *mut Tb) {
    let Some(plugin) = PLUGIN.get() else { return };
    let Some(registers) = plugin.registers.get() else { return };
    // SAFETY: this is the callback for translations; the block is dropped at its end.
    let (block, class) = unsafe { (Block::new(tb), registers.class()) };
    plugin.translate(&block, class);
}

unsafe extern "C" fn guest_begins(vcpu: c_uint, _: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let mut told = plugin.told();
    if !plugin.guest_seen.swap(true, Ordering::Relaxed) {
        let _ = told.report.first("guest", vcpu, &plugin.now(vcpu));
        if let Some(path) = &plugin.tree {
            // SAFETY: this callback is registered with `Registers::Read`.
            unsafe { plugin.save_tree(path) };
        }
    }
}

unsafe extern "C" fn el0_begins(vcpu: c_uint, _: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let mut told = plugin.told();
    if !plugin.el0_seen.swap(true, Ordering::Relaxed) {
        let _ = told.report.first("el0", vcpu, &plugin.now(vcpu));
    }
}

unsafe extern "C" fn marked(vcpu: c_uint, number: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let now = plugin.now(vcpu);
    let Told { report, stretches } = &mut *plugin.told();
    let _ = report.mark(number.addr() as u8, vcpu, &now, stretches.exits);
}

unsafe extern "C" fn stretch_begins(vcpu: c_uint, start: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    plugin.in_stretch.set(vcpu, 1);
    // What begins before the first guest is the boot.
    if !plugin.guest_seen.load(Ordering::Relaxed) {
        return;
    }
    let start = start.addr() as u64;
    let before = plugin.counters[EL2].get(vcpu);
    let mut told = plugin.told();
    let entry = if told.stretches.waits(vcpu as usize) {
        Entry { vector: Entry::WAKE, class: 0, detail: 0 }
    } else {
        let Some(registers) = plugin.registers.get() else { return };
        // SAFETY: this callback is registered with `Registers::Read`.
        unsafe { registers.entry((start & 0x7ff) as u32) }
    };
    told.stretches.begin(vcpu as usize, entry, start, before);
}

unsafe extern "C" fn stretch_returns(vcpu: c_uint, end: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    plugin.end_stretch(vcpu, end.addr() as u64, false);
}

unsafe extern "C" fn stretch_waits(vcpu: c_uint, end: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    plugin.end_stretch(vcpu, end.addr() as u64, true);
}

unsafe extern "C" fn stretch_looks(vcpu: c_uint, at: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let before = plugin.counters[EL2].get(vcpu);
    plugin.told().stretches.look(vcpu as usize, at.addr() as u64, before);
}

unsafe extern "C" fn machine_ends(_: PluginId, _: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let vcpus: Vec<_> = (0..qemu::vcpus()).map(|vcpu| plugin.own(vcpu)).collect();
    let Told { report, stretches } = &mut *plugin.told();
    let _ = report.end(stretches, &vcpus);
}
