//! Counting instructions: QEMU loads the plugin of `plugin/`, which writes a report, read here. What the
//! lines of a report mean is told in `plugin/src/report.rs`.

use std::collections::HashMap;
use std::fmt;
use std::ops::{Add, Sub};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use plinth::addr::Ipa;
use plinth::vm::layout;

use crate::qemu::Qemu;
use crate::{build, paths};

/// The first version of QEMU with the interface that the plugin is written for.
const OLDEST_QEMU: (u32, u32) = (9, 2);

/// The plugin, built.
pub struct Plugin(PathBuf);

impl Plugin {
    /// Builds the plugin for this PC.
    ///
    /// # Errors
    /// It does not build, or this QEMU cannot load it.
    pub fn build(qemu: &Qemu) -> Result<Self> {
        check(qemu)?;
        let target = paths::target().join("plugin");
        let mut cargo = build::cargo();
        cargo.args(["build", "--release", "--quiet"]).current_dir(paths::root().join("plugin"));
        // Whatever else is built for another machine, QEMU loads what is built for this one.
        cargo.env("CARGO_TARGET_DIR", &target).env_remove("CARGO_BUILD_TARGET");
        cargo.stdout(std::io::stderr());
        if !cargo.status().context("cannot run cargo")?.success() {
            bail!("the plugin that counts instructions does not build");
        }
        let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let library = target.join("release").join(format!("{prefix}plinth_count{suffix}"));
        Ok(Self(std::path::absolute(library)?))
    }

    /// QEMU's arguments that load it: it writes a report, and the device tree of the first guest.
    ///
    /// With `icount` it can count one CPU alone: several would take turns in one thread, and QEMU 10.0
    /// takes one for the other then. QEMU refuses to start.
    pub fn arguments(&self, report: &Path, tree: Option<&Path>, icount: bool) -> [String; 2] {
        // QEMU reads a doubled comma in a value as one.
        let text = |path: &Path| path.to_string_lossy().replace(',', ",,");
        let tree = tree.map(|path| format!(",tree={}", text(path))).unwrap_or_default();
        let threads = if icount { "" } else { ",threads=on" };
        let argument = format!("file={},out={}{tree}{threads}", text(&self.0), text(report));
        ["-plugin".to_owned(), argument]
    }
}

/// Fails when this QEMU cannot load the plugin.
fn check(qemu: &Qemu) -> Result<()> {
    let help = Command::new(&qemu.path).arg("-help").stdin(Stdio::null()).output();
    let help = help.with_context(|| format!("cannot run {}", qemu.path.display()))?;
    loads_plugins(qemu, &String::from_utf8_lossy(&help.stdout))
}

/// Whether a QEMU with this help loads the plugin.
fn loads_plugins(qemu: &Qemu, help: &str) -> Result<()> {
    let ((major, minor), path) = (qemu.version, qemu.path.display());
    let (need_major, need_minor) = OLDEST_QEMU;
    if qemu.version < OLDEST_QEMU {
        bail!(
            "{path} is version {major}.{minor}; counting instructions takes {need_major}.{need_minor} \
             or later: install a newer QEMU, or put one first on the search path"
        );
    }
    if !help.lines().any(|line| line.starts_with("-plugin ")) {
        bail!(
            "{path} was built without TCG plugins, which count the instructions: install a QEMU that \
             has them (Debian's has), or build one with `configure --enable-plugins`"
        );
    }
    Ok(())
}

/// Numbers of instructions, by where they were executed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ByClass {
    /// At EL0, with no hypervisor below.
    pub el0: u64,
    /// At EL1, with no hypervisor below.
    pub el1: u64,
    /// At EL0 of a guest.
    pub guest_el0: u64,
    /// At EL1 of a guest.
    pub guest_el1: u64,
    /// At EL2.
    pub el2: u64,
    /// At EL3.
    pub el3: u64,
}

impl ByClass {
    /// All of a guest's.
    pub fn guest(&self) -> u64 {
        self.guest_el0 + self.guest_el1
    }

    /// All.
    pub fn total(&self) -> u64 {
        self.el0 + self.el1 + self.guest() + self.el2 + self.el3
    }

    fn of([el0, el1, guest_el0, guest_el1, el2, el3]: [u64; 6]) -> Self {
        Self { el0, el1, guest_el0, guest_el1, el2, el3 }
    }

    fn each(self) -> [u64; 6] {
        [self.el0, self.el1, self.guest_el0, self.guest_el1, self.el2, self.el3]
    }
}

impl Add for ByClass {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (one, other) = (self.each(), other.each());
        Self::of(std::array::from_fn(|class| one[class] + other[class]))
    }
}

impl Sub for ByClass {
    type Output = Self;

    /// What was executed since an earlier moment.
    fn sub(self, earlier: Self) -> Self {
        let (now, earlier) = (self.each(), earlier.each());
        Self::of(std::array::from_fn(|class| now[class].saturating_sub(earlier[class])))
    }
}

/// A moment: what had been executed before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment {
    /// The vCPU whose moment it is (QEMU's vCPU: a CPU of the machine).
    pub vcpu: u32,
    /// What all had executed.
    pub all: ByClass,
    /// What this one had.
    pub own: ByClass,
}

/// A marker, `HINT #number`, was about to be executed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark {
    /// 0x70 to 0x7f.
    pub number: u8,
    /// When.
    pub at: Moment,
    /// How many exceptions had brought a CPU to EL2 since the first guest's first instruction.
    pub exits: u64,
}

/// What brought a CPU to EL2.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Entry {
    /// The offset of the vector, or [`Entry::WAKE`].
    pub vector: u32,
    /// `ESR_EL2.EC` of a synchronous exception.
    pub class: u8,
    /// What it was about: an IPA, a function identifier, a system register's ISS.
    pub detail: u64,
}

impl Entry {
    /// In place of a vector: EL2 went on after a `WFI` of its own.
    pub const WAKE: u32 = 0x800;
    /// In place of a vector: EL2 went on after a look for interrupts.
    pub const LOOK: u32 = 0x880;
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, class, detail } = *self;
        match (vector, class) {
            (Self::WAKE, _) => f.write_str("wake-up"),
            (Self::LOOK, _) => f.write_str("look for interrupts"),
            // The four kinds come in the same order wherever the exception is from.
            _ if vector & 0x180 == 0x80 => f.write_str("IRQ"),
            _ if vector & 0x180 == 0x100 => f.write_str("FIQ"),
            _ if vector & 0x180 == 0x180 => f.write_str("SError"),
            (_, 0x01) => f.write_str("WFI or WFE"),
            (_, 0x07) => f.write_str("FP or SIMD"),
            (_, 0x16) => write!(f, "HVC {detail:#x}"),
            (_, 0x17) => write!(f, "SMC {detail:#x}"),
            (_, 0x18) => {
                // ISS of a trapped MSR, MRS or System instruction: Op0, Op1, CRn, CRm, Op2.
                let bits = |at: u64, size: u64| detail >> at & ((1 << size) - 1);
                let what = if detail & 1 == 1 { "read of" } else { "write to" };
                let (op0, op1, op2) = (bits(20, 2), bits(14, 3), bits(17, 3));
                write!(f, "{what} S{op0}_{op1}_C{}_C{}_{op2}", bits(10, 4), bits(1, 4))
            }
            (_, 0x20) => write!(f, "fetch at {:#x}", detail & !1),
            (_, 0x24) => {
                let (ipa, what) = (detail & !1, if detail & 1 == 1 { "store" } else { "load" });
                write!(f, "{what} at {ipa:#x} ({})", device(ipa))
            }
            _ => write!(f, "exception of class {class:#x}"),
        }
    }
}

/// What of a guest machine is in the page at `ipa`.
fn device(ipa: u64) -> &'static str {
    let named = [
        (layout::GICD, "distributor"),
        (layout::GICC, "CPU interface"),
        (layout::GICR, "redistributor"),
        (layout::VIRTIO, "virtio-mmio slots"),
    ];
    let at = Ipa::new(ipa);
    let found = named.into_iter().find(|(window, _)| window.region().contains(at));
    match found {
        Some((_, name)) => name,
        None if at >= layout::RAM_BASE => "RAM",
        None => layout::device_name(at),
    }
}

/// One of the longest stretches at EL2, from an exception or a wake-up to the `ERET` or `WFI`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stretch {
    /// The CPU.
    pub vcpu: u32,
    /// How many instructions.
    pub length: u64,
    /// The address of the first.
    pub start: u64,
    /// The address of the last.
    pub end: u64,
    /// What began it.
    pub entry: Entry,
}

/// All stretches that began in the same way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tally {
    /// What began them.
    pub entry: Entry,
    /// How many.
    pub count: u64,
    /// The instructions of all of them.
    pub instructions: u64,
    /// The instructions of the longest.
    pub longest: u64,
}

/// All stretches that began for one reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reason {
    /// What began them; there is no detail.
    pub entry: Entry,
    /// How many.
    pub count: u64,
    /// The length that one in ten thousand exceeds.
    pub usual: u64,
    /// The longest.
    pub longest: u64,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entry, count, usual, longest } = self;
        match entry.class {
            0x16 => f.write_str("HVC")?,
            0x17 => f.write_str("SMC")?,
            0x18 => f.write_str("system register")?,
            0x20 => f.write_str("fetch")?,
            0x24 => f.write_str("load or store")?,
            _ => write!(f, "{entry}")?,
        }
        write!(f, ": {count} times, 99.99 % within {usual} instructions, {longest} at most")
    }
}

/// What a machine executed until its end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// When the first guest's first instruction was executed.
    pub first_guest: Option<Moment>,
    /// When the first instruction at EL0 was.
    pub first_el0: Option<Moment>,
    /// The markers, in their order.
    pub marks: Vec<Mark>,
    /// The longest stretches at EL2 since the first guest's first instruction, each CPU's in falling order.
    pub stretches: Vec<Stretch>,
    /// All those stretches, by what began them.
    pub tallies: Vec<Tally>,
    /// The same by exception alone.
    pub reasons: Vec<Reason>,
    /// What each CPU executed.
    pub vcpus: Vec<ByClass>,
    /// What all did.
    pub total: ByClass,
}

impl Counts {
    /// The counts in a report.
    ///
    /// # Errors
    /// It is not one, or not whole, or had no room for all markers.
    pub fn parse(text: &str) -> Result<Self> {
        let mut counts = Self::default();
        let mut lines = text.lines().map(Line::parse);
        let version = lines.next().filter(|line| line.word == "plinth-count");
        let version = version.context("it does not begin as a report of the plugin")?;
        if version.number("version")? != 1 {
            bail!("the plugin is of another version: `cargo clean` and try again");
        }
        let mut ended = false;
        for line in lines {
            match line.word {
                "first-guest" => counts.first_guest = Some(line.moment()?),
                "first-el0" => counts.first_el0 = Some(line.moment()?),
                "mark" => {
                    let (number, exits) = (line.small("number")?, line.number("exits")?);
                    counts.marks.push(Mark { number, at: line.moment()?, exits });
                }
                "stretch" => counts.stretches.push(Stretch {
                    vcpu: line.small("vcpu")?,
                    length: line.number("length")?,
                    start: line.number("start")?,
                    end: line.number("end")?,
                    entry: line.entry()?,
                }),
                "entry" => counts.tallies.push(Tally {
                    entry: line.entry()?,
                    count: line.number("count")?,
                    instructions: line.number("instructions")?,
                    longest: line.number("longest")?,
                }),
                "reason" => counts.reasons.push(Reason {
                    entry: line.entry()?,
                    count: line.number("count")?,
                    usual: line.number("usual")?,
                    longest: line.number("longest")?,
                }),
                "vcpu" => counts.vcpus.push(line.by_class("own")?),
                "end" => {
                    counts.total = line.by_class("all")?;
                    let dropped = line.number("dropped")?;
                    if dropped > 0 {
                        bail!("there was no room for {dropped} markers");
                    }
                    ended = true;
                }
                other => bail!("it has a line of unknown kind, `{other}`"),
            }
        }
        if !ended {
            bail!("it ends too soon: QEMU was stopped before its machine powered off");
        }
        Ok(counts)
    }

    /// When the marker `number` was executed for the first time.
    pub fn mark(&self, number: u8) -> Option<Moment> {
        self.marks.iter().find(|mark| mark.number == number).map(|mark| mark.at)
    }

    /// The longest stretch at EL2 of any CPU.
    pub fn longest_stretch(&self) -> Option<Stretch> {
        self.stretches.iter().copied().max_by_key(|stretch| stretch.length)
    }
}

/// A line of a report.
struct Line<'t> {
    word: &'t str,
    fields: HashMap<&'t str, &'t str>,
}

impl<'t> Line<'t> {
    fn parse(line: &'t str) -> Self {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let fields = rest.split(' ').filter_map(|pair| pair.split_once('=')).collect();
        Self { word, fields }
    }

    fn field(&self, name: &str) -> Result<&'t str> {
        let field = self.fields.get(name).copied();
        field.with_context(|| format!("a line `{}` has no `{name}`", self.word))
    }

    fn number(&self, name: &str) -> Result<u64> {
        number(self.field(name)?)
    }

    fn small<N: TryFrom<u64>>(&self, name: &str) -> Result<N> {
        let value = self.number(name)?;
        N::try_from(value).ok().with_context(|| format!("`{name}` is {value}"))
    }

    fn by_class(&self, name: &str) -> Result<ByClass> {
        let list = self.field(name)?;
        let numbers = list.split(',').map(number).collect::<Result<Vec<_>>>()?;
        let six = <[u64; 6]>::try_from(numbers).ok();
        Ok(ByClass::of(six.with_context(|| format!("`{list}` is not one number for each class"))?))
    }

    fn moment(&self) -> Result<Moment> {
        let (all, own) = (self.by_class("all")?, self.by_class("own")?);
        Ok(Moment { vcpu: self.small("vcpu")?, all, own })
    }

    fn entry(&self) -> Result<Entry> {
        let (vector, class) = (self.small("vector")?, self.small("class")?);
        Ok(Entry { vector, class, detail: self.number("detail")? })
    }
}

fn number(text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.ok().with_context(|| format!("`{text}` is not a number"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{ByClass, Counts, Entry, Plugin, loads_plugins};
    use crate::qemu::Qemu;

    const REPORT: &str = "plinth-count version=1\n\
        first-guest vcpu=0 all=0,0,0,0,500,0 own=0,0,0,0,400,0\n\
        first-el0 vcpu=1 all=0,0,0,7,600,0 own=0,0,0,7,300,0\n\
        mark number=0x70 vcpu=1 all=0,0,2,7,700,0 own=0,0,2,7,300,0 exits=2\n\
        mark number=0x70 vcpu=1 all=0,0,4,9,900,0 own=0,0,4,9,500,0 exits=3\n\
        stretch vcpu=0 length=30 start=0x40201400 end=0x402 vector=0x400 class=0x16 detail=0x84000000\n\
        stretch vcpu=1 length=40 start=0x40201480 end=0x402 vector=0x480 class=0x0 detail=0x0\n\
        entry vector=0x400 class=0x16 detail=0x84000000 count=2 instructions=50 longest=30\n\
        reason vector=0x400 class=0x16 detail=0x0 count=2 usual=30 longest=30\n\
        vcpu number=0 own=0,0,0,0,400,0\n\
        vcpu number=1 own=0,0,4,9,600,0\n\
        end all=0,0,4,9,1000,0 dropped=0\n";

    #[test]
    fn a_report_becomes_counts() {
        let counts = Counts::parse(REPORT).expect("a good report");
        let mark = counts.mark(0x70).expect("it is there");
        assert_eq!(mark.all - counts.first_guest.expect("it is there").all, guest(2, 7, 200));
        assert_eq!((mark.vcpu, mark.own), (1, guest(2, 7, 300)));
        assert_eq!(counts.mark(0x71), None);
        assert_eq!(counts.first_el0.expect("it is there").all.total(), 607);
        assert_eq!(counts.longest_stretch().map(|it| (it.vcpu, it.length)), Some((1, 40)));
        assert_eq!(counts.tallies[0].instructions, 50);
        assert_eq!(counts.vcpus, [guest(0, 0, 400), guest(4, 9, 600)]);
        assert_eq!(counts.total, counts.vcpus[0] + counts.vcpus[1]);
    }

    fn guest(guest_el0: u64, guest_el1: u64, el2: u64) -> ByClass {
        ByClass { guest_el0, guest_el1, el2, ..ByClass::default() }
    }

    #[test]
    fn a_report_that_is_not_whole_is_an_error() {
        let why = |text: &str| Counts::parse(text).expect_err("a bad report").to_string();
        assert!(why("").contains("begin"));
        assert!(why("plinth-count version=2\n").contains("version"));
        let cut = REPORT.split("end all").next().expect("it has an end");
        assert!(why(cut).contains("too soon"));
        assert!(why(&REPORT.replace("dropped=0", "dropped=3")).contains("3 markers"));
        assert!(why(&REPORT.replace("length=30", "length=x")).contains("`x`"));
        assert!(why(&REPORT.replace("length=30 ", "")).contains("`length`"));
        assert!(why(&REPORT.replace("4,9,1000,0", "4,9")).contains("each class"));
    }

    #[test]
    fn what_brought_a_cpu_to_el2_is_named() {
        let name = |vector, class, detail| Entry { vector, class, detail }.to_string();
        assert_eq!(name(0x480, 0, 0), "IRQ");
        assert_eq!(name(Entry::WAKE, 0, 0), "wake-up");
        assert_eq!(name(0x400, 0x16, 0x8400_0008), "HVC 0x84000008");
        assert_eq!(name(0x400, 0x24, 0x900_0001), "store at 0x9000000 (pl011)");
        assert_eq!(name(0x400, 0x24, 0x800_0000), "load at 0x8000000 (distributor)");
        assert_eq!(name(0x400, 0x24, 0x4000_0001), "store at 0x40000000 (RAM)");
        // CNTP_TVAL_EL0: op0 3, op1 3, CRn 14, CRm 2, op2 0.
        assert_eq!(name(0x400, 0x18, 0x0030_f804), "write to S3_3_C14_C2_0");
    }

    #[test]
    fn an_old_qemu_and_one_without_plugins_are_told_apart() {
        let qemu = |version| Qemu { path: "qemu".into(), version };
        let with = "-pidfile file\n-plugin [file=]<file>\n";
        assert!(loads_plugins(&qemu((9, 2)), with).is_ok());
        let why = |version, help| loads_plugins(&qemu(version), help).expect_err("no").to_string();
        assert!(why((7, 2), with).contains("9.2"));
        assert!(why((10, 0), "-pidfile file\n").contains("--enable-plugins"));
    }

    #[test]
    fn a_comma_in_a_path_does_not_end_it() {
        let plugin = Plugin("a,b.so".into());
        let arguments = plugin.arguments(Path::new("r,1"), Some(Path::new("t")), true);
        assert_eq!(arguments, ["-plugin", "file=a,,b.so,out=r,,1,tree=t"]);
        let arguments = plugin.arguments(Path::new("r"), None, false);
        assert_eq!(arguments, ["-plugin", "file=a,,b.so,out=r,threads=on"]);
    }
}
