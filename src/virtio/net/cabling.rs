//! Which cards the manifest gives to whom, and the ports that they are at.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::lan::Lan;
use crate::manifest::{CardConfig, NetworkConfig, VmConfig};
use crate::net::{MacAddr, Plan, PlanError, PortId};
use crate::sched::VmId;
use crate::time::{Frequency, Ticks};

/// A network card, and where it is plugged in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Card {
    /// Its port.
    pub port: PortId,
    /// Its address.
    pub mac: MacAddr,
}

/// The switch, and each VM's cards.
#[derive(Debug)]
pub struct Cabling {
    lan: Arc<Lan>,
    cards: Box<[Box<[Card]>]>,
}

impl Cabling {
    /// What a manifest says of `networks` and of the cards of `vms`. `clock` is the system counter, of this `frequency`.
    ///
    /// # Errors
    /// There cannot be such a switch. None of a checked manifest is like that.
    pub fn new(
        networks: &[NetworkConfig],
        vms: &[VmConfig],
        frequency: Frequency,
        clock: fn() -> Ticks,
    ) -> Result<Self, PlanError> {
        let mut plan = Plan::default();
        networks.iter().try_for_each(|network| plan.network(network.uplink))?;
        let mut join = |card: &CardConfig| -> Result<Card, PlanError> {
            let port = plan.join(card.network.into(), card.port.clone())?;
            Ok(Card { port, mac: card.port.mac })
        };
        let of_vm = |vm: &VmConfig| vm.nets.iter().map(&mut join).collect::<Result<_, _>>();
        let cards = vms.iter().map(of_vm).collect::<Result<Vec<_>, _>>()?;
        let lan = Arc::new(Lan::new(plan.build(frequency)?, clock));
        Ok(Self { lan, cards: cards.into() })
    }

    /// The switch.
    pub const fn lan(&self) -> &Arc<Lan> {
        &self.lan
    }

    /// A VM's cards.
    pub fn cards(&self, vm: VmId) -> &[Card] {
        self.cards.get(vm.index()).map_or(&[], |cards| cards)
    }
}
