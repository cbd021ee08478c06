//! Random guests, devices and schedules, against the reference.

use super::reference::Reference;
use super::*;
use crate::testing::pick;
use proptest::prelude::*;

/// The interrupts it is about: SGIs, PPIs, SPIs.
const INTIDS: [u16; 8] = [0, 3, 20, 27, 33, 48, 49, 63];

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Enable(bool),
    Pend(bool),
    Activate(bool),
    Priority(u8),
    Group(bool),
    Config(bool),
    Route(u8),
    Groups(u8),
    Sgi(u8),
    Sources(u8, bool),
    Level(bool),
    Raise,
    Acknowledge { synced: bool },
    End,
    Deactivate(usize),
    Unload,
    Rest,
    Compare,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::{
        Acknowledge, Activate, Compare, Config, Deactivate, Enable, End, Group, Groups, Level,
        Pend, Priority, Raise, Rest, Route, Sgi, Sources, Unload,
    };
    prop_oneof![
        3 => any::<bool>().prop_map(Enable),
        2 => any::<bool>().prop_map(Pend),
        1 => any::<bool>().prop_map(Activate),
        2 => (0..4_u8).prop_map(|priority| Priority(priority << 3)),
        1 => any::<bool>().prop_map(Group),
        1 => any::<bool>().prop_map(Config),
        2 => (0..16_u8).prop_map(Route),
        1 => prop_oneof![3 => Just(3_u8), 1 => 0..4_u8].prop_map(Groups),
        3 => (0..16_u8).prop_map(Sgi),
        1 => (0..16_u8, any::<bool>()).prop_map(|(list, set)| Sources(list, set)),
        5 => any::<bool>().prop_map(Level),
        4 => Just(Raise),
        8 => any::<bool>().prop_map(|synced| Acknowledge { synced }),
        7 => Just(End),
        4 => (0..8_usize).prop_map(Deactivate),
        1 => Just(Unload),
        1 => Just(Rest),
        1 => Just(Compare),
    ]
}

#[derive(Clone)]
pub struct Run {
    pub machine: Machine,
    pub reference: Reference,
    vcpus: u8,
    /// So many list registers that every interrupt has one. With fewer, the hardware does not say
    /// which interrupts ended, and guests that end them out of order are not followed.
    ample: bool,
    eoi_mode: bool,
    /// What each vCPU handles, and (`EOImode` 1) what it has yet to deactivate.
    pub handling: Vec<Vec<(IntId, u8)>>,
    pub dropped: Vec<Vec<(IntId, u8)>>,
}

impl Run {
    fn new(version: GicVersion, vcpus: u8, list_registers: usize, eoi_mode: bool) -> Self {
        Self::about(&INTIDS, version, vcpus, list_registers, eoi_mode)
    }

    /// A machine whose guest and devices have to do with these interrupts, which are enabled.
    pub fn about(
        intids: &[u16],
        version: GicVersion,
        vcpus: u8,
        list_registers: usize,
        eoi_mode: bool,
    ) -> Self {
        let mut machine = Machine::new(version, vcpus, list_registers);
        machine.cpus.iter_mut().for_each(|cpu| cpu.eoi_mode = eoi_mode);
        let count = usize::from(vcpus);
        let mut run = Self {
            machine,
            reference: Reference::new(version, count),
            vcpus,
            ample: list_registers >= intids.len(),
            eoi_mode,
            handling: vec![Vec::new(); count],
            dropped: vec![Vec::new(); count],
        };
        for v in 0..vcpus {
            for intid in intids {
                run.step(v, *intid, Step::Enable(true));
            }
        }
        run
    }

    /// vCPU `v` writes `value` to the register at `offset` of the bank with `intid`, wherever its GIC
    /// version has it.
    fn write(&mut self, v: u8, intid: u16, offset: u64, width: Width, value: u64) {
        let private = self.machine.vgic.version() == GicVersion::V3 && intid < 32;
        let (frame, base) = match private {
            true => (Frame::Redistributor(vcpu(v)), 0x1_0000),
            false => (Frame::Distributor, 0),
        };
        self.machine.access(v, frame, base + offset, width, Some(value));
    }

    /// Writes the one bit of `intid` to a register with a bit for each.
    fn write_bit(&mut self, v: u8, intid: u16, base: u64) {
        let offset = base + u64::from(intid / 32) * 4;
        self.write(v, intid, offset, Width::Word, 1 << (intid % 32));
    }

    fn sync_all(&mut self) {
        (0..self.vcpus).for_each(|v| self.machine.sync(v));
    }

    pub fn step(&mut self, v: u8, intid: u16, step: Step) {
        let at = usize::from(v);
        let sources = self.reference.has_sources(intid);
        let two = self.machine.vgic.version() == GicVersion::V2;
        let exist = (1 << self.vcpus) - 1;
        match step {
            Step::Enable(on) => {
                self.reference.of(at, intid).enabled = on;
                self.write_bit(v, intid, if on { 0x100 } else { 0x180 });
            }
            Step::Pend(on) => {
                if !sources {
                    self.reference.of(at, intid).latch = on;
                }
                self.write_bit(v, intid, if on { 0x200 } else { 0x280 });
            }
            Step::Activate(on) => {
                if !self.ample || sources {
                    return;
                }
                let irq = self.reference.of(at, intid);
                irq.active = on.then(|| irq.active.or(irq.route).unwrap_or(at));
                self.write_bit(v, intid, if on { 0x300 } else { 0x380 });
            }
            Step::Priority(priority) => {
                let irq = self.reference.of(at, intid);
                if self.ample || irq.active.is_none() {
                    irq.priority = priority;
                    let offset = 0x400 + u64::from(intid);
                    self.write(v, intid, offset, Width::Byte, priority.into());
                }
            }
            Step::Group(group1) => {
                self.reference.of(at, intid).group1 = group1;
                let first = intid / 32 * 32;
                let word = self.reference.word(at, first, |irq| irq.group1);
                self.write(v, intid, 0x80 + u64::from(intid / 32) * 4, Width::Word, word);
            }
            Step::Config(edge) => {
                if intid >= 32 {
                    self.reference.of(at, intid).edge = edge;
                }
                let first = intid / 16 * 16;
                let value = (0..16).fold(0, |value, n| {
                    value | u64::from(self.reference.of(at, first + n).edge) << (2 * n + 1)
                });
                self.write(v, intid, 0xc00 + u64::from(intid / 16) * 4, Width::Word, value);
            }
            Step::Route(to) if intid >= 32 => {
                let irq = self.reference.of(at, intid);
                if two {
                    irq.route = (0..usize::from(self.vcpus)).find(|n| to & 1 << n != 0);
                    self.write(v, intid, 0x800 + u64::from(intid), Width::Byte, to.into());
                } else {
                    irq.route = (to < self.vcpus).then_some(usize::from(to));
                    self.write(v, intid, 0x6000 + 8 * u64::from(intid), Width::Word, to.into());
                }
            }
            Step::Route(_) => {}
            Step::Groups(groups) => {
                self.reference.groups = [groups & 1 != 0, groups & 2 != 0];
                self.machine.write(v, 0x000, groups.into());
            }
            Step::Sgi(list) => {
                let sgi = intid % 16;
                for n in (0..usize::from(self.vcpus)).filter(|n| list & 1 << n != 0) {
                    let irq = self.reference.of(n, sgi);
                    if two {
                        irq.sources |= 1 << v;
                    } else {
                        irq.latch = true;
                    }
                }
                if two {
                    self.machine.write(v, 0xf00, u32::from(list) << 16 | u32::from(sgi));
                } else {
                    let value = u64::from(list) | u64::from(sgi) << 24;
                    let notify = self.machine.vgic.send_sgi(vcpu(v), SgiRegister::Sgi1r, value);
                    self.machine.settle(notify);
                }
            }
            Step::Sources(list, set) => {
                if sources {
                    let irq = self.reference.of(at, intid);
                    irq.sources =
                        if set { irq.sources | list & exist } else { irq.sources & !list };
                    let base = if set { 0xf20 } else { 0xf10 };
                    self.write(v, intid, base + u64::from(intid), Width::Byte, list.into());
                }
            }
            Step::Level(high) => {
                if intid >= 16 {
                    self.reference.set_level(at, intid, high);
                    self.machine.set_level(v, IntId(intid), high);
                    // Nobody is told of a falling input; here all come by.
                    self.sync_all();
                }
            }
            Step::Raise => {
                if intid >= 16 {
                    self.reference.of(at, intid).latch = true;
                    self.machine.raise(v, IntId(intid));
                }
            }
            Step::Acknowledge { synced } => self.acknowledge(v, synced),
            Step::End => {
                let Some((intid, source)) = self.handling[at].pop() else { return };
                self.machine.cpu(v).end(intid, source);
                self.reference.running[at].pop();
                if self.eoi_mode {
                    self.dropped[at].push((intid, source));
                } else {
                    self.reference.deactivate(at, intid.0);
                }
            }
            Step::Deactivate(which) => {
                let reference = &mut self.reference;
                let mut order = |irq: &(IntId, u8)| (reference.of(at, irq.0.0).priority, irq.0);
                self.dropped[at].sort_by_key(&mut order);
                let first = self.dropped[at].first().map(&mut order);
                let in_order = self.handling[at].iter().all(|irq| first <= Some(order(irq)));
                let count = self.dropped[at].len();
                if count > 0 && (self.ample || in_order) {
                    let which = if self.ample { which % count } else { 0 };
                    let (intid, source) = self.dropped[at].remove(which);
                    self.machine.cpu(v).deactivate_interrupt(intid, source);
                    self.reference.deactivate(at, intid.0);
                }
            }
            Step::Unload => {
                self.machine.unload(v);
                assert_eq!(self.machine.cpu(v).held().count(), 0);
                self.machine.sync(v);
            }
            Step::Rest => self.machine.rest(v),
            Step::Compare => self.compare(),
        }
        // The hardware's maintenance interrupt.
        for n in 0..self.vcpus {
            if self.machine.cpu(n).maintenance() {
                self.machine.sync(n);
            }
        }
        self.no_interrupt_is_in_two_places();
        self.what_was_written_is_what_the_model_takes_for_held();
    }

    fn acknowledge(&mut self, v: u8, synced: bool) {
        let at = usize::from(v);
        if synced {
            self.machine.sync(v);
        }
        let mut exact = synced;
        let mut taken = self.machine.cpu(v).acknowledge();
        if taken.is_none() && !synced {
            self.machine.sync(v);
            exact = true;
            taken = self.machine.cpu(v).acknowledge();
        }
        if exact {
            assert_eq!(taken.map(|taken| taken.0.0), self.reference.best(at), "on vCPU {v}");
        }
        if let Some((intid, source)) = taken {
            self.reference.acknowledge(at, intid.0, source);
            self.handling[at].push((intid, source));
        }
    }

    /// Every pending and active bit, as every vCPU reads it when all have folded.
    pub fn compare(&mut self) {
        for v in 0..self.vcpus {
            self.machine.fold(v);
        }
        let three = self.machine.vgic.version() == GicVersion::V3;
        for v in 0..self.vcpus {
            self.machine.fold(v);
            let at = usize::from(v);
            let waits = (0..64).any(|intid| self.reference.deliverable(at, intid));
            assert_eq!(self.machine.vgic.has_pending(vcpu(v)), waits, "has_pending of vCPU {v}");
            for bank in 0..2_u16 {
                let (frame, base) = match (three, bank) {
                    (true, 0) => (Frame::Redistributor(vcpu(v)), 0x1_0000),
                    _ => (Frame::Distributor, 0),
                };
                let mut read = |offset: u64| {
                    let offset = base + offset + 4 * u64::from(bank);
                    self.machine.vgic.read(vcpu(v), frame, offset, Width::Word)
                };
                let read = [read(0x100), read(0x200), read(0x300)];
                let expected = [
                    self.reference.word(at, bank * 32, |irq| irq.enabled),
                    self.reference.word(at, bank * 32, super::reference::Interrupt::pending),
                    self.reference.word(at, bank * 32, |irq| irq.active.is_some()),
                ];
                assert_eq!(read, expected, "enabled, pending, active on vCPU {v}, bank {bank}");
            }
        }
        self.sync_all();
    }

    /// Else what is given again is something else.
    fn what_was_written_is_what_the_model_takes_for_held(&self) {
        for (v, cpu) in self.machine.cpus.iter().enumerate() {
            let interface = &self.machine.vgic.private[v].interface;
            if self.machine.vgic.dirty.has(v) || !interface.live {
                continue;
            }
            for (held, written) in interface.slots.iter().zip(cpu.written()) {
                assert!(held.is_none() || held == written, "{held:?}, written {written:?}");
            }
        }
    }

    fn no_interrupt_is_in_two_places(&self) {
        // Twice in one CPU's list registers would have stopped the fake.
        let shared =
            |cpu: &CpuInterface| cpu.held().filter(|lr| lr.intid.0 >= 32).collect::<Vec<_>>();
        let all: Vec<_> = self.machine.cpus.iter().flat_map(shared).map(|lr| lr.intid).collect();
        for (n, intid) in all.iter().enumerate() {
            assert!(!all[..n].contains(intid), "{intid:?} is in two vCPUs' list registers");
        }
    }

    /// Takes and ends everything there is, with all inputs low: it has to come to rest.
    pub fn drain(&mut self) {
        for v in 0..self.vcpus {
            for intid in INTIDS.into_iter().filter(|&intid| intid >= 16) {
                self.step(v, intid, Step::Level(false));
            }
        }
        for _ in 0..200 {
            for v in 0..self.vcpus {
                self.step(v, 0, Step::End);
                self.step(v, 0, Step::Deactivate(0));
                self.step(v, 0, Step::Acknowledge { synced: false });
            }
            let busy = |v: usize| !self.handling[v].is_empty() || !self.dropped[v].is_empty();
            if !(0..usize::from(self.vcpus)).any(busy) {
                break;
            }
        }
        self.compare();
        for v in 0..self.vcpus {
            assert!(self.handling[usize::from(v)].is_empty());
            self.machine.unload(v);
        }
        assert!(self.machine.vgic.is_sound());
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(96, 1))]

    #[test]
    fn a_guest_cannot_tell_the_controller_from_the_reference(
        version in prop_oneof![Just(GicVersion::V2), Just(GicVersion::V3)],
        vcpus in 1..=4_u8,
        list_registers in prop_oneof![Just(1_usize), Just(2), Just(4), Just(16)],
        eoi_mode in any::<bool>(),
        steps in proptest::collection::vec((0..4_u8, 0..INTIDS.len(), step()), 0..pick(150, 20)),
    ) {
        let mut run = Run::new(version, vcpus, list_registers, eoi_mode);
        for (v, intid, step) in steps {
            run.step(v % vcpus, INTIDS[intid], step);
        }
        run.compare();
        run.drain();
    }

    /// A level-triggered physical interrupt, linked: as long as its device asserts it, it is on its
    /// way to the guest, and when all is over it is not active.
    #[test]
    fn a_linked_device_is_neither_lost_nor_left_dead(
        forgets_levels in any::<bool>(),
        list_registers in prop_oneof![Just(1_usize), Just(2), Just(4)],
        steps in proptest::collection::vec(0..10_u8, 0..pick(80, 20)),
        looks in proptest::collection::vec(any::<bool>(), 80),
    ) {
        let mut machine = Machine::v2(1, list_registers);
        machine.cpu(0).forgets_levels = forgets_levels;
        machine.vgic.link(vcpu(0), TIMER, Some(TIMER));
        let (mut asserted, mut active, mut known) = (false, false, 0);
        // A look folds, and what comes next takes the long way.
        let mut looks = looks.into_iter();
        let mut handling = Vec::new();
        let drain = [6, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 8];
        for step in steps.into_iter().chain(drain) {
            match step {
                0 => asserted = true,
                1 => asserted = false,
                2 => handling.extend(machine.ack(0)),
                3 => if let Some(intid) = handling.pop() {
                    if intid == TIMER { asserted = false; }
                    machine.end(0, intid);
                },
                4 => machine.unload(0),
                // The line stays high, or rises again, before the end.
                9 => if let Some(intid) = handling.pop() {
                    machine.end(0, intid);
                },
                5 => machine.raise(0, DISK),
                6 => machine.write(0, 0x100, 1 << 27),
                7 => machine.write(0, 0x180, 1 << 27),
                // The hypervisor finds the input low and takes the interrupt back.
                _ => if !asserted { machine.set_level(0, TIMER, false) },
            }
            machine.sync(0);
            active &= machine.cpu(0).deactivated.len() == known;
            known = machine.cpu(0).deactivated.len();
            if asserted && !active {
                active = true; // acknowledged at EL2, handed over
                machine.set_level(0, TIMER, true);
            }
            if !looks.next().unwrap_or(true) {
                continue;
            }
            machine.fold(0);
            let enabled = machine.vgic.read(vcpu(0), Frame::Distributor, 0x100, Width::Word) & 1 << 27 != 0;
            let has = machine.vgic.is_pending(vcpu(0), TIMER) || machine.vgic.is_active(vcpu(0), TIMER);
            prop_assert!(!asserted || has, "asserted, and not on its way; enabled: {enabled}");
            prop_assert_eq!(machine.vgic.holds_physical(vcpu(0), TIMER), active);
            machine.sync(0);
        }
        prop_assert!(!asserted && !active && handling.is_empty());
    }
}
