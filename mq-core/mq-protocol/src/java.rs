//! The few Java library behaviours that are part of the protocol.

/// `String.hashCode`: `s[0]*31^(n-1) + …` over UTF-16 code units, wrapping.
#[must_use]
pub fn string_hash(text: &str) -> i32 {
    continue_hash(0, text)
}

/// The hash of what `hash` was made of with `text` behind it.
#[must_use]
pub fn continue_hash(hash: i32, text: &str) -> i32 {
    let step = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    if text.is_ascii() {
        return text.bytes().fold(hash, |hash, byte| step(hash, byte.into()));
    }
    text.encode_utf16().fold(hash, step)
}

/// The tags code of a consume-queue entry: the hash of the whole tag, widened; 0 for no tag.
#[must_use]
pub fn tags_code(tag: Option<&str>) -> i64 {
    tag.filter(|tag| !tag.is_empty()).map_or(0, |tag| i64::from(string_hash(tag)))
}

/// Rewrites the JSON that fastjson prints for maps with integer keys (`{0:"a"}`) to standard JSON (`{"0":"a"}`).
#[must_use]
pub fn quote_integer_keys(json: &str) -> std::borrow::Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut out: Option<String> = None;
    let (mut copied, mut at, mut key_may_start) = (0, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at = end_of_string(bytes, at);
                key_may_start = false;
                continue;
            }
            b'{' | b',' => key_may_start = true,
            byte if byte.is_ascii_whitespace() => {}
            b'-' | b'0'..=b'9' if key_may_start => {
                let end = at + bytes[at..].iter().take_while(|b| **b == b'-' || b.is_ascii_digit()).count();
                if bytes[end..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':') {
                    let out = out.get_or_insert_with(|| String::with_capacity(json.len() + 16));
                    out.push_str(&json[copied..at]);
                    out.push('"');
                    out.push_str(&json[at..end]);
                    out.push('"');
                    copied = end;
                }
                at = end;
                key_may_start = false;
                continue;
            }
            _ => key_may_start = false,
        }
        at += 1;
    }
    match out {
        None => json.into(),
        Some(mut out) => {
            out.push_str(&json[copied..]);
            out.into()
        }
    }
}

/// The position behind the string that starts at `start`, or the end of the text.
pub(crate) fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_javas() {
        for (text, hash) in [("", 0), ("d", 100), ("TagA", 2598919), ("订单", 1129459), ("\u{1F600}", 1772899)] {
            assert_eq!(string_hash(text), hash, "{text}");
        }
    }

    #[test]
    fn integer_keys_are_quoted_and_nothing_else_changes() {
        for (from, to) in [
            (r#"{0:"a",-1:2}"#, r#"{"0":"a","-1":2}"#),
            (r#"{"x":[1,2],"y":{ 3 : 4}}"#, r#"{"x":[1,2],"y":{ "3" : 4}}"#),
            (r#"{"a,1:":"{2:\"3"}"#, r#"{"a,1:":"{2:\"3"}"#),
            ("[1,2,3]", "[1,2,3]"),
        ] {
            assert_eq!(quote_integer_keys(from), to);
        }
    }
}
