//! What a guest takes for its firmware: the calls it answers, how it loads a kernel, and the device
//! tree it hands over.
//!
//! Pure, all of it: a call returns what is to become of the vCPU or the VM, an image is written
//! through [`image::GuestWrite`], and a device tree is a vector of bytes.
//!
//! | module | what it is |
//! |---|---|
//! | [`smccc`] | which function a guest calls, and what comes back (DEN0028) |
//! | [`psci`] | turning vCPUs and the VM on and off (DEN0022) |
//! | [`pvtime`] | how much time was stolen from a vCPU (DEN0057) |
//! | [`trng`] | true random numbers (DEN0098) |
//! | [`entropy`] | where those come from |
//! | [`image`] | recognising and placing a kernel and its RAM disk |
//! | [`fdt`] | describing the guest machine to the kernel |

pub mod entropy;
pub mod fdt;
pub mod image;
pub mod psci;
pub mod pvtime;
pub mod smccc;
pub mod trng;
