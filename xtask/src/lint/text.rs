//! Just enough of Rust's lexical structure to tell code from comments and texts.

/// The source with comments, texts and characters blanked out; lines stay lines.
pub fn code_only(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skip = comment(rest)
            .or_else(|| raw_text(rest, out.chars().next_back()))
            .or_else(|| text(rest))
            .or_else(|| character(rest));
        let length = skip.unwrap_or(first.len_utf8());
        let (piece, after) = rest.split_at(length);
        match skip {
            Some(_) => out.extend(piece.chars().map(|c| if c == '\n' { c } else { ' ' })),
            None => out.push(first),
        }
        rest = after;
    }
    out
}

/// The words of a line: identifiers, and macro names with their `!`.
pub fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = line;
    while let Some(start) = rest.find(part) {
        rest = &rest[start..];
        let mut end = rest.find(|c| !part(c)).unwrap_or(rest.len());
        if rest[end..].starts_with('!') && !rest[end..].starts_with("!=") {
            end += 1;
        }
        words.push(&rest[..end]);
        rest = &rest[end..];
    }
    words
}

/// The length of the comment that starts here. Block comments nest.
fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    Some(rest.len())
}

/// The length of the raw text (`r"…"`, `r#"…"#`, `br"…"`) that starts here.
fn raw_text(rest: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let body = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

/// The length of the text that starts here.
fn text(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 2),
            _ => {}
        }
    }
    Some(rest.len())
}

/// The length of the character that starts here; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    let mut chars = body.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        let (escaped, _) = chars.next()?;
        let after = escaped + 1;
        return body.get(after..)?.find('\'').map(|at| 1 + after + at + 1);
    }
    let (at, close) = chars.next()?;
    (close == '\'').then_some(at + 2)
}
