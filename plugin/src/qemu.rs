//! QEMU's interface for TCG plugins, as far as it is needed here (QEMU's `qemu-plugin.h`, API version 4:
//! QEMU 9.2 and later).
//!
//! QEMU provides the functions, and glib's, to what it loads.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// The version of the interface that QEMU must offer.
pub const API_VERSION: c_int = 4;

/// QEMU's number for a plugin.
pub type PluginId = u64;

/// A callback for a vCPU that executes what the callback was registered for.
pub type Executed = unsafe extern "C" fn(vcpu: c_uint, data: *mut c_void);

/// `struct qemu_info_t`, of a machine (the last two fields are those of a union).
#[repr(C)]
pub struct Info {
    target: *const c_char,
    oldest_version: c_int,
    version: c_int,
    is_machine: bool,
    vcpus_at_start: c_int,
    /// How many vCPUs it may come to have.
    pub max_vcpus: c_int,
}

type Translated = unsafe extern "C" fn(PluginId, *mut Tb);

#[repr(C)]
struct RawScoreboard {
    _opaque: [u8; 0],
}

/// A translation block: what QEMU translates and executes as one.
#[repr(C)]
pub struct Tb {
    _opaque: [u8; 0],
}

/// An instruction of a translation block.
#[repr(C)]
pub struct Insn {
    _opaque: [u8; 0],
}

/// `struct GArray` and `struct GByteArray` of glib, the fields that are public.
#[repr(C)]
struct Array {
    data: *mut u8,
    len: c_uint,
}

#[repr(C)]
struct RegisterDescriptor {
    handle: *mut c_void,
    name: *const c_char,
    feature: *const c_char,
}

/// `enum qemu_plugin_op`: how an inline operation changes a counter.
const INLINE_ADD: c_int = 0;
/// `enum qemu_plugin_cond`.
const COND_EQ: c_int = 2;

/// What a callback does with registers (`enum qemu_plugin_cb_flags`).
#[derive(Clone, Copy)]
#[repr(C)]
pub enum Registers {
    /// Nothing.
    Untouched,
    /// Reads them.
    Read,
}

unsafe extern "C" {
    fn qemu_plugin_scoreboard_new(size: usize) -> *mut RawScoreboard;
    fn qemu_plugin_u64_get(counter: Counter, vcpu: c_uint) -> u64;
    fn qemu_plugin_u64_set(counter: Counter, vcpu: c_uint, value: u64);
    fn qemu_plugin_num_vcpus() -> c_int;
    fn qemu_plugin_register_vcpu_init_cb(
        id: PluginId,
        callback: unsafe extern "C" fn(PluginId, c_uint),
    );
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: PluginId, callback: Translated);
    fn qemu_plugin_register_atexit_cb(
        id: PluginId,
        callback: unsafe extern "C" fn(PluginId, *mut c_void),
        data: *mut c_void,
    );
    fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    fn qemu_plugin_tb_get_insn(tb: *const Tb, index: usize) -> *mut Insn;
    fn qemu_plugin_insn_data(insn: *const Insn, to: *mut c_void, size: usize) -> usize;
    fn qemu_plugin_insn_vaddr(insn: *const Insn) -> u64;
    fn qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
        insn: *mut Insn,
        operation: c_int,
        counter: Counter,
        value: u64,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Insn,
        callback: Executed,
        registers: Registers,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        tb: *mut Tb,
        callback: Executed,
        registers: Registers,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_tb_exec_cond_cb(
        tb: *mut Tb,
        callback: Executed,
        registers: Registers,
        condition: c_int,
        counter: Counter,
        value: u64,
        data: *mut c_void,
    );
    fn qemu_plugin_get_registers() -> *mut Array;
    fn qemu_plugin_read_register(register: *mut c_void, to: *mut Array) -> c_int;
    fn qemu_plugin_read_memory_vaddr(address: u64, to: *mut Array, size: usize) -> bool;
    fn g_byte_array_new() -> *mut Array;
    fn g_byte_array_unref(array: *mut Array);
    fn g_array_unref(array: *mut Array);
}

/// Registers what is called when a vCPU comes to be, when code is translated, and at the end.
///
/// # Safety
/// `id` is this plugin's, the call is made from `qemu_plugin_install`, and the callbacks can be called
/// with what QEMU gives them from any thread and at any time.
pub unsafe fn register(
    id: PluginId,
    vcpu: unsafe extern "C" fn(PluginId, c_uint),
    translated: Translated,
    exit: unsafe extern "C" fn(PluginId, *mut c_void),
) {
    // SAFETY: as the caller promises.
    unsafe {
        qemu_plugin_register_vcpu_init_cb(id, vcpu);
        qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
        qemu_plugin_register_atexit_cb(id, exit, std::ptr::null_mut());
    }
}

/// How many vCPUs there have been.
pub fn vcpus() -> u32 {
    // SAFETY: it has no conditions once a plugin is installed.
    u32::try_from(unsafe { qemu_plugin_num_vcpus() }).unwrap_or(0)
}

/// A number that each vCPU has for itself, 0 at first (`qemu_plugin_u64`).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Counter {
    board: *mut RawScoreboard,
    offset: usize,
}

// SAFETY: the scoreboard is never freed, and QEMU moves it only while no vCPU runs.
unsafe impl Send for Counter {}
// SAFETY: as above; what is shared is the handle, and each vCPU writes its own number alone.
unsafe impl Sync for Counter {}

impl Counter {
    /// `N` new counters, which live until QEMU ends.
    pub fn several<const N: usize>() -> [Self; N] {
        // SAFETY: it has no conditions once QEMU has begun to install the plugin, and never fails.
        let board = unsafe { qemu_plugin_scoreboard_new(N * size_of::<u64>()) };
        std::array::from_fn(|index| Self { board, offset: index * size_of::<u64>() })
    }

    /// What it is for `vcpu`.
    pub fn get(self, vcpu: u32) -> u64 {
        // SAFETY: the scoreboard lives, and the offset is within what was asked for. A vCPU that has
        // run, or is below `vcpus`, has its place in it.
        unsafe { qemu_plugin_u64_get(self, vcpu) }
    }

    /// Changes it for `vcpu`.
    pub fn set(self, vcpu: u32, value: u64) {
        // SAFETY: as for `get`.
        unsafe { qemu_plugin_u64_set(self, vcpu, value) }
    }
}

/// A register of every vCPU.
#[derive(Clone, Copy)]
pub struct Register(NonNull<c_void>);

// SAFETY: the handle is a number that QEMU made look like a pointer; nobody follows it here.
unsafe impl Send for Register {}
// SAFETY: as above.
unsafe impl Sync for Register {}

impl Register {
    /// The registers of these names, where the machine's CPUs have them.
    ///
    /// # Safety
    /// The caller is the callback for a new vCPU.
    pub unsafe fn find<const N: usize>(names: [&CStr; N]) -> [Option<Self>; N] {
        let mut found = [None; N];
        // SAFETY: the caller is in a vCPU's context, and the array is ours.
        let array = unsafe { qemu_plugin_get_registers() };
        // SAFETY: a GArray of `len` descriptors; QEMU never gives null.
        let descriptors = unsafe {
            let Array { data, len } = &*array;
            slice(data.cast::<RegisterDescriptor>(), *len)
        };
        for descriptor in descriptors {
            // SAFETY: names are texts that live as long as QEMU.
            let name = unsafe { CStr::from_ptr(descriptor.name) };
            if let Some(index) = names.iter().position(|wanted| *wanted == name) {
                found[index] = NonNull::new(descriptor.handle).map(Self);
            }
        }
        // SAFETY: it is not used any more.
        unsafe { g_array_unref(array) };
        found
    }

    /// What it holds.
    ///
    /// # Safety
    /// The caller is a callback for what the vCPU translates, or one that is registered with
    /// [`Registers::Read`].
    pub unsafe fn read(self) -> u64 {
        let bytes = Bytes::new();
        // SAFETY: the handle comes from QEMU, the array is ours, and the caller may read registers.
        // What is returned differs between versions, so the array says how much was read.
        unsafe { qemu_plugin_read_register(self.0.as_ptr(), bytes.0) };
        let mut value = [0; 8];
        value.iter_mut().zip(bytes.get()).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(value)
    }
}

/// So many bytes of memory from `address` on, as the vCPU sees it now.
///
/// # Safety
/// The caller is a callback for what a vCPU executes.
pub unsafe fn memory(address: u64, size: usize) -> Option<Vec<u8>> {
    let bytes = Bytes::new();
    // SAFETY: the array is ours, and there is a current vCPU.
    let read = unsafe { qemu_plugin_read_memory_vaddr(address, bytes.0, size) };
    read.then(|| bytes.get().to_vec())
}

/// A byte array that QEMU can write to.
struct Bytes(*mut Array);

impl Bytes {
    fn new() -> Self {
        // SAFETY: it has no conditions and never fails.
        Self(unsafe { g_byte_array_new() })
    }

    fn get(&self) -> &[u8] {
        // SAFETY: a GByteArray of `len` bytes, which changes only while QEMU has it.
        unsafe {
            let Array { data, len } = &*self.0;
            slice(*data, *len)
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: it is ours alone, and not used any more.
        unsafe { g_byte_array_unref(self.0) };
    }
}

/// The elements of a glib array; one without elements may have no memory.
///
/// # Safety
/// `data` is null, or points to `len` elements that live and do not change as long as the result.
unsafe fn slice<'a, T>(data: *const T, len: c_uint) -> &'a [T] {
    if data.is_null() {
        return &[];
    }
    // SAFETY: as the caller promises; a length of 32 bits fits.
    unsafe { std::slice::from_raw_parts(data, len as usize) }
}

/// A translation block that QEMU is about to make.
pub struct Block(*mut Tb);

impl Block {
    /// # Safety
    /// `tb` is what QEMU gave to the callback for translations, which goes on until the block is
    /// dropped.
    pub unsafe fn new(tb: *mut Tb) -> Self {
        Self(tb)
    }

    /// Its instructions: what they are, in order.
    pub fn instructions(&self) -> impl Iterator<Item = Instruction<'_>> {
        // SAFETY: the block is valid while its callback goes on.
        let count = unsafe { qemu_plugin_tb_n_insns(self.0) };
        (0..count).map(|index| {
            // SAFETY: as above, and the index is within the block.
            let insn = unsafe { qemu_plugin_tb_get_insn(self.0, index) };
            Instruction(insn, PhantomData)
        })
    }

    /// Calls `callback` whenever the block begins.
    pub fn call(&self, callback: Executed, registers: Registers, data: usize) {
        // SAFETY: the block is valid, and `Executed` functions take any vCPU. The data is a number.
        unsafe {
            qemu_plugin_register_vcpu_tb_exec_cb(self.0, callback, registers, data as *mut c_void)
        };
    }

    /// Calls `callback` whenever the block begins and the vCPU's counter is 0.
    pub fn call_if_zero(
        &self,
        counter: Counter,
        callback: Executed,
        registers: Registers,
        data: usize,
    ) {
        let (tb, data) = (self.0, data as *mut c_void);
        // SAFETY: as for `call`; the counter lives as long as QEMU.
        unsafe {
            qemu_plugin_register_vcpu_tb_exec_cond_cb(
                tb, callback, registers, COND_EQ, counter, 0, data,
            )
        };
    }
}

/// An instruction of a block.
pub struct Instruction<'b>(*mut Insn, PhantomData<&'b Block>);

impl Instruction<'_> {
    /// Its encoding; 0, which is none, when it has not 32 bits.
    pub fn word(&self) -> u32 {
        let mut word = [0; 4];
        // SAFETY: the instruction is valid as long as its block, and there is room for 4 bytes.
        let size = unsafe { qemu_plugin_insn_data(self.0, word.as_mut_ptr().cast(), word.len()) };
        if size == word.len() { u32::from_le_bytes(word) } else { 0 }
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        // SAFETY: the instruction is valid as long as its block.
        unsafe { qemu_plugin_insn_vaddr(self.0) }
    }

    /// Adds to the vCPU's counter whenever the instruction begins.
    pub fn add(&self, counter: Counter, value: u64) {
        // SAFETY: the instruction is valid as long as its block; the counter lives as long as QEMU.
        unsafe {
            qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(self.0, INLINE_ADD, counter, value)
        };
    }

    /// Calls `callback` whenever the instruction begins.
    pub fn call(&self, callback: Executed, data: usize) {
        let data = data as *mut c_void;
        // SAFETY: as for `add`; `Executed` functions take any vCPU. The data is a number.
        unsafe {
            qemu_plugin_register_vcpu_insn_exec_cb(self.0, callback, Registers::Untouched, data)
        };
    }
}
