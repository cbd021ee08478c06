//! A CPU that follows a script: tests run the whole hypervisor on it.
//!
//! The guest of a [`Scripted`] CPU is a machine of its own with few instructions, [`Op`]. A program is a
//! row of them from an address on, each 4 bytes long, placed in the [`World`] for one VM (told by its
//! VMID). All state of a guest is in the registers the hypervisor moves, so that a mistake in moving
//! them shows. Where a VM has no program, nothing can be fetched: an abort from stage 2.
//!
//! Interrupts are those of the fake CPU interface, [`CpuInterface`]; what `PSTATE.I` does not mask is
//! taken at `VBAR_EL1` + [`IRQ_VECTOR`]. Not modelled: EL0, caches and TLBs (see [`Recorder`]), stage 1, debug
//! registers, priority masks, groups and `EOImode`.

mod guest;
mod world;

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{CpuId, El1Register, Interrupt, Machine, NoAddress, Space};
use crate::addr::Ipa;
use crate::exit::Exit;
use crate::memory::Recorder;
use crate::platform::WiredInterrupt;
use crate::time::Ticks;
use crate::vcpu::{El1Context, ExceptionEntry, FpRegs, GuestRegs, Vcpu, VcpuId};
use crate::vgic::fake::{CpuInterface, IDLE_PRIORITY};
use crate::vgic::{IntId, Link, ListRegister, ListRegisters, LrState};
use crate::vm::ptimer::{PhysicalTimer, virtual_count};

pub use guest::{INTID, IRQ_VECTOR, Op, SYNC_VECTOR};
use world::Line;
pub use world::{Event, OnPause, Pause, Seen, World};

/// The physical interrupt of the virtual timer.
pub const VIRTUAL_TIMER: IntId = IntId::ppi(11);
/// How many instructions guests execute before EL2 is entered for nothing, a physical interrupt having
/// gone away by itself: who steps CPUs gets control back.
const FUEL: u32 = 64;

/// The vCPU in the CPU.
#[derive(Default)]
struct Guest {
    loaded: bool,
    vmid: u8,
    vcpu: u8,
    el1: El1Context,
    offset: u64,
    trap_wait: bool,
    /// It is in a `WFI`.
    waits: bool,
    /// It has caused an asynchronous abort that is still outstanding.
    abort: bool,
    fp: FpRegs,
}

/// A CPU.
pub struct Scripted {
    id: CpuId,
    world: Arc<World>,
    guest: Guest,
    interface: CpuInterface,
    /// The virtual timer's interrupt is active.
    timer_active: bool,
    deadline: Option<Ticks>,
    asleep: bool,
    /// How many instructions are left of [`FUEL`].
    fuel: u32,
    upkeep: Recorder,
    last_exit: Exit,
}

impl Scripted {
    /// The CPU `id` of `world`, with `list_registers` list registers.
    pub fn new(id: CpuId, world: Arc<World>, list_registers: usize) -> Self {
        Self {
            id,
            world,
            guest: Guest::default(),
            interface: CpuInterface::new(list_registers),
            timer_active: false,
            deadline: None,
            asleep: false,
            fuel: FUEL,
            upkeep: Recorder::default(),
            last_exit: Exit::Irq,
        }
    }

    /// Whether the CPU sleeps: it does nothing until it is interrupted.
    pub fn sleeps(&self) -> bool {
        self.asleep && !self.interrupted()
    }

    /// Whether a physical interrupt is pending.
    pub fn interrupted(&self) -> bool {
        self.world.wanted(self.id)
            || self.timer_fires()
            || self.deadline_over()
            || self.interface.maintenance()
    }

    /// The next moment at which an interrupt becomes pending by itself.
    pub fn next_event(&self) -> Option<Ticks> {
        let timer = self.virtual_timer().deadline(self.world.now(), self.guest.offset);
        timer.filter(|_| !self.timer_active).into_iter().chain(self.deadline).min()
    }

    /// Whether the virtual timer's interrupt is active.
    pub fn timer_active(&self) -> bool {
        self.timer_active
    }

    fn virtual_timer(&self) -> PhysicalTimer {
        let el1 = &self.guest.el1;
        PhysicalTimer::from_registers(el1.cntv_ctl_el0, el1.cntv_cval_el0)
    }

    fn timer_fires(&self) -> bool {
        !self.timer_active && self.virtual_timer_asserted()
    }

    fn deadline_over(&self) -> bool {
        self.deadline.is_some_and(|at| at <= self.world.now())
    }

    fn pause(&self) {
        (self.world.on_pause)(self.id, Pause::Busy);
    }

    /// Wait for an interrupt; may return without one.
    fn sleep(&mut self) {
        if !self.interrupted() {
            self.asleep = true;
            (self.world.on_pause)(self.id, Pause::Asleep(self.next_event()));
        }
    }

    fn record(&self, seen: Seen) {
        let vcpu = self.guest.loaded.then_some((self.guest.vmid, VcpuId(self.guest.vcpu)));
        let event = Event { at: self.world.now(), cpu: self.id, vcpu, seen };
        self.world.record.lock().push(event);
    }

    /// What was deactivated through a list register reaches the physical interrupt.
    fn hardware_deactivates(&mut self) {
        for intid in core::mem::take(&mut self.interface.deactivated) {
            if intid == VIRTUAL_TIMER {
                self.timer_active = false;
            } else {
                self.record(Seen::Deactivated(intid));
                if let Some(line @ Line::Active) = self.world.assigned.lock().get_mut(&intid) {
                    *line = Line::Open;
                }
            }
        }
    }

    /// Take the active priorities out of the CPU interface, as `APR` holds them.
    fn take_priorities(&mut self) -> [u32; 4] {
        let mut active = 0u128;
        while self.interface.running_priority() != IDLE_PRIORITY {
            active |= 1 << (self.interface.running_priority() >> 1);
            self.interface.eoi_mode = true; // only the priority drops
            self.interface.end(IntId(1023), 0);
        }
        self.interface.eoi_mode = false;
        core::array::from_fn(|word| (active >> (32 * word) & 0xffff_ffff) as u32)
    }

    /// Put them back, into an interface whose list registers are empty.
    fn put_priorities(&mut self, words: [u32; 4]) {
        let active = words.iter().rev().fold(0u128, |all, word| all << 32 | u128::from(*word));
        for bit in (0..128u8).rev().filter(|bit| active >> bit & 1 != 0) {
            let link = Link::Software { eoi_maintenance: false, source: 0 };
            let (intid, state) = (IntId(1023), LrState::Pending);
            let lr = ListRegister { intid, state, priority: bit << 1, group1: true, link };
            self.interface.write(0, Some(lr));
            self.interface.acknowledge();
            self.interface.write(0, None);
        }
    }
}

impl Scripted {
    /// See [`Machine::acknowledge`].
    fn most_urgent(&mut self) -> Option<Interrupt> {
        self.pause();
        self.hardware_deactivates();
        let inputs = &self.world.inputs[self.id.index()];
        if inputs.kicked.swap(false, Ordering::AcqRel) {
            return Some(Interrupt::Kick);
        }
        let mut devices = inputs.devices.lock();
        let next = self.world.next_of(&devices).and_then(|place| devices.remove(place));
        drop(devices);
        if let Some(intid) = next {
            return Some(match self.world.assigned.lock().get_mut(&intid) {
                Some(line) => {
                    *line = Line::Active;
                    Interrupt::Assigned(intid)
                }
                None => Interrupt::Device(intid),
            });
        }
        if self.timer_fires() {
            self.timer_active = true;
            return Some(Interrupt::VirtualTimer);
        }
        if self.deadline_over() {
            self.deadline = None;
            return Some(Interrupt::Deadline);
        }
        self.interface.maintenance().then_some(Interrupt::Maintenance)
    }

    fn run_until_exit(&mut self, regs: &mut GuestRegs) -> Exit {
        assert!(self.guest.loaded, "no vCPU is loaded");
        self.asleep = false;
        loop {
            self.pause();
            self.fuel = if self.fuel == 0 { FUEL } else { self.fuel - 1 };
            if self.fuel == 0 {
                return Exit::Irq;
            }
            self.world.clock.fetch_add(1, Ordering::Relaxed);
            self.hardware_deactivates();
            let waited = core::mem::take(&mut self.guest.waits);
            self.guest.waits = waited && !self.wakes_up(regs);
            if self.interrupted() {
                return Exit::Irq;
            }
            if let Some(exit) = self.execute(regs) {
                return exit;
            }
        }
    }
}

impl Machine for Scripted {
    type Lrs = CpuInterface;
    type Upkeep = Recorder;

    fn id(&self) -> CpuId {
        self.pause();
        self.id
    }

    fn now(&self) -> Ticks {
        self.pause();
        self.world.now()
    }

    fn affinity(&self) -> u64 {
        self.id.0.into()
    }

    fn stamp(&self) -> Ticks {
        self.world.now()
    }

    fn load(&mut self, vcpu: &Vcpu, space: &Space) {
        assert!(!self.guest.loaded, "another vCPU is loaded");
        self.hardware_deactivates();
        let [vcpu_id, ..] = space.mpidr.to_le_bytes();
        let [.., vmid, _] = space.vttbr.to_le_bytes();
        self.guest = Guest {
            loaded: true,
            vmid,
            vcpu: vcpu_id,
            el1: vcpu.el1.clone(),
            offset: space.counter_offset,
            trap_wait: space.trap_wait,
            waits: false,
            abort: false,
            fp: vcpu.fp.clone(),
        };
        self.interface = CpuInterface::new(self.interface.count());
        self.interface.forgets_levels = self.world.forgets_levels.load(Ordering::Relaxed);
        self.put_priorities(vcpu.gic.ap0);
        self.record(Seen::Loaded(vcpu.regs.pc));
        self.pause();
    }

    fn unload(&mut self, vcpu: &mut Vcpu) -> bool {
        assert!(self.guest.loaded, "no vCPU is loaded");
        self.pause();
        self.record(Seen::Unloaded);
        vcpu.gic.ap0 = self.take_priorities();
        let guest = core::mem::take(&mut self.guest);
        (vcpu.el1, vcpu.fp) = (guest.el1, guest.fp);
        guest.abort
    }

    fn run(&mut self, regs: &mut GuestRegs) -> Exit {
        self.last_exit = self.run_until_exit(regs);
        self.last_exit
    }

    fn last_exit(&self) -> Exit {
        self.last_exit
    }

    fn vector_base(&self) -> (u64, u64) {
        (self.guest.el1.vbar_el1, self.guest.el1.sctlr_el1)
    }

    fn set_exception(&mut self, entry: &ExceptionEntry) {
        let el1 = &mut self.guest.el1;
        (el1.elr_el1, el1.spsr_el1, el1.esr_el1) = (entry.elr, entry.spsr, entry.esr);
        el1.far_el1 = entry.far.unwrap_or(el1.far_el1);
        self.record(Seen::Injected(entry.esr));
    }

    fn read_el1(&self, register: El1Register) -> u64 {
        *register_of(&mut self.guest.el1.clone(), register)
    }

    fn copy_el1(&self) -> El1Context {
        self.guest.el1.clone()
    }

    fn translate(&self, address: u64) -> Result<Ipa, NoAddress> {
        Ok(Ipa::new(address))
    }

    fn copy_fp(&self) -> FpRegs {
        self.guest.fp.clone()
    }

    fn write_fp(&mut self, fp: &FpRegs) {
        self.guest.fp = fp.clone();
    }

    fn write_el1(&mut self, register: El1Register, value: u64) {
        *register_of(&mut self.guest.el1, register) = value;
    }

    fn write_debug(&mut self, _: &Vcpu) {}

    fn trap_vm_registers(&mut self, on: bool) {
        self.record(Seen::Trapping(on));
    }

    fn list_registers(&mut self) -> &mut CpuInterface {
        &mut self.interface
    }

    fn virtual_timer_asserted(&self) -> bool {
        self.virtual_timer().output(virtual_count(self.world.now(), self.guest.offset))
    }

    fn set_virtual_timer_active(&mut self, active: bool) {
        self.hardware_deactivates();
        self.timer_active = active;
    }

    fn interrupt_pending(&mut self) -> bool {
        self.asleep = false;
        self.pause();
        self.interrupted()
    }

    fn acknowledge(&mut self) -> Option<Interrupt> {
        let taken = self.most_urgent();
        // One that came while it fell asleep has woken it.
        self.asleep &= taken.is_none();
        taken
    }

    fn open_interrupt(&mut self, interrupt: WiredInterrupt) {
        let mut assigned = self.world.assigned.lock();
        let line = assigned.entry(interrupt.intid).or_insert(Line::Open);
        if *line == Line::Closed {
            *line = Line::Open; // one that was left active stays so
        }
        drop(assigned);
        self.record(Seen::Opened(interrupt.intid, true));
    }

    fn close_interrupt(&mut self, intid: IntId) {
        self.world.assigned.lock().insert(intid, Line::Closed);
        for inputs in &self.world.inputs {
            inputs.devices.lock().retain(|asserted| *asserted != intid);
        }
        self.record(Seen::Opened(intid, false));
    }

    fn set_deadline(&mut self, at: Option<Ticks>) {
        self.pause();
        self.deadline = at;
    }

    fn idle(&mut self) -> bool {
        if self.guest.abort {
            return false;
        }
        self.asleep = false;
        self.sleep();
        true
    }

    fn kick(&mut self, cpu: CpuId) {
        self.pause();
        self.record(Seen::Kicked(cpu));
        self.world.inputs[cpu.index()].kicked.store(true, Ordering::Release);
    }

    fn upkeep(&self) -> &Recorder {
        &self.upkeep
    }
}

fn register_of(el1: &mut El1Context, register: El1Register) -> &mut u64 {
    match register {
        El1Register::Sctlr => &mut el1.sctlr_el1,
        El1Register::Ttbr0 => &mut el1.ttbr0_el1,
        El1Register::Ttbr1 => &mut el1.ttbr1_el1,
        El1Register::Tcr => &mut el1.tcr_el1,
        El1Register::Esr => &mut el1.esr_el1,
        El1Register::Far => &mut el1.far_el1,
        El1Register::Afsr0 => &mut el1.afsr0_el1,
        El1Register::Afsr1 => &mut el1.afsr1_el1,
        El1Register::Mair => &mut el1.mair_el1,
        El1Register::Amair => &mut el1.amair_el1,
        El1Register::Elr => &mut el1.elr_el1,
        El1Register::Contextidr => &mut el1.contextidr_el1,
    }
}
