//! `cargo xtask lint`: the house rules that neither rustc nor clippy knows.

mod text;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::paths;

/// Where machine instructions may be written.
const ASM: &[&str] = &["src/arch/", "boot/", "guests/"];

/// Where `unsafe` may be written.
const UNSAFE: &[&str] = &[
    "src/arch/",
    "boot/",
    "src/main.rs",
    "src/copy.rs",
    "src/memory/phys.rs",
    // Memory is lent to devices.
    "src/host/buffer.rs",
    "src/host/ring.rs",
    "platform/driver/mmio.rs",
    "platform/driver/fake.rs",
    "guests/",
    // Another project's drivers are given memory.
    "tests/virtio.rs",
    // Devices reach what drivers lend them.
    "tests/host.rs",
    "tests/common/disk.rs",
    // An allocator is.
    "tests/common/counting.rs",
    // One piece of memory serves one machine after the other.
    "tests/models/ram.rs",
    // QEMU calls it, and gives it pointers.
    "plugin/",
];

/// Where code may depend on the target it is compiled for.
const TARGET_CFG: &[&str] =
    &["src/lib.rs", "src/main.rs", "src/arch/", "boot/", "build.rs", "guests/"];

/// What reaches memory that guests write to: by plain loads and stores. Whoever tries until an exclusive store succeeds may
/// never be done, as a guest can store to the same place for ever.
const SHARED_WITH_GUESTS: &[&str] = &[
    "src/memory/phys.rs",
    "src/memory/guest.rs",
    "src/memory/copies.rs",
    "src/copy.rs",
    "src/virtio/ram.rs",
    "src/virtio/queue/",
];

/// The longest a file may be before its tests.
const LONGEST_FILE: usize = 500;

/// Prints every offence; fails when there is one.
pub fn report() -> Result<ExitCode> {
    let offences = offences(paths::root())?;
    for offence in &offences {
        println!("{offence}");
    }
    Ok(if offences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every offence in the tree below `root`, as `file:line: what`.
pub fn offences(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    rust_files(root, &mut files)?;
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        all.extend(
            check(&path, &text).into_iter().map(|(line, what)| format!("{path}:{line}: {what}")),
        );
    }
    all.extend(tree::offences(root)?);
    Ok(all)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                rust_files(&path, files)?;
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The offences of one file: line and rule.
fn check(path: &str, text: &str) -> Vec<(usize, String)> {
    let allowed = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
    let code = text::code_only(text);
    let mut offences = Vec::new();
    for (line, words) in code.lines().map(text::words).enumerate() {
        let line = line + 1;
        for word in words {
            let retries = word.starts_with("fetch_") || word.starts_with("compare_exchange");
            if retries && allowed(SHARED_WITH_GUESTS) {
                let what = format!("`{word}` may be tried for ever where a guest stores, too");
                offences.push((line, what));
            }
            let rule = match word {
                "asm!" | "global_asm!" | "naked_asm!" if !allowed(ASM) => ("machine code", ASM),
                "unsafe" if !allowed(UNSAFE) => ("`unsafe`", UNSAFE),
                "target_arch" | "target_os" | "target_env" | "target_vendor"
                    if !allowed(TARGET_CFG) =>
                {
                    ("a target `cfg`", TARGET_CFG)
                }
                _ => continue,
            };
            offences.push((line, format!("{} is only allowed in {}", rule.0, rule.1.join(", "))));
        }
    }
    if !text.starts_with("//!") {
        offences.push((1, "a file begins with a `//!` page that says what it is".to_owned()));
    }
    let is_test = path.split('/').any(|part| part == "tests" || part == "tests.rs");
    let length = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
    if length > LONGEST_FILE && !is_test {
        let what = format!("{length} lines before the tests; {LONGEST_FILE} is the limit");
        offences.push((LONGEST_FILE + 1, what));
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::check;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(path, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn what_guests_store_to_is_loaded_and_stored() {
        let text = "//! x\nfn f() { word.fetch_or(1, O); word.compare_exchange(1, 2, O, O); }\n";
        assert_eq!(lines("src/memory/phys.rs", text), [2, 2]);
        assert_eq!(lines("src/virtio/queue/split.rs", text), [2, 2]);
        assert!(lines("src/vm/mod.rs", text).is_empty());
    }

    #[test]
    fn machine_code_and_unsafe_have_their_places() {
        let text = "//! x\nfn f() { unsafe { asm!(\"nop\") } }\n";
        assert_eq!(lines("src/vm/mod.rs", text), [2, 2]);
        assert!(lines("src/arch/cpu.rs", text).is_empty());
        assert_eq!(lines("src/memory/phys.rs", text), [2]);
    }

    #[test]
    fn words_in_comments_and_texts_do_not_count() {
        let text = "//! unsafe\n// asm!\n/* unsafe /* target_os */ */\nconst A: &str = \"unsafe\";\n\
                    const B: &str = r#\"\" unsafe\"#;\nconst C: char = '\"';\nfn unsafe_code() {}\n";
        assert!(lines("src/vm/mod.rs", text).is_empty());
    }

    #[test]
    fn what_follows_a_text_or_a_lifetime_counts_again() {
        let text = "//! x\nfn f<'a>(x: &'a str) -> char { '\\'' }\nconst A: &str = \"\\\"\"; unsafe fn g() {}\n";
        assert_eq!(lines("src/vm/mod.rs", text), [3]);
    }

    #[test]
    fn a_target_cfg_belongs_to_the_roots() {
        let text = "//! x\n#[cfg(target_os = \"none\")]\nmod m;\n";
        assert!(lines("src/lib.rs", text).is_empty());
        assert_eq!(lines("src/vm/mod.rs", text), [2]);
    }

    #[test]
    fn every_file_has_a_front_page() {
        assert_eq!(lines("src/x.rs", "fn f() {}\n"), [1]);
    }

    #[test]
    fn length_counts_up_to_the_tests() {
        let long = format!("//! x\n{}", "\n".repeat(500));
        assert_eq!(lines("src/x.rs", &long), [501]);
        let tested = format!("//! x\n#[cfg(test)]\n{}", "\n".repeat(500));
        assert!(lines("src/x.rs", &tested).is_empty());
        assert!(lines("src/vgic/tests/v3.rs", &long).is_empty());
    }
}
