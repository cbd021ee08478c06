//! What differs between boards.
//!
//! A board is data: [`Board`](board::Board) holds the facts the firmware's device tree gives, and the
//! drivers take their register blocks from it. Nothing here is chosen at compile time.
//!
//! | module | what it is |
//! |---|---|
//! | [`tree`] | the device tree, checked whole before it is read |
//! | [`board`] | the facts of one board: memory, CPUs, interrupt controller, timer, UART |
//! | [`error`] | what a tree can lack or get wrong |
//! | [`driver`] | the MMIO drivers of the hypervisor itself |

pub mod board;
pub mod driver;
pub mod error;
pub mod tree;

use crate::vgic::IntId;

/// What an interrupt line does when its device asks for service (IHI 0048B, "Interrupt types").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trigger {
    /// Asserted for as long as the device wants service.
    Level,
    /// Each rising edge is one request.
    Edge,
}

/// An interrupt as a board wires it: the number, and what its line does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WiredInterrupt {
    /// Its number at the GIC.
    pub intid: IntId,
    /// What its line does.
    pub trigger: Trigger,
}
