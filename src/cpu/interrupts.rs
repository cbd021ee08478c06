//! Physical interrupts, and the one timer for all that the CPU has to do by itself.

use super::{Cpu, Loaded};
use crate::machine::{Interrupt, Machine};
use crate::time::Ticks;
use crate::vm::layout::{PHYSICAL_TIMER_IRQ, VIRTUAL_TIMER_IRQ};

/// How many steps a device goes on at an exit of its guest's.
const STEPS: usize = 64;

impl<M: Machine> Cpu<'_, M> {
    /// Take every pending physical interrupt, `first` being one that has been acknowledged.
    pub(super) fn interrupts(&mut self, first: Option<Interrupt>) {
        // Bounded: a device that never stops asserting must not keep the CPU here.
        for taken in 0..16 {
            let next = match taken {
                0 => first.or_else(|| self.machine.acknowledge()),
                _ => self.next_interrupt(),
            };
            let Some(interrupt) = next else { break };
            self.clock.count(interrupt);
            match interrupt {
                Interrupt::Kick => {}
                Interrupt::Deadline => self.deadline_passed(),
                Interrupt::VirtualTimer => self.virtual_timer_fired(),
                Interrupt::Maintenance => self.maintain(),
                Interrupt::Assigned(intid) => {
                    self.hypervisor.assigned_fired(&mut self.machine, intid);
                }
                Interrupt::Device(intid) => {
                    (self.on_device)(self.hypervisor, &mut self.machine, intid);
                }
            }
        }
        self.hypervisor.answer_doorbells(&mut self.machine, None);
    }

    fn next_interrupt(&mut self) -> Option<Interrupt> {
        if self.machine.interrupt_pending() { self.machine.acknowledge() } else { None }
    }

    /// The list registers want attention: see to it at once, as the vCPU may not run soon.
    pub(super) fn maintain(&mut self) {
        self.let_go();
        if let Some(loaded) = &self.loaded {
            let (me, lrs) = (loaded.entity.vcpu, self.machine.list_registers());
            loaded.vm.vgic().lock().end_at_once(me, lrs);
        }
        self.sync();
        if let Some(loaded) = &self.loaded {
            // If it sleeps: something may have become deliverable.
            let (cpu, now) = (self.machine.id(), self.machine.now());
            self.hypervisor.queue(cpu).lock().wake(loaded.entity, now);
        }
    }

    pub(super) fn virtual_timer_fired(&mut self) {
        self.let_go();
        let Some(loaded) = &self.loaded else {
            // Nobody's: it must not stay active and block the next vCPU's.
            return self.machine.set_virtual_timer_active(false);
        };
        let (vm, me) = (loaded.vm.clone(), loaded.entity.vcpu);
        let notify = vm.vgic().lock().set_level(me, VIRTUAL_TIMER_IRQ, true);
        self.hypervisor.notify(&mut self.machine, &vm, notify);
    }

    pub(super) fn deadline_passed(&mut self) {
        self.deadline = None;
        self.watch();
        let now = self.machine.now();
        let cpu = self.machine.id();
        // One at a time: the lock is not held across the list.
        while self.hypervisor.queue(cpu).lock().expire(now).is_some() {}
        if let Some(loaded) = self.current() {
            let (vm, me) = (loaded.vm.clone(), loaded.entity.vcpu);
            let asserted = loaded.vcpu.physical_timer.output(vm.virtual_now(now));
            let notify = vm.vgic().lock().set_level(me, PHYSICAL_TIMER_IRQ, asserted);
            self.hypervisor.notify(&mut self.machine, &vm, notify);
        }
        if (self.background.due)(self.hypervisor).is_some_and(|due| due <= now) {
            (self.background.work)(self.hypervisor, &mut self.machine);
        }
        self.hypervisor.advance_devices(&mut self.machine);
    }

    /// An access to a device has been made, after which that device may be due `sooner` than before. Returns whether
    /// the vCPU has to leave because of what came of it.
    #[inline(never)] // the short way round has few registers to spare
    pub(super) fn after_device(&mut self, loaded: &Loaded, sooner: bool) -> bool {
        // What holds the vCPU up is seen to the long way.
        let me = Some((&*loaded.vm, loaded.entity.vcpu));
        let mut queued =
            self.hypervisor.answer_doorbells(&mut self.machine, me) | loaded.vm.is_held_up();
        if sooner {
            queued |= self.go_on(loaded);
            if loaded.vm.device_deadline().is_some_and(|at| at <= self.machine.now()) {
                // What is left is this CPU's to go on with: it is where the guest is.
                loaded.vm.set_timekeeper(self.machine.id());
            }
            self.hypervisor.device_timer_changed(&mut self.machine, &loaded.vm);
        }
        if sooner || self.is_due_earlier() {
            self.arm_for(loaded);
        }
        queued
    }

    /// Whether a device of the loaded VM's, whose time this CPU keeps, has more to do at once.
    pub(super) fn has_device_work(&self, loaded: &Loaded) -> bool {
        let (vm, now) = (&loaded.vm, self.machine.now());
        vm.timekeeper() == Some(self.machine.id())
            && vm.device_deadline().is_some_and(|at| at <= now)
    }

    /// A device of the loaded VM's has more to do at once: it goes on, a step at a time, as long as no interrupt is pending, and
    /// not for ever. Somebody who comes to want this CPU meanwhile waits: what is done together takes one switch. Returns
    /// whether there is somebody.
    #[inline(never)]
    pub(super) fn go_on(&mut self, loaded: &Loaded) -> bool {
        let (vm, me) = (&loaded.vm, loaded.entity.vcpu);
        let mut queued = false;
        for _ in 0..STEPS {
            let now = self.machine.now();
            let due = vm.device_deadline().is_some_and(|at| at <= now);
            if !due || self.machine.interrupt_pending() {
                break;
            }
            let notify = vm.advance_devices(now);
            let others = vm.tell_first(&mut self.machine, me, notify);
            queued |= self.hypervisor.notify(&mut self.machine, vm, others);
            queued |= self.hypervisor.answer_doorbells(&mut self.machine, Some((vm, me)));
        }
        queued
    }

    /// Whether background work is due before anything the deadline timer is set for: the last exit may
    /// have made it so.
    pub(super) fn is_due_earlier(&self) -> bool {
        (self.background.due)(self.hypervisor)
            .is_some_and(|due| self.deadline.is_none_or(|set| due < set))
    }

    /// Set the deadline timer to the next thing this CPU has to do by itself.
    pub(super) fn arm_deadline(&mut self) {
        match self.loaded.take() {
            Some(loaded) => {
                self.arm_for(&loaded);
                self.loaded = Some(loaded);
            }
            None => self.arm(None),
        }
    }

    pub(super) fn arm_for(&mut self, loaded: &Loaded) {
        let (now, me) = (self.machine.now(), loaded.entity.vcpu);
        // A line that is high already waits for the guest, not for time.
        let timer = loaded
            .vm
            .physical_timer_deadline(&loaded.vcpu, now)
            .filter(|_| !loaded.vm.vgic().lock().is_pending(me, PHYSICAL_TIMER_IRQ));
        self.arm(timer);
    }

    pub(super) fn arm(&mut self, timer: Option<Ticks>) {
        let cpu = self.machine.id();
        let own = (self.background.due)(self.hypervisor);
        let look = self.watching.as_ref().map(|watching| watching.due);
        let all = self.hypervisor.next_event(cpu).into_iter().chain(timer).chain(own).chain(look);
        let next = all.min();
        if next != self.deadline {
            self.machine.set_deadline(next);
            self.deadline = next;
        }
    }
}
