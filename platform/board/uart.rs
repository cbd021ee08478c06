//! The UART of the console (Devicetree Specification v0.4, "/chosen Node": `stdout-path`; Linux
//! bindings `pl011.yaml` and `brcm,bcm2835-aux-uart.yaml`).

use core::num::NonZeroU32;

use crate::addr::{PhysAddr, Region};
use crate::platform::WiredInterrupt;
use crate::platform::error::BoardError;
use crate::platform::tree::{InterruptController, Node, Tree};

/// A UART that there is a driver for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BoardUart {
    /// Which.
    pub kind: UartKind,
    /// Its registers.
    pub registers: Region<PhysAddr>,
    /// Its interrupt; a UART without one is asked again and again.
    pub interrupt: Option<WiredInterrupt>,
    /// The frequency its baud rate derives from, where known.
    pub clock: Option<NonZeroU32>,
}

/// The UARTs that there are drivers for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UartKind {
    /// Arm's PrimeCell UART.
    Pl011,
    /// The mini UART of the BCM2835's auxiliary peripherals.
    MiniUart,
}

const PL011: &[&str] = &["arm,pl011"];
const MINI_UART: &[&str] = &["brcm,bcm2835-aux-uart"];

/// The UART that `stdout-path` names; where it names none that is known here, the first that is.
pub(super) fn read(
    tree: &Tree<'_>,
    gic: Option<&InterruptController<'_, '_>>,
) -> Result<BoardUart, BoardError> {
    let chosen = tree.root().child("chosen");
    let named = chosen.and_then(|chosen| tree.find(chosen.text("stdout-path")?));
    let (node, kind) = named
        .into_iter()
        .chain(tree.nodes())
        .filter(|node| node.is_available())
        .find_map(|node| kind(node).map(|kind| (node, kind)))
        .ok_or(BoardError::Missing { what: "PL011 or mini UART" })?;
    let interrupt = match gic {
        Some(gic) if node.property("interrupts").is_some() => Some(node.interrupt(0, gic)?),
        _ => None,
    };
    Ok(BoardUart {
        kind,
        registers: node.region(0)?,
        interrupt,
        clock: match kind {
            UartKind::Pl011 => clock(tree, node),
            // It follows the core clock, which firmware changes as it likes.
            UartKind::MiniUart => None,
        },
    })
}

pub(super) fn kind(node: Node<'_, '_>) -> Option<UartKind> {
    if node.is_compatible(PL011) {
        Some(UartKind::Pl011)
    } else if node.is_compatible(MINI_UART) {
        Some(UartKind::MiniUart)
    } else {
        None
    }
}

/// The PL011's `UARTCLK`, where it is a `fixed-clock` or that of a board known here.
pub(super) fn clock(tree: &Tree<'_>, uart: Node<'_, '_>) -> Option<NonZeroU32> {
    /// The Raspberry Pi's firmware sets this one, its `init_uart_clock`, before it starts a kernel.
    const BCM2711: u32 = 48_000_000;
    if tree.root().is_compatible(&["brcm,bcm2711"]) {
        return NonZeroU32::new(BCM2711);
    }
    // The binding has the clock of the baud rate first.
    fixed_clock(tree, uart)
}

/// The frequency of a device's first clock, where that is a `fixed-clock`.
pub(super) fn fixed_clock(tree: &Tree<'_>, device: Node<'_, '_>) -> Option<NonZeroU32> {
    let phandle = u32::from_be_bytes(*device.property("clocks")?.first_chunk()?);
    let source = tree.phandle(phandle).filter(|clock| clock.is_compatible(&["fixed-clock"]))?;
    NonZeroU32::new(source.u32("clock-frequency")?)
}
