//! Names for the addresses in the hypervisor's backtraces.

use std::path::Path;

use addr2line::Loader;

use crate::paths;

/// The symbols of one image. The image is linked at 0, so an offset is an address.
pub struct Symbols(Loader);

impl Symbols {
    /// Reads an ELF file's symbols; a file without any gives backtraces without names.
    pub fn read(elf: &Path) -> Option<Self> {
        Loader::new(elf).ok().map(Self)
    }

    /// `function (file:line)` for each frame that was inlined at `offset`, innermost first.
    pub fn describe(&self, offset: u64) -> Vec<String> {
        let mut found = Vec::new();
        // A guest can print such a line with any number, and the library adds one to it.
        let offset = offset.min(u64::MAX - 1);
        if let Ok(mut frames) = self.0.find_frames(offset) {
            while let Ok(Some(frame)) = frames.next() {
                let Some(function) = frame.function.as_ref() else { continue };
                let name =
                    function.demangle().map_or_else(|_| "?".into(), |name| name.into_owned());
                let place = frame.location.and_then(|at| Some((at.file?, at.line?)));
                found.push(match place {
                    Some((file, line)) => {
                        let file = Path::new(file);
                        let file = file.strip_prefix(paths::root()).unwrap_or(file).display();
                        format!("{name} ({file}:{line})")
                    }
                    None => name,
                });
            }
        }
        if found.is_empty() {
            let name = self.0.find_symbol(offset).unwrap_or("no symbol");
            found.push(name.to_owned());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Symbols;

    #[test]
    fn this_test_finds_itself() {
        let elf = std::env::current_exe().expect("a test is a file");
        let symbols = Symbols::read(&elf).expect("a test has symbols");
        // A PIE moves; the distance from a known symbol does not. Any function of ours will do.
        let bytes = std::fs::read(&elf).expect("a test can be read");
        use object::{Object, ObjectSymbol};
        let file = object::File::parse(&*bytes).expect("a test is an object file");
        let ours = file
            .symbols()
            .find(|symbol| symbol.name().is_ok_and(|name| name.contains("this_test_finds_itself")))
            .expect("it is linked in");
        let text = symbols.describe(ours.address()).join("\n");
        assert!(text.contains("this_test_finds_itself"), "{text}");
    }

    #[test]
    fn an_address_outside_the_image_has_no_symbol() {
        let elf = std::env::current_exe().expect("a test is a file");
        let symbols = Symbols::read(&elf).expect("a test has symbols");
        assert_eq!(symbols.describe(u64::MAX), ["no symbol"]);
    }
}
