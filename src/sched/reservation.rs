//! Hard reservations: a constant bandwidth server for each vCPU, and who is admitted to which CPU.
//!
//! A server has a budget in each period and a deadline, at which the period ends; the servers of a CPU run
//! earliest deadline first, before all fair vCPUs. One that has used its budget waits for its deadline
//! ("hard" reservation). Abeni and Buttazzo, "Integrating Multimedia Applications in Hard Real-Time
//! Systems"; for the hard variant Rajkumar et al., "Resource Kernels". As each period's end is the
//! deadline, a CPU serves everybody in time exactly if the sum of budget over period is at most 1 (Liu and
//! Layland).

use alloc::vec::Vec;

use super::policy::CpuSet;
use crate::machine::CpuId;
use crate::time::{Frequency, Ticks};

/// What of each CPU can be reserved, in millionths. The rest is for fair vCPUs, and for what the
/// hypervisor itself does.
pub const RESERVABLE: u32 = 900_000;

/// A budget in every period.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// CPU time.
    pub budget: Ticks,
    /// At least the budget.
    pub period: Ticks,
}

impl Reservation {
    /// As a manifest has it, in microseconds.
    pub fn from_micros(budget: u32, period: u32, frequency: Frequency) -> Self {
        let ticks = |micros: u32| frequency.micros(micros.into()).0.max(1);
        let period = ticks(period);
        Self { budget: Ticks(ticks(budget).min(period)), period: Ticks(period) }
    }

    /// The share of a CPU, in millionths, rounded up.
    pub fn utilisation(self) -> u32 {
        let share =
            (u128::from(self.budget.0) * 1_000_000).div_ceil(u128::from(self.period.0.max(1)));
        u32::try_from(share).unwrap_or(u32::MAX)
    }
}

/// One vCPU's server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Server {
    terms: Reservation,
    /// What is left of the budget; below 0 when more was used.
    left: i64,
    deadline: Ticks,
}

impl Server {
    /// A server whose first period begins when it wakes.
    pub(super) const fn new(terms: Reservation) -> Self {
        Self { terms, left: 0, deadline: Ticks(0) }
    }

    pub(super) const fn terms(&self) -> Reservation {
        self.terms
    }

    pub(super) const fn deadline(&self) -> Ticks {
        self.deadline
    }

    pub(super) const fn has_budget(&self) -> bool {
        self.left > 0
    }

    /// Its vCPU wants to run from now on. What is left may be used by the old deadline unless that would
    /// be more than its share of the time until then; if so a new period begins.
    pub(super) fn wake(&mut self, now: Ticks) {
        let (budget, period) = (u128::from(self.terms.budget.0), u128::from(self.terms.period.0));
        let until = u128::from(self.deadline.since(now).0);
        let left = u128::try_from(self.left).unwrap_or(0);
        if until == 0 || left * period > until * budget {
            self.left = self.budget().saturating_add(self.left.min(0));
            self.deadline = now.saturating_add(self.terms.period);
        }
    }

    /// Its vCPU was on the CPU for `span`.
    pub(super) fn spend(&mut self, span: Ticks) {
        self.left = self.left.saturating_sub(i64::try_from(span.0).unwrap_or(i64::MAX));
    }

    /// Begin the next period if the budget is used up and the old one over.
    pub(super) fn replenish(&mut self, now: Ticks) {
        if self.left > 0 || self.deadline > now {
            return;
        }
        self.left = self.left.saturating_add(self.budget()).max(-self.budget());
        self.deadline = self.deadline.saturating_add(self.terms.period);
        if self.deadline <= now {
            self.deadline = now.saturating_add(self.terms.period);
        }
    }

    /// When the budget will be used up, if it runs from now on.
    pub(super) fn exhausted_at(&self, now: Ticks) -> Ticks {
        now.saturating_add(Ticks(u64::try_from(self.left).unwrap_or(0)))
    }

    fn budget(&self) -> i64 {
        i64::try_from(self.terms.budget.0).unwrap_or(i64::MAX)
    }
}

/// Why a reservation cannot be given. Shares are in millionths of a CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AdmissionError {
    /// No CPU of the machine is in the affinity.
    #[error("its affinity has no CPU of this machine")]
    NoCpu,
    /// None of its CPUs has so much left.
    #[error(
        "it asks for {} of a CPU for each of {vcpus} vCPUs, and the CPUs it may use have {} left to \
         reserve, at most {} on one of them",
        Percent(*asked), Percent(*left), Percent(*most)
    )]
    Full {
        /// The share of each vCPU.
        asked: u32,
        /// How many there are.
        vcpus: u8,
        /// The most that one CPU has left.
        most: u32,
        /// What all CPUs of the affinity have left.
        left: u32,
    },
}

/// Millionths, shown as a percentage.
struct Percent(u32);

impl core::fmt::Display for Percent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{} %", self.0 / 10_000, self.0 / 1_000 % 10)
    }
}

/// What is reserved on each CPU.
#[derive(Debug)]
pub struct Admission {
    reserved: Vec<u32>,
}

impl Admission {
    /// `cpus` CPUs without reservations.
    pub fn new(cpus: usize) -> Self {
        Self { reserved: alloc::vec![0; cpus] }
    }

    /// Find a CPU for one vCPU: of those in `affinity` the one with most left (worst fit), so that short
    /// deadlines are spread too.
    ///
    /// # Errors
    ///
    /// When no CPU has so much left; nothing is reserved then.
    pub fn admit(
        &mut self,
        reservation: Reservation,
        affinity: CpuSet,
    ) -> Result<CpuId, AdmissionError> {
        let asked = reservation.utilisation();
        let cpus = (0..=u8::MAX).map(CpuId).zip(&mut self.reserved);
        let allowed = cpus.filter(|(cpu, _)| affinity.contains(*cpu));
        let (mut best, mut left) = (None::<(CpuId, &mut u32)>, 0u32);
        for (cpu, reserved) in allowed {
            left = left.saturating_add(RESERVABLE.saturating_sub(*reserved));
            if best.as_ref().is_none_or(|(_, least)| *reserved < **least) {
                best = Some((cpu, reserved));
            }
        }
        let (cpu, reserved) = best.ok_or(AdmissionError::NoCpu)?;
        let most = RESERVABLE.saturating_sub(*reserved);
        if asked > most {
            return Err(AdmissionError::Full { asked, vcpus: 1, most, left });
        }
        *reserved += asked;
        Ok(cpu)
    }

    /// Find a CPU for each of a VM's vCPUs, or reserve nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::admit`]; what is left is told as it was before.
    pub fn admit_all(
        &mut self,
        vcpus: u8,
        reservation: Reservation,
        affinity: CpuSet,
    ) -> Result<Vec<CpuId>, AdmissionError> {
        let before = self.reserved.clone();
        let admitted = (0..vcpus).map(|_| self.admit(reservation, affinity)).collect();
        if let Err(error) = admitted {
            self.reserved = before;
            let (left, most) = self.left(affinity);
            let asked = reservation.utilisation();
            return Err(match error {
                AdmissionError::NoCpu => AdmissionError::NoCpu,
                AdmissionError::Full { .. } => AdmissionError::Full { asked, vcpus, most, left },
            });
        }
        admitted
    }

    /// Give back what a vCPU had on `cpu`.
    pub fn release(&mut self, cpu: CpuId, reservation: Reservation) {
        if let Some(reserved) = self.reserved.get_mut(cpu.index()) {
            *reserved = reserved.saturating_sub(reservation.utilisation());
        }
    }

    /// What is reserved on a CPU, in millionths.
    pub fn reserved(&self, cpu: CpuId) -> u32 {
        self.reserved.get(cpu.index()).copied().unwrap_or(0)
    }

    fn left(&self, affinity: CpuSet) -> (u32, u32) {
        let cpus = (0..=u8::MAX).map(CpuId).zip(&self.reserved);
        cpus.filter(|(cpu, _)| affinity.contains(*cpu))
            .map(|(_, reserved)| RESERVABLE.saturating_sub(*reserved))
            .fold((0, 0), |(sum, most), left| (sum.saturating_add(left), most.max(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIRD: Reservation = Reservation { budget: Ticks(10), period: Ticks(30) };

    #[test]
    fn each_goes_to_the_cpu_with_most_left() {
        let mut admission = Admission::new(2);
        let cpus: Vec<u8> =
            (0..4).map(|_| admission.admit(THIRD, CpuSet::ALL).unwrap().0).collect();
        assert_eq!(cpus, [0, 1, 0, 1]);
        admission.release(CpuId(1), THIRD);
        assert_eq!(admission.admit(THIRD, CpuSet::ALL), Ok(CpuId(1)));
    }

    #[test]
    fn a_share_of_each_cpu_stays_for_the_others() {
        let mut admission = Admission::new(1);
        let all = Reservation { budget: Ticks(91), period: Ticks(100) };
        let refused =
            AdmissionError::Full { asked: 910_000, vcpus: 1, most: 900_000, left: 900_000 };
        assert_eq!(admission.admit(all, CpuSet::ALL), Err(refused));
        let text = refused.to_string();
        assert!(
            text.contains("asks for 91.0 % of a CPU") && text.contains("90.0 % left"),
            "{text}"
        );
        let most = Reservation { budget: Ticks(90), ..all };
        assert_eq!(admission.admit(most, CpuSet::ALL), Ok(CpuId(0)));
        assert_eq!(admission.reserved(CpuId(0)), RESERVABLE);
    }

    #[test]
    fn affinity_is_respected() {
        let mut admission = Admission::new(3);
        let last = CpuSet::EMPTY.with(CpuId(2));
        assert_eq!(admission.admit(THIRD, last), Ok(CpuId(2)));
        assert_eq!(admission.admit(THIRD, last), Ok(CpuId(2)));
        assert!(matches!(admission.admit(THIRD, last), Err(AdmissionError::Full { .. })));
        let beyond = CpuSet::EMPTY.with(CpuId(3));
        assert_eq!(admission.admit(THIRD, beyond), Err(AdmissionError::NoCpu));
    }

    #[test]
    fn a_vm_is_admitted_whole_or_not_at_all() {
        let mut admission = Admission::new(2);
        let error = admission.admit_all(5, THIRD, CpuSet::ALL).unwrap_err();
        let AdmissionError::Full { vcpus: 5, most: 900_000, left: 1_800_000, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(admission.reserved(CpuId(0)), 0);
        assert_eq!(admission.admit_all(4, THIRD, CpuSet::ALL).unwrap().len(), 4);
    }

    #[test]
    fn a_server_that_slept_keeps_its_deadline_only_while_its_rest_fits() {
        let mut server = Server::new(THIRD);
        server.wake(Ticks(100));
        assert_eq!((server.left, server.deadline), (10, Ticks(130)));
        server.spend(Ticks(4));
        server.wake(Ticks(110)); // 6 in 20 is within a third
        assert_eq!((server.left, server.deadline), (6, Ticks(130)));
        server.wake(Ticks(113)); // 6 in 17 is not
        assert_eq!((server.left, server.deadline), (10, Ticks(143)));
    }

    #[test]
    fn sleeping_does_not_refill_a_budget_that_was_used() {
        let mut server = Server::new(THIRD);
        server.wake(Ticks(0));
        server.spend(Ticks(12));
        server.wake(Ticks(20));
        assert!(!server.has_budget());
        server.replenish(Ticks(29));
        assert!(!server.has_budget());
        server.replenish(Ticks(30));
        assert_eq!((server.left, server.deadline), (8, Ticks(60)), "two were used too many");
    }
}
