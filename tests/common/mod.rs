//! A machine of scripted CPUs with guests from a bundle, and what its guests' programs have in common.

#![allow(dead_code, reason = "each test file uses a part")]

use std::num::NonZeroU32;
use std::sync::Arc;

use plinth::cpu::{Cpu, Step};
use plinth::device::doorbell::Doorbells;
use plinth::device::serial::{ScriptedLine, SerialLine};
use plinth::exit::Width;
use plinth::firmware::smccc::Mitigations;
use plinth::host::allotment::Allotment;
use plinth::hypervisor::{Hypervisor, Stock};
use plinth::machine::fake::{INTID, IRQ_VECTOR, OnPause, Op, Scripted, Seen, VIRTUAL_TIMER, World};
use plinth::machine::{CpuId, Machine};
use plinth::manifest::{self, MachineConfig, Manifest, VmConfig};
use plinth::memory::{FramePool, Geometry, Maintenance, PaRange, Ram, SharedPool, Uncached, Vmids};
use plinth::sched::VmId;
use plinth::time::Frequency;
use plinth::vcpu::VcpuId;
use plinth::vgic::{GicVersion, IntId};
use plinth::virtio::block::base::Images;
use plinth::virtio::console::NamedPort;
use plinth::virtio::console::channel::Channels;
use plinth::virtio::net::cabling::Cabling;
use plinth::virtio::vsock::sockets::{Socket, Sockets};
use plinth::vm::Vm;
use plinth::vm::create::{CreateError, Creation, Host, Own};
use plinth::vm::idregs::{IdFacts, IdRegs};
use plinth::vm::layout;
use plinth::vm::sysreg::names;

pub const CPU_ON: u64 = 0xc400_0003;
pub const CPU_OFF: u64 = 0x8400_0002;
pub const SYSTEM_OFF: u64 = 0x8400_0008;
pub const SYSTEM_RESET: u64 = 0x8400_0009;

/// Where the kernel's first instruction is, and other places in the kernel.
pub const ENTRY: u64 = 0x4020_0000;
pub const SECOND: u64 = ENTRY + 0x400;
pub const THIRD: u64 = ENTRY + 0x800;
pub const LOOP: u64 = ENTRY + 0xa00;
pub const VECTORS: u64 = ENTRY + 0x1000;
/// A guest's RAM: the device tree's slot, and the kernel after it.
pub const RAM: u64 = (2 << 20) + (64 << 10);
/// Ticks of a second; a time slice is 500.
pub const HZ: u32 = 100_000;

/// A guest of the bundle, with its files.
pub type Guest = VmConfig<Vec<u8>, String>;

pub fn guest(name: &str, vcpus: u8) -> Guest {
    let kernel = elf(ENTRY, &[0x5a; 64], 0x2000);
    let cmdline = "console=ttyAMA0".into();
    Guest { memory: RAM, vcpus, cmdline, ..Guest::new(name.into(), kernel) }
}

/// An ELF file with one segment at `entry` (System V ABI, "ELF Header", "Program Header").
pub fn elf(entry: u64, bytes: &[u8], memory: u64) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 183] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for double in [entry, 64, 0] {
        file.extend(double.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [1u32, 7] {
        file.extend(word.to_le_bytes());
    }
    let size = bytes.len() as u64;
    for double in [0x1000, entry, entry, size, memory, 0x1000] {
        file.extend(double.to_le_bytes());
    }
    file.resize(0x1000, 0);
    file.extend(bytes);
    file
}

/// The bundle of these guests, as the boot loader leaves it.
pub fn bundle(guests: &[Guest]) -> Manifest<'static> {
    bundle_for(&MachineConfig::default(), guests)
}

/// The same for a machine of which something is said.
pub fn bundle_for(machine: &MachineConfig, guests: &[Guest]) -> Manifest<'static> {
    let sources: Vec<_> =
        guests.iter().map(|guest| guest.map(String::as_str, Vec::as_slice)).collect();
    let bundle = manifest::write(machine, &[], &sources).unwrap();
    manifest::read(Box::leak(bundle.into_boxed_slice())).unwrap()
}

pub fn pool(bytes: u64) -> FramePool {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(bytes, 2 << 20).unwrap(), &[]);
    pool
}

pub fn host(gic_version: GicVersion, cpus: u8) -> Host {
    let facts = IdFacts { ipa_bits: 40, gicv3: gic_version == GicVersion::V3 };
    Host {
        gic_version,
        gicv: None,
        geometry: Geometry::new(39, PaRange::from_field(5)).unwrap(),
        cpus,
        frequency: Frequency(NonZeroU32::new(HZ).unwrap()),
        virtual_timer: VIRTUAL_TIMER,
        interrupts: [(IntId(0), "test"); 5],
        clock: || plinth::time::Ticks(0),
        epoch: 0,
        upkeep: &Uncached,
        id_registers: IdRegs::new(&facts, |_| 0),
        mitigations: Mitigations::default(),
        assigned: Box::default(),
    }
}

/// Create one VM of a bundle.
pub fn create(
    manifest: &Manifest<'static>,
    index: usize,
    id: u16,
    host: &Host,
    frames: &mut FramePool,
    vmids: &mut Vmids,
    cpu: &impl Maintenance,
) -> Result<(Vm, Arc<ScriptedLine>), CreateError> {
    let line = Arc::new(ScriptedLine::default());
    let config = &manifest.vms()[index];
    let doorbells = &Arc::new(Doorbells::new(manifest.vms().len()));
    let (networks, vms) = (manifest.networks(), manifest.vms());
    let cabling = &Cabling::new(networks, vms, host.frequency, host.clock).unwrap();
    let (id, images) = (VmId(id), &mut Images::default());
    let allotment = &Allotment::default();
    let creation = Creation {
        id,
        config,
        manifest,
        host,
        doorbells,
        cabling,
        channels: &Channels::new(manifest.vms()),
        sockets: &Sockets::new(vms.iter().map(|vm| vm.vsock.as_ref())),
        pool: &Arc::new(SharedPool::new(FramePool::new(), 1, &Uncached)),
        images,
        allotment,
    };
    let own = Own { line: line.clone(), entropy: None, now: plinth::time::Ticks(1000) };
    Ok((*Vm::create(creation, own, frames, vmids, cpu)?, line))
}

/// A machine.
pub struct Room {
    pub world: Arc<World>,
    pub hypervisor: &'static Hypervisor,
    pub cpus: Vec<Cpu<'static, Scripted>>,
    pub lines: Vec<Arc<ScriptedLine>>,
    pub finished: Vec<bool>,
    /// What each guest's named ports lead to.
    pub ports: Vec<Vec<NamedPort>>,
    /// What is behind each guest's socket device.
    pub sockets: Vec<Option<Socket>>,
    vmids: Vec<u8>,
}

impl Room {
    /// `guests` on `cpus` CPUs, started.
    pub fn new(gic: GicVersion, cpus: u8, guests: &[Guest]) -> Self {
        Self::with(gic, cpus, 4, guests, Box::new(|_, _| {}))
    }

    pub fn with(
        gic: GicVersion,
        cpus: u8,
        list_registers: usize,
        guests: &[Guest],
        on_pause: Box<OnPause>,
    ) -> Self {
        let memory: u64 = guests.iter().map(|guest| guest.memory + (128 << 10)).sum();
        let room = Self::of(gic, cpus, list_registers, &bundle(guests), memory, on_pause);
        assert_eq!(room.hypervisor.alive() as usize, guests.len(), "all are built");
        room
    }

    /// The same with so much memory; guests that cannot be built are refused.
    pub fn of(
        gic: GicVersion,
        count: u8,
        list_registers: usize,
        bundle: &Manifest<'static>,
        memory: u64,
        on_pause: Box<OnPause>,
    ) -> Self {
        Self::on(host(gic, count), list_registers, bundle, memory, on_pause)
    }

    /// The same on this host.
    pub fn on(
        host: Host,
        list_registers: usize,
        bundle: &Manifest<'static>,
        memory: u64,
        on_pause: Box<OnPause>,
    ) -> Self {
        let disks = Allotment::default();
        Self::with_disks(host, list_registers, bundle, memory, disks, on_pause)
    }

    /// The same, with what guests have of the machine's disks.
    pub fn with_disks(
        host: Host,
        list_registers: usize,
        bundle: &Manifest<'static>,
        memory: u64,
        disks: Allotment,
        on_pause: Box<OnPause>,
    ) -> Self {
        let frames = pool(memory);
        Self::in_frames(host, list_registers, bundle, frames, disks, on_pause, serial_input)
    }

    /// The same in these frames, and this is done when a device interrupts a CPU.
    pub fn in_frames(
        host: Host,
        list_registers: usize,
        bundle: &Manifest<'static>,
        frames: FramePool,
        disks: Allotment,
        on_pause: Box<OnPause>,
        on_device: fn(&Hypervisor, &mut Scripted, IntId),
    ) -> Self {
        let count = host.cpus;
        let lines: Vec<_> =
            bundle.vms().iter().map(|_| Arc::new(ScriptedLine::default())).collect();
        let of_vm = lines.clone();
        let line = move |id: VmId, _: &str| -> Arc<dyn SerialLine> { of_vm[id.index()].clone() };
        let stock =
            Stock::new(host, bundle.clone(), frames, None, Box::new(line)).with_disks(disks);
        let ids = (0..).map(VmId).take(bundle.vms().len());
        let ports = ids.clone().map(|id| stock.channels().of(id)).collect();
        let sockets = ids.map(|id| stock.sockets().of(id).cloned()).collect();
        let hypervisor: &'static Hypervisor = Box::leak(Box::new(Hypervisor::new(stock)));
        let world = World::new(count, on_pause);
        let mut machines: Vec<_> =
            (0..count).map(|id| Scripted::new(CpuId(id), world.clone(), list_registers)).collect();
        hypervisor.create_all(&mut machines[0]);
        hypervisor.start_all(&mut machines[0]);
        let vmid_of = |vm| hypervisor.vm(VmId(vm)).map_or(0, |vm| vmid(&vm));
        let vmids = (0..).take(bundle.vms().len()).map(vmid_of).collect();
        let cpus = machines.into_iter().map(|machine| Cpu::new(machine, hypervisor, on_device));
        let (cpus, finished) = (cpus.collect(), vec![false; count.into()]);
        Self { world, hypervisor, cpus, lines, finished, ports, sockets, vmids }
    }

    /// Let VM `vm` (from 0) find `ops` at `entry`.
    pub fn program(&self, vm: u8, entry: u64, ops: &[Op]) -> &Self {
        self.world.program(self.vmids[usize::from(vm)], entry, ops);
        self
    }

    pub fn vm(&self, vm: u16) -> Arc<Vm> {
        self.hypervisor.vm(VmId(vm)).unwrap()
    }

    /// Ask something of the hypervisor, on a CPU.
    pub fn ask<T>(
        &mut self,
        cpu: usize,
        ask: impl FnOnce(&'static Hypervisor, &mut Scripted) -> T,
    ) -> T {
        let machine = self.cpus[cpu].machine();
        // An interrupt brought it here.
        let id = machine.id();
        machine.kick(id);
        ask(self.hypervisor, machine)
    }

    /// The CPUs that have something to do.
    pub fn awake(&mut self) -> Vec<usize> {
        (0..self.cpus.len())
            .filter(|&cpu| !self.finished[cpu] && !self.cpus[cpu].machine().sleeps())
            .collect()
    }

    pub fn step(&mut self, cpu: usize) -> Step {
        let step = self.cpus[cpu].step();
        self.finished[cpu] |= step == Step::Finished;
        step
    }

    /// Step CPUs, `choose` picking one of those that are awake, until nothing can ever happen any more.
    /// Returns false when that is not so after `steps`.
    pub fn run_by(&mut self, steps: usize, mut choose: impl FnMut(&[usize]) -> usize) -> bool {
        for _ in 0..steps {
            let awake = self.awake();
            if awake.is_empty() {
                let finished = self.finished.clone();
                let events = self.cpus.iter_mut().zip(finished).filter(|(_, finished)| !finished);
                let Some(next) = events.filter_map(|(cpu, _)| cpu.machine().next_event()).min()
                else {
                    return true;
                };
                self.world.advance(next);
                continue;
            }
            self.step(choose(&awake));
        }
        false
    }

    /// Step the CPUs in turn for at most `steps` steps.
    pub fn run(&mut self, steps: usize) -> bool {
        let mut turn = 0;
        self.run_by(steps, |awake| {
            turn += 1;
            awake[turn % awake.len()]
        })
    }

    /// The marks that a vCPU came by.
    pub fn marks(&self, vm: u8, vcpu: u8) -> Vec<u64> {
        self.of_vcpu(vm, vcpu, |seen| if let Seen::Marked(mark) = seen { Some(mark) } else { None })
    }

    /// The interrupts that a vCPU took.
    pub fn took(&self, vm: u8, vcpu: u8) -> Vec<u16> {
        self.of_vcpu(vm, vcpu, |seen| if let Seen::Took(id) = seen { Some(id.0) } else { None })
    }

    /// The syndromes of the exceptions that a vCPU was given.
    pub fn injected(&self, vm: u8, vcpu: u8) -> Vec<u64> {
        self.of_vcpu(vm, vcpu, |seen| if let Seen::Injected(esr) = seen { Some(esr) } else { None })
    }

    /// The program counters that a vCPU was loaded with.
    pub fn loaded(&self, vm: u8, vcpu: u8) -> Vec<u64> {
        self.of_vcpu(vm, vcpu, |seen| if let Seen::Loaded(pc) = seen { Some(pc) } else { None })
    }

    fn of_vcpu<T>(&self, vm: u8, vcpu: u8, of: impl Fn(Seen) -> Option<T>) -> Vec<T> {
        let of_vcpu = Some((self.vmids[usize::from(vm)], VcpuId(vcpu)));
        let record = self.world.record();
        record.iter().filter(|event| event.vcpu == of_vcpu).filter_map(|e| of(e.seen)).collect()
    }

    /// Which CPUs were kicked by which.
    pub fn kicks(&self) -> Vec<(u8, u8)> {
        let record = self.world.record();
        let kick = |event: &plinth::machine::fake::Event| match event.seen {
            Seen::Kicked(target) => Some((event.cpu.0, target.0)),
            _ => None,
        };
        record.iter().filter_map(kick).collect()
    }
}

/// A VM's VMID.
pub fn vmid(vm: &Vm) -> u8 {
    let [.., vmid, _] = vm.space(VcpuId(0), CpuId(0), false).vttbr.to_le_bytes();
    vmid
}

/// Serial input comes for the first VM.
fn serial_input(hypervisor: &Hypervisor, machine: &mut Scripted, _: IntId) {
    let vm = hypervisor.vm(VmId(0)).unwrap();
    let notify = vm.serial_input(machine.now());
    hypervisor.notify(machine, &vm, notify);
}

pub fn gicd(offset: u64) -> u64 {
    layout::GICD.base.raw() + offset
}

/// Where the enable bits of a vCPU's private interrupts are set.
pub fn isenabler0(gic: GicVersion, vcpu: u8) -> u64 {
    match gic {
        GicVersion::V2 => gicd(0x100),
        GicVersion::V3 => {
            layout::GICR.base.raw() + u64::from(vcpu) * layout::GICR_STRIDE + 0x1_0100
        }
    }
}

/// Vectors, and the distributor and all private interrupts of `vcpu` enabled, `PSTATE.I` clear.
pub fn prologue(gic: GicVersion, vcpu: u8) -> Vec<Op> {
    vec![
        Op::SetVector(VECTORS),
        Op::Store(gicd(0), Width::Word, 3),
        Op::Store(isenabler0(gic, vcpu), Width::Word, 0xffff_ffff),
        Op::Unmask,
    ]
}

/// `prologue`, then `ops`.
pub fn after_prologue(gic: GicVersion, vcpu: u8, ops: &[Op]) -> Vec<Op> {
    let mut all = prologue(gic, vcpu);
    all.extend_from_slice(ops);
    all
}

/// The interrupt handler: takes one interrupt, turns its timer off, ends it.
pub fn vectors() -> (u64, Vec<Op>) {
    let base = VECTORS + IRQ_VECTOR;
    let ops = vec![
        Op::Acknowledge,
        Op::BranchUnless(INTID, 1023, base + 12),
        Op::Eret,
        Op::BranchUnless(INTID, 27, base + 20),
        Op::SetVirtualTimer(0, 0),
        Op::BranchUnless(INTID, 30, base + 28),
        Op::Msr(names::CNTP_CTL_EL0, 0),
        Op::EndOfInterrupt,
        Op::Eret,
    ];
    (base, ops)
}

/// An SGI to a set of vCPUs.
pub fn sgi(gic: GicVersion, intid: u64, targets: u64) -> Op {
    match gic {
        GicVersion::V2 => Op::Store(gicd(0xf00), Width::Word, targets << 16 | intid),
        GicVersion::V3 => Op::Msr(names::ICC_SGI1R_EL1, intid << 24 | targets),
    }
}

pub fn cpu_on(vcpu: u64, entry: u64) -> Op {
    Op::Hvc([CPU_ON, vcpu, entry, 0x77])
}

pub fn psci(function: u64) -> Op {
    Op::Hvc([function, 0, 0, 0])
}

/// `WFI` for ever at [`LOOP`].
pub fn wait_loop() -> [Op; 2] {
    [Op::Wfi, Op::Branch(LOOP)]
}

pub const BOTH: [GicVersion; 2] = [GicVersion::V2, GicVersion::V3];
