//! The same interrupts the slow way: one record for each, no list registers, and the state machine of
//! the manuals ("Interrupt handling state machine") with one step for each thing that happens.

use super::*;

#[derive(Clone, Default, Hash)]
pub struct Interrupt {
    pub enabled: bool,
    pub latch: bool,
    pub line: bool,
    pub edge: bool,
    pub group1: bool,
    pub priority: u8,
    /// The vCPU it is active on.
    pub active: Option<usize>,
    /// Of a GICv2 SGI: who sent it. It is latched while there is somebody.
    pub sources: u8,
    /// The vCPU it goes to.
    pub route: Option<usize>,
}

impl Interrupt {
    pub fn pending(&self) -> bool {
        self.latch || self.sources != 0 || self.line && !self.edge
    }
}

#[derive(Clone)]
pub struct Reference {
    pub version: GicVersion,
    pub groups: [bool; 2],
    private: Vec<Vec<Interrupt>>,
    shared: Vec<Interrupt>,
    /// Priorities of what each vCPU is handling.
    pub running: Vec<Vec<u8>>,
}

impl Reference {
    pub fn new(version: GicVersion, vcpus: usize) -> Self {
        let group1 = version == GicVersion::V3;
        let mut private = Vec::new();
        for v in 0..vcpus {
            let ppi = Interrupt { group1, route: Some(v), ..Interrupt::default() };
            let sgi = Interrupt { enabled: true, edge: true, ..ppi.clone() };
            private.push([vec![sgi; 16], vec![ppi; 16]].concat());
        }
        let shared = vec![Interrupt { group1, route: Some(0), ..Interrupt::default() }; 32];
        Self { version, groups: [true; 2], private, shared, running: vec![Vec::new(); vcpus] }
    }

    /// All of it, as one number.
    pub fn hash(&self, state: &mut impl core::hash::Hasher) {
        use core::hash::Hash;
        (self.groups, &self.private, &self.shared, &self.running).hash(state);
    }

    pub fn of(&mut self, v: usize, intid: u16) -> &mut Interrupt {
        match intid.checked_sub(32) {
            None => &mut self.private[v][usize::from(intid)],
            Some(spi) => &mut self.shared[usize::from(spi)],
        }
    }

    pub fn has_sources(&self, intid: u16) -> bool {
        self.version == GicVersion::V2 && intid < 16
    }

    /// Whether `v` could be given `intid`, whatever it is handling.
    pub fn deliverable(&mut self, v: usize, intid: u16) -> bool {
        let groups = self.groups;
        let irq = self.of(v, intid);
        irq.enabled
            && irq.pending()
            && irq.active.is_none()
            && irq.route == Some(v)
            && groups[usize::from(irq.group1)]
    }

    /// What `v` would take now.
    pub fn best(&mut self, v: usize) -> Option<u16> {
        let running = self.running[v].last().copied().unwrap_or(0xff);
        let waiting: Vec<u16> = (0..64).filter(|&intid| self.deliverable(v, intid)).collect();
        let ranked = waiting.into_iter().map(|intid| (self.of(v, intid).priority, intid));
        let (priority, intid) = ranked.min()?;
        (priority < running).then_some(intid)
    }

    /// `v` takes `intid`, which has to be deliverable, and of a GICv2 SGI that `source`.
    pub fn acknowledge(&mut self, v: usize, intid: u16, source: u8) {
        assert!(self.deliverable(v, intid), "INTID {intid} was delivered to vCPU {v} for nothing");
        let has_sources = self.has_sources(intid);
        let irq = self.of(v, intid);
        if has_sources {
            assert!(irq.sources & 1 << source != 0, "SGI {intid} from {source} was never sent");
            irq.sources &= !(1 << source);
        }
        irq.latch = false;
        irq.active = Some(v);
        let priority = irq.priority;
        self.running[v].push(priority);
    }

    /// `v` deactivates `intid`.
    pub fn deactivate(&mut self, v: usize, intid: u16) {
        let irq = self.of(v, intid);
        if irq.active == Some(v) {
            irq.active = None;
        }
    }

    pub fn set_level(&mut self, v: usize, intid: u16, high: bool) {
        let irq = self.of(v, intid);
        irq.latch |= high && !irq.line && irq.edge;
        irq.line = high;
    }

    /// The word of `v`'s registers that starts at INTID `first`, a bit for each that is `so`.
    pub fn word(&mut self, v: usize, first: u16, so: impl Fn(&Interrupt) -> bool) -> u64 {
        (0..32).fold(0, |word, n| word | u64::from(so(self.of(v, first + n))) << n)
    }
}
