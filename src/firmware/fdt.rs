//! The device tree that a guest gets (Devicetree Specification 0.4; the bindings are Linux's).
//!
//! It describes exactly the machine of [`crate::vm::layout`], in the words QEMU's `virt` board uses:
//! whatever boots from the one tree boots from the other. What a guest does not have (PCI, flash, a
//! PMU, an ITS) is not there.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

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

/// The flattened device tree of a guest machine. Its length does not depend on where the RAM disk is.
pub fn write(machine: &GuestMachine<'_>) -> Vec<u8> {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    set(root, "compatible", "linux,dummy-virt");
    set(root, "model", MODEL);
    set(root, "#address-cells", 2u32);
    set(root, "#size-cells", 2u32);
    set(root, "interrupt-parent", GIC);
    for node in [aliases(), chosen(machine), memory(machine), cpus(machine), psci()] {
        root.add_child(node);
    }
    for node in [timer(machine), intc(machine), clock(), uart()] {
        root.add_child(node);
    }
    if machine.devices.contains(Devices::RTC) {
        root.add_child(rtc());
    }
    for node in [gpio(), gpio_keys()] {
        root.add_child(node);
    }
    for slot in 0..layout::VIRTIO_SLOTS {
        root.add_child(virtio(slot));
    }
    for (device, clock) in machine.assigned.iter().zip(ASSIGNED_CLOCK..) {
        if let Some(hertz) = device.clock {
            root.add_child(fixed_clock(&format!("clock-{clock}"), hertz.get(), clock));
        }
        root.add_child(assigned(device, clock));
    }
    tree.to_dtb()
}

fn chosen(machine: &GuestMachine<'_>) -> DeviceTreeNode {
    let mut node = node("chosen");
    set(&mut node, "bootargs", machine.cmdline.split('\0').next().unwrap_or_default());
    set(&mut node, "stdout-path", uart_path());
    if let Some(initrd) = machine.initrd {
        set(&mut node, "linux,initrd-start", initrd.start().raw());
        set(&mut node, "linux,initrd-end", initrd.last().raw().saturating_add(1));
    }
    if let Some(Seeds { rng, kaslr }) = machine.seeds {
        set(&mut node, "rng-seed", rng);
        set(&mut node, "kaslr-seed", kaslr);
    }
    node
}

fn aliases() -> DeviceTreeNode {
    let mut node = node("aliases");
    set(&mut node, "serial0", uart_path());
    node
}

fn memory(machine: &GuestMachine<'_>) -> DeviceTreeNode {
    let mut node = node_at("memory", machine.ram.start());
    set(&mut node, "device_type", "memory");
    set(&mut node, "reg", cells(&[machine.ram.start().raw(), machine.ram.size()]));
    node
}

fn cpus(machine: &GuestMachine<'_>) -> DeviceTreeNode {
    let mut cpus = node("cpus");
    set(&mut cpus, "#address-cells", 1u32);
    set(&mut cpus, "#size-cells", 0u32);
    for vcpu in 0..machine.vcpus {
        let mut cpu = node(&format!("cpu@{vcpu:x}"));
        set(&mut cpu, "device_type", "cpu");
        set(&mut cpu, "compatible", "arm,armv8");
        // The affinity fields of its MPIDR_EL1, as PSCI takes them.
        set(&mut cpu, "reg", u32::from(vcpu));
        set(&mut cpu, "enable-method", "psci");
        cpus.add_child(cpu);
    }
    cpus
}

fn psci() -> DeviceTreeNode {
    let mut node = node("psci");
    set(&mut node, "compatible", strings(&["arm,psci-1.0", "arm,psci-0.2"]));
    set(&mut node, "method", "hvc");
    node
}

fn timer(machine: &GuestMachine<'_>) -> DeviceTreeNode {
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
    let mut node = node("timer");
    set(&mut node, "compatible", strings(&["arm,armv8-timer", "arm,armv7-timer"]));
    set(&mut node, "interrupts", interrupts.as_flattened());
    flag(&mut node, "always-on");
    node
}

fn intc(machine: &GuestMachine<'_>) -> DeviceTreeNode {
    let mut node = node_at("intc", layout::GICD.base);
    let second = match machine.gic {
        GicVersion::V2 => {
            set(&mut node, "compatible", "arm,cortex-a15-gic");
            layout::GICC
        }
        GicVersion::V3 => {
            set(&mut node, "compatible", "arm,gic-v3");
            set(&mut node, "#redistributor-regions", 1u32);
            let size = layout::GICR_STRIDE * u64::from(machine.vcpus);
            Window { size, ..layout::GICR }
        }
    };
    let Window { base, size } = layout::GICD;
    set(&mut node, "reg", cells(&[base.raw(), size, second.base.raw(), second.size]));
    flag(&mut node, "interrupt-controller");
    set(&mut node, "#interrupt-cells", 3u32);
    set(&mut node, "#address-cells", 0u32);
    set(&mut node, "phandle", GIC);
    node
}

fn clock() -> DeviceTreeNode {
    let mut node = fixed_clock("apb-pclk", CLOCK_HZ, CLOCK);
    set(&mut node, "clock-output-names", "clk24mhz");
    node
}

fn fixed_clock(name: &str, hertz: u32, phandle: u32) -> DeviceTreeNode {
    let mut node = node(name);
    set(&mut node, "compatible", "fixed-clock");
    set(&mut node, "#clock-cells", 0u32);
    set(&mut node, "clock-frequency", hertz);
    set(&mut node, "phandle", phandle);
    node
}

/// A device of the board, as the board's own tree has it but for what leads to other nodes of that tree.
fn assigned(device: &AssignedDevice, clock: u32) -> DeviceTreeNode {
    let start = device.registers.first().map_or(0, |region| region.start().raw());
    let mut node = node_at(&device.name, Ipa::new(start));
    for (name, value) in &device.properties {
        set(&mut node, name, value.clone());
    }
    let reg: Vec<u64> =
        device.registers.iter().flat_map(|region| [region.start().raw(), region.size()]).collect();
    set(&mut node, "reg", cells(&reg));
    let flags = |trigger| if trigger == Trigger::Edge { EDGE_RISING } else { LEVEL_HIGH };
    let interrupts: Vec<[u32; 3]> =
        device.interrupts.iter().map(|it| interrupt(it.intid, flags(it.trigger))).collect();
    if !interrupts.is_empty() {
        set(&mut node, "interrupts", interrupts.as_flattened());
    }
    if device.clock.is_some() && device.clocks > 0 {
        let clocks: Vec<u8> =
            core::iter::repeat_n(clock.to_be_bytes(), device.clocks).flatten().collect();
        set(&mut node, "clocks", clocks);
    }
    node
}

fn uart() -> DeviceTreeNode {
    let mut node = device("pl011", &["arm,pl011", "arm,primecell"], layout::UART);
    set(&mut node, "interrupts", interrupt(layout::UART_IRQ, LEVEL_HIGH));
    set(&mut node, "clocks", [CLOCK, CLOCK]);
    set(&mut node, "clock-names", strings(&["uartclk", "apb_pclk"]));
    node
}

fn uart_path() -> String {
    format!("/pl011@{:x}", layout::UART.base.raw())
}

fn rtc() -> DeviceTreeNode {
    let mut node = device("pl031", &["arm,pl031", "arm,primecell"], layout::RTC);
    set(&mut node, "interrupts", interrupt(layout::RTC_IRQ, LEVEL_HIGH));
    set(&mut node, "clocks", CLOCK);
    set(&mut node, "clock-names", "apb_pclk");
    node
}

fn gpio() -> DeviceTreeNode {
    let mut node = device("pl061", &["arm,pl061", "arm,primecell"], layout::GPIO);
    set(&mut node, "#gpio-cells", 2u32);
    flag(&mut node, "gpio-controller");
    set(&mut node, "interrupts", interrupt(layout::GPIO_IRQ, LEVEL_HIGH));
    set(&mut node, "clocks", CLOCK);
    set(&mut node, "clock-names", "apb_pclk");
    set(&mut node, "phandle", GPIO);
    node
}

fn gpio_keys() -> DeviceTreeNode {
    let mut power = node("poweroff");
    set(&mut power, "label", "GPIO Key Poweroff");
    set(&mut power, "linux,code", KEY_POWER);
    set(&mut power, "gpios", [GPIO, layout::POWER_BUTTON_PIN.into(), ACTIVE_HIGH]);
    let mut node = node("gpio-keys");
    set(&mut node, "compatible", "gpio-keys");
    node.add_child(power);
    node
}

fn virtio(slot: u16) -> DeviceTreeNode {
    let offset = layout::VIRTIO_STRIDE * u64::from(slot);
    let base = Ipa::new(layout::VIRTIO.base.raw() + offset);
    let window = Window { base, size: layout::VIRTIO_STRIDE };
    let mut node = device("virtio_mmio", &["virtio,mmio"], window);
    set(&mut node, "interrupts", interrupt(layout::virtio_irq(slot), EDGE_RISING));
    flag(&mut node, "dma-coherent");
    node
}

fn device(name: &str, compatible: &[&str], window: Window) -> DeviceTreeNode {
    let mut node = node_at(name, window.base);
    set(&mut node, "compatible", strings(compatible));
    set(&mut node, "reg", cells(&[window.base.raw(), window.size]));
    node
}

/// "interrupts", GIC binding: three cells.
fn interrupt(id: IntId, flags: u32) -> [u32; 3] {
    match id.0.checked_sub(32) {
        Some(number) => [SPI, u32::from(number), flags],
        None => [PPI, u32::from(id.0.saturating_sub(16)), flags],
    }
}

fn node(name: &str) -> DeviceTreeNode {
    DeviceTreeNode::new_unchecked(name)
}

fn node_at(name: &str, address: Ipa) -> DeviceTreeNode {
    DeviceTreeNode::new_unchecked(format!("{name}@{:x}", address.raw()))
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

/// `<empty>`: a property that says all by being there.
fn flag(node: &mut DeviceTreeNode, name: &str) {
    set(node, name, [0u8; 0]);
}

/// `<prop-encoded-array>` of numbers that take two cells each.
fn cells(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// `<stringlist>`.
fn strings(strings: &[&str]) -> Vec<u8> {
    strings.iter().flat_map(|string| string.bytes().chain([0])).collect()
}

#[cfg(all(test, not(miri)))] // Minutes each, and nothing here is unsafe.
mod tests;
