//! What Go's readers take and those here do not.

/// JSON whose halves of surrogate pairs that stand alone are U+FFFD, which Go reads them as; `None` if there are none.
pub fn without_halves(json: &[u8]) -> Option<Vec<u8>> {
    let mut mended = None;
    let mut at = 0;
    while at < json.len() {
        // An escape is the same length, whatever it stands for.
        let (length, is_half) = match (json[at], escaped(&json[at..])) {
            (b'\\', Some(0xD800..0xDC00)) => match json.get(at + ESCAPE..).and_then(escaped) {
                Some(0xDC00..0xE000) => (2 * ESCAPE, false),
                _ => (ESCAPE, true),
            },
            (b'\\', Some(0xDC00..0xE000)) => (ESCAPE, true),
            (b'\\', _) => (2, false),
            _ => (1, false),
        };
        if is_half {
            let mended = mended.get_or_insert_with(|| json.to_vec());
            mended[at..at + ESCAPE].copy_from_slice(b"\\ufffd");
        }
        at += length;
    }
    mended
}

/// Bytes of `\uXXXX`.
const ESCAPE: usize = 6;

/// What is escaped at the beginning.
fn escaped(json: &[u8]) -> Option<u16> {
    let digits = json.get(..ESCAPE)?.strip_prefix(b"\\u")?;
    let digits = std::str::from_utf8(digits).ok()?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u16::from_str_radix(digits, 16).ok().filter(|_| is_hex)
}

/// The first document of a text in YAML. A mark at the beginning of a line ends one wherever it stands, in texts as well.
pub fn first_document(text: &str) -> &str {
    let mut has_begun = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let is_mark = |mark: &str| {
            let rest = line.strip_prefix(mark);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if has_begun && is_mark("---") {
            return &text[..at];
        }
        let is_nothing = line.trim().is_empty() || line.trim_start().starts_with('#');
        has_begun = has_begun || !(is_nothing || line.starts_with('%'));
        at += line.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_are_told_from_pairs_and_from_what_looks_like_them() {
        for (json, mended) in [
            (r#""x\ud800y""#, Some(r#""x\ufffdy""#)),
            (r#""\uDC00""#, Some(r#""\ufffd""#)),
            (r#""\ud800\ud83d\ude00""#, Some(r#""\ufffd\ud83d\ude00""#)),
            (r#""\ud800\u0041""#, Some(r#""\ufffd\u0041""#)),
            (r#""\ud83d\ude00\\ud800 \u00e9""#, None),
            (r#""\ud8"#, None),
            (r#""\"#, None),
        ] {
            let found = without_halves(json.as_bytes());
            let found = found.map(|json| String::from_utf8(json).expect("text"));
            assert_eq!(found.as_deref(), mended, "{json}");
        }
    }

    #[test]
    fn a_document_ends_where_the_next_one_begins() {
        for (text, first) in [
            ("a: b\n---\nc: d\n", "a: b\n"),
            (
                "%YAML 1.1\n# c\n\n---\na: b\n--- x",
                "%YAML 1.1\n# c\n\n---\na: b\n",
            ),
            ("---\n---\na: b\n", "---\n"),
            ("a: |\n  ---\n  x\n----\n", "a: |\n  ---\n  x\n----\n"),
            ("a: b", "a: b"),
            ("", ""),
        ] {
            assert_eq!(first_document(text), first);
        }
    }
}
