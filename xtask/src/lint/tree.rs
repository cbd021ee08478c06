//! `ARCHITECTURE.md` names what is in the repository's root. A file that was committed by mistake, it does not.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The page that names every entry.
const PAGE: &str = "ARCHITECTURE.md";

/// The section that does: its first fenced block.
const SECTION: &str = "\n## The tree\n";

/// The offences of the repository at `root`, as `file:line: what`. There is none in a copy without git: nobody can tell
/// what of it would be committed.
pub fn offences(root: &Path) -> Result<Vec<String>> {
    if !root.join(".git").exists() {
        return Ok(Vec::new());
    }
    let page = root.join(PAGE);
    let page = std::fs::read_to_string(&page)
        .with_context(|| format!("cannot read {}", page.display()))?;
    let tree = block(&page)
        .with_context(|| format!("{PAGE} has no block of text below `{}`", SECTION.trim()))?;
    let paths = tracked(root)?;
    let unnamed = unnamed(&entries(&paths), tree);
    let what = format!(
        "{PAGE} does not name it in its tree; say there what it is, or take it out of the root"
    );
    Ok(unnamed.into_iter().map(|name| format!("{name}:1: {what}")).collect())
}

/// The paths of all files that git knows, one a line.
fn tracked(root: &Path) -> Result<String> {
    let mut git = Command::new("git");
    let output = git.args(["ls-files", "--full-name"]).current_dir(root).output();
    let output = output.context("cannot start git, which knows the repository's files")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("git cannot list the files of {}: {}", root.display(), why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The entries of the root that are not hidden; folders end with `/`.
fn entries(paths: &str) -> BTreeSet<&str> {
    let first = |path| match str::find(path, '/') {
        Some(slash) => &path[..=slash],
        None => path,
    };
    paths.lines().map(first).filter(|name| !name.starts_with('.')).collect()
}

/// The first fenced block of the section.
fn block(page: &str) -> Option<&str> {
    let (_, section) = page.split_once(SECTION)?;
    let (_, block) = section.split_once("\n```\n")?;
    Some(block.split_once("\n```")?.0)
}

/// Those that are no word of the tree. A folder is also named by a path in it.
fn unnamed<'a>(entries: &BTreeSet<&'a str>, tree: &str) -> Vec<&'a str> {
    let words: Vec<_> = tree.split_whitespace().collect();
    let is = |word: &str, name: &str| word == name || name.ends_with('/') && word.starts_with(name);
    let named = |name: &str| words.iter().any(|word| is(word, name));
    entries.iter().copied().filter(|name| !named(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::{block, entries, unnamed};

    const PAGE: &str = "# It\n```\nno\n```\n## The tree\n\n```\nCargo.toml  x\nsrc/\n  lib.rs  y\nboot/entry.S\n```\nz\n";

    fn offenders(paths: &str) -> Vec<&str> {
        unnamed(&entries(paths), block(PAGE).expect("a block"))
    }

    #[test]
    fn an_entry_of_the_root_that_the_tree_does_not_name_is_an_offence() {
        let paths = "Cargo.toml\nnumpy.whl\nsrc/lib.rs\nboot/entry.S\ntools/a/b.rs\n";
        assert_eq!(offenders(paths), ["numpy.whl", "tools/"]);
    }

    #[test]
    fn hidden_entries_need_no_name() {
        assert!(offenders(".gitignore\n.ci/run\nsrc/vm/mod.rs\n").is_empty());
    }

    #[test]
    fn only_whole_words_of_the_tree_are_names() {
        assert_eq!(offenders("Cargo\nboo/x\nno\nz\n"), ["Cargo", "boo/", "no", "z"]);
    }

    #[test]
    fn a_page_without_a_tree_is_told_from_one_with_an_empty_tree() {
        assert_eq!((block("# It\n"), block("\n## The tree\n\n```\n\n```\n")), (None, Some("")));
    }
}
