//! The last words: an exception from EL2 itself, or a panic, is reported with registers, the
//! syndrome in words and a backtrace, and the machine is powered off. One that hangs is reported, and the machine started again.

use core::arch::asm;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::percpu::{self, EMERGENCY_STACK};
use super::power::{self, Verdict};
use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::console;
use crate::hypervisor::watchdog::Hang;
use crate::hypervisor::{Hypervisor, Phase};

/// What the vectors leave on the emergency stack. The vectors know the offsets.
#[repr(C)]
#[derive(Debug)]
pub struct CrashFrame {
    x: [u64; 31],
    /// The interrupted stack pointer.
    pub sp: u64,
    /// `ELR_EL2`.
    pub elr: u64,
    spsr: u64,
    /// `ESR_EL2`.
    pub esr: u64,
    far: u64,
    /// Which vector.
    pub kind: u64,
}

impl CrashFrame {
    /// Masks more of `PSTATE` for when what was interrupted goes on.
    pub fn mask(&mut self, bits: u64) {
        self.spsr |= bits;
    }
}

/// The frame's size, kept a multiple of the stack's alignment.
pub const EMERGENCY_FRAME: usize = size_of::<CrashFrame>().next_multiple_of(16);

/// Which CPU is reporting; a second report would only hide the first.
static REPORTER: AtomicU8 = AtomicU8::new(NOBODY);
const NOBODY: u8 = u8::MAX;
/// The report itself has crashed.
static AGAIN: AtomicBool = AtomicBool::new(false);

#[unsafe(no_mangle)]
extern "C" fn plinth_crash(frame: &CrashFrame) -> ! {
    start_report();
    let mut out = console::Emergency::new();
    let kind = ["synchronous exception", "IRQ", "FIQ", "SError"][(frame.kind & 3) as usize];
    let stack = if frame.kind < 4 { " on SP_EL0" } else { "" };
    let _ = writeln!(out, "\nplinth: {kind} at EL2{stack} on CPU {}", cpu());
    let class = frame.esr >> 26 & 0x3f;
    let _ = writeln!(out, "ESR {:#010x}: {}", frame.esr, class_in_words(class));
    if matches!(class, 0x21 | 0x25) {
        let _ = writeln!(out, "  {}", status_in_words(frame.esr & 0x3f));
        if class == 0x25 {
            let _ =
                writeln!(out, "  on a {}", if frame.esr >> 6 & 1 == 1 { "write" } else { "read" });
        }
    }
    // SAFETY: the block is this CPU's own and lives for ever.
    let (bottom, emergency) =
        unsafe { ((*percpu::current()).stack.0, (*percpu::current()).emergency_stack) };
    if class == 0x25 && (bottom..bottom + PAGE_SIZE).contains(&frame.far) {
        let _ = writeln!(out, "  in the guard page: the stack has overflowed");
    }
    let guard = emergency - EMERGENCY_STACK as u64 - PAGE_SIZE;
    if class == 0x25 && (guard..guard + PAGE_SIZE).contains(&frame.far) {
        let _ = writeln!(out, "  in the emergency stack's guard page: it has overflowed");
    }
    whereabouts(&mut out, frame);
    power::off(Verdict::Failed("exception at EL2"))
}

/// What was interrupted: where it was, its registers, and who called it.
fn whereabouts(out: &mut console::Emergency, frame: &CrashFrame) {
    let _ = writeln!(out, "ELR {:#018x} (image +{:#x})", frame.elr, offset(frame.elr));
    let _ =
        writeln!(out, "FAR {:#018x} SPSR {:#010x} SP {:#018x}", frame.far, frame.spsr, frame.sp);
    for (row, values) in frame.x.chunks(4).enumerate() {
        for (column, value) in values.iter().enumerate() {
            let _ = write!(out, "x{:<2} {value:#018x}  ", row * 4 + column);
        }
        let _ = writeln!(out);
    }
    // Who jumped out of the code left behind where from.
    let inside = super::boot::code().contains(PhysAddr::new(frame.elr));
    let pc = if inside { frame.elr } else { frame.x[30].wrapping_sub(4) };
    backtrace(out, pc, frame.x[29]);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    start_report();
    let mut out = console::Emergency::new();
    let _ = writeln!(out, "\nplinth: panic on CPU {}: {}", cpu(), info.message());
    if let Some(location) = info.location() {
        let _ = writeln!(out, "  at {location}");
    }
    let frame: u64;
    // SAFETY: reads the frame pointer.
    unsafe { asm!("mov {}, x29", out(reg) frame, options(nomem, nostack)) };
    backtrace(&mut out, 0, frame);
    power::off(Verdict::Failed("panic"))
}

/// Another CPU hangs: say so, and start the machine again. Where that one is cannot be found out from here, as it takes no interrupt.
pub fn another_hangs(hypervisor: &Hypervisor, hang: Hang) {
    start_report();
    say(&mut console::Emergency::new(), hypervisor, hang, format_args!("CPU {}", hang.by.0));
    power::restart()
}

/// This CPU hangs: its watchdog has interrupted it at `frame`. Say so, and start the machine again.
pub fn hangs(hypervisor: &Hypervisor, hang: Hang, frame: &CrashFrame) -> ! {
    start_report();
    let mut out = console::Emergency::new();
    say(&mut out, hypervisor, hang, format_args!("its own watchdog"));
    whereabouts(&mut out, frame);
    power::restart()
}

fn say(
    out: &mut console::Emergency,
    hypervisor: &Hypervisor,
    hang: Hang,
    by: core::fmt::Arguments<'_>,
) {
    let seconds = hypervisor.frequency().to_secs(hang.ticks);
    let cpu = hang.cpu.0;
    let _ = writeln!(
        out,
        "\nplinth: CPU {cpu} hangs at EL2: it has taken no interrupt for {seconds} s, says {by}"
    );
    let last = hang.last_exit.map_or("none", |reason| reason.name());
    let during = match hang.phase {
        Phase::Guest => "what is answered at once",
        Phase::Hypervisor | Phase::Idle => "the hypervisor's own work",
    };
    let _ = writeln!(out, "  during {during}; the last exit that took longer: {last}");
    let name =
        hang.running.and_then(|it| Some((hypervisor.configs().nth(it.vm.index())?, it.vcpu.0)));
    match name {
        Some(((_, config), vcpu)) => _ = writeln!(out, "  for vCPU {vcpu} of {}", config.name),
        None => _ = writeln!(out, "  for no vCPU"),
    }
}

/// Claim the report; who comes second stays silent: on the same CPU it powers off at once, on another
/// it waits for the end. So does who cannot even power off.
fn start_report() {
    // SAFETY: nothing interrupts the report any more; the watchdog's FIQ is on the stack that a crash uses.
    unsafe { asm!("msr DAIFSet, #0xf", options(nomem, nostack)) };
    let this = cpu();
    match REPORTER.compare_exchange(NOBODY, this, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(reporter) if reporter == this && !AGAIN.swap(true, Ordering::Relaxed) => {
            power::off(Verdict::Failed("crash"))
        }
        Err(_) => loop {
            aarch64_cpu::asm::wfi();
        },
    }
}

fn cpu() -> u8 {
    // SAFETY: the block is this CPU's own and lives for ever.
    unsafe { (*percpu::current()).cpu.0 }
}

fn offset(address: u64) -> u64 {
    address.wrapping_sub(super::boot::image().start().raw())
}

/// Follow the frame records (Procedure Call Standard for the Arm 64-bit Architecture, "The Frame
/// Pointer") as long as they stay on this CPU's stack and go upwards.
fn backtrace(out: &mut console::Emergency, pc: u64, mut frame: u64) {
    let image = super::boot::image();
    let mut number = 0;
    let mut line = |address: u64| {
        if image.contains(PhysAddr::new(address)) {
            let _ = writeln!(out, "plinth: backtrace #{number} +{:#x}", offset(address));
            number += 1;
        }
    };
    line(pc);
    // SAFETY: the block is this CPU's own and lives for ever.
    let (bottom, top) = unsafe { (*percpu::current()).stack };
    for _ in 0..32 {
        if !frame.is_multiple_of(8) || frame < bottom || frame.saturating_add(16) > top {
            break;
        }
        // SAFETY: both words lie on this CPU's stack, which is mapped, and are aligned.
        let [next, link] = unsafe { (frame as *const [u64; 2]).read_volatile() };
        // The link is behind the call.
        line(link.wrapping_sub(4));
        if next <= frame {
            break;
        }
        frame = next;
    }
}

/// Arm ARM, "ESR_EL2.EC".
fn class_in_words(class: u64) -> &'static str {
    match class {
        0x00 => "unknown reason: an undefined instruction",
        0x07 => "access to FP or SIMD",
        0x0e => "illegal execution state",
        0x18 => "trapped MSR, MRS or system instruction",
        0x21 => "instruction abort at EL2",
        0x22 => "PC alignment fault",
        0x25 => "data abort at EL2",
        0x26 => "SP alignment fault",
        0x2f => "SError",
        0x3c => "BRK instruction",
        _ => "unexpected exception class",
    }
}

/// Arm ARM, "ISS encoding for an exception from a Data Abort", `DFSC`.
fn status_in_words(status: u64) -> &'static str {
    match status >> 2 {
        0b0000 => "address size fault",
        0b0001 => "translation fault: nothing is mapped there",
        0b0010 => "access flag fault",
        0b0011 => "permission fault",
        0b0100 | 0b0101 if status == 0b01_0000 => "synchronous external abort",
        0b0101 => "synchronous external abort on a table walk",
        _ if status == 0b10_0001 => "alignment fault",
        _ if status == 0b11_0000 => "TLB conflict abort",
        _ => "another fault",
    }
}
