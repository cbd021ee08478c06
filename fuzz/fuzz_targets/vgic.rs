//! Any MMIO, SGIs and input lines of a vGIC, with guests that acknowledge and end what they get, on
//! CPUs with any number of list registers (`vgic::fake`, which refuses what the architecture calls
//! UNPREDICTABLE). Claims: an SPI is in one vCPU's list registers; whatever can be delivered is
//! offered; a level input that is high is pending; a physical interrupt that was handed over is
//! given back once and never forgotten; in the end everything calms down.
#![no_main]

use std::collections::BTreeSet;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::exit::Width;
use plinth::vcpu::VcpuId;
use plinth::vgic::fake::CpuInterface;
use plinth::vgic::{Frame, GicVersion, INTERRUPTS, IntId, LrState, Notify, SgiRegister, Vgic};
use plinth_fuzz::{gic, often, width};

#[derive(Debug)]
enum Step {
    Read {
        frame: Frame,
        offset: u64,
        width: Width,
    },
    Write {
        frame: Frame,
        offset: u64,
        width: Width,
        value: u64,
    },
    Sgi(SgiRegister, u64),
    Level(IntId, bool),
    Raise(IntId),
    Enter,
    Acknowledge,
    End,
    /// An `EOIR` write that names what the guest likes.
    EndOther(IntId, u8),
    Deactivate(IntId, u8),
    EoiMode(bool),
    Check,
    Unload,
    TakeStale,
    Reset,
}

#[derive(Debug)]
struct Input {
    version: GicVersion,
    vcpus: u8,
    list_registers: u8,
    links: Vec<(u8, IntId)>,
    steps: Vec<(u8, Step)>,
}

/// Few INTIDs, so that they meet.
fn intid(u: &mut Unstructured<'_>) -> Result<IntId> {
    Ok(IntId(match u.int_in_range(0..=7)? {
        0 => u.arbitrary()?,
        1 => u.int_in_range(0..=INTERRUPTS - 1)?,
        _ => *u.choose(&[0, 1, 27, 30, 33, 34, 35, 64])?,
    }))
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const BANKED: [u64; 10] =
            [0x80, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0xf10, 0xf20, 0xc00];
        let place = |u: &mut Unstructured<'a>| -> Result<_> {
            let base = match u.int_in_range(0..=7)? {
                0 => u64::from(u.arbitrary::<u16>()?),
                1 | 2 => *u.choose(&[0, 4, 0x14, 0xf00])?,
                3 | 4 => *u.choose(&[0x400, 0x420, 0x800, 0x820, 0x6100, 0x6200])?,
                _ => *u.choose(&BANKED)?,
            };
            let offset = base + u64::from(u.arbitrary::<u8>()? % 16);
            let width = width(u)?;
            let offset = if u.ratio(15, 16)? { offset & !(width.bytes() - 1) } else { offset };
            Ok(match u.ratio(1, 3)? {
                true => (
                    Frame::Redistributor(VcpuId(u.arbitrary::<u8>()? % 9)),
                    offset | 0x1_0000,
                    width,
                ),
                false => (Frame::Distributor, offset, width),
            })
        };
        Ok(match u.int_in_range(0..=25)? {
            0 | 1 => {
                let (frame, offset, width) = place(u)?;
                Self::Read { frame, offset, width }
            }
            2..=9 => {
                let (frame, offset, width) = place(u)?;
                let value = often(u, &[0, 1, 3, 7, u64::MAX, 0x0101_0101, 0xa0a0_a0a0])?;
                Self::Write { frame, offset, width, value }
            }
            10 => {
                const ALL: [SgiRegister; 3] =
                    [SgiRegister::Sgi0r, SgiRegister::Sgi1r, SgiRegister::Asgi1r];
                let value = often(u, &[1, 3, 1 << 24 | 2, 1 << 40])?;
                Self::Sgi(*u.choose(&ALL)?, value)
            }
            11..=13 => Self::Level(intid(u)?, u.arbitrary()?),
            14 => Self::Raise(intid(u)?),
            15 | 16 => Self::Enter,
            17 | 18 => Self::Acknowledge,
            19 => Self::End,
            20 => match u.int_in_range(0..=2)? {
                0 => Self::EndOther(intid(u)?, u.arbitrary::<u8>()? % 8),
                1 => Self::Deactivate(intid(u)?, u.arbitrary::<u8>()? % 8),
                _ => Self::EoiMode(u.arbitrary()?),
            },
            21 | 22 => Self::Check,
            23 => Self::Unload,
            24 => Self::TakeStale,
            _ => Self::Reset,
        })
    }
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let (version, vcpus) = (gic(u)?, u.int_in_range(1..=8)?);
        let list_registers = *u.choose(&[1, 2, 4, 16])?;
        let mut links = Vec::new();
        for _ in 0..u.int_in_range(0..=3)? {
            links.push((u.arbitrary::<u8>()? % 8, intid(u)?));
        }
        Ok(Self { version, vcpus, list_registers, links, steps: u.arbitrary()? })
    }
}

/// A vCPU's CPU, and what its guest has acknowledged and not yet ended.
struct Cpu {
    interface: CpuInterface,
    taken: Vec<(IntId, u8)>,
}

struct World {
    vgic: Vgic,
    cpus: Vec<Cpu>,
    lines: BTreeSet<(u8, IntId)>,
    linked: BTreeSet<(u8, IntId)>,
    /// Physical interrupts that are active on a guest's behalf.
    physical: BTreeSet<(u8, IntId)>,
}

/// Whose an input is: an SPI's is everybody's, and kept as vCPU 0's.
fn input_of(vcpu: u8, intid: IntId) -> (u8, IntId) {
    (if intid.0 < 32 { vcpu } else { 0 }, intid)
}

impl World {
    fn new(input: &Input) -> Self {
        let mut world = Self {
            vgic: Vgic::new(input.version, input.vcpus.into()),
            cpus: Vec::new(),
            lines: BTreeSet::new(),
            linked: BTreeSet::new(),
            physical: BTreeSet::new(),
        };
        for &(vcpu, intid) in &input.links {
            let vcpu = vcpu % input.vcpus;
            if (16..INTERRUPTS).contains(&intid.0) {
                world.vgic.link(VcpuId(vcpu), intid, Some(intid));
                world.linked.insert(input_of(vcpu, intid));
            }
        }
        for _ in 0..input.vcpus {
            let interface = CpuInterface::new(input.list_registers.into());
            world.cpus.push(Cpu { interface, taken: Vec::new() });
        }
        world
    }

    /// What the CPU of `v` deactivated physically was active.
    fn account(&mut self, v: u8) {
        for intid in core::mem::take(&mut self.cpus[usize::from(v)].interface.deactivated) {
            assert!(self.physical.remove(&input_of(v, intid)), "{intid:?} was given back twice");
        }
    }

    fn enter(&mut self, v: u8) {
        let interface = &mut self.cpus[usize::from(v)].interface;
        let notify = interface.settle(&mut self.vgic, VcpuId(v));
        self.account(v);
        self.tell(notify);
    }

    /// Whoever is told enters, and may have something for others.
    fn tell(&mut self, notify: Notify) {
        let mut left: Vec<VcpuId> = notify.iter().collect();
        let mut rounds = 0;
        while let Some(vcpu) = left.pop() {
            let interface = &mut self.cpus[vcpu.index()].interface;
            left.extend(interface.settle(&mut self.vgic, vcpu).iter());
            self.account(vcpu.0);
            rounds += 1;
            assert!(rounds < 1000, "vCPUs keep notifying one another");
        }
    }

    fn fold(&mut self, v: u8) -> Notify {
        let notify = self.vgic.fold(VcpuId(v), &mut self.cpus[usize::from(v)].interface);
        self.account(v);
        notify
    }

    fn unload(&mut self, v: u8) -> Notify {
        let notify = self.vgic.unload(VcpuId(v), &mut self.cpus[usize::from(v)].interface);
        self.account(v);
        notify
    }

    fn line(&mut self, v: u8, intid: IntId, high: bool) -> Notify {
        if !(16..INTERRUPTS).contains(&intid.0) {
            return self.vgic.set_level(VcpuId(v), intid, high);
        }
        let key = input_of(v, intid);
        if self.linked.contains(&key) {
            // The hardware says high once for each time that the physical interrupt becomes active.
            if high && !self.physical.insert(key) {
                return Notify::NONE;
            }
        } else if high {
            self.lines.insert(key);
        } else {
            self.lines.remove(&key);
        }
        self.vgic.set_level(VcpuId(v), intid, high)
    }

    fn raise(&mut self, v: u8, intid: IntId) -> Notify {
        let key = input_of(v, intid);
        if self.linked.contains(&key) && !self.physical.insert(key) {
            return Notify::NONE;
        }
        self.vgic.raise(VcpuId(v), intid)
    }

    fn end(&mut self, v: u8, named: Option<(IntId, u8)>) {
        let cpu = &mut self.cpus[usize::from(v)];
        let Some(last) = cpu.taken.pop() else { return };
        let (intid, source) = named.unwrap_or(last);
        cpu.interface.end(intid, source);
        self.after(v);
    }

    /// The guest made the interface change; the CPU takes the maintenance interrupt if there is one.
    fn after(&mut self, v: u8) {
        self.account(v);
        if self.cpus[usize::from(v)].interface.maintenance() {
            // A maintenance interrupt is an exit as any other.
            self.enter(v);
        }
    }

    fn step(&mut self, v: u8, step: &Step) {
        match *step {
            Step::Read { frame, offset, width } => {
                let notify = self.fold(v);
                let value = self.vgic.read(VcpuId(v), frame, offset, width);
                assert_eq!(value & !width.mask(), 0);
                self.tell(notify);
                self.enter(v);
            }
            Step::Write { frame, offset, width, value } => {
                let folded = self.fold(v);
                let notify = self.vgic.write(VcpuId(v), frame, offset, width, value);
                self.tell(folded | notify);
                self.enter(v);
            }
            Step::Sgi(register, value) => {
                let folded = self.fold(v);
                let notify = self.vgic.send_sgi(VcpuId(v), register, value);
                self.tell(folded | notify);
                self.enter(v);
            }
            Step::Level(intid, high) => {
                let notify = self.line(v, intid, high);
                self.tell(notify);
            }
            Step::Raise(intid) => {
                let notify = self.raise(v, intid);
                self.tell(notify);
            }
            Step::Enter => self.enter(v),
            Step::Acknowledge => {
                let cpu = &mut self.cpus[usize::from(v)];
                cpu.taken.extend(cpu.interface.acknowledge());
                self.after(v);
            }
            Step::End => self.end(v, None),
            Step::EndOther(intid, source) => self.end(v, Some((intid, source))),
            Step::Deactivate(intid, source) => {
                self.cpus[usize::from(v)].interface.deactivate_interrupt(intid, source);
                self.after(v);
            }
            Step::EoiMode(on) => self.cpus[usize::from(v)].interface.eoi_mode = on,
            Step::Check => self.check(),
            Step::Unload => {
                let notify = self.unload(v);
                self.tell(notify);
            }
            Step::TakeStale => {
                let notify = self.vgic.take_stale();
                self.tell(notify);
            }
            Step::Reset => {
                self.unload_all();
                self.vgic.reset();
                for cpu in &mut self.cpus {
                    let count = plinth::vgic::ListRegisters::count(&cpu.interface);
                    *cpu = Cpu { interface: CpuInterface::new(count), taken: Vec::new() };
                }
                // What the reset left to give back is given back at the next entry.
                self.enter_all();
            }
        }
        let mut held = BTreeSet::new();
        for lr in self.cpus.iter().flat_map(|cpu| cpu.interface.held()) {
            assert!(lr.intid.0 < 32 || held.insert(lr.intid), "{:?} is held twice", lr.intid);
        }
    }

    fn vcpus(&self) -> std::ops::Range<u8> {
        0..self.vgic.vcpus()
    }

    fn enter_all(&mut self) {
        self.vcpus().for_each(|v| self.enter(v));
    }

    fn unload_all(&mut self) {
        for v in self.vcpus() {
            // Nobody enters any more, so nobody has to be told.
            let _ = self.unload(v);
        }
        assert!(self.vgic.is_sound());
    }

    /// Folds everybody, asks what there is to deliver, and sees that it is offered.
    fn check(&mut self) {
        let all = self.vcpus().map(|v| self.fold(v)).fold(Notify::NONE, |all, one| all | one);
        for &(v, intid) in &self.lines {
            let pending = self.vgic.is_pending(VcpuId(v), intid);
            assert!(pending || self.is_edge(v, intid), "the level of {intid:?} is lost");
        }
        for &(v, intid) in &self.physical {
            assert!(self.vgic.holds_physical(VcpuId(v), intid), "{intid:?} is lost");
        }
        let wanted: Vec<bool> = self.vcpus().map(|v| self.vgic.has_pending(VcpuId(v))).collect();
        self.tell(all);
        self.enter_all();
        for (cpu, wanted) in self.cpus.iter().zip(wanted) {
            let offered = cpu.interface.held().any(|lr| lr.state == LrState::Pending);
            assert_eq!(offered, wanted, "offered, wanted");
        }
    }

    /// `ICFGR` as the guest reads it.
    fn is_edge(&self, v: u8, intid: IntId) -> bool {
        let vcpu = VcpuId(v);
        let offset = 0xc00 + u64::from(intid.0 / 16) * 4;
        let (frame, offset) = match self.vgic.version() {
            GicVersion::V3 if intid.0 < 32 => (Frame::Redistributor(vcpu), 0x1_0000 + offset),
            _ => (Frame::Distributor, offset),
        };
        self.vgic.clone().read(vcpu, frame, offset, Width::Word) >> (intid.0 % 16 * 2) & 2 != 0
    }

    /// With all inputs low, guests that take and end everything have nothing to take soon.
    fn drain(&mut self) {
        for (v, intid) in self.lines.clone() {
            let notify = self.line(v, intid, false);
            self.tell(notify);
        }
        let mut taken = 0;
        loop {
            let before = taken;
            for v in self.vcpus() {
                self.cpus[usize::from(v)].interface.eoi_mode = false;
                while !self.cpus[usize::from(v)].taken.is_empty() {
                    self.end(v, None);
                }
                self.enter(v);
                while let Some(got) = self.cpus[usize::from(v)].interface.acknowledge() {
                    self.cpus[usize::from(v)].taken.push(got);
                    self.after(v);
                    self.end(v, None);
                    self.enter(v);
                    taken += 1;
                    assert!(taken < 5000, "interrupts keep coming");
                }
            }
            if taken == before {
                break;
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let mut world = World::new(&input);
    for (v, step) in &input.steps {
        world.step(v % input.vcpus, step);
    }
    world.check();
    world.drain();
    world.check();
    world.unload_all();
});
