//! How the console is set up: by the manifest, and by the hypervisor's boot arguments.

use super::keys::EscapeKey;
use crate::manifest::MachineConfig;

/// How much scrollback a guest has unless told otherwise, in bytes.
const SCROLLBACK: usize = 64 << 10;

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
}
