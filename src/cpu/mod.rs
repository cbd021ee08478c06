//! The loop every CPU runs: pick a vCPU, run it, handle its exit, apply the outcome.
//!
//! EL2 runs with interrupts masked; a physical interrupt is one more reason to exit. A vCPU's registers
//! stay in the CPU until another vCPU needs it, so a guest that waits alone costs no switch.

mod interrupts;
mod quick;
mod switch;
mod watch;

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::exit::Exit;
use crate::hypervisor::{Clock, Hypervisor, NotLoaded, Phase, Progress};
use crate::machine::{Interrupt, Machine};
use crate::sched::Entity;
use crate::time::Ticks;
use crate::vcpu::Vcpu;
use crate::vm::layout::VIRTUAL_TIMER_IRQ;
use crate::vm::tally::{Reason, Tally};
use crate::vm::{Next, Stop, Vm};

/// A CPU at work.
pub struct Cpu<'h, M> {
    machine: M,
    hypervisor: &'h Hypervisor,
    /// What this CPU spends its time with.
    clock: &'h Clock,
    loaded: Option<Loaded>,
    /// Why and when the loaded vCPU left its guest, while that goes on.
    exit: Option<(Reason, Ticks)>,
    /// What the deadline timer is set to.
    deadline: Option<Ticks>,
    /// Gets the physical interrupts of the hypervisor's devices.
    on_device: fn(&Hypervisor, &mut M, crate::vgic::IntId),
    /// What the hypervisor has to do besides running guests.
    background: Background<M>,
    /// The CPU that this one watches, if any.
    watching: Option<watch::Watching>,
}

/// Work of the hypervisor's own that any CPU does when it is due.
struct Background<M> {
    due: fn(&Hypervisor) -> Option<Ticks>,
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
    /// Its exits are counted here.
    tally: Arc<Tally>,
    vcpu: Box<Vcpu>,
}

/// Why a vCPU's run is interrupted.
enum Leave {
    /// An exit that takes longer.
    Exit,
    /// A physical interrupt; it has been acknowledged if it is named.
    Interrupted(Option<Interrupt>),
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
        let clock = hypervisor.clock(machine.id());
        clock.start(machine.affinity(), machine.stamp());
        let background = Background { due: |_| None, work: |_, _| {} };
        Self {
            machine,
            hypervisor,
            clock,
            loaded: None,
            exit: None,
            deadline: None,
            on_device,
            background,
            watching: None,
        }
    }

    /// With work of the hypervisor's own, to be done by `work` when it is `due`. Both are asked for often.
    #[must_use]
    pub fn with_background(
        self,
        due: fn(&Hypervisor) -> Option<Ticks>,
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
        self.hypervisor.heed_calls(self.machine.id());
        self.let_go();
        self.offer_registers();
        while self.hypervisor.reap(&mut self.machine) {
            self.interrupts(None);
        }
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
            self.clock.set_running(Some(entity));
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
        let clock = self.clock;
        clock.set_running(None);
        clock.enter(Phase::Idle, self.machine.stamp());
        if !self.machine.idle() {
            // An asynchronous abort is outstanding: taking the registers out settles whose.
            self.unload();
        }
        clock.enter(Phase::Hypervisor, self.machine.stamp());
        self.interrupts(None);
    }

    /// Run the vCPU until something other than its own affairs comes up.
    fn run(&mut self, mut loaded: Loaded) {
        let me = loaded.entity.vcpu;
        loaded.vm.set_running(me, Some(self.machine.id()));
        let leave = loop {
            let entered = self.settle_exit(&loaded);
            self.clock.enter(Phase::Guest, entered);
            let exit = self.run_quickly(&mut loaded);
            let left = self.machine.stamp();
            self.clock.enter(Phase::Hypervisor, left);
            match exit {
                Leave::Exit => {
                    let exit = self.machine.last_exit();
                    let reason = Reason::of(&exit);
                    self.clock.left_by(reason);
                    self.exit = Some((reason, left));
                    if let Some(next) = self.handle(&mut loaded, exit) {
                        break Ok(next);
                    }
                }
                Leave::Interrupted(interrupt) => {
                    self.exit = Some((Reason::Interrupt, left));
                    let lost = loaded.vm.is_lost(&self.machine, me, &mut loaded.vcpu);
                    break if lost { Ok(Next::Stop(Stop::Crashed)) } else { Err(interrupt) };
                }
            }
        };
        loaded.vm.set_running(me, None);
        self.loaded = Some(loaded);
        match leave {
            Ok(next) => self.apply(next),
            Err(interrupt) => self.interrupts(interrupt),
        }
    }

    /// Deal with an exit. What is to be done outside the guest because of it, if anything.
    fn handle(&mut self, loaded: &mut Loaded, exit: Exit) -> Option<Next> {
        let me = loaded.entity.vcpu;
        let mut outcome = loaded.vm.handle(&mut self.machine, me, &mut loaded.vcpu, exit);
        let mut queued = self.hypervisor.notify(&mut self.machine, &loaded.vm, outcome.notify);
        queued |= self.after_device(loaded, outcome.timer_changed);
        if matches!(exit, Exit::Wfi) && self.has_device_work(loaded) {
            // It waits for that, perhaps, and does it. WFI may end for no reason ("Wait for Interrupt").
            queued |= self.go_on(loaded);
            loaded.vcpu.waiting = false;
            outcome.next = Next::Resume;
        }
        match outcome.next {
            // Somebody who now waits for this CPU gets a slice of it.
            Next::Resume if !queued && !loaded.vm.has_requests(me) => None,
            next => Some(next),
        }
    }

    /// The exit under way is over, now.
    #[inline]
    fn settle_exit(&mut self, loaded: &Loaded) -> Ticks {
        let now = self.machine.stamp();
        if let Some((reason, since)) = self.exit.take() {
            loaded.tally.add(reason, now.since(since));
        }
        now
    }

    /// Do what an exit came to, the vCPU being loaded.
    fn apply(&mut self, next: Next) {
        let Some(loaded) = &mut self.loaded else { return };
        let (entity, vm) = (loaded.entity, loaded.vm.clone());
        let queue = self.hypervisor.queue(self.machine.id());
        match next {
            Next::Resume => {}
            Next::Block => {
                // It looks whether what it waits for is there, and blocks, before anybody else is chosen.
                queue.lock().attend(entity);
                self.loaded = self.prepare(entity).or_else(|| self.loaded.take());
            }
            Next::Yield => queue.lock().yield_now(),
            Next::Sleep => self.wait_for_memory(entity, &vm),
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
        if vm.is_held_up() {
            vm.give_back(entity.vcpu, requests);
            self.wait_for_disks(entity);
            return None;
        }
        if requests.start && !self.get_ready(entity, &vm) {
            vm.give_back(entity.vcpu, requests);
            return None;
        }
        let is_loaded = self
            .current()
            .is_some_and(|it| it.entity == entity && it.traps_wait == vm.traps_wait());
        let moves = requests.start || !is_loaded;
        if moves {
            self.unload();
            self.load(entity, &vm, requests)?;
        } else {
            // The same goes on: somebody who waits for it may go elsewhere.
            self.hypervisor.invite(&mut self.machine);
        }
        // Who waits looks at its interrupts whatever was asked.
        if self.loaded.as_ref().is_some_and(|loaded| loaded.vcpu.waiting) {
            if self.goes_on_waiting() {
                // Refused when something has come meanwhile: the next round looks at that. It does not
                // run either way.
                let now = self.machine.now();
                if !self.hypervisor.queue(self.machine.id()).lock().block(entity, now) {
                    self.interrupts(None);
                }
                return None;
            }
        } else if moves || requests.sync {
            self.sync();
        }
        self.loaded.take()
    }

    /// A disk still has memory of a VM whose device has been reset, with the VM or by itself: the vCPU, as if it worked, waits
    /// for a moment.
    #[cold]
    #[inline(never)]
    fn wait_for_disks(&mut self, entity: Entity) {
        self.unload();
        self.hypervisor.invite(&mut self.machine);
        self.clock.set_running(Some(entity));
        self.arm_deadline();
        if self.machine.interrupt_pending() {
            self.interrupts(None);
        }
    }

    /// A vCPU, or its VM's image, needs memory that others have. It sleeps for a while; its own timers do not end that
    /// sooner, as who masks them would only come back to the same instruction. Where somebody has asked something of it since
    /// it was picked, that comes first.
    #[cold]
    #[inline(never)]
    fn wait_for_memory(&mut self, entity: Entity, vm: &Vm) {
        let now = self.machine.now();
        let until = Some(vm.wait_for_memory(now));
        let mut queue = self.hypervisor.queue(self.machine.id()).lock();
        let sleeps = queue.block(entity, now);
        queue.set_deadline(entity, until);
        drop(queue);
        if sleeps {
            self.unload_until(until);
        }
    }

    /// Go on with what comes before a VM's first instruction, until something else comes up. Returns
    /// whether all is done.
    #[cold]
    #[inline(never)] // what it puts on the stack is not to be in the run loop's frame
    fn get_ready(&mut self, entity: Entity, vm: &Arc<Vm>) -> bool {
        if !vm.is_loading() {
            return true;
        }
        self.unload();
        // Whoever was here before can be taken elsewhere from now on.
        self.hypervisor.invite(&mut self.machine);
        self.clock.set_running(Some(entity));
        self.arm_deadline();
        loop {
            match self.hypervisor.load_step(&mut self.machine, vm) {
                Ok(Progress::All) => return true,
                Ok(Progress::More) => {}
                Ok(Progress::NoFrames) => {
                    self.wait_for_memory(entity, vm);
                    return false;
                }
                Err(NotLoaded) => return false,
            }
            if self.machine.interrupt_pending() {
                self.interrupts(None);
                return false;
            }
            if vm.has_requests(entity.vcpu) {
                return false;
            }
        }
    }

    /// Whether the loaded vCPU, which waits for an interrupt, has none yet, whatever its priority and
    /// `PSTATE.I` (Arm ARM, "WFI wake-up events"). If it has, its list registers are up to date.
    fn goes_on_waiting(&mut self) -> bool {
        let Some(loaded) = &mut self.loaded else { return false };
        let me = loaded.entity.vcpu;
        let mut vgic = loaded.vm.sample_timers(&self.machine, me, &loaded.vcpu);
        let mut notify = vgic.fold(me, self.machine.list_registers());
        // The virtual timer's interrupt may still be on its way to EL2.
        let coming =
            self.machine.virtual_timer_asserted() && !vgic.holds_physical(me, VIRTUAL_TIMER_IRQ);
        loaded.vcpu.waiting = !coming && !vgic.has_pending(me);
        let lrs = self.machine.list_registers();
        // Also before it sleeps: what asks for maintenance must not go on asking.
        let more = if loaded.vcpu.waiting { vgic.rest(me, lrs) } else { vgic.sync(me, lrs) };
        notify = notify | more;
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
        vm.report_culprit(entity.vcpu);
        let now = self.machine.now();
        let mut queue = self.hypervisor.queue(self.machine.id()).lock();
        queue.turn_off(entity, now);
        // Somebody may have turned it on again while it was on its way out.
        if vm.is_to_start(entity.vcpu) {
            queue.start(entity, now);
        }
        drop(queue);
        self.hypervisor.retired(&mut self.machine, vm, entity.vcpu);
    }
}
