//! Values of literals.

/// A decimal or hexadecimal number with a sign, within 64 bits.
pub(super) fn int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    match digits.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16).ok(),
        None => text.parse().ok(),
    }
}

/// The same without sign, with a `u` behind it.
pub(super) fn uint(text: &str) -> Option<u64> {
    let digits = &text[..text.len() - 1];
    match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

/// A number with a point or an exponent that is not beyond what fits.
pub(super) fn double(text: &str) -> Option<f64> {
    text.parse().ok().filter(|d: &f64| d.is_finite())
}

/// What stands between the quotes, and whether escapes mean something there.
fn unquoted(text: &str) -> (String, bool) {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let raw = text.starts_with(['r', 'R']);
    let text = &text[usize::from(raw)..];
    let n = if text.len() >= 6 && (text.starts_with("'''") || text.starts_with("\"\"\"")) {
        3
    } else {
        1
    };
    (text[n..text.len() - n].to_owned(), raw)
}

pub(super) fn string(text: &str) -> Result<String, &'static str> {
    let (text, raw) = unquoted(text);
    if raw {
        return Ok(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let code = escape(&mut chars);
                out.push(char::from_u32(code).ok_or("invalid unicode code point")?);
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

pub(super) fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    let (text, raw) = unquoted(text);
    if raw {
        return Ok(text.into_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        if matches!(chars.as_str().chars().next(), Some('u' | 'U')) {
            return Err("unable to unescape string");
        }
        // What the lexer lets through is below 256.
        out.push(u8::try_from(escape(&mut chars)).unwrap_or(u8::MAX));
    }
    Ok(out)
}

/// The code of an escape sequence behind its backslash. The lexer has seen that it is a whole one.
fn escape(chars: &mut std::str::Chars<'_>) -> u32 {
    let number = |chars: &mut std::str::Chars<'_>, n: usize, radix: u32, first: u32| {
        (0..n).fold(first, |sum, _| {
            let digit = chars.next().and_then(|c| c.to_digit(radix)).unwrap_or(0);
            sum.wrapping_mul(radix).wrapping_add(digit)
        })
    };
    match chars.next() {
        Some('a') => 7,
        Some('b') => 8,
        Some('f') => 12,
        Some('n') => 10,
        Some('r') => 13,
        Some('t') => 9,
        Some('v') => 11,
        Some('x' | 'X') => number(chars, 2, 16, 0),
        Some('u') => number(chars, 4, 16, 0),
        Some('U') => number(chars, 8, 16, 0),
        Some(c @ '0'..='3') => number(chars, 2, 8, u32::from(c) - u32::from('0')),
        Some(c) => u32::from(c),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_have_their_values() {
        assert_eq!(int("-0x8000000000000000"), Some(i64::MIN));
        assert_eq!(int("9223372036854775808"), None);
        assert_eq!(uint("0xFFu"), Some(255));
        assert_eq!(double("1e999"), None);
        assert_eq!(string(r"'a\n\x41\u00e9\101'").as_deref(), Ok("a\nAéA"));
        assert_eq!(string("\"\"\"a\r\nb\"\"\"").as_deref(), Ok("a\nb"));
        assert_eq!(string(r"r'\d'").as_deref(), Ok(r"\d"));
        assert_eq!(
            bytes(r"'\xff\303é'").as_deref(),
            Ok(&[255, 195, 195, 169][..])
        );
        assert!(string(r"'\ud800'").is_err() && bytes(r"'\u0041'").is_err());
    }
}
