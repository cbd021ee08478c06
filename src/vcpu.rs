//! vcpu.

/// A virtual CPU of one VM, by its index: 0 is the boot vCPU.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[derive(serde::Serialize, serde::Deserialize)]
pub struct VcpuId(pub u8);

/// The most vCPUs one VM can have. GICv2 has eight CPU interfaces (IHI 0048, "Distributor").
pub const MAX_VCPUS: usize = 8;
