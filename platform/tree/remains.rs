//! What can be told of a device tree that cannot be read: where its UART is, and how its firmware is called, to say what is wrong with
//! it and to turn the machine off.
//!
//! The tokens are gone through as far as they make sense, whatever comes behind, and without memory: that there is too little of it
//! may be why the tree cannot be read.

use core::num::NonZeroU32;

use super::blob::{BEGIN_NODE, END_NODE, MAX_DEPTH, NOP, PROP, name, offset, word};
use super::{Cells, lists};
use crate::addr::{PhysAddr, Region};
use crate::platform::board::{BoardUart, Conduit, UartKind};

/// One node, of those that are open.
#[derive(Clone, Copy, Default)]
struct Level<'a> {
    address_cells: Option<u32>,
    size_cells: Option<u32>,
    ranges: Option<&'a [u8]>,
    compatible: &'a [u8],
    reg: &'a [u8],
    method: &'a [u8],
    status: Option<&'a [u8]>,
}

impl<'a> Level<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) {
        let cell = || value.try_into().map(u32::from_be_bytes).ok();
        match name {
            b"#address-cells" => self.address_cells = cell(),
            b"#size-cells" => self.size_cells = cell(),
            b"ranges" => self.ranges = Some(value),
            b"compatible" => self.compatible = value,
            b"reg" => self.reg = value,
            b"method" => self.method = value,
            b"status" => self.status = Some(value),
            _ => {}
        }
    }

    /// How many cells an address and a size have in it.
    fn cells(&self) -> (usize, usize) {
        let few = |cells: Option<u32>, default| cells.unwrap_or(default).min(4) as usize;
        (few(self.address_cells, 2), few(self.size_cells, 1))
    }

    fn is_available(&self) -> bool {
        matches!(self.status, None | Some(b"okay\0" | b"ok\0"))
    }
}

/// The UART that is found first.
pub fn uart(blob: &[u8]) -> Option<BoardUart> {
    look(blob, |path| {
        let (node, above) = path.split_last()?;
        let kind = if lists(node.compatible, b"arm,pl011") {
            UartKind::Pl011
        } else if lists(node.compatible, b"brcm,bcm2835-aux-uart") {
            UartKind::MiniUart
        } else {
            return None;
        };
        let registers = registers(node, above).filter(|_| node.is_available())?;
        Some(BoardUart { kind, registers, interrupt: None, clock: None::<NonZeroU32> })
    })
}

/// How PSCI is called.
pub fn conduit(blob: &[u8]) -> Option<Conduit> {
    look(blob, |path| {
        let node = path.last()?;
        let is_psci = [b"arm,psci-1.0".as_slice(), b"arm,psci-0.2"];
        match node.method {
            _ if !is_psci.iter().any(|model| lists(node.compatible, model)) => None,
            b"hvc\0" => Some(Conduit::Hvc),
            b"smc\0" => Some(Conduit::Smc),
            _ => None,
        }
    })
}

/// Where the first registers of a node are that stands in the last of `above`.
fn registers(node: &Level<'_>, above: &[Level<'_>]) -> Option<Region<PhysAddr>> {
    let (address, size) = above.last()?.cells();
    let mut reg = Cells(node.reg);
    let (mut start, size) = (reg.take(address)?, reg.take(size)?);
    // From each bus to the one above, where the root is the last.
    for (bus, higher) in above.iter().skip(1).zip(above).rev() {
        let mut ranges = Cells(bus.ranges?);
        let ((child, length), (parent, _)) = (bus.cells(), higher.cells());
        if child + parent + length == 0 {
            return None;
        }
        while !ranges.is_empty() {
            let (from, to) = (ranges.take(child)?, ranges.take(parent)?);
            let length = ranges.take(length)?;
            if let Some(inside) = start.checked_sub(from).filter(|inside| *inside < length) {
                start = to.checked_add(inside)?;
                break;
            }
            // The last one does not have it either.
            if ranges.is_empty() {
                return None;
            }
        }
    }
    Region::new(PhysAddr::new(u64::try_from(start).ok()?), u64::try_from(size).ok()?)
}

/// What is `found` in a node, whose way from the root is told, when all of its properties are known.
fn look<T>(blob: &[u8], found: impl Fn(&[Level<'_>]) -> Option<T>) -> Option<T> {
    let structure = blob.get(offset(blob, 8).ok()?..)?;
    let strings = blob.get(offset(blob, 12).ok()?..)?;
    let mut levels = [Level::default(); MAX_DEPTH];
    let (mut at, mut depth, mut complete) = (0usize, 0usize, true);
    loop {
        let token = word(structure, at).ok();
        if !complete && !matches!(token, Some(PROP | NOP)) {
            complete = true;
            let path = levels.get(..depth)?;
            if let Some(found) = found(path) {
                return Some(found);
            }
        }
        let size = match token? {
            BEGIN_NODE => {
                *levels.get_mut(depth)? = Level::default();
                depth += 1;
                complete = false;
                4 + name(structure, at.checked_add(4)?)? + 1
            }
            END_NODE => {
                depth = depth.checked_sub(1)?;
                4
            }
            PROP => {
                let length = offset(structure, at.checked_add(4)?).ok()?;
                let named = offset(structure, at.checked_add(8)?).ok()?;
                let from = at.checked_add(12)?;
                let value = structure.get(from..from.checked_add(length)?)?;
                let named = strings.get(named..).unwrap_or_default();
                let (named, _) = super::split_text(named);
                levels.get_mut(depth.checked_sub(1)?)?.take(named, value);
                length.checked_add(12)?
            }
            NOP => 4,
            _ => return None,
        };
        at = at.checked_add(size)?.checked_next_multiple_of(4)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::board::Board;
    use crate::testing::pick;

    const QEMU: &[u8] = include_bytes!("../testdata/qemu-virt-gv3.dtb");

    /// Where the last token is of what `look` needs, by the tree's own text.
    fn behind(blob: &[u8], text: &[u8]) -> usize {
        blob.windows(text.len()).position(|some| some == text).expect("it is there")
    }

    #[test]
    fn of_a_good_tree_it_is_the_same_as_by_reading_it() {
        let read = Board::read_uart(QEMU).unwrap();
        let found = uart(QEMU).unwrap();
        assert_eq!((found.kind, found.registers), (read.kind, read.registers));
        assert_eq!(conduit(QEMU), Board::read_power(QEMU).unwrap().0);
    }

    #[test]
    fn what_comes_before_the_end_of_what_makes_sense_is_found() {
        // A token that is none, wherever: what was complete before it is found, and nothing else.
        let structure = offset(QEMU, 8).unwrap();
        let end = structure + offset(QEMU, 36).unwrap();
        let whole = behind(QEMU, b"pl011@") + 0x100;
        let registers = uart(QEMU).map(|uart| uart.registers);
        for at in (structure..end).step_by(pick(4, 1004)) {
            let mut broken = QEMU.to_vec();
            broken[at..at + 4].fill(0x55);
            let found = uart(&broken).map(|uart| uart.registers);
            if at > whole {
                assert_eq!(found, registers, "{at:#x}");
            }
            let _ = conduit(&broken);
        }
    }

    #[test]
    fn a_bus_above_has_its_own_addresses() {
        let (soc, root) = (
            Level {
                address_cells: Some(1),
                size_cells: Some(1),
                ranges: Some(&[0x7e, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0, 0, 0, 1, 0x80, 0, 0]),
                ..Level::default()
            },
            Level { address_cells: Some(2), size_cells: Some(1), ..Level::default() },
        );
        let node = Level { reg: &[0x7e, 0x20, 0x10, 0, 0, 0, 2, 0], ..Level::default() };
        let at = registers(&node, &[root, soc]).unwrap();
        assert_eq!((at.start().raw(), at.size()), (0xfe20_1000, 0x200));
        assert_eq!(registers(&node, &[root, Level { ranges: None, ..soc }]), None);
        assert_eq!(registers(&node, &[]), None);
    }
}
