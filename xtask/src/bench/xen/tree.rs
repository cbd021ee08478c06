//! The guest, described to Xen in the board's device tree.
//!
//! As Xen's `docs/misc/arm/device-tree/booting.txt` has it: a node of `/chosen` for each domain, and in it one for
//! each file of it that the boot loader has put into memory.

use anyhow::{Result, bail};

use super::Guest;
use crate::rpi4::Tree;

/// Xen's command line. All that matters for what is measured is left as Xen has it by itself: the scheduler
/// (credit2), and trapping WFI.
///
/// | option | why |
/// |---|---|
/// | `bootscrub=0` | free memory would be cleared whenever a CPU is idle, after the guest has started, and what the guest waits for would come later than it does for most of Xen's life: on one CPU a timer's interrupt by 345 instructions of 4546 |
/// | `conswitch=ax` | what is typed stays Xen's; newer ones give it to the guest, and its lines no prefix then |
const COMMAND_LINE: &str = "bootscrub=0 conswitch=ax";

/// Where the guest's node is.
const DOMAIN: &str = "/chosen/domU1";

/// Adds the guest, whose image of `size` bytes is in memory at `at`.
pub fn describe(tree: &mut Tree, guest: &Guest<'_>, at: u64, size: usize) -> Result<()> {
    if guest.vcpus == 0 {
        bail!("a guest without a vCPU");
    }
    tree.set("/chosen", "xen,xen-bootargs", COMMAND_LINE)?;
    tree.set(DOMAIN, "compatible", "xen,domain")?;
    tree.set(DOMAIN, "#address-cells", 2u32)?;
    tree.set(DOMAIN, "#size-cells", 2u32)?;
    // In KiB.
    tree.set(DOMAIN, "memory", guest.memory >> 10)?;
    tree.set(DOMAIN, "cpus", guest.vcpus)?;
    // A UART of its own.
    tree.set(DOMAIN, "vpl011", Vec::<u8>::new())?;
    let module = format!("{DOMAIN}/module@{at:x}");
    tree.set(&module, "compatible", &["multiboot,kernel", "multiboot,module"][..])?;
    let range = [at.to_be_bytes(), (size as u64).to_be_bytes()];
    tree.set(&module, "reg", range.concat())?;
    tree.set(&module, "bootargs", guest.cmdline)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dtoolkit::fdt::Fdt;
    use dtoolkit::model::DeviceTree;
    use dtoolkit::{Node, Property};

    use super::{DOMAIN, describe};
    use crate::bench::xen::Guest;
    use crate::rpi4::Tree;

    fn guest(vcpus: u32) -> Guest<'static> {
        Guest { payload: Path::new("hello"), cmdline: "rows=all", vcpus, memory: 256 << 20 }
    }

    /// QEMU's own tree, and the guest in it.
    fn described() -> Vec<u8> {
        let blob = include_bytes!("../../../../platform/testdata/qemu-virt-gv3.dtb");
        let mut tree = Tree::read(blob).expect("a good tree");
        describe(&mut tree, &guest(2), 0x5000_0000, 0xe108).expect("a good guest");
        tree.bytes()
    }

    #[test]
    fn xen_finds_the_guest_and_its_image() {
        let blob = described();
        let tree = DeviceTree::from_fdt(&Fdt::new(&blob).expect("a good tree"));
        let value = |path: &str, name: &str| {
            let node = tree.find_node(path).unwrap_or_else(|| panic!("no {path}"));
            let property = node.property(name).unwrap_or_else(|| panic!("no {path}/{name}"));
            property.value().to_vec()
        };
        assert_eq!(value(DOMAIN, "compatible"), b"xen,domain\0");
        assert_eq!(value(DOMAIN, "memory"), (256u64 << 10).to_be_bytes());
        assert_eq!(value(DOMAIN, "cpus"), 2u32.to_be_bytes());
        assert!(value(DOMAIN, "vpl011").is_empty());
        let module = format!("{DOMAIN}/module@50000000");
        assert_eq!(value(&module, "compatible"), b"multiboot,kernel\0multiboot,module\0");
        let reg = [0, 0x5000_0000, 0, 0xe108].map(u32::to_be_bytes).concat();
        assert_eq!(value(&module, "reg"), reg);
        assert_eq!(value(&module, "bootargs"), b"rows=all\0");
    }

    #[test]
    fn what_qemu_says_of_the_board_stays() {
        let blob = described();
        let tree = DeviceTree::from_fdt(&Fdt::new(&blob).expect("a good tree"));
        let chosen = tree.find_node("/chosen").expect("QEMU has one");
        assert!(chosen.property("stdout-path").is_some(), "Xen's console");
        assert!(tree.find_node("/psci").is_some(), "how Xen starts CPUs");
    }

    #[test]
    fn a_guest_without_a_vcpu_is_refused() {
        let mut tree = Tree::read(&described()).expect("a good tree");
        assert!(describe(&mut tree, &guest(0), 0, 1).is_err());
    }
}
