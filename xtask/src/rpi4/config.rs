//! `config.txt`, by which a Raspberry Pi's firmware knows what to load, and where.
//!
//! Written for the cards we make, and read back as the firmware does for those we boot. Source: the
//! documentation of the Raspberry Pi, "What is config.txt?", and what the firmware itself does.

use anyhow::{Context, Result, bail};

use super::tree;

/// The longest line that the firmware reads whole.
const LONGEST_LINE: usize = 98;

/// The hypervisor's file.
pub const KERNEL: &str = "kernel8.img";
/// The guests' file.
pub const BUNDLE: &str = "guests.bundle";
/// The file of what runs at EL3, where it is not the firmware's own stub.
pub const ARMSTUB: &str = "bl31.bin";

const TEXT: &str = "\
# How a Raspberry Pi 4 starts Plinth. The firmware (start4.elf) reads this file.

# What follows is for every model.
[all]

# Start the CPUs in AArch64 state; older firmware does so only when it is told.
arm_64bit=1

# The hypervisor. The firmware loads it to 0x200000, as its arm64 header wants it, and its
# boot stub enters it at EL2.
kernel=kernel8.img

# The guests. The firmware chooses a place for them, which /chosen of the device tree names.
initramfs guests.bundle followkernel

# What the board is made of. The firmware fills in its memory and the like.
device_tree=bcm2711-rpi-4-b.dtb

# Route interrupts through the GIC-400, on which Plinth relies.
enable_gic=1

# A serial console on the 40-pin header: GPIO14 (pin 8) sends, GPIO15 (pin 10) receives.
enable_uart=1

# Connect the PL011 to these pins, which might get the mini UART instead: its line TXD...
gpio=14=a0

# ...and RXD, which is pulled up so that nothing is read where nothing is connected.
gpio=15=a0,pu

# The PL011's clock in Hz, from which Plinth derives the baud rate.
init_uart_clock=48000000

# Let the firmware say on the console what it loads: the first sign of life.
uart_2ndstage=1
";

const TFA: &str = "
# Trusted Firmware-A at EL3 instead of the firmware's own stub: it has PSCI, by which CPUs are
# turned on and the board is turned off, and workarounds for CPU errata.
armstub=bl31.bin
";

/// The file's text.
pub fn text(tfa: bool) -> String {
    if tfa { [TEXT, TFA].concat() } else { TEXT.to_owned() }
}

/// What a `config.txt` says, as far as it matters here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    pub kernel: String,
    pub initramfs: Option<String>,
    pub device_tree: String,
    pub armstub: Option<String>,
    pub uart: bool,
}

impl Config {
    /// Reads it as the firmware of a Raspberry Pi 4 does; what we do not know of is an error.
    pub fn read(text: &str) -> Result<Self> {
        let mut config = Self {
            kernel: KERNEL.to_owned(),
            initramfs: None,
            device_tree: tree::FILE.to_owned(),
            armstub: None,
            uart: false,
        };
        let mut here = true;
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            if line.len() >= LONGEST_LINE {
                bail!("config.txt:{number}: the firmware cuts lines of {LONGEST_LINE} characters");
            }
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(section) = line.strip_prefix('[') {
                here = matches!(section, "all]" | "pi4]");
            } else if here {
                config.line(line).with_context(|| format!("config.txt:{number}: `{line}`"))?;
            }
        }
        Ok(config)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(words) = line.strip_prefix("initramfs ") {
            let (file, place) = words.trim().split_once(' ').context("no address")?;
            if place.trim() != "followkernel" {
                bail!("only `followkernel` is known here");
            }
            self.initramfs = Some(file.to_owned());
            return Ok(());
        }
        let (key, value) = line.split_once('=').context("no `=`")?;
        match (key, value) {
            ("kernel", file) => file.clone_into(&mut self.kernel),
            ("device_tree", file) => file.clone_into(&mut self.device_tree),
            ("armstub", file) => self.armstub = Some(file.to_owned()),
            ("enable_uart", "1") => self.uart = true,
            ("arm_64bit" | "enable_gic" | "uart_2ndstage", "1")
            | ("gpio", "14=a0" | "15=a0,pu")
            | ("init_uart_clock", "48000000") => {}
            _ => bail!("this setting is not known here"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ARMSTUB, BUNDLE, Config, KERNEL, text};

    #[test]
    fn what_is_written_says_what_is_on_the_card() {
        let config = Config::read(&text(false)).expect("a good file");
        assert_eq!((config.kernel.as_str(), config.initramfs.as_deref()), (KERNEL, Some(BUNDLE)));
        assert_eq!(config.device_tree, "bcm2711-rpi-4-b.dtb");
        assert!(config.uart && config.armstub.is_none());
        let config = Config::read(&text(true)).expect("a good file");
        assert_eq!(config.armstub.as_deref(), Some(ARMSTUB));
    }

    #[test]
    fn every_setting_has_a_comment_before_it() {
        for part in text(true).split("\n\n") {
            let settings = part.lines().filter(|line| !line.starts_with('#')).count();
            assert!(part.starts_with('#') && settings <= 1, "{part}");
        }
    }

    #[test]
    fn other_models_sections_are_left_out() {
        let config = Config::read("[pi3]\nkernel=a\n[pi4]\narmstub=b\n[all]\nkernel=c\n");
        let config = config.expect("a good file");
        assert_eq!((config.kernel.as_str(), config.armstub.as_deref()), ("c", Some("b")));
    }

    #[test]
    fn what_the_firmware_would_misread_is_an_error() {
        for text in
            [format!("#{}", "x".repeat(97)), "kernel\n".to_owned(), "arm_64bit=0\n".to_owned()]
        {
            assert!(Config::read(&text).is_err(), "{text}");
        }
    }
}
