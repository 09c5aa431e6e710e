//! Java's properties text: `key=value` lines, comments, continued lines, escapes. Knows no key.

/// The pairs in the order of the text. Nothing is refused: Java has no malformed properties but a broken `\u`, which is
/// kept as it stands.
#[must_use]
pub fn parse(text: &str) -> Vec<(String, String)> {
    logical_lines(text).iter().map(|line| pair(line)).collect()
}

/// One line a pair, as [`parse`] and Java read it back.
#[must_use]
pub fn print<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        escape(key.as_ref(), true, &mut text);
        text.push('=');
        escape(value.as_ref(), false, &mut text);
        text.push('\n');
    }
    text
}

fn escape(text: &str, is_key: bool, out: &mut String) {
    for (at, c) in text.chars().enumerate() {
        match c {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            '=' | ':' | ' ' | '#' | '!' if is_key || (at == 0 && c == ' ') => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
}

/// Lines without comments and blanks; a line that ends in an odd number of backslashes goes on in the next.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        let line = line.trim_start();
        if open.is_none() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let continued = line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        let part = if continued { &line[..line.len() - 1] } else { line };
        let mut whole = open.take().unwrap_or_default();
        whole.push_str(part);
        if continued {
            open = Some(whole);
        } else {
            lines.push(whole);
        }
    }
    lines.extend(open);
    lines
}

/// The key ends at the first unescaped `=`, `:` or blank.
fn pair(line: &str) -> (String, String) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || c.is_whitespace());
        escaped = c == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start();
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
    (unescape(key), unescape(value).trim_end().to_owned())
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let code = chars.as_str().get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                match code.and_then(char::from_u32) {
                    Some(c) => {
                        out.push(c);
                        chars.nth(3);
                    }
                    None => out.push_str("\\u"),
                }
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        for (key, value) in [("a", "b"), ("a b", " c=d"), ("p", "C:\\dir\\"), ("#k", "x\ny\tz"), ("k:=", "")] {
            let text = print([(key, value)]);
            assert_eq!(parse(&text), [(key.to_owned(), value.to_owned())], "{text:?}");
        }
        assert_eq!(print([("flushDiskType", "SYNC_FLUSH"), ("d", "1s 5s")]), "flushDiskType=SYNC_FLUSH\nd=1s 5s\n");
    }

    #[test]
    fn properties_are_read_as_java_reads_them() {
        for (text, expected) in [
            ("", ""),
            ("# a\n  ! b\n\n", ""),
            ("a=b", "a>b"),
            ("  a = b c \r\n", "a>b c"),
            ("a:b\nc d\ne", "a>b,c>d,e>"),
            ("a=b\\\n   c\nd=e", "a>bc,d>e"),
            ("a=x\\\\\nb=y", "a>x\\,b>y"),
            ("a\\=b=c\\u0041\\t.", "a=b>cA\t."),
            ("path=C\\:\\\\dir", "path>C:\\dir"),
            ("bad=\\u00", "bad>\\u00"),
            ("last=line\\", "last>line"),
        ] {
            let read: Vec<_> = parse(text).into_iter().map(|(key, value)| format!("{key}>{value}")).collect();
            assert_eq!(read.join(","), expected, "{text:?}");
        }
    }
}
