//! What is measured, and what each figure is to be at most.

use super::measure::Figures;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As `guests/bench` and the baseline call it.
    pub name: &'static str,
    /// As the table calls it.
    pub title: &'static str,
    /// What the median is to be at most, with a GICv2 and a GICv3.
    pub target: Option<[u64; 2]>,
    /// It is to be at most a tenth more than this row.
    pub flat: Option<&'static str>,
    /// It depends on what Debian has today: it is told, and not held to the baseline.
    pub told: bool,
}

impl Row {
    const fn new(name: &'static str, title: &'static str) -> Self {
        Self { name, title, target: None, flat: None, told: false }
    }

    const fn at_most(self, both: u64) -> Self {
        Self { target: Some([both, both]), ..self }
    }

    const fn at_most_each(self, target: [u64; 2]) -> Self {
        Self { target: Some(target), ..self }
    }

    const fn as_flat_as(self, other: &'static str) -> Self {
        Self { flat: Some(other), ..self }
    }

    const fn told(self) -> Self {
        Self { told: true, ..self }
    }

    /// What it is to be at most with a GIC of this version.
    pub fn target(&self, gic: u8, measured: &Figures) -> Option<u64> {
        let flat = self.flat.and_then(|other| measured.get(other));
        let flat = flat.map(|other| other.median + other.median / 10);
        self.target.map(|[two, three]| if gic == 2 { two } else { three }).or(flat)
    }
}

/// How long an interrupt may have to wait.
const fn stretch(name: &'static str, title: &'static str) -> Row {
    Row::new(name, title).at_most(20_000)
}

/// All rows, in the table's order. The targets are those of the project's plan.
pub const ROWS: &[Row] = &[
    Row::new("hvc-psci-version", "hypercall, PSCI_VERSION by HVC").at_most(100),
    Row::new("smc-psci-version", "hypercall, PSCI_VERSION by SMC").at_most(105),
    Row::new("hvc-unknown", "hypercall, unknown").at_most(120),
    Row::new("trapped-register", "trapped register, ID_AA64PFR0_EL1").at_most(130),
    Row::new("gicd-iidr-read", "distributor read, GICD_IIDR").at_most(150),
    Row::new("gicd-isenabler-read", "distributor read, GICD_ISENABLER").at_most(220),
    Row::new("gicd-isenabler-write", "distributor write, GICD_ISENABLER"),
    Row::new("uart-fr-read", "emulated PL011 read, UARTFR").at_most(180),
    Row::new("empty-virtio-slot-read", "emulated MMIO read, empty virtio slot"),
    Row::new("stage-2-fault", "stage-2 fault, to the guest's vector"),
    Row::new("eoi", "end of interrupt").at_most_each([10, 9]),
    Row::new("self-sgi-to-handler", "SGI to itself, to the handler").at_most(350),
    Row::new("self-sgi-to-acknowledge", "SGI to itself, to the acknowledge"),
    Row::new("virtual-timer-spinning", "virtual timer to the handler, spinning").at_most(170),
    Row::new("virtual-timer-in-wfi", "virtual timer to the handler, in WFI").at_most(500),
    Row::new("sgi-to-running-handler", "SGI to a vCPU that runs, to the handler")
        .at_most_each([600, 900]),
    Row::new("sgi-to-running-acknowledge", "SGI to a vCPU that runs, to the acknowledge"),
    Row::new("sgi-to-idle-handler", "SGI to a vCPU in WFI, to the handler"),
    Row::new("sgi-to-idle-acknowledge", "SGI to a vCPU in WFI, to the acknowledge"),
    Row::new("sgi-to-descheduled-handler", "SGI to a vCPU whose CPU is busy, to the handler"),
    Row::new("sgi-to-descheduled-acknowledge", "the same, to the acknowledge"),
    Row::new("sgi-same-cpu-acknowledge", "SGI to a blocked vCPU of the same CPU"),
    Row::new("vcpu-switch", "SGI and vCPU switch, half of there and back"),
    Row::new("assigned-interrupt", "interrupt of an assigned device"),
    Row::new("exit-idle-1", "hypercall, 1 VM"),
    Row::new("exit-idle-16", "hypercall, 16 VMs on the CPU").as_flat_as("exit-idle-1"),
    Row::new("exit-idle-128", "hypercall, 128 VMs on the CPU").as_flat_as("exit-idle-1"),
    Row::new("exit-spin-32", "hypercall, 32 busy vCPUs on the CPU").as_flat_as("exit-idle-1"),
    Row::new("wake-idle-1", "WFI (trapped) to timer handler, 1 VM"),
    Row::new("wake-idle-16", "the same, 16 VMs on the CPU").as_flat_as("wake-idle-1"),
    Row::new("wake-idle-128", "the same, 128 VMs on the CPU").as_flat_as("wake-idle-1"),
    Row::new("wake-spin-2", "the same, 2 busy vCPUs on the CPU"),
    Row::new("wake-spin-8", "the same, 8 busy vCPUs on the CPU").as_flat_as("wake-spin-2"),
    Row::new("wake-spin-32", "the same, 32 busy vCPUs on the CPU").as_flat_as("wake-spin-2"),
    Row::new("disk-read-4k", "disk: random read of 4 KiB, at EL2").at_most(3000),
    Row::new("disk-read-4k-total", "the same, all there is"),
    Row::new("disk-read-4k-bare", "the same, bare on QEMU's own device").told(),
    Row::new("disk-write-4k", "disk: random write of 4 KiB, at EL2").at_most(3000),
    Row::new("disk-write-4k-total", "the same, all there is"),
    Row::new("disk-write-4k-bare", "the same, bare on QEMU's own device").told(),
    Row::new("disk-read-4k-depth-32", "disk: 32 reads at a time, each, at EL2").at_most(3000),
    Row::new("disk-read-4k-depth-32-total", "the same, all there is"),
    Row::new("disk-read-4k-depth-32-bare", "the same, bare on QEMU's own device").told(),
    Row::new("disk-read-4k-depth-32-exits", "the same, exits for 1000"),
    Row::new("disk-write-4k-depth-32", "disk: 32 writes at a time, each, at EL2").at_most(3000),
    Row::new("disk-write-4k-depth-32-total", "the same, all there is"),
    Row::new("disk-write-4k-depth-32-bare", "the same, bare on QEMU's own device").told(),
    Row::new("disk-write-4k-depth-32-exits", "the same, exits for 1000"),
    Row::new("disk-read-1m", "disk: sequential read of 1 MiB, at EL2"),
    Row::new("disk-read-1m-total", "the same, all there is"),
    Row::new("disk-read-1m-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-packet-to-handler", "packet of 64 bytes: to another guest's handler")
        .at_most(2000),
    Row::new("net-packet-between-guests", "the same, until it has the packet in hand"),
    Row::new("net-packet", "packet of 64 bytes, one at a time, at EL2").at_most(2000),
    Row::new("net-packet-total", "the same, all there is"),
    Row::new("net-packet-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-packet-bulk", "packets of 64 bytes, 64 at a time, each, at EL2").at_most(2000),
    Row::new("net-packet-bulk-total", "the same, all there is"),
    Row::new("net-packet-bulk-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-packet-bulk-exits", "the same, exits for 1000").at_most(100),
    Row::new("net-stream", "packets of 64 bytes, 256 at a time, to another guest on its CPU, each")
        .at_most(2000),
    Row::new("net-stream-total", "the same, all there is"),
    Row::new("net-stream-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-stream-exits", "the same, exits for 1000").at_most(100),
    Row::new("net-segment-64k", "TCP segment of 64 KiB, at EL2"),
    Row::new("net-segment-64k-total", "the same, all there is"),
    Row::new("net-segment-64k-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-segment-64k-bulk", "TCP segments of 64 KiB, 8 at a time, each, at EL2"),
    Row::new("net-segment-64k-bulk-total", "the same, all there is"),
    Row::new("net-segment-64k-bulk-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-segment-64k-bulk-exits", "the same, exits for 1000"),
    Row::new(
        "net-stream-segment-64k",
        "TCP segments, 8 at a time, to another guest on its CPU, each",
    ),
    Row::new("net-stream-segment-64k-total", "the same, all there is"),
    Row::new("net-stream-segment-64k-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-stream-segment-64k-exits", "the same, exits for 1000"),
    Row::new("disk-read-4k-packed", "disk, packed queue: random read of 4 KiB, at EL2"),
    Row::new("disk-read-4k-packed-total", "the same, all there is"),
    Row::new("disk-read-4k-packed-bare", "the same, bare on QEMU's own device").told(),
    Row::new("disk-read-4k-depth-32-packed", "disk, packed queue: 32 reads at a time, each"),
    Row::new("disk-read-4k-depth-32-packed-total", "the same, all there is"),
    Row::new("disk-read-4k-depth-32-packed-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-packet-packed", "packet, packed queues: one at a time, at EL2"),
    Row::new("net-packet-packed-total", "the same, all there is"),
    Row::new("net-packet-packed-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-packet-bulk-packed", "packets, packed queues: 64 at a time, each"),
    Row::new("net-packet-bulk-packed-total", "the same, all there is"),
    Row::new("net-packet-bulk-packed-bare", "the same, bare on QEMU's own device").told(),
    Row::new("disk-read-4k-in-order", "disk, in-order queue: random read of 4 KiB, at EL2"),
    Row::new("disk-read-4k-in-order-total", "the same, all there is"),
    Row::new("disk-read-4k-in-order-bare", "the same, bare on QEMU's own device").told(),
    Row::new("disk-read-4k-depth-32-in-order", "disk, in-order queue: 32 reads at a time, each"),
    Row::new("disk-read-4k-depth-32-in-order-total", "the same, all there is"),
    Row::new("disk-read-4k-depth-32-in-order-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-packet-in-order", "packet, in-order queues: one at a time, at EL2"),
    Row::new("net-packet-in-order-total", "the same, all there is"),
    Row::new("net-packet-in-order-bare", "the same, bare on QEMU's own device").told(),
    Row::new("net-packet-bulk-in-order", "packets, in-order queues: 64 at a time, each"),
    Row::new("net-packet-bulk-in-order-total", "the same, all there is"),
    Row::new("net-packet-bulk-in-order-bare", "the same, bare on QEMU's own device").told(),
    Row::new("virtio-idle", "an idle second: more with a disk and two cards").at_most(0),
    Row::new("create-vm", "creation of a VM, its memory apart"),
    Row::new("destroy-vm", "destruction of a VM of 4 MiB"),
    Row::new("memory-per-vm", "memory per VM of 1 vCPU beside its RAM, bytes").at_most(65_536),
    Row::new("memory-per-vcpu", "memory per further vCPU, bytes"),
    Row::new("boot", "reset to the first guest instruction").at_most(3_000_000),
    Row::new("boot-no-zeroing", "reset to the first guest instruction, no zeroing")
        .at_most(300_000),
    Row::new("debian-boot", "Debian's boot, millionths more than bare").at_most(400).told(),
    stretch("longest-stretch-hello", "longest masked stretch at EL2: start, hello, end"),
    stretch("longest-stretch-debian", "the same: Debian's boot"),
    stretch("longest-stretch-exits", "the same: exits and interrupts as above"),
    stretch("longest-stretch-switch", "the same: vCPU switches"),
    stretch("longest-stretch-device", "the same: an assigned device"),
    stretch("longest-stretch-virtio", "the same: a disk and two network cards"),
    stretch("longest-stretch-idle-128", "the same: 128 VMs start, sleep and stop"),
    stretch("longest-stretch-spin-32", "the same: 32 VMs start, are busy and stop"),
    stretch("longest-stretch-destroy", "the same: a VM is taken apart"),
    Row::new("memory-kept", "memory kept of 1 GiB, one guest, bytes").at_most(4_000_000),
    Row::new("image-size", "image, bytes").at_most(200_000),
];
