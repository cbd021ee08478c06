//! What the image does not say about itself: `xtask/bounds.toml`.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Where a CPU's way begins, and the stack that it is on.
    pub root: Vec<Root>,
    /// What all panics end in.
    pub panic: PanicRule,
    /// Whom calls through registers reach; the first that fits counts.
    pub call: Vec<CallRule>,
    /// Those that may hand on what they were handed.
    pub carrier: Vec<Carrier>,
    /// Those whose code is not looked at.
    #[serde(default)]
    pub opaque: Vec<Opaque>,
    /// What calls itself, directly or not.
    #[serde(default)]
    pub recursion: Vec<Recursion>,
}

/// A function that assembly calls.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Its name.
    pub function: String,
    /// The bytes of the stack that are its own, where one begins there.
    pub stack: Option<u64>,
    /// From here on a panic may be a guest's doing.
    #[serde(default)]
    pub panics: bool,
    /// What that is.
    pub why: String,
}

/// The panic handler.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PanicRule {
    /// Its name.
    pub handler: String,
    /// How often it may be on a stack at once and go on.
    pub times: u64,
    /// What it takes, in bytes, when it comes once more.
    pub last: u64,
    /// How that is known.
    pub why: String,
}

/// Calls through registers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallRule {
    /// Parts of the names of those who call, as written in the source.
    pub from: Vec<String>,
    /// Parts of the names of those who are called, or of other methods of the same table; none when it is an
    /// edge of whoever hands the address down.
    #[serde(default)]
    pub to: Vec<String>,
    /// Names of functions that are pointed at by themselves.
    #[serde(default)]
    pub function: Vec<String>,
    /// How that is known.
    pub why: String,
}

/// Functions with a parameter such as `fmt::Arguments`, `&dyn Display` or `&mut dyn Write`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carrier {
    /// Parts of their names.
    pub functions: Vec<String>,
    /// Which those are.
    pub why: String,
}

/// Functions that break the rules on purpose.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opaque {
    /// Parts of their names.
    pub functions: Vec<String>,
    /// What for.
    pub why: String,
}

/// A cycle of calls.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recursion {
    /// Parts of the names of all in it.
    pub functions: Vec<String>,
    /// How often each may be on the stack at once.
    pub times: u64,
    /// How that is known.
    pub why: String,
}

impl Rules {
    /// Reads the file's text.
    pub fn read(text: &str) -> Result<Self> {
        let rules: Self =
            toml::from_str(text).context("xtask/bounds.toml is not as it should be")?;
        let whys = rules.root.iter().map(|rule| &rule.why);
        let whys = whys.chain(rules.call.iter().map(|rule| &rule.why));
        let whys = whys.chain(rules.carrier.iter().map(|rule| &rule.why));
        let whys = whys.chain(rules.opaque.iter().map(|rule| &rule.why));
        let whys = whys.chain(rules.recursion.iter().map(|rule| &rule.why));
        if whys.chain([&rules.panic.why]).any(String::is_empty) {
            bail!("xtask/bounds.toml has a rule without a `why`");
        }
        Ok(rules)
    }
}
