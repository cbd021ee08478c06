//! The device tree that a guest gets (Devicetree Specification 0.4; the bindings are Linux's).
//!
//! It describes exactly the machine of [`crate::vm::layout`], in the words QEMU's `virt` board uses:
//! whatever boots from the one tree boots from the other. What a guest does not have (PCI, flash, a
//! PMU, an ITS, a device in a virtio-mmio slot) is not there.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use vm_fdt::{FdtWriter, FdtWriterNode};

use super::entropy::Entropy;
use crate::addr::{Ipa, Region};
use crate::manifest::Devices;
use crate::platform::Trigger;
use crate::platform::board::AssignedDevice;
use crate::vgic::{GicVersion, IntId};
use crate::vm::layout::{self, Window};

/// The root node's model, by which a guest's user sees where it runs.
pub const MODEL: &str = "Plinth virtual machine";

const CLOCK: u32 = 1;
const GIC: u32 = 2;
const GPIO: u32 = 3;
/// The clocks of assigned devices, one for each, from here on.
const ASSIGNED_CLOCK: u32 = 16;
/// The UART's and the clock's input clock, 24 MHz.
const CLOCK_HZ: u32 = 24_000_000;

/// "interrupts", GIC binding: a shared, and a private peripheral interrupt.
const SPI: u32 = 0;
const PPI: u32 = 1;
/// "interrupts", GIC binding, flags.
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// "interrupts", GICv2 binding, flags: where the mask of the CPUs that a PPI is wired to starts.
const PPI_CPUS: u32 = 8;

/// "linux,code": `KEY_POWER` of Linux's input event codes.
const KEY_POWER: u32 = 116;
/// "gpios", GPIO binding, flags.
const ACTIVE_HIGH: u32 = 0;

/// What of a guest machine differs from VM to VM.
#[derive(Clone, Copy, Debug)]
pub struct GuestMachine<'a> {
    /// RAM.
    pub ram: Region<Ipa>,
    /// The devices beside those that every guest has.
    pub devices: Devices,
    /// How many virtio-mmio slots have a device: the first ones.
    pub virtio: u16,
    /// How many vCPUs.
    pub vcpus: u8,
    /// Which interrupt controller.
    pub gic: GicVersion,
    /// The kernel's command line; ends at the first NUL, if it has any.
    pub cmdline: &'a str,
    /// Where the RAM disk is.
    pub initrd: Option<Region<Ipa>>,
    /// What the kernel starts its own random numbers with.
    pub seeds: Option<Seeds>,
    /// The board's devices that are its own.
    pub assigned: &'a [AssignedDevice],
}

/// Random bytes for a kernel's start.
#[derive(Clone, Copy)]
pub struct Seeds {
    rng: [u8; 32],
    kaslr: [u8; 8],
}

impl Seeds {
    /// Fresh ones: no two boots may have the same.
    pub fn draw(entropy: &mut Entropy) -> Self {
        let mut seeds = Self { rng: [0; 32], kaslr: [0; 8] };
        entropy.fill(&mut seeds.rng);
        entropy.fill(&mut seeds.kaslr);
        seeds
    }
}

impl core::fmt::Debug for Seeds {
    /// Says nothing about the bytes.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Seeds")
    }
}

/// The tree cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TreeError(vm_fdt::Error);

impl From<vm_fdt::Error> for TreeError {
    fn from(error: vm_fdt::Error) -> Self {
        Self(error)
    }
}

/// What became of a part of it.
type Written = Result<(), vm_fdt::Error>;

/// The flattened device tree of a guest machine. Its length does not depend on where the RAM disk is.
///
/// # Errors
/// It gets larger than 4 GiB.
pub fn write(machine: &GuestMachine<'_>) -> Result<Vec<u8>, TreeError> {
    let mut writing = Writing::begin()?;
    while !writing.step(machine)? {}
    writing.finish()
}

/// A device tree that is written a part at a time, as all of it takes some hundred thousand instructions.
pub struct Writing {
    fdt: FdtWriter,
    root: FdtWriterNode,
    /// The node of all CPUs, while those are written.
    cpus: Option<FdtWriterNode>,
    /// The part that comes next.
    next: Part,
}

/// What is written at a time.
#[derive(Clone, Copy)]
enum Part {
    Root,
    Chosen,
    Memory,
    Cpu(u8),
    Firmware,
    Intc,
    Uart,
    Rtc,
    Gpio,
    Virtio(u16),
    Assigned(usize),
}

impl Writing {
    /// An empty one.
    ///
    /// # Errors
    /// None that is known.
    pub fn begin() -> Result<Self, TreeError> {
        let mut fdt = FdtWriter::new()?;
        let root = fdt.begin_node("")?;
        Ok(Self { fdt, root, cpus: None, next: Part::Root })
    }

    /// Writes the next part, of the same machine each time. Returns whether there was none left.
    ///
    /// # Errors
    /// It gets larger than 4 GiB.
    pub fn step(&mut self, machine: &GuestMachine<'_>) -> Result<bool, TreeError> {
        let fdt = &mut self.fdt;
        self.next = match self.next {
            Part::Root => {
                root(fdt)?;
                Part::Chosen
            }
            Part::Chosen => {
                node(fdt, "chosen", |fdt| chosen(fdt, machine))?;
                Part::Memory
            }
            Part::Memory => {
                memory(fdt, machine)?;
                self.cpus = Some(cpus(fdt)?);
                Part::Cpu(0)
            }
            Part::Cpu(vcpu) if vcpu < machine.vcpus => {
                cpu(fdt, vcpu)?;
                Part::Cpu(vcpu + 1)
            }
            Part::Cpu(_) => {
                self.cpus.take().map_or(Ok(()), |cpus| fdt.end_node(cpus))?;
                Part::Firmware
            }
            Part::Firmware => {
                node(fdt, "psci", psci)?;
                node(fdt, "timer", |fdt| timer(fdt, machine))?;
                Part::Intc
            }
            Part::Intc => {
                intc(fdt, machine)?;
                Part::Uart
            }
            Part::Uart => {
                node(fdt, "apb-pclk", clock)?;
                uart(fdt)?;
                Part::Rtc
            }
            Part::Rtc => {
                if machine.devices.contains(Devices::RTC) {
                    rtc(fdt)?;
                }
                Part::Gpio
            }
            Part::Gpio => {
                gpio(fdt)?;
                node(fdt, "gpio-keys", gpio_keys)?;
                Part::Virtio(0)
            }
            Part::Virtio(slot) if slot < machine.virtio => {
                virtio(fdt, slot)?;
                Part::Virtio(slot + 1)
            }
            Part::Virtio(_) => Part::Assigned(0),
            Part::Assigned(number) => {
                if assigned_at(fdt, machine, number)? {
                    return Ok(true);
                }
                Part::Assigned(number + 1)
            }
        };
        Ok(false)
    }

    /// All that was written, once no part is left.
    ///
    /// # Errors
    /// It got larger than 4 GiB.
    pub fn finish(mut self) -> Result<Vec<u8>, TreeError> {
        self.fdt.end_node(self.root)?;
        Ok(self.fdt.finish()?)
    }
}

/// The assigned device with this number; true when there is none.
fn assigned_at(
    fdt: &mut FdtWriter,
    machine: &GuestMachine<'_>,
    number: usize,
) -> Result<bool, TreeError> {
    let Some((device, clock)) = machine.assigned.iter().zip(ASSIGNED_CLOCK..).nth(number) else {
        return Ok(true);
    };
    if let Some(hertz) = device.clock {
        node(fdt, &format!("clock-{clock}"), |fdt| fixed_clock(fdt, hertz.get(), clock))?;
    }
    assigned(fdt, device, clock)?;
    Ok(false)
}

fn root(fdt: &mut FdtWriter) -> Written {
    fdt.property("compatible", b"linux,dummy-virt\0")?;
    fdt.property_string("model", MODEL)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    node(fdt, "aliases", |fdt| fdt.property_string("serial0", &uart_path()))
}

fn chosen(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Written {
    fdt.property_string("bootargs", machine.cmdline.split('\0').next().unwrap_or_default())?;
    fdt.property_string("stdout-path", &uart_path())?;
    if let Some(initrd) = machine.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start().raw())?;
        fdt.property_u64("linux,initrd-end", initrd.last().raw().saturating_add(1))?;
    }
    if let Some(Seeds { rng, kaslr }) = machine.seeds {
        fdt.property("rng-seed", &rng)?;
        fdt.property("kaslr-seed", &kaslr)?;
    }
    Ok(())
}

fn memory(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Written {
    node_at(fdt, "memory", machine.ram.start(), |fdt| {
        fdt.property("device_type", b"memory\0")?;
        numbers(fdt, "reg", [machine.ram.start().raw(), machine.ram.size()])
    })
}

/// Begins the node of the CPUs.
fn cpus(fdt: &mut FdtWriter) -> Result<FdtWriterNode, vm_fdt::Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    Ok(cpus)
}

fn cpu(fdt: &mut FdtWriter, vcpu: u8) -> Written {
    node(fdt, &format!("cpu@{vcpu:x}"), |fdt| {
        fdt.property("device_type", b"cpu\0")?;
        fdt.property("compatible", b"arm,armv8\0")?;
        // The affinity fields of its MPIDR_EL1, as PSCI takes them.
        fdt.property_u32("reg", u32::from(vcpu))?;
        fdt.property("enable-method", b"psci\0")
    })
}

fn psci(fdt: &mut FdtWriter) -> Written {
    fdt.property("compatible", b"arm,psci-1.0\0arm,psci-0.2\0")?;
    fdt.property("method", b"hvc\0")
}

fn timer(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Written {
    let wired = match machine.gic {
        GicVersion::V2 => (1u32 << machine.vcpus.min(8)) - 1,
        GicVersion::V3 => 0,
    };
    // The order is the binding's.
    let interrupts = [
        layout::SECURE_TIMER_IRQ,
        layout::PHYSICAL_TIMER_IRQ,
        layout::VIRTUAL_TIMER_IRQ,
        layout::HYP_TIMER_IRQ,
    ]
    .map(|id| interrupt(id, wired << PPI_CPUS | LEVEL_HIGH));
    fdt.property("compatible", b"arm,armv8-timer\0arm,armv7-timer\0")?;
    fdt.property_array_u32("interrupts", interrupts.as_flattened())?;
    fdt.property_null("always-on")
}

fn intc(fdt: &mut FdtWriter, machine: &GuestMachine<'_>) -> Written {
    node_at(fdt, "intc", layout::GICD.base, |fdt| {
        let second = match machine.gic {
            GicVersion::V2 => {
                fdt.property("compatible", b"arm,cortex-a15-gic\0")?;
                layout::GICC
            }
            GicVersion::V3 => {
                fdt.property("compatible", b"arm,gic-v3\0")?;
                fdt.property_u32("#redistributor-regions", 1)?;
                let size = layout::GICR_STRIDE * u64::from(machine.vcpus);
                Window { size, ..layout::GICR }
            }
        };
        let Window { base, size } = layout::GICD;
        numbers(fdt, "reg", [base.raw(), size, second.base.raw(), second.size])?;
        fdt.property_null("interrupt-controller")?;
        fdt.property_u32("#interrupt-cells", 3)?;
        fdt.property_u32("#address-cells", 0)?;
        fdt.property_phandle(GIC)
    })
}

fn clock(fdt: &mut FdtWriter) -> Written {
    fixed_clock(fdt, CLOCK_HZ, CLOCK)?;
    fdt.property("clock-output-names", b"clk24mhz\0")
}

fn fixed_clock(fdt: &mut FdtWriter, hertz: u32, phandle: u32) -> Written {
    fdt.property("compatible", b"fixed-clock\0")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", hertz)?;
    fdt.property_phandle(phandle)
}

/// A device of the board, as the board's own tree has it but for what leads to other nodes of that tree.
fn assigned(fdt: &mut FdtWriter, device: &AssignedDevice, clock: u32) -> Written {
    let start = device.registers.first().map_or(0, |region| region.start().raw());
    let name = format!("{}@{start:x}", device.name);
    // A name says nothing to a driver, and the board's may break the specification's rules.
    let opened = fdt.begin_node(&name).or_else(|_| fdt.begin_node(&format!("device@{start:x}")))?;
    for (name, value) in &device.properties {
        fdt.property(name, value)?;
    }
    let reg: Vec<u64> =
        device.registers.iter().flat_map(|region| [region.start().raw(), region.size()]).collect();
    fdt.property_array_u64("reg", &reg)?;
    let flags = |trigger| if trigger == Trigger::Edge { EDGE_RISING } else { LEVEL_HIGH };
    let interrupts: Vec<[u32; 3]> =
        device.interrupts.iter().map(|it| interrupt(it.intid, flags(it.trigger))).collect();
    if !interrupts.is_empty() {
        fdt.property_array_u32("interrupts", interrupts.as_flattened())?;
    }
    if device.clock.is_some() && device.clocks > 0 {
        fdt.property_array_u32("clocks", &alloc::vec![clock; device.clocks])?;
    }
    fdt.end_node(opened)
}

fn uart(fdt: &mut FdtWriter) -> Written {
    device(fdt, "pl011", b"arm,pl011\0arm,primecell\0", layout::UART, |fdt| {
        wired(fdt, layout::UART_IRQ, LEVEL_HIGH)?;
        fdt.property_array_u32("clocks", &[CLOCK, CLOCK])?;
        fdt.property("clock-names", b"uartclk\0apb_pclk\0")
    })
}

fn uart_path() -> String {
    format!("/pl011@{:x}", layout::UART.base.raw())
}

fn rtc(fdt: &mut FdtWriter) -> Written {
    device(fdt, "pl031", b"arm,pl031\0arm,primecell\0", layout::RTC, |fdt| {
        wired(fdt, layout::RTC_IRQ, LEVEL_HIGH)?;
        fdt.property_u32("clocks", CLOCK)?;
        fdt.property("clock-names", b"apb_pclk\0")
    })
}

fn gpio(fdt: &mut FdtWriter) -> Written {
    device(fdt, "pl061", b"arm,pl061\0arm,primecell\0", layout::GPIO, |fdt| {
        fdt.property_u32("#gpio-cells", 2)?;
        fdt.property_null("gpio-controller")?;
        wired(fdt, layout::GPIO_IRQ, LEVEL_HIGH)?;
        fdt.property_u32("clocks", CLOCK)?;
        fdt.property("clock-names", b"apb_pclk\0")?;
        fdt.property_phandle(GPIO)
    })
}

fn gpio_keys(fdt: &mut FdtWriter) -> Written {
    fdt.property("compatible", b"gpio-keys\0")?;
    node(fdt, "poweroff", |fdt| {
        fdt.property("label", b"GPIO Key Poweroff\0")?;
        fdt.property_u32("linux,code", KEY_POWER)?;
        fdt.property_array_u32("gpios", &[GPIO, layout::POWER_BUTTON_PIN.into(), ACTIVE_HIGH])
    })
}

fn virtio(fdt: &mut FdtWriter, slot: u16) -> Written {
    device(fdt, "virtio_mmio", b"virtio,mmio\0", layout::virtio_slots(slot, 1), |fdt| {
        wired(fdt, layout::virtio_irq(slot), EDGE_RISING)?;
        fdt.property_null("dma-coherent")
    })
}

/// A device with these registers; `compatible` is a `<stringlist>`.
fn device(
    fdt: &mut FdtWriter,
    name: &str,
    compatible: &[u8],
    window: Window,
    more: impl FnOnce(&mut FdtWriter) -> Written,
) -> Written {
    node_at(fdt, name, window.base, |fdt| {
        fdt.property("compatible", compatible)?;
        numbers(fdt, "reg", [window.base.raw(), window.size])?;
        more(fdt)
    })
}

/// The one interrupt of a device.
fn wired(fdt: &mut FdtWriter, id: IntId, flags: u32) -> Written {
    fdt.property("interrupts", interrupt(id, flags).map(u32::to_be_bytes).as_flattened())
}

/// "interrupts", GIC binding: three cells.
fn interrupt(id: IntId, flags: u32) -> [u32; 3] {
    match id.0.checked_sub(32) {
        Some(number) => [SPI, u32::from(number), flags],
        None => [PPI, u32::from(id.0.saturating_sub(16)), flags],
    }
}

fn node(
    fdt: &mut FdtWriter,
    name: &str,
    contents: impl FnOnce(&mut FdtWriter) -> Written,
) -> Written {
    let node = fdt.begin_node(name)?;
    contents(fdt)?;
    fdt.end_node(node)
}

fn node_at(
    fdt: &mut FdtWriter,
    name: &str,
    address: Ipa,
    contents: impl FnOnce(&mut FdtWriter) -> Written,
) -> Written {
    let mut full = String::with_capacity(name.len() + 1 + 16);
    full.push_str(name);
    // Writing to a string does not fail.
    let _ = write!(full, "@{:x}", address.raw());
    node(fdt, &full, contents)
}

/// `<prop-encoded-array>` of numbers that take two cells each.
fn numbers<const N: usize>(fdt: &mut FdtWriter, name: &str, values: [u64; N]) -> Written {
    fdt.property(name, values.map(u64::to_be_bytes).as_flattened())
}

#[cfg(test)]
mod tests;
