//! What one function calls, whose addresses it takes, and how much of the stack it has at each place.
//!
//! Only what moves the stack pointer or leaves the straight way is decoded (Arm ARM, "A64 instruction set
//! encoding"): the rest cannot matter.

use std::collections::{BTreeMap, BTreeSet};

use super::image::{Function, Image};

/// What an instruction does with the order of things.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flow {
    /// The next one follows.
    Next,
    /// Only that one follows.
    Jump(u64),
    /// That one or the next.
    Branch(u64),
    /// That one, and then the next if it returns.
    Call(u64),
    /// A call of what is in a register.
    CallRegister(usize),
    /// To what is in a register.
    JumpRegister(usize),
    /// Nothing follows here.
    End,
}

/// Whom something calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Callee {
    /// The function that begins there.
    Known(u64),
    /// What a register holds; the offset at which it was loaded, in bytes, if it was from memory.
    Indirect(Option<u64>),
}

/// A call, or a jump out of the function.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The instruction.
    pub at: u64,
    /// How much of the stack the function has then, in bytes.
    pub depth: u64,
    /// Whom.
    pub callee: Callee,
}

/// What is known of a function.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// In order.
    pub calls: Vec<Call>,
    /// The addresses of the image that it works out.
    pub taken: BTreeSet<u64>,
    /// How much of the stack it has at most, in bytes.
    pub frame: u64,
    /// It has a way to return, or to go on in another function.
    pub returns: bool,
    /// What was not understood.
    pub unclear: Vec<String>,
}

/// A signed field of an instruction.
fn signed(word: u32, low: u32, bits: u32) -> i64 {
    i64::from((word << (32 - low - bits)) as i32 >> (32 - bits))
}

fn register(word: u32, low: u32) -> usize {
    (word >> low & 31) as usize
}

/// What comes after the instruction `word` at `at`.
pub fn flow(word: u32, at: u64) -> Flow {
    let to = |low, bits| at.wrapping_add_signed(signed(word, low, bits) * 4);
    if word & 0x7c00_0000 == 0x1400_0000 {
        let to = to(0, 26);
        return if word >> 31 == 1 { Flow::Call(to) } else { Flow::Jump(to) };
    }
    if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        return Flow::Branch(to(5, 19));
    }
    if word & 0x7e00_0000 == 0x3600_0000 {
        return Flow::Branch(to(5, 14));
    }
    match word & 0xffff_fc1f {
        0xd61f_0000 => return Flow::JumpRegister(register(word, 5)),
        0xd63f_0000 => return Flow::CallRegister(register(word, 5)),
        0xd65f_0000 => return Flow::End,
        _ => {}
    }
    let is_break = word & 0xffe0_001f == 0xd420_0000;
    if is_break || word >> 16 == 0 { Flow::End } else { Flow::Next }
}

/// By how much the instruction moves the stack pointer, in bytes; the stack grows with what is positive. None
/// where that is not written in it.
pub fn growth(word: u32) -> Option<i64> {
    // ADD and SUB (immediate), 64 bits, to SP.
    if word & 0xbf80_001f == 0x9100_001f {
        let amount = i64::from(word >> 10 & 0xfff) << if word >> 22 & 1 == 1 { 12 } else { 0 };
        let grows = word >> 30 & 1 == 1;
        return (register(word, 5) == 31).then_some(if grows { amount } else { -amount });
    }
    let is_pair = word & 0x3a00_0000 == 0x2800_0000 && word >> 23 & 1 == 1;
    if is_pair && register(word, 5) == 31 {
        let scale = match (word >> 26 & 1, word >> 30) {
            (0, 2) => 8,
            (0, _) => 4,
            (_, size) => 4 << size,
        };
        return Some(-signed(word, 15, 7) * scale);
    }
    // One register with write-back; bit 21 is that of a register as the offset.
    let is_single = word & 0x3b20_0400 == 0x3800_0400;
    if is_single && register(word, 5) == 31 {
        return Some(-signed(word, 12, 9));
    }
    // Everything else that can have SP as its result: ADD and SUB (extended register), the logical immediates.
    let extended = word & 0x3fe0_0000 == 0x0b20_0000;
    let logical = word & 0x1f80_0000 == 0x1200_0000 && word >> 29 & 3 != 3;
    if (extended || logical) && register(word, 0) == 31 { None } else { Some(0) }
}

/// The register that becomes so many bytes less than the stack pointer: SUB (immediate) of SP.
fn below_sp(word: u32) -> Option<(usize, i64)> {
    let amount = i64::from(word >> 10 & 0xfff) << if word >> 22 & 1 == 1 { 12 } else { 0 };
    let is_it = word & 0xff80_03e0 == 0xd100_03e0 && register(word, 0) != 31;
    is_it.then(|| (register(word, 0), amount))
}

/// The register that the stack pointer is compared with: CMP (extended register).
fn compared_with_sp(word: u32) -> Option<usize> {
    (word & 0xffe0_ffff == 0xeb20_63ff).then(|| register(word, 16))
}

/// Looks at all functions.
pub fn all(image: &Image) -> BTreeMap<u64, Body> {
    // What is behind a call that never returns is somewhere else's; who never returns is known better each time.
    let mut never = BTreeSet::new();
    loop {
        let each = image.functions.values();
        let bodies: BTreeMap<u64, Body> =
            each.map(|function| (function.at, read(image, function, &never))).collect();
        let found = bodies.iter().filter(|(_, body)| !body.returns).map(|(at, _)| *at).collect();
        if found == never {
            return bodies;
        }
        never = found;
    }
}

/// Looks at a function. Those of `never` never return.
fn read(image: &Image, function: &Function, never: &BTreeSet<u64>) -> Body {
    let mut body = Body::default();
    let end = function.at + function.size;
    let places =
        || (function.at..end).step_by(4).filter_map(|at| Some((at, image.instruction(at)?)));
    let loads = addresses(places(), &mut body.taken);
    let inside = |to: u64| to >= function.at && to < end;
    let mut depths: BTreeMap<u64, i64> = BTreeMap::new();
    // Where a table's jump goes is not looked up: to whatever nothing else leads to.
    let mut tables = Vec::new();
    let mut todo = vec![(function.at, 0)];
    // Large frames are probed in a loop, until the stack pointer is what a register holds.
    let (mut goals, mut probed) = ([None; 32], BTreeSet::new());
    let call = |body: &mut Body, at, depth: i64, callee| {
        body.calls.push(Call { at, depth: depth.max(0).cast_unsigned(), callee });
    };
    loop {
        let Some((at, depth)) = todo.pop() else {
            let unseen = places().map(|(at, _)| at).find(|at| !depths.contains_key(at));
            let Some((at, depth)) = unseen.zip(tables.iter().copied().max()) else { break };
            todo.push((at, depth));
            continue;
        };
        if let Some(before) = depths.get(&at).filter(|_| inside(at)) {
            if *before < depth && !probed.contains(&depth) {
                body.unclear.push(format!(
                    "{at:#x} is reached with {before} bytes of the stack, and with {depth}"
                ));
            }
            continue;
        }
        if !inside(at) {
            continue;
        }
        let Some(word) = image.instruction(at) else { continue };
        depths.insert(at, depth);
        let Some(grown) = growth(word) else {
            body.unclear
                .push(format!("{at:#x}: {word:08x} sets the stack pointer to a register's value"));
            continue;
        };
        let mut depth = depth + grown;
        if let Some((to, below)) = below_sp(word) {
            goals[to] = Some(depth + below);
        }
        if let Some(goal) = compared_with_sp(word).and_then(|with| goals[with]) {
            depth = goal;
            probed.insert(goal);
        }
        body.frame = body.frame.max(depth.max(0).cast_unsigned());
        let mut leads = |body: &mut Body, to| {
            if inside(to) {
                todo.push((to, depth));
            } else {
                body.returns |= !never.contains(&to);
                call(body, at, depth, Callee::Known(to));
            }
        };
        match flow(word, at) {
            Flow::Next => leads(&mut body, at + 4),
            Flow::Jump(to) => leads(&mut body, to),
            Flow::Branch(to) => {
                leads(&mut body, at + 4);
                leads(&mut body, to);
            }
            Flow::Call(to) => {
                call(&mut body, at, depth, Callee::Known(to));
                if !never.contains(&to) {
                    todo.push((at + 4, depth));
                }
            }
            Flow::CallRegister(of) => {
                call(&mut body, at, depth, Callee::Indirect(loads.offset(at, of)));
                todo.push((at + 4, depth));
            }
            Flow::JumpRegister(of) if loads.is_table(at, of) => tables.push(depth),
            Flow::JumpRegister(of) => {
                body.returns = true;
                call(&mut body, at, depth, Callee::Indirect(loads.offset(at, of)));
            }
            Flow::End => body.returns |= word & 0xffff_fc1f == 0xd65f_0000,
        }
    }
    body.calls.sort_by_key(|call| call.at);
    body
}

/// What was last put into registers, as far as it matters to calls.
struct Loads(BTreeMap<(usize, u64), Put>);

#[derive(Clone, Copy)]
enum Put {
    /// From memory, at this offset.
    Load(u64),
    /// A sum: the address of a table, and what is in it.
    Sum,
}

impl Loads {
    fn before(&self, at: u64, register: usize) -> Option<Put> {
        let (&(of, _), put) = self.0.range(..(register, at)).next_back()?;
        (of == register).then_some(*put)
    }

    fn offset(&self, at: u64, register: usize) -> Option<u64> {
        match self.before(at, register) {
            Some(Put::Load(offset)) => Some(offset),
            _ => None,
        }
    }

    fn is_table(&self, at: u64, register: usize) -> bool {
        matches!(self.before(at, register), Some(Put::Sum))
    }
}

/// Collects the addresses that are worked out with ADR, or ADRP and ADD.
fn addresses(code: impl Iterator<Item = (u64, u32)>, taken: &mut BTreeSet<u64>) -> Loads {
    let mut pages = [None; 32];
    let mut loads = BTreeMap::new();
    for (at, word) in code {
        let to = register(word, 0);
        let relative = signed(word, 5, 19) << 2 | i64::from(word >> 29 & 3);
        if word & 0x9f00_0000 == 0x1000_0000 {
            taken.insert(at.wrapping_add_signed(relative));
        } else if word & 0x9f00_0000 == 0x9000_0000 {
            pages[to] = Some((at & !0xfff).wrapping_add_signed(relative << 12));
        } else if word & 0xffc0_0000 == 0x9100_0000 {
            if let Some(page) = pages[register(word, 5)] {
                taken.insert(page + u64::from(word >> 10 & 0xfff));
            }
        } else if word & 0xffc0_0000 == 0xf940_0000 {
            loads.insert((to, at), Put::Load(u64::from(word >> 10 & 0xfff) * 8));
        } else if word & 0xff20_0000 == 0x8b00_0000 {
            loads.insert((to, at), Put::Sum);
        }
    }
    Loads(loads)
}

#[cfg(test)]
mod tests {
    use super::{Flow, flow, growth};

    #[test]
    fn branches_go_where_the_assembler_says() {
        assert_eq!(flow(0x9400_0002, 0x1000), Flow::Call(0x1008)); // bl .+8
        assert_eq!(flow(0x17ff_ffff, 0x1000), Flow::Jump(0xffc)); // b .-4
        assert_eq!(flow(0x5400_0041, 0x1000), Flow::Branch(0x1008)); // b.ne .+8
        assert_eq!(flow(0xb4ff_ffe0, 0x1000), Flow::Branch(0xffc)); // cbz x0, .-4
        assert_eq!(flow(0x3707_ffe1, 0x1000), Flow::Branch(0xffc)); // tbnz w1, #0, .-4
        assert_eq!(flow(0xd63f_0100, 0), Flow::CallRegister(8)); // blr x8
        assert_eq!(flow(0xd61f_0060, 0), Flow::JumpRegister(3)); // br x3
        assert_eq!(flow(0xd65f_03c0, 0), Flow::End); // ret
        assert_eq!(flow(0xd420_0020, 0), Flow::End); // brk #1
        assert_eq!(flow(0xd503_201f, 0), Flow::Next); // nop
        assert_eq!(flow(0xd69f_03e0, 0), Flow::Next); // eret: the vectors come back behind it
    }

    #[test]
    fn what_moves_the_stack_pointer_is_seen() {
        assert_eq!(growth(0xd101_c3ff), Some(112)); // sub sp, sp, #112
        assert_eq!(growth(0x9101_c3ff), Some(-112)); // add sp, sp, #112
        assert_eq!(growth(0xd140_07ff), Some(4096)); // sub sp, sp, #1, lsl #12
        assert_eq!(growth(0xa9bf_7bfd), Some(16)); // stp x29, x30, [sp, #-16]!
        assert_eq!(growth(0xa8c1_7bfd), Some(-16)); // ldp x29, x30, [sp], #16
        assert_eq!(growth(0xf81f_0ffe), Some(16)); // str x30, [sp, #-16]!
        assert_eq!(growth(0xf841_07fe), Some(-16)); // ldr x30, [sp], #16
        assert_eq!(growth(0xa901_7bfd), Some(0)); // stp x29, x30, [sp, #16]
        assert_eq!(growth(0x9100_03fd), Some(0)); // mov x29, sp
        assert_eq!(growth(0xf900_03e0), Some(0)); // str x0, [sp]
        assert_eq!(growth(0x9100_03bf), None); // mov sp, x29
        assert_eq!(growth(0xcb20_63ff), None); // sub sp, sp, x0
        assert_eq!(growth(0x927c_ec1f), None); // and sp, x0, #-16
        assert_eq!(growth(0xeb1f_001f), Some(0)); // cmp x0, xzr
    }
}
