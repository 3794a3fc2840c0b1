//! Reads JSON that is known to be valid, token by token, and refuses what is not.

use super::Malformed;

const CUT: Malformed = Malformed("the JSON of an object ends early");
const WRONG: Malformed = Malformed("the JSON of an object is not of its shape");
/// Deepest nesting of JSON that is passed over.
const DEPTH_MAX: usize = 10_000;

/// Where bytes stand: in the JSON, or, beyond the highest bit, in the scratch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) length: u32,
}

const SCRATCH: u32 = 1 << 31;

impl Span {
    fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            length: (end - start) as u32,
        }
    }

    pub(super) fn scratch(start: usize, length: usize) -> Self {
        Self {
            start: start as u32 | SCRATCH,
            length: length as u32,
        }
    }

    pub(super) fn of<'a>(self, json: &'a [u8], scratch: &'a [u8]) -> &'a [u8] {
        let (from, start) = match self.start & SCRATCH {
            0 => (json, self.start as usize),
            _ => (scratch, (self.start & !SCRATCH) as usize),
        };
        from.get(start..start + self.length as usize).unwrap_or(&[])
    }
}

pub(super) struct Scanner<'j> {
    json: &'j [u8],
    at: usize,
}

impl<'j> Scanner<'j> {
    pub(super) fn new(json: &'j [u8]) -> Self {
        Self { json, at: 0 }
    }

    pub(super) fn bytes<'a>(&'a self, span: Span, scratch: &'a [u8]) -> &'a [u8] {
        span.of(self.json, scratch)
    }

    fn space(&mut self) {
        while matches!(self.json.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    pub(super) fn peek(&mut self) -> Option<u8> {
        self.space();
        self.json.get(self.at).copied()
    }

    pub(super) fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, wanted: u8) -> Result<(), Malformed> {
        match self.take(wanted) {
            true => Ok(()),
            false => Err(WRONG),
        }
    }

    /// After an item: whether another follows, or the end.
    pub(super) fn more(&mut self, end: u8) -> Result<bool, Malformed> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == end => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(CUT),
        }
    }

    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(WRONG),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if self.json[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        Err(WRONG)
    }

    pub(super) fn take_null(&mut self) -> Result<bool, Malformed> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.word(b"null").map(|()| true)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Malformed> {
        match self.peek() {
            Some(b't') => self.word(b"true").map(|()| true),
            _ => self.word(b"false").map(|()| false),
        }
    }

    fn number(&mut self) -> Result<&'j str, Malformed> {
        self.space();
        let rest = &self.json[self.at..];
        let of_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().take_while(|byte| of_number(byte)).count();
        self.at += length;
        match std::str::from_utf8(&rest[..length]) {
            Ok(text) if length > 0 => Ok(text),
            _ => Err(WRONG),
        }
    }

    pub(super) fn integer(&mut self) -> Result<i64, Malformed> {
        let text = self.number()?;
        if let Ok(number) = text.parse() {
            return Ok(number);
        }
        // A whole number may be written as 1e3.
        let number: f64 = text.parse().map_err(|_| WRONG)?;
        match number.trunc() == number && number.abs() < 9.0e18 {
            true => Ok(number as i64),
            false => Err(WRONG),
        }
    }

    pub(super) fn double(&mut self) -> Result<f64, Malformed> {
        self.number()?.parse().map_err(|_| WRONG)
    }

    /// Moves to the next quote or backslash.
    fn plain(&mut self) -> Result<u8, Malformed> {
        const LOW: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = 0x8080_8080_8080_8080;
        // Eight bytes at a time: a byte is zero where subtracting one borrows from a bit that it does not have.
        let has_zero = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
        while let Some(chunk) = self.json.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let word = u64::from_le_bytes(*chunk);
            let quote = has_zero(word ^ (LOW * u64::from(b'"')));
            let found = quote | has_zero(word ^ (LOW * u64::from(b'\\')));
            if found != 0 {
                self.at += (found.trailing_zeros() / 8) as usize;
                return Ok(self.json[self.at]);
            }
            self.at += 8;
        }
        while let Some(&byte) = self.json.get(self.at) {
            if matches!(byte, b'"' | b'\\') {
                return Ok(byte);
            }
            self.at += 1;
        }
        Err(CUT)
    }

    /// Reads a text. One with escapes is written into the scratch as it is meant.
    pub(super) fn text(&mut self, scratch: &mut Vec<u8>) -> Result<Span, Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        if self.plain()? == b'"' {
            self.at += 1;
            return Ok(Span::new(start, self.at - 1));
        }
        let into = scratch.len();
        let mut from = start;
        loop {
            scratch.extend_from_slice(&self.json[from..self.at]);
            let found = self.json[self.at];
            self.at += 1;
            if found == b'"' {
                return Ok(Span::scratch(into, scratch.len() - into));
            }
            self.escape(scratch)?;
            from = self.at;
            self.plain()?;
        }
    }

    fn escape(&mut self, scratch: &mut Vec<u8>) -> Result<(), Malformed> {
        let byte = *self.json.get(self.at).ok_or(CUT)?;
        self.at += 1;
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.unicode(scratch),
            _ => return Err(WRONG),
        };
        scratch.push(plain);
        Ok(())
    }

    fn unicode(&mut self, scratch: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut unit = self.hex()?;
        if (0xd800..0xdc00).contains(&unit) && self.json[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            let low = self.hex()?;
            match (0xdc00..0xe000).contains(&low) {
                true => unit = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                false => self.at = before,
            }
        }
        // Half a pair is no character.
        let character = char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
        scratch.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex(&mut self) -> Result<u32, Malformed> {
        let digits = self.json.get(self.at..self.at + 4).ok_or(CUT)?;
        self.at += 4;
        digits.iter().try_fold(0, |sum, digit| {
            let value = char::from(*digit).to_digit(16).ok_or(WRONG)?;
            Ok(sum * 16 + value)
        })
    }

    /// Passes over a value; answers where it stands. Inside brackets only brackets and texts are looked at.
    pub(super) fn skip(&mut self) -> Result<Span, Malformed> {
        self.space();
        let start = self.at;
        match self.json.get(self.at).ok_or(CUT)? {
            b'{' | b'[' => self.skip_brackets()?,
            b'"' => self.skip_text()?,
            b't' => self.word(b"true")?,
            b'f' => self.word(b"false")?,
            b'n' => self.word(b"null")?,
            _ => self.number().map(|_| ())?,
        }
        Ok(Span::new(start, self.at))
    }

    fn skip_text(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        while self.plain()? == b'\\' {
            self.at += 2;
        }
        self.at += 1;
        Ok(())
    }

    fn skip_brackets(&mut self) -> Result<(), Malformed> {
        let mut depth = 0_usize;
        loop {
            match self.json.get(self.at).ok_or(CUT)? {
                b'"' => {
                    self.skip_text()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
            if depth > DEPTH_MAX {
                return Err(Malformed("messages are nested too deeply"));
            }
        }
    }
}
