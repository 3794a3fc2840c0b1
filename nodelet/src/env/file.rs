//! Files of variables in a volume (`fileKeyRef`): `NAME='value'`, one after the other, in a strict part of the shell's
//! syntax. Values are literal and may span lines; blank lines and comments are passed over.

/// Why a file is no file of variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Malformed {
    /// Counted from one.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The value of `key`; empty if the file does not have it. What comes after it is not looked at.
pub fn value(text: &str, key: &str) -> Result<String, Malformed> {
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let wrong = |why| Err(Malformed { line, why });
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let start = first.trim_end_matches('\r').trim_start_matches([' ', '\t']);
        if start.is_empty() || start.starts_with('#') {
            (rest, line) = (after, line + 1);
            continue;
        }
        let Some((name, assigned)) = start.split_once('=') else {
            return wrong("missing '='");
        };
        if name.trim_end_matches([' ', '\t']) != name {
            return wrong("whitespace before '=' is not allowed");
        }
        if name.is_empty() {
            return wrong("empty variable name");
        }
        if assigned.starts_with([' ', '\t']) {
            // A shell would set nothing here and run what follows.
            if name == key {
                return Ok(String::new());
            }
            (rest, line) = (after, line + 1);
            continue;
        }
        if !assigned.starts_with('\'') {
            return wrong("value must be enclosed in single quotes");
        }
        // From here on the text itself: a value goes on over the ends of lines.
        let open = rest.find("='").map_or(rest.len(), |at| at + 2);
        let Some((quoted, tail)) = rest[open..].split_once('\'') else {
            return wrong("unclosed single quote");
        };
        let (remainder, after) = tail.split_once('\n').unwrap_or((tail, ""));
        let remainder = remainder.trim_matches([' ', '\t', '\r']);
        line += quoted.matches('\n').count();
        if !remainder.is_empty() && !remainder.starts_with('#') {
            let why = "unexpected content after closing quote";
            return Err(Malformed { line, why });
        }
        if name == key {
            return Ok(quoted.replace("\r\n", "\n"));
        }
        (rest, line) = (after, line + 1);
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literal_and_may_span_lines() {
        let text = "# all of it\n\n  A='one' # yes\nB='$A #\n\\n  two'\nC=''\nD= 'x'\nE='a=b'";
        for (key, wanted) in [
            ("A", "one"),
            ("B", "$A #\n\\n  two"),
            ("C", ""),
            ("D", ""),
            ("E", "a=b"),
            ("F", ""),
        ] {
            assert_eq!(value(text, key).as_deref(), Ok(wanted), "{key}");
        }
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_refused() {
        for (text, line, why) in [
            ("A='1'\nB", 2, "missing '='"),
            ("A ='1'", 1, "whitespace before '=' is not allowed"),
            ("='1'", 1, "empty variable name"),
            ("A=1", 1, "value must be enclosed in single quotes"),
            ("A=\"1\"", 1, "value must be enclosed in single quotes"),
            ("X='1\n2'\nA='1", 3, "unclosed single quote"),
            ("X='1\n2'3", 2, "unexpected content after closing quote"),
        ] {
            assert_eq!(value(text, "K"), Err(Malformed { line, why }), "{text:?}");
        }
        assert_eq!(value("K='1'\nbroken", "K").as_deref(), Ok("1"));
    }
}
