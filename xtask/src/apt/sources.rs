//! apt's lists of package sources, in both of their formats (sources.list(5)).

use std::fmt;
use std::path::Path;

/// One source of binary packages.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Source {
    uris: String,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: String,
}

impl Source {
    /// Whether it has this suite.
    pub fn has_suite(&self, suite: &str) -> bool {
        self.suites.iter().any(|one| one == suite)
    }

    /// The same place with another suite, main component only.
    pub fn with_suite(&self, suite: &str) -> Self {
        let (suites, components) = (vec![suite.to_owned()], vec!["main".to_owned()]);
        Self { suites, components, ..self.clone() }
    }

    /// The same place with only a release and its updates, if it has them, and with these components.
    pub fn only_release(&self, codename: &str, components: &[&str]) -> Option<Self> {
        let wanted = ["", "-updates", "-security"].map(|suffix| format!("{codename}{suffix}"));
        // An older spelling of the security suite.
        let old = format!("{codename}/updates");
        let keep = |suite: &&String| wanted.contains(suite) || **suite == old;
        let suites: Vec<_> = self.suites.iter().filter(keep).cloned().collect();
        let main = self.components.iter().any(|component| component == "main");
        (main && !suites.is_empty()).then(|| Self {
            suites,
            components: components.iter().map(|&name| name.to_owned()).collect(),
            ..self.clone()
        })
    }
}

impl fmt::Display for Source {
    /// As a deb822 stanza.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Types: deb\nURIs: {}\nSuites: {}", self.uris, self.suites.join(" "))?;
        writeln!(f, "Components: {}", self.components.join(" "))?;
        match self.signed_by.as_str() {
            "" => Ok(()),
            key => writeln!(f, "Signed-By: {key}"),
        }
    }
}

/// This machine's sources.
pub fn this() -> Vec<Source> {
    let mut files = vec![Path::new("/etc/apt/sources.list").to_owned()];
    let parts = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.sort();
    let mut sources = Vec::new();
    for path in files {
        let deb822 = match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => true,
            Some("list") => false,
            _ => continue,
        };
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        sources.extend(parse(&text, deb822));
    }
    sources
}

/// Reads a file of sources; entries that are disabled or make no sense are left out.
pub fn parse(text: &str, deb822: bool) -> Vec<Source> {
    if deb822 {
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.split(|line| line.trim().is_empty()).filter_map(stanza).collect()
    } else {
        text.lines().filter_map(one_line).collect()
    }
}

fn stanza(lines: &[&str]) -> Option<Source> {
    let field = |name: &str| {
        let at = lines.iter().position(|line| {
            line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
        })?;
        let mut value = lines[at].split_once(':')?.1.trim().to_owned();
        // Lines that start with a blank continue the field (a key may be written out here).
        for line in lines[at + 1..].iter().take_while(|line| line.starts_with([' ', '\t'])) {
            value.push('\n');
            value.push_str(line);
        }
        Some(value)
    };
    let words = |name| -> Vec<String> {
        field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    if !words("Types").iter().any(|kind| kind == "deb") || words("Enabled") == ["no"] {
        return None;
    }
    Some(Source {
        uris: field("URIs")?,
        suites: words("Suites"),
        components: words("Components"),
        signed_by: field("Signed-By").unwrap_or_default(),
    })
}

fn one_line(line: &str) -> Option<Source> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|word| word.strip_prefix("signed-by="));
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uris: words.next()?,
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: signed_by.unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn both_formats_say_the_same() {
        let deb822 = "# a comment\nTypes: deb deb-src\nURIs: http://m.invalid/d\nSuites: s\n\
                      Components: main contrib\nSigned-By: /k.gpg\n";
        let line = "# deb http://no.invalid/d s main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://m.invalid/d s main contrib # yes\n";
        assert_eq!(parse(deb822, true), parse(line, false));
        assert_eq!(parse(line, false).len(), 1);
    }

    #[test]
    fn disabled_and_source_only_entries_are_left_out() {
        let text = "Types: deb\nEnabled: no\nURIs: http://m.invalid\nSuites: s\n\n\
                    Types: deb-src\nURIs: http://m.invalid\nSuites: s\n";
        assert_eq!(parse(text, true), []);
    }

    #[test]
    fn a_key_that_is_written_out_survives() {
        let text = "Types: deb\nURIs: http://m.invalid\nSuites: s\nComponents: main\n\
                    Signed-By:\n -----BEGIN\n .\n abc\n";
        let stanza = parse(text, true)[0].to_string();
        assert!(stanza.ends_with("Signed-By: \n -----BEGIN\n .\n abc\n"), "{stanza:?}");
    }

    #[test]
    fn only_the_release_and_its_updates_are_kept() {
        let text = "deb http://m.invalid s main non-free\ndeb http://m.invalid s-backports main\n\
                    deb http://m.invalid s-security main\ndeb http://x.invalid s tools\n";
        let kept = |components: &[&str]| -> Vec<_> {
            let all = parse(text, false);
            all.iter().filter_map(|source| source.only_release("s", components)).collect()
        };
        assert_eq!(kept(&["main"]).len(), 2);
        assert!(kept(&["main"]).iter().all(|source| source.components == ["main"]));
        let wanted = ["main", "non-free-firmware"];
        assert!(kept(&wanted).iter().all(|source| source.components == wanted));
    }
}
