//! JSON for people: indented as Go does it, piece by piece, so that a long list is never held for it.

/// Indents JSON that comes in pieces.
#[derive(Debug, Default)]
pub struct Indenter {
    depth: usize,
    in_text: bool,
    escaped: bool,
    /// A bracket has been opened and nothing has come since.
    opened: bool,
}

impl Indenter {
    /// Adds a piece, indented.
    pub fn add(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for &byte in piece {
            if self.in_text {
                out.push(byte);
                self.in_text = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                continue;
            }
            if byte.is_ascii_whitespace() {
                continue;
            }
            let closes = matches!(byte, b'}' | b']');
            self.depth -= usize::from(closes && self.depth > 0);
            // Nothing is put between brackets that hold nothing.
            if closes != self.opened {
                self.line(out);
            }
            self.opened = matches!(byte, b'{' | b'[');
            self.depth += usize::from(self.opened);
            self.in_text = byte == b'"';
            out.push(byte);
            match byte {
                b',' => self.line(out),
                b':' => out.push(b' '),
                _ => {}
            }
        }
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + 2 * self.depth, b' ');
    }
}

/// Whole JSON, indented.
pub fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    Indenter::default().add(json, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_as_go_does_it() {
        let json = br#"{"a":{},"b":[],"c":[1,{"d":"{[,:\"\\","e":null}],"f":"\\\""}"#;
        let text = "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    1,\n    {\n      \"d\": \"{[,:\\\"\\\\\",\n      \"e\": null\n    }\n  ],\n  \"f\": \"\\\\\\\"\"\n}";
        assert_eq!(String::from_utf8(indent(json)).expect("text"), text);
        let mut pieces = Vec::new();
        let mut indenter = Indenter::default();
        for byte in json {
            indenter.add(&[*byte], &mut pieces);
        }
        assert_eq!(pieces, indent(json));
        let value: serde_json::Value = serde_json::from_slice(json).expect("JSON");
        assert_eq!(serde_json::to_string_pretty(&value).expect("text"), text);
    }
}
