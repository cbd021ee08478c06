//! The linked image: its functions, and the pointers to them that lie in its data.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// A function, or a piece of assembly that a label names.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Where it begins; the image is linked at 0.
    pub at: u64,
    /// In bytes.
    pub size: u64,
    /// Without the compiler's hashes. Several when equal functions were made one.
    pub names: Vec<String>,
}

impl Function {
    /// Its first name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("?", String::as_str)
    }

    /// Whether one of its names contains `part`, or begins with it where it is written `^part`.
    pub fn is(&self, part: &str) -> bool {
        self.names.iter().any(|name| match part.strip_prefix('^') {
            Some(start) => name.starts_with(start),
            None => name.contains(part),
        })
    }
}

/// A table of a type's methods, as `dyn Trait` has it.
#[derive(Clone, Debug)]
pub struct Vtable {
    /// What follows the type's size and alignment, in order: offset in bytes and function.
    pub entries: Vec<(u64, u64)>,
}

/// What is looked at.
pub struct Image {
    text: Vec<u8>,
    text_at: u64,
    /// By address.
    pub functions: BTreeMap<u64, Function>,
    /// By address.
    pub vtables: BTreeMap<u64, Vtable>,
    /// Pointers to functions that are in no such table, by where they are.
    pub pointers: BTreeMap<u64, u64>,
}

impl Image {
    /// Reads an ELF file of ours.
    pub fn read(elf: &Path) -> Result<Self> {
        let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let file = object::File::parse(&*bytes).context("this is no ELF file")?;
        let text = file.section_by_name(".text").context("there is no .text")?;
        let (text_at, end) = (text.address(), text.address() + text.size());
        let mut functions: BTreeMap<u64, Function> = BTreeMap::new();
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            let is_code = symbol.section_index() == Some(text.index()) && symbol.address() < end;
            if !is_code || name.starts_with('$') || name.is_empty() {
                continue;
            }
            // Assembly's labels have no size and go as far as the next.
            let at = symbol.address();
            let one = functions.entry(at).or_insert(Function { at, ..Function::default() });
            if symbol.kind() == SymbolKind::Text {
                one.size = one.size.max(symbol.size());
            }
            one.names.push(readable(name));
        }
        let starts: Vec<u64> = functions.keys().copied().chain([end]).collect();
        for (index, one) in functions.values_mut().enumerate() {
            if one.size == 0 {
                one.size = starts[index + 1] - one.at;
            }
        }
        let mut image = Self {
            text: text.data().context("cannot read .text")?.to_vec(),
            text_at,
            functions,
            vtables: BTreeMap::new(),
            pointers: BTreeMap::new(),
        };
        image.find_pointers(&file)?;
        Ok(image)
    }

    /// The instruction at `at`.
    pub fn instruction(&self, at: u64) -> Option<u32> {
        word(&self.text, at.checked_sub(self.text_at)?)
    }

    /// Where the function of that name begins.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<u64> {
        let mut all = self.functions.values();
        let one = all.find(|one| one.names.iter().any(|its| its == name));
        Ok(one.with_context(|| format!("there is no {name} in the image"))?.at)
    }

    /// The function that `at` is inside of.
    pub fn function_of(&self, at: u64) -> Option<&Function> {
        let (_, one) = self.functions.range(..=at).next_back()?;
        (at < one.at + one.size).then_some(one)
    }

    fn find_pointers(&mut self, file: &object::File) -> Result<()> {
        let mut data: Vec<(u64, Vec<u8>)> = Vec::new();
        for name in [".rodata", ".data"] {
            if let Some(section) = file.section_by_name(name) {
                data.push((section.address(), section.data()?.to_vec()));
            }
        }
        let relocations = file.section_by_name(".relr.dyn").context("there is no .relr.dyn")?;
        let relocated = relative(relocations.data()?);
        let read =
            |at: u64| data.iter().find_map(|(base, bytes)| long(bytes, at.checked_sub(*base)?));
        let mut code = BTreeMap::new();
        let mut all = BTreeMap::new();
        for at in relocated {
            let to =
                read(at).with_context(|| format!("{at:#x} is relocated and not in the data"))?;
            all.insert(at, to);
            if self.functions.contains_key(&to) {
                code.insert(at, to);
            }
        }
        // What destroys a value (or 0), its size, its alignment, then at least one method.
        let begins = |at: u64| {
            let number = |at: u64| if all.contains_key(&at) { None } else { read(at) };
            (code.contains_key(&at) || number(at) == Some(0))
                && number(at + 8).is_some_and(|size| size < 1 << 20)
                && number(at + 16).is_some_and(|align| align.is_power_of_two() && align <= 4096)
                && code.contains_key(&(at + 24))
        };
        for &method in code.keys() {
            let Some(at) = method.checked_sub(24).filter(|at| begins(*at)) else { continue };
            let mut entries: Vec<(u64, u64)> =
                code.get(&at).map(|to| (0, *to)).into_iter().collect();
            let mut next = method;
            while let Some(to) = code.get(&next).filter(|_| next == method || !begins(next)) {
                entries.push((next - at, *to));
                next += 8;
            }
            self.vtables.insert(at, Vtable { entries });
        }
        let inside = |at: u64| {
            let table = self.vtables.range(..=at).next_back();
            table.is_some_and(|(start, table)| table.entries.iter().any(|(o, _)| start + o == at))
        };
        let rest: Vec<(u64, u64)> =
            code.iter().filter(|(at, _)| !inside(**at)).map(|(at, to)| (*at, *to)).collect();
        self.pointers.extend(rest);
        if self.vtables.is_empty() {
            bail!("no table of methods was found");
        }
        Ok(())
    }
}

/// A name without the hash that the compiler adds, and without the linker's numbers.
pub fn readable(name: &str) -> String {
    match name.strip_prefix("OUTLINED_FUNCTION_") {
        Some(_) => "OUTLINED_FUNCTION".to_owned(),
        None => format!("{:#}", rustc_demangle::demangle(name)),
    }
}

/// The addresses that a packed table of relative relocations names (ELF gABI, "SHT_RELR").
fn relative(table: &[u8]) -> Vec<u64> {
    let mut found = Vec::new();
    let mut next = 0;
    for entry in table.chunks_exact(8).filter_map(|bytes| long(bytes, 0)) {
        if entry & 1 == 0 {
            found.push(entry);
            next = entry + 8;
        } else {
            found.extend(
                (0..63).filter(|bit| entry >> (bit + 1) & 1 == 1).map(|bit| next + bit * 8),
            );
            next += 63 * 8;
        }
    }
    found
}

fn word(bytes: &[u8], at: u64) -> Option<u32> {
    let at = usize::try_from(at).ok()?;
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::relative;

    #[test]
    fn packed_relocations_are_an_address_and_bits_for_what_follows() {
        let table: Vec<u8> =
            [0x1000u64, 0b1011, 0x2000].iter().flat_map(|e| e.to_le_bytes()).collect();
        assert_eq!(relative(&table), [0x1000, 0x1008, 0x1018, 0x2000]);
        let far: Vec<u8> = [0x1000u64, 1, 0b11].iter().flat_map(|e| e.to_le_bytes()).collect();
        assert_eq!(relative(&far), [0x1000, 0x1008 + 63 * 8]);
    }
}
