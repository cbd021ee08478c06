//! How the console is set up: by the manifest, and by the hypervisor's boot arguments.

use super::keys::EscapeKey;
use crate::manifest::{MAX_VMS, MachineConfig};

/// How much scrollback a guest has unless told otherwise, in bytes.
const SCROLLBACK: usize = 64 << 10;
/// How much memory is there for scrollback in any case, in bytes: what as many guests as there can be have
/// unless told otherwise. It is taken as guests speak.
const HEAP_SHARE: usize = MAX_VMS * SCROLLBACK;
/// Beyond that, scrollback gets at most this part of the memory for guests.
const MEMORY_PART: u64 = 16;

/// The console's settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The key that makes the next one a command.
    pub escape: EscapeKey,
    /// How many bytes of each guest's output are kept.
    pub scrollback: usize,
    /// Whether a terminal shows it: prefixes have colours, and a line may be written over.
    pub terminal: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { escape: EscapeKey::default(), scrollback: SCROLLBACK, terminal: true }
    }
}

impl Settings {
    /// Reads `escape=^A`, `scrollback=64K` and `colour=off` from words separated by spaces. What is not
    /// known or makes no sense is passed over.
    pub fn from_bootargs(bootargs: &str) -> Self {
        Self::default().overridden(bootargs)
    }

    /// What a manifest says of the machine, where the boot arguments do not say otherwise.
    pub fn for_machine(machine: &MachineConfig, bootargs: &str) -> Self {
        let default = Self::default();
        let settings = Self {
            escape: EscapeKey::of_letter(machine.escape).unwrap_or(default.escape),
            scrollback: usize::try_from(machine.scrollback).unwrap_or(default.scrollback),
            ..default
        };
        settings.overridden(bootargs)
    }

    /// The memory that one guest's scrollback takes: a block of the heap is a power of two.
    pub const fn block(&self) -> usize {
        self.scrollback.next_power_of_two()
    }

    /// How many [blocks](Self::block) more the scrollback of so many guests can take of memory
    /// when `free` bytes of memory are there for guests. Scrollback shrinks
    /// ([`shared`](Self::shared)) where that is more than a part of it.
    pub fn more_blocks(&self, guests: usize, free: u64) -> usize {
        let most = free / MEMORY_PART / (self.block() as u64).max(1);
        let wanted = guests.saturating_sub(HEAP_SHARE / self.block().max(1));
        wanted.min(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// The same with as much scrollback as so many guests can have when so many
    /// [blocks](Self::block) more can be taken. `None` when it is what was wanted.
    pub fn shared(&self, guests: usize, added: usize) -> Option<Self> {
        let there = HEAP_SHARE.saturating_add(added.saturating_mul(self.block()));
        let each = there / guests.max(1);
        let each = each.checked_ilog2().map_or(0, |log2| 1 << log2);
        (self.block() > each).then_some(Self { scrollback: each, ..*self })
    }

    fn overridden(self, bootargs: &str) -> Self {
        let mut settings = self;
        for word in bootargs.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("escape", key)) => settings.escape = key.parse().unwrap_or(settings.escape),
                Some(("scrollback", text)) => {
                    settings.scrollback = size(text).unwrap_or(settings.scrollback);
                }
                Some(("colour", "off")) => settings.terminal = false,
                Some(("colour", "on")) => settings.terminal = true,
                _ => {}
            }
        }
        settings
    }
}

/// 1 KiB to 1 MiB, with the unit `K` or `M`.
fn size(text: &str) -> Option<usize> {
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    let size = number.parse::<usize>().ok()?.checked_mul(unit)?;
    (1 << 10..=1 << 20).contains(&size).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_boot_arguments_change_what_they_name_and_nonsense_changes_nothing() {
        let read = Settings::from_bootargs;
        let set = read("log=info escape=^T scrollback=16K colour=off");
        let escape = "^T".parse().unwrap();
        assert_eq!(set, Settings { escape, scrollback: 16 << 10, terminal: false });
        let machine = MachineConfig { escape: 2, scrollback: 8192, ..MachineConfig::default() };
        let settings = Settings::for_machine(&machine, "scrollback=16K");
        assert_eq!((settings.escape.byte(), settings.scrollback), (2, 16 << 10));
        for text in ["", "escape=T scrollback=16 colour=blue", "scrollback=0K", "scrollback=9999M"]
        {
            assert_eq!(read(text), Settings::default(), "{text}");
        }
    }

    #[test]
    fn as_many_guests_as_there_can_be_have_the_usual_scrollback_without_more_heap() {
        let settings = Settings::default();
        assert_eq!(settings.more_blocks(MAX_VMS, 1 << 30), 0);
        assert_eq!(settings.shared(MAX_VMS, 0), None);
    }

    #[test]
    fn more_scrollback_takes_memory_of_the_guests() {
        let settings = Settings::from_bootargs("scrollback=1M");
        let there = HEAP_SHARE >> 20;
        assert_eq!(settings.more_blocks(64, 1 << 30), 64 - there);
        assert_eq!(settings.shared(64, 64 - there), None);
        assert_eq!(settings.more_blocks(64, 128 << 20), 8);
        assert_eq!(settings.shared(64, 8).map(|settings| settings.scrollback), Some(256 << 10));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn scrollback_never_takes_more_than_its_share_and_what_was_added(
            scrollback in 1024usize..=1 << 20,
            guests in 1..=MAX_VMS,
            free in 0u64..1 << 32,
        ) {
            let wanted = Settings { scrollback, ..Settings::default() };
            let added = wanted.more_blocks(guests, free);
            prop_assert!((added * wanted.block()) as u64 <= free / 16);
            let settings = wanted.shared(guests, added).unwrap_or(wanted);
            prop_assert!(settings.scrollback <= wanted.scrollback);
            prop_assert!(settings.scrollback >= wanted.scrollback.min(SCROLLBACK));
            let taken = guests * settings.block();
            prop_assert!(taken <= HEAP_SHARE + added * wanted.block());
        }
    }
}
