//! Guest manifests: a TOML file with one `[[vm]]` table a guest.
//!
//! Every mistake is reported with file, line and field, all of them at once.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::guest::{DEFAULT_MEMORY, Field, Guest, Payload, Problem};
use crate::size;

/// A mistake and the line it is on.
#[derive(Debug, Eq, PartialEq)]
struct Mistake {
    line: usize,
    text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

/// One `[[vm]]` and where its parts stand in the file.
#[derive(Debug)]
struct Entry {
    guest: Guest,
    number: usize,
    line: usize,
    lines: Vec<(Field, usize)>,
}

impl Entry {
    fn mistake(&self, problem: &Problem) -> Mistake {
        let at = self.lines.iter().find(|(field, _)| *field == problem.field);
        let line = at.map_or(self.line, |(_, line)| *line);
        let text = format!("vm {}, {}: {}", self.number, problem.field.key(), problem.text);
        Mistake { line, text }
    }
}

/// Reads a manifest and every file it names. Paths in it are relative to it.
pub fn load(path: &Path) -> Result<Vec<Payload>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the manifest {}", path.display()))?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let (entries, mut mistakes) = parse(&text, folder);
    let mut payloads = Vec::new();
    for entry in entries {
        match entry.guest.clone().load() {
            Ok(payload) => payloads.push(payload),
            Err(problems) => mistakes.extend(problems.iter().map(|one| entry.mistake(one))),
        }
    }
    if mistakes.is_empty() {
        return Ok(payloads);
    }
    mistakes.sort_by_key(|mistake| mistake.line);
    let lines = mistakes.iter().map(|mistake| format!("{}:{mistake}", path.display()));
    bail!("{}", lines.collect::<Vec<_>>().join("\nerror: "));
}

/// Reads the text of a manifest: the entries that can be made out, and all mistakes.
fn parse(text: &str, folder: &Path) -> (Vec<Entry>, Vec<Mistake>) {
    let mut file = Reader { text, folder, mistakes: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        file.wrong(at, error.message().lines().collect::<Vec<_>>().join(" "));
    }
    // A file that is not TOML has been told so; what is left of it would only add noise.
    if !errors.is_empty() {
        return (Vec::new(), file.mistakes);
    }
    let entries = file.root(root.get_ref());
    (entries, file.mistakes)
}

struct Reader<'a> {
    text: &'a str,
    folder: &'a Path,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    fn wrong(&mut self, at: usize, text: String) {
        self.mistakes.push(Mistake { line: self.line(at), text });
    }

    fn root(&mut self, root: &DeTable<'_>) -> Vec<Entry> {
        let mut tables = Vec::new();
        for (key, value) in root {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("vm", DeValue::Array(list)) => tables.extend(list.iter()),
                ("vm", _) => {
                    self.wrong(key.span().start, "guests are written as [[vm]] tables".to_owned());
                }
                (other, _) => {
                    let text = format!("unknown field `{other}`; a manifest holds [[vm]] tables");
                    self.wrong(key.span().start, text);
                }
            }
        }
        if tables.is_empty() && self.mistakes.is_empty() {
            self.wrong(0, "no [[vm]]: the manifest describes no guest".to_owned());
        }
        let mut entries: Vec<Entry> = Vec::new();
        for (index, value) in tables.into_iter().enumerate() {
            let number = index + 1;
            let Some(table) = value.get_ref().as_table() else {
                self.wrong(value.span().start, format!("vm {number} is not a table"));
                continue;
            };
            let entry = self.entry(number, value.span().start, table);
            if let Some(first) = entries.iter().find(|other| other.guest.name == entry.guest.name) {
                let text =
                    format!("`{}` is the name of vm {} already", first.guest.name, first.number);
                let mistake = entry.mistake(&Problem { field: Field::Name, text });
                self.mistakes.push(mistake);
            }
            entries.push(entry);
        }
        entries
    }

    fn entry(&mut self, number: usize, at: usize, table: &DeTable<'_>) -> Entry {
        let mut lines = Vec::new();
        let mut guest = Guest {
            name: format!("vm{number}"),
            kernel: self.folder.to_owned(),
            initrd: None,
            cmdline: String::new(),
            memory: DEFAULT_MEMORY,
            vcpus: 1,
        };
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let Some(field) = Field::by_key(name) else {
                let known = Field::ALL.map(Field::key).join(", ");
                let text = format!("vm {number}, {name}: unknown field; known are {known}");
                self.wrong(key.span().start, text);
                continue;
            };
            lines.push((field, self.line(key.span().start)));
            if let Err(why) = self.set(&mut guest, field, value) {
                self.wrong(value.span().start, format!("vm {number}, {name}: {why}"));
            }
        }
        for field in [Field::Name, Field::Kernel] {
            if !table.keys().any(|key| key.get_ref() == field.key()) {
                self.wrong(at, format!("vm {number}, {}: the field is missing", field.key()));
            }
        }
        let line = self.line(at);
        Entry { guest, number, line, lines }
    }

    fn set(
        &self,
        guest: &mut Guest,
        field: Field,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), String> {
        let value = value.get_ref();
        let text = || match value.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("want a text in quotes, got {}", value.type_str())),
        };
        match field {
            Field::Name => match text()? {
                name if name.is_empty() => return Err("the name is empty".to_owned()),
                name => guest.name = name,
            },
            Field::Kernel => guest.kernel = self.folder.join(text()?),
            Field::Initrd => guest.initrd = Some(self.folder.join(text()?)),
            Field::Cmdline => guest.cmdline = text()?,
            Field::Memory => guest.memory = size::parse(&text()?)?,
            Field::Vcpus => {
                let number = value.as_integer();
                let number =
                    number.and_then(|int| u64::from_str_radix(int.as_str(), int.radix()).ok());
                guest.vcpus = number.ok_or("want a whole number from 1 to 8")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Entry, load, parse};

    fn good(text: &str) -> Vec<Entry> {
        let (entries, mistakes) = parse(text, Path::new("/base"));
        assert_eq!(mistakes, []);
        entries
    }

    fn mistakes(text: &str) -> Vec<String> {
        parse(text, Path::new("/base")).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_full_entry_is_read_and_paths_are_relative_to_the_file() {
        let text = "[[vm]]\nname = \"a\"\nkernel = \"k/Image\"\ninitrd = \"/abs/rd\"\n\
                    cmdline = \"quiet\"\nmemory = \"256M\"\nvcpus = 4\n";
        let guest = &good(text)[0].guest;
        assert_eq!(guest.kernel, Path::new("/base/k/Image"));
        assert_eq!(guest.initrd.as_deref(), Some(Path::new("/abs/rd")));
        assert_eq!((guest.memory, guest.vcpus, guest.cmdline.as_str()), (256 << 20, 4, "quiet"));
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let guest = &good("[[vm]]\nname = \"a\"\nkernel = \"k\"\n")[0].guest;
        assert_eq!((guest.memory, guest.vcpus), (512 << 20, 1));
    }

    #[test]
    fn all_mistakes_come_at_once_each_with_line_and_field() {
        let text = "[[vm]]\nname = \"a\"\nkernel = 3\ncolour = \"red\"\n\n\
                    [[vm]]\nname = \"a\"\nmemory = \"12\"\nvcpus = \"two\"\n";
        let found = mistakes(text);
        for want in [
            "3: vm 1, kernel: want a text",
            "4: vm 1, colour: unknown field",
            "7: vm 2, name: `a` is the name of vm 1",
            "8: vm 2, memory: `12` is not a size",
            "9: vm 2, vcpus: want a whole number",
            "6: vm 2, kernel: the field is missing",
        ] {
            assert!(found.iter().any(|one| one.starts_with(want)), "{want}: {found:#?}");
        }
        assert_eq!(found.len(), 6, "{found:#?}");
    }

    #[test]
    fn what_is_not_toml_is_located() {
        assert!(mistakes("[[vm]]\nname = \"a\nkernel\n").iter().any(|one| one.starts_with("2: ")));
        assert!(mistakes("x = 1\n")[0].starts_with("1: unknown field `x`"));
        assert!(mistakes("")[0].contains("no [[vm]]"));
        assert!(mistakes("vm = 3\n")[0].contains("[[vm]]"));
        assert!(mistakes("vm = [3]\n")[0].contains("not a table"));
    }

    #[test]
    fn vcpus_may_not_be_negative() {
        let text = "[[vm]]\nname = \"a\"\nkernel = \"k\"\nvcpus = -1\n";
        assert!(mistakes(text)[0].starts_with("4: vm 1, vcpus"));
    }

    #[test]
    fn a_missing_kernel_file_is_told_with_the_line_of_its_field() {
        let path = std::env::temp_dir().join(format!("plinth-{}.toml", std::process::id()));
        let text = "[[vm]]\nname = \"a\"\n\nkernel = \"none-such\"\nvcpus = 9\n";
        std::fs::write(&path, text).expect("the temporary folder is writable");
        let error = load(&path).expect_err("there is no such kernel").to_string();
        assert!(error.contains(".toml:4: vm 1, kernel: there is no file"), "{error}");
        assert!(error.contains(".toml:5: vm 1, vcpus: 9 vCPUs"), "{error}");
    }
}
