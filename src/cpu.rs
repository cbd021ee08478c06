//! The loop every CPU runs: pick a vCPU, run it, handle its exit, apply the outcome.
//!
//! EL2 runs with interrupts masked; a physical interrupt is one more reason to exit. A vCPU's registers
//! stay in the CPU until another vCPU needs it, so a guest that waits alone costs no switch.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::exit::Exit;
use crate::hypervisor::{Hypervisor, Phase};
use crate::machine::{Interrupt, Machine};
use crate::sched::Entity;
use crate::time::Ticks;
use crate::vcpu::Vcpu;
use crate::vgic::ListRegisters;
use crate::vm::layout::{PHYSICAL_TIMER_IRQ, VIRTUAL_TIMER_IRQ};
use crate::vm::tally::Reason;
use crate::vm::{Next, Requests, Stop, Vm};

/// A CPU at work.
pub struct Cpu<'h, M> {
    machine: M,
    hypervisor: &'h Hypervisor,
    loaded: Option<Loaded>,
    /// Why and when the loaded vCPU left its guest, while that goes on.
    exit: Option<(Reason, Ticks)>,
    /// What the deadline timer is set to.
    deadline: Option<Ticks>,
    /// Where the interrupt controller forgets levels: when to make it look again.
    nudge: Option<Ticks>,
    /// Gets the physical interrupts of the hypervisor's devices.
    on_device: fn(&Hypervisor, &mut M, crate::vgic::IntId),
    /// What the hypervisor has to do besides running guests.
    background: Background<M>,
}

/// Work of the hypervisor's own that any CPU does when it is due.
struct Background<M> {
    due: fn() -> Option<Ticks>,
    work: fn(&Hypervisor, &mut M),
}

/// The vCPU whose registers are in the CPU.
struct Loaded {
    entity: Entity,
    vm: Arc<Vm>,
    /// The VM's incarnation these registers belong to; after a reset they are nobody's.
    incarnation: u32,
    /// The VM's policy about `WFI` as of the load: [`Vm::traps_wait`].
    traps_wait: bool,
    vcpu: Box<Vcpu>,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// A guest ran.
    Ran,
    /// There was nothing to run, and the CPU slept.
    Slept,
    /// Every VM has stopped.
    Finished,
}

impl<'h, M: Machine> Cpu<'h, M> {
    /// A CPU that has nothing loaded. `on_device` handles the interrupts of the hypervisor's own
    /// devices.
    pub fn new(
        machine: M,
        hypervisor: &'h Hypervisor,
        on_device: fn(&Hypervisor, &mut M, crate::vgic::IntId),
    ) -> Self {
        hypervisor.clock(machine.id()).start(machine.affinity(), machine.stamp());
        let background = Background { due: || None, work: |_, _| {} };
        Self {
            machine,
            hypervisor,
            loaded: None,
            exit: None,
            deadline: None,
            nudge: None,
            on_device,
            background,
        }
    }

    /// With work of the hypervisor's own, to be done by `work` when it is `due`. Both are asked for often.
    #[must_use]
    pub fn with_background(
        self,
        due: fn() -> Option<Ticks>,
        work: fn(&Hypervisor, &mut M),
    ) -> Self {
        Self { background: Background { due, work }, ..self }
    }

    /// The machine underneath.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Run the most deserving vCPU until its next exit and deal with that, or sleep.
    pub fn step(&mut self) -> Step {
        self.let_go();
        self.hypervisor.reap(&mut self.machine);
        let Some(entity) = self.hypervisor.pick(&mut self.machine) else {
            if self.hypervisor.has_finished() {
                return Step::Finished;
            }
            let leaves = self.hypervisor.queue(self.machine.id()).lock().must_unload();
            if leaves {
                self.unload();
            }
            self.hypervisor.invite(&mut self.machine);
            self.arm_deadline();
            self.sleep();
            return Step::Slept;
        };
        if let Some(loaded) = self.prepare(entity) {
            self.hypervisor.clock(self.machine.id()).set_running(Some(entity));
            self.arm_for(&loaded);
            self.run(loaded);
        }
        Step::Ran
    }

    /// Sleep until there is something to do.
    fn sleep(&mut self) {
        if let Some(loaded) = self.loaded.take() {
            self.settle_exit(&loaded);
            self.loaded = Some(loaded);
        }
        let clock = self.hypervisor.clock(self.machine.id());
        clock.set_running(None);
        clock.enter(Phase::Idle, self.machine.stamp());
        if !self.machine.idle() {
            // An asynchronous abort is outstanding: taking the registers out settles whose.
            self.unload();
        }
        clock.enter(Phase::Hypervisor, self.machine.stamp());
        self.interrupts();
    }

    /// Run the vCPU until something other than its own affairs comes up.
    fn run(&mut self, mut loaded: Loaded) {
        loop {
            let entered = self.settle_exit(&loaded);
            self.hypervisor.clock(self.machine.id()).enter(Phase::Guest, entered);
            let exit = self.machine.run(&mut loaded.vcpu.regs);
            let left = self.machine.stamp();
            self.hypervisor.clock(self.machine.id()).enter(Phase::Hypervisor, left);
            self.exit = Some((Reason::of(&exit), left));
            if exit == Exit::Irq {
                self.loaded = Some(loaded);
                return self.interrupts();
            }
            let me = loaded.entity.vcpu;
            let outcome = loaded.vm.handle(&mut self.machine, me, &mut loaded.vcpu, exit);
            let queued = self.hypervisor.notify(&mut self.machine, &loaded.vm, outcome.notify);
            if outcome.timer_changed {
                self.hypervisor.device_timer_changed(&mut self.machine, &loaded.vm);
            }
            if outcome.timer_changed || self.is_due_earlier() {
                self.arm_for(&loaded);
            }
            match outcome.next {
                // Somebody who now waits for this CPU gets a slice of it.
                Next::Resume if !queued && !loaded.vm.has_requests(me) => {}
                next => {
                    self.loaded = Some(loaded);
                    return self.apply(next);
                }
            }
        }
    }

    /// The exit under way is over, now.
    fn settle_exit(&mut self, loaded: &Loaded) -> Ticks {
        let now = self.machine.stamp();
        if let Some((reason, since)) = self.exit.take()
            && let Some(tally) = loaded.vm.tally(loaded.entity.vcpu)
        {
            tally.add(reason, now.since(since));
        }
        now
    }

    /// Do what an exit came to, the vCPU being loaded.
    fn apply(&mut self, next: Next) {
        let Some(loaded) = &mut self.loaded else { return };
        let (entity, vm) = (loaded.entity, loaded.vm.clone());
        let queue = self.hypervisor.queue(self.machine.id());
        match next {
            // What a waiting vCPU waits for may be there: `prepare` looks before it blocks.
            Next::Resume | Next::Block => {}
            Next::Yield => queue.lock().yield_now(),
            Next::Start(target) => self.hypervisor.start(&mut self.machine, &vm, target),
            Next::PowerDown => self.retire(entity, &vm),
            Next::Stop(stop) => {
                self.hypervisor.begin_stop(&mut self.machine, &vm, stop);
            }
        }
    }

    /// Bring a picked vCPU's registers into the CPU and attend to its requests. `None` when it turned
    /// out not to run.
    fn prepare(&mut self, entity: Entity) -> Option<Loaded> {
        let loaded = self.current().filter(|loaded| loaded.entity == entity);
        let vm = match loaded.map(|loaded| loaded.vm.clone()) {
            Some(vm) => vm,
            None => self.hypervisor.vm(entity.vm)?,
        };
        let requests = vm.take_requests(entity.vcpu);
        if vm.is_stopping() {
            self.retire(entity, &vm);
            return None;
        }
        if vm.is_paused() {
            // Its requests are for when it goes on.
            vm.give_back(entity.vcpu, requests);
            self.hold(entity);
            return None;
        }
        let is_loaded = self
            .current()
            .is_some_and(|it| it.entity == entity && it.traps_wait == vm.traps_wait());
        if requests.start || !is_loaded {
            self.unload();
            self.load(entity, &vm, requests)?;
        } else if requests.sync {
            self.sync();
        }
        if self.goes_on_waiting() {
            // Refused when something has come meanwhile: the next round looks at that. It does not run
            // either way.
            let now = self.machine.now();
            if !self.hypervisor.queue(self.machine.id()).lock().block(entity, now) {
                self.interrupts();
            }
            return None;
        }
        self.loaded.take()
    }

    /// Whether the loaded vCPU waits for an interrupt and there is none for it, whatever its priority
    /// and `PSTATE.I` (Arm ARM, "WFI wake-up events").
    fn goes_on_waiting(&mut self) -> bool {
        let Some(loaded) = &mut self.loaded else { return false };
        if !loaded.vcpu.waiting {
            return false;
        }
        let me = loaded.entity.vcpu;
        let mut vgic = loaded.vm.sample_timers(&self.machine, me, &loaded.vcpu);
        let mut notify = vgic.fold(me, self.machine.list_registers());
        // The virtual timer's interrupt may still be on its way to EL2.
        let coming =
            self.machine.virtual_timer_asserted() && !vgic.holds_physical(me, VIRTUAL_TIMER_IRQ);
        loaded.vcpu.waiting = !coming && !vgic.has_pending(me);
        // Also before it sleeps: what asks for maintenance must not go on asking.
        notify = notify | vgic.sync(me, self.machine.list_registers());
        drop(vgic);
        self.hypervisor.notify(&mut self.machine, &loaded.vm, notify.without(me));
        loaded.vcpu.waiting
    }

    /// Take the registers of a vCPU out whose VM is held; its run queue does not choose it any more.
    fn hold(&mut self, entity: Entity) {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.entity == entity) {
            self.unload();
        }
    }

    /// Turn a vCPU of this CPU off.
    fn retire(&mut self, entity: Entity, vm: &Vm) {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.entity == entity) {
            self.unload();
        }
        let now = self.machine.now();
        let mut queue = self.hypervisor.queue(self.machine.id()).lock();
        queue.turn_off(entity, now);
        // Somebody may have turned it on again while it was on its way out.
        if vm.is_to_start(entity.vcpu) {
            queue.start(entity, now);
        }
        drop(queue);
        self.hypervisor.retired(&mut self.machine, vm);
    }

    /// The loaded vCPU, unless its VM has been reset since.
    fn current(&self) -> Option<&Loaded> {
        self.loaded.as_ref().filter(|loaded| loaded.incarnation == loaded.vm.incarnation())
    }

    /// Load a vCPU into the empty CPU, out of reset if it was started.
    fn load(&mut self, entity: Entity, vm: &Arc<Vm>, requests: Requests) -> Option<()> {
        let me = entity.vcpu;
        if !vm.enter_cpu(self.machine.now()) {
            vm.give_back(me, requests);
            self.hold(entity);
            return None;
        }
        let vcpu = if requests.start {
            // The boot vCPU is the first to start after a reset.
            vm.reload(self.machine.upkeep()).then(|| vm.reset_vcpu(me)).flatten()
        } else {
            vm.resume_vcpu(me)
        };
        let Some(vcpu) = vcpu else {
            log::error!("{}: vCPU {} is to run but has no state", vm.name(), me.0);
            let now = self.machine.now();
            self.hypervisor.queue(self.machine.id()).lock().turn_off(entity, now);
            vm.leave_cpu(now);
            self.hypervisor.retired(&mut self.machine, vm);
            return None;
        };
        let shared = self.hypervisor.queue(self.machine.id()).lock().is_contended(entity);
        let traps_wait = vm.traps_wait();
        let mut space = vm.space(me, self.machine.id(), shared || traps_wait);
        // Out of reset with an empty TLB.
        space.stale_tlb |= requests.start;
        let now = self.machine.now();
        let usage = self.hypervisor.queue(self.machine.id()).lock().usage(entity, now);
        vm.publish_stolen(me, usage.unwrap_or_default().waited);
        self.hypervisor.queue(self.machine.id()).lock().load(entity);
        self.machine.load(&vcpu, &space);
        let in_hand = vm.vgic().lock().holds_physical(me, VIRTUAL_TIMER_IRQ);
        self.machine.set_virtual_timer_active(in_hand);
        let incarnation = vm.incarnation();
        self.loaded = Some(Loaded { entity, vm: vm.clone(), incarnation, traps_wait, vcpu });
        // Whoever was here before can be taken elsewhere from now on.
        self.hypervisor.invite(&mut self.machine);
        self.sync();
        Some(())
    }

    /// Bring timer lines and list registers of the loaded vCPU up to date.
    fn sync(&mut self) {
        let Some(loaded) = &mut self.loaded else { return };
        let me = loaded.entity.vcpu;
        let mut vgic = loaded.vm.sample_timers(&self.machine, me, &loaded.vcpu);
        let notify = vgic.sync(me, self.machine.list_registers());
        drop(vgic);
        self.hypervisor.notify(&mut self.machine, &loaded.vm, notify);
    }

    /// Take the loaded vCPU's registers out of the CPU, unless its VM has been reset meanwhile.
    fn unload(&mut self) {
        let Some(mut loaded) = self.loaded.take() else { return };
        self.settle_exit(&loaded);
        let me = loaded.entity.vcpu;
        let serror = self.machine.unload(&mut loaded.vcpu);
        let now = self.machine.now();
        if loaded.incarnation != loaded.vm.incarnation() {
            let lrs = self.machine.list_registers();
            for index in 0..lrs.count() {
                lrs.write(index, None);
            }
            lrs.set_maintenance(false, false);
            self.hypervisor.queue(self.machine.id()).lock().unload(loaded.entity);
            return loaded.vm.leave_cpu(now);
        }
        let notify = loaded.vm.vgic().lock().unload(me, self.machine.list_registers());
        self.hypervisor.notify(&mut self.machine, &loaded.vm, notify);
        let deadline = loaded.vm.deadline(me, &loaded.vcpu, now);
        loaded.vm.park_vcpu(me, loaded.vcpu);
        let mut queue = self.hypervisor.queue(self.machine.id()).lock();
        queue.unload(loaded.entity);
        queue.set_deadline(loaded.entity, deadline);
        drop(queue);
        loaded.vm.leave_cpu(now);
        if serror {
            loaded.vm.report_serror(me);
            self.hypervisor.begin_stop(&mut self.machine, &loaded.vm, Stop::Crashed);
        }
    }

    /// Take every pending physical interrupt.
    fn interrupts(&mut self) {
        // Bounded: a device that never stops asserting must not keep the CPU here.
        for _ in 0..16 {
            let Some(interrupt) = self.machine.acknowledge() else { break };
            self.hypervisor.clock(self.machine.id()).count(interrupt);
            match interrupt {
                Interrupt::Kick => {}
                Interrupt::Deadline => self.deadline_passed(),
                Interrupt::VirtualTimer => self.virtual_timer_fired(),
                Interrupt::Maintenance => self.maintain(),
                Interrupt::Device(intid) => {
                    (self.on_device)(self.hypervisor, &mut self.machine, intid);
                }
            }
        }
    }

    /// The list registers want attention: see to it at once, as the vCPU may not run soon.
    fn maintain(&mut self) {
        self.let_go();
        self.sync();
        if let Some(loaded) = &self.loaded {
            // If it sleeps: something may have become deliverable.
            let (cpu, now) = (self.machine.id(), self.machine.now());
            self.hypervisor.queue(cpu).lock().wake(loaded.entity, now);
        }
    }

    /// Take registers out of the CPU whose VM has been reset since, or is held: their timers and list
    /// registers would go on asking.
    fn let_go(&mut self) {
        let held = self.loaded.as_ref().is_some_and(|loaded| loaded.vm.is_paused());
        if held || (self.loaded.is_some() && self.current().is_none()) {
            self.unload();
        }
    }

    fn virtual_timer_fired(&mut self) {
        self.let_go();
        let Some(loaded) = &self.loaded else {
            // Nobody's: it must not stay active and block the next vCPU's.
            return self.machine.set_virtual_timer_active(false);
        };
        let (vm, me) = (loaded.vm.clone(), loaded.entity.vcpu);
        let notify = vm.vgic().lock().set_level(me, VIRTUAL_TIMER_IRQ, true);
        if self.machine.forgets_levels() {
            self.nudge = Some(self.machine.now().saturating_add(self.hypervisor.nudge_after()));
            self.arm_deadline();
        }
        self.hypervisor.notify(&mut self.machine, &vm, notify);
    }

    fn deadline_passed(&mut self) {
        self.deadline = None;
        let now = self.machine.now();
        // That this interrupt came was the nudge.
        self.nudge = self.nudge.filter(|at| *at > now);
        let cpu = self.machine.id();
        // One at a time: the lock is not held across the list.
        while self.hypervisor.queue(cpu).lock().expire(now).is_some() {}
        if let Some(loaded) = self.current() {
            let (vm, me) = (loaded.vm.clone(), loaded.entity.vcpu);
            let asserted = loaded.vcpu.physical_timer.output(vm.virtual_now(now));
            let notify = vm.vgic().lock().set_level(me, PHYSICAL_TIMER_IRQ, asserted);
            self.hypervisor.notify(&mut self.machine, &vm, notify);
        }
        if (self.background.due)().is_some_and(|due| due <= now) {
            (self.background.work)(self.hypervisor, &mut self.machine);
        }
        self.hypervisor.advance_devices(&mut self.machine);
    }

    /// Whether background work is due before anything the deadline timer is set for: the last exit may
    /// have made it so.
    fn is_due_earlier(&self) -> bool {
        (self.background.due)().is_some_and(|due| self.deadline.is_none_or(|set| due < set))
    }

    /// Set the deadline timer to the next thing this CPU has to do by itself.
    fn arm_deadline(&mut self) {
        match self.loaded.take() {
            Some(loaded) => {
                self.arm_for(&loaded);
                self.loaded = Some(loaded);
            }
            None => self.arm(None),
        }
    }

    fn arm_for(&mut self, loaded: &Loaded) {
        let (now, me) = (self.machine.now(), loaded.entity.vcpu);
        // A line that is high already waits for the guest, not for time.
        let timer = loaded
            .vm
            .physical_timer_deadline(&loaded.vcpu, now)
            .filter(|_| !loaded.vm.vgic().lock().is_pending(me, PHYSICAL_TIMER_IRQ));
        self.arm(timer);
    }

    fn arm(&mut self, timer: Option<Ticks>) {
        let cpu = self.machine.id();
        let own = self.nudge.into_iter().chain((self.background.due)());
        let next = self.hypervisor.next_event(cpu).into_iter().chain(timer).chain(own).min();
        if next != self.deadline {
            self.machine.set_deadline(next);
            self.deadline = next;
        }
    }
}
