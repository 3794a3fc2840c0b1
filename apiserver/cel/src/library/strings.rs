//! Functions of texts, by code points.

pub(super) type Text = Result<String, String>;
pub(super) type Index = Result<i64, String>;

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn index(n: i64, max: usize) -> Result<usize, String> {
    usize::try_from(n)
        .ok()
        .filter(|i| *i <= max)
        .ok_or_else(|| format!("index out of range: {n}"))
}

pub(super) fn char_at(text: &str, at: i64) -> Text {
    let chars = chars(text);
    let at = index(at, chars.len())?;
    Ok(chars.get(at).map(char::to_string).unwrap_or_default())
}

fn to_index(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn index_of(text: &str, part: &str, offset: i64) -> Index {
    if part.is_empty() {
        return Ok(offset);
    }
    let from = usize::try_from(offset).map_err(|_| format!("index out of range: {offset}"))?;
    let (text, part) = (chars(text), chars(part));
    let found = text
        .windows(part.len())
        .skip(from)
        .position(|window| window == part);
    Ok(found.map_or(-1, |i| to_index(i + from)))
}

pub(super) fn last_index_of(text: &str, part: &str, offset: Option<i64>) -> Index {
    let text = chars(text);
    let n_chars = to_index(text.len());
    if part.is_empty() {
        return Ok(offset.unwrap_or(n_chars));
    }
    let part = chars(part);
    let offset = match offset {
        Some(offset) => offset,
        None if text.len() < part.len() => return Ok(-1),
        None => n_chars - 1,
    };
    let last = usize::try_from(offset).map_err(|_| format!("index out of range: {offset}"))?;
    if last >= text.len() {
        return Ok(-1);
    }
    let found = text
        .windows(part.len())
        .take(last + 1)
        .rposition(|window| window == part);
    Ok(found.map_or(-1, to_index))
}

/// Replaces the first `n`, or all if it is negative.
pub(super) fn replace(text: &str, old: &str, new: &str, n: i64) -> String {
    match usize::try_from(n) {
        Err(_) => text.replace(old, new),
        Ok(n) => text.replacen(old, new, n),
    }
}

/// Splits into at most `n` parts, or all if it is negative.
pub(super) fn split(text: &str, separator: &str, n: i64) -> Vec<String> {
    let n = match usize::try_from(n) {
        Err(_) => usize::MAX,
        Ok(n) => n,
    };
    if n == 0 {
        return Vec::new();
    }
    if separator.is_empty() {
        let chars = chars(text);
        let n = n.min(chars.len());
        return (0..n)
            .map(|i| {
                let end = if i + 1 == n { chars.len() } else { i + 1 };
                chars[i..end].iter().collect()
            })
            .collect();
    }
    text.splitn(n, separator).map(str::to_owned).collect()
}

pub(super) fn substring(text: &str, start: i64, end: Option<i64>) -> Text {
    let chars = chars(text);
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(format!(
            "invalid substring range. start: {start}, end: {end}"
        ));
    }
    let from = index(start, chars.len())?;
    let to = end.map_or(Ok(chars.len()), |end| index(end, chars.len()))?;
    Ok(chars[from..to].iter().collect())
}

/// As a literal in double quotes.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What is blank at the ends of a text.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{85}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_count_code_points() {
        assert_eq!(char_at("tést", 1).as_deref(), Ok("é"));
        assert_eq!(char_at("ab", 2).as_deref(), Ok(""));
        assert!(char_at("ab", 3).is_err());
        assert_eq!(index_of("hello", "l", 3), Ok(3));
        assert_eq!(index_of("hello", "l", 9), Ok(-1));
        assert_eq!(last_index_of("hello", "l", None), Ok(3));
        assert_eq!(last_index_of("hello", "l", Some(2)), Ok(2));
        assert_eq!(substring("tést", 1, Some(3)).as_deref(), Ok("és"));
        assert!(substring("a", 1, Some(0)).is_err());
    }

    #[test]
    fn parts_are_split_and_replaced() {
        assert_eq!(split("a,b,c", ",", 2), ["a", "b,c"]);
        assert_eq!(split("abc", "", -1), ["a", "b", "c"]);
        assert_eq!(split("abc", "", 2), ["a", "bc"]);
        assert!(split("abc", "", 0).is_empty());
        assert_eq!(replace("hello", "l", "L", 1), "heLlo");
        assert_eq!(replace("ab", "", "-", -1), "-a-b-");
        assert_eq!(quote("a\"b\n"), "\"a\\\"b\\n\"");
    }
}
