//! Reads JSON that is known to be valid, token by token, without a tree, and passes quickly over what nobody asked for: most
//! of an object is of no interest to its index, its row in a table or its message. What does not fit the shape is refused;
//! what is passed over is not looked at, but for where it ends.

use std::borrow::Cow;
use std::ops::Range;

use wide::u8x16;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

const CUT: Malformed = Malformed("the JSON of an object ends early");
const NOT_UTF8: Malformed = Malformed("a text of an object is not UTF-8");
const WRONG: Malformed = Malformed("the JSON of an object is not of its shape");
/// Deepest nesting of JSON that is passed over.
const DEPTH_MAX: usize = 10_000;

/// Where bytes stand: in the JSON, or, beyond the highest bit, in the scratch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) length: u32,
}

const SCRATCH: u32 = 1 << 31;

impl Span {
    fn new(start: usize, end: usize) -> Self {
        Self {
            start: start as u32,
            length: (end - start) as u32,
        }
    }

    pub(crate) fn scratch(start: usize, length: usize) -> Self {
        Self {
            start: start as u32 | SCRATCH,
            length: length as u32,
        }
    }

    pub(crate) fn of<'a>(self, json: &'a [u8], scratch: &'a [u8]) -> &'a [u8] {
        let (from, start) = match self.start & SCRATCH {
            0 => (json, self.start as usize),
            _ => (scratch, (self.start & !SCRATCH) as usize),
        };
        from.get(start..start + self.length as usize).unwrap_or(&[])
    }
}

/// Reads JSON from its beginning on.
pub struct Scanner<'j> {
    json: &'j [u8],
    at: usize,
}

impl<'j> Scanner<'j> {
    /// Reads this, from its first byte.
    pub fn new(json: &'j [u8]) -> Self {
        Self { json, at: 0 }
    }

    pub(crate) fn bytes<'a>(&'a self, span: Span, scratch: &'a [u8]) -> &'a [u8] {
        span.of(self.json, scratch)
    }

    fn space(&mut self) {
        while matches!(self.json.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.space();
        self.json.get(self.at).copied()
    }

    pub(crate) fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    pub(crate) fn expect(&mut self, wanted: u8) -> Result<(), Malformed> {
        match self.take(wanted) {
            true => Ok(()),
            false => Err(WRONG),
        }
    }

    /// After an item: whether another follows, or the end.
    pub(crate) fn more(&mut self, end: u8) -> Result<bool, Malformed> {
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

    /// That nothing follows.
    ///
    /// # Errors
    /// [`Malformed`] when something does.
    pub fn end(&mut self) -> Result<(), Malformed> {
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

    pub(crate) fn take_null(&mut self) -> Result<bool, Malformed> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.word(b"null").map(|()| true)
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, Malformed> {
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

    /// A number as texts show it.
    pub(crate) fn number_text(&mut self) -> Result<String, Malformed> {
        let text = self.number()?;
        let is_whole = text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
        match is_whole {
            true => Ok(text.to_owned()),
            false => Ok(text.parse::<f64>().map_err(|_| WRONG)?.to_string()),
        }
    }

    pub(crate) fn integer(&mut self) -> Result<i64, Malformed> {
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

    pub(crate) fn double(&mut self) -> Result<f64, Malformed> {
        self.number()?.parse().map_err(|_| WRONG)
    }

    /// Moves to the next quote or backslash.
    fn plain(&mut self) -> Result<u8, Malformed> {
        while let Some(chunk) = self.json.get(self.at..).and_then(<[u8]>::first_chunk) {
            let chunk = u8x16::new(*chunk);
            let found = (chunk.simd_eq(u8x16::splat(b'"')) | chunk.simd_eq(u8x16::splat(b'\\')))
                .to_bitmask();
            if found != 0 {
                self.at += found.trailing_zeros() as usize;
                return Ok(self.json[self.at]);
            }
            self.at += size_of::<u8x16>();
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
    pub(crate) fn text(&mut self, scratch: &mut Vec<u8>) -> Result<Span, Malformed> {
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
    pub(crate) fn skip(&mut self) -> Result<Span, Malformed> {
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
        let mut brackets = Brackets::default();
        while let Some(block) = self.json.get(self.at..).and_then(<[u8]>::first_chunk) {
            if let Some(end) = brackets.close(block)? {
                self.at += end + 1;
                return Ok(());
            }
            self.at += BLOCK;
        }
        let mut last = [b' '; BLOCK];
        let rest = self.json.get(self.at..).unwrap_or_default();
        last[..rest.len()].copy_from_slice(rest);
        let end = brackets.close(&last)?.ok_or(CUT)?;
        self.at += end + 1;
        Ok(())
    }

    /// Reads an object: `field` is called with each key, and reads or passes over its value. What is `null` is not there.
    ///
    /// # Errors
    /// [`Malformed`] when there is no object, or `field` says so.
    pub fn each_field(
        &mut self,
        mut field: impl FnMut(&mut Self, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let (json, mut scratch) = (self.json, Vec::new());
        self.expect(b'{')?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            scratch.clear();
            let key = self.text(&mut scratch)?;
            self.expect(b':')?;
            if !self.take_null()? {
                field(self, key.of(json, &scratch))?;
            }
            if !self.more(b'}')? {
                return Ok(());
            }
        }
    }

    /// Reads an object of texts: `entry` is called with each key and its value. What is `null` is not there.
    pub(crate) fn each_text(
        &mut self,
        mut entry: impl FnMut(Cow<'j, str>, Cow<'j, str>),
    ) -> Result<(), Malformed> {
        self.expect(b'{')?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let key = self.str()?;
            self.expect(b':')?;
            if !self.take_null()? {
                entry(key, self.str()?);
            }
            if !self.more(b'}')? {
                return Ok(());
            }
        }
    }

    /// Reads a list: `item` is called before each item, and reads or passes over it.
    pub(crate) fn each_item(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.expect(b'[')?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            item(self)?;
            if !self.more(b']')? {
                return Ok(());
            }
        }
    }

    /// Reads a text that is kept.
    ///
    /// # Errors
    /// [`Malformed`] when there is no text.
    pub fn string(&mut self) -> Result<String, Malformed> {
        self.str().map(Cow::into_owned)
    }

    /// Reads a text, and copies it only if it has escapes.
    pub(crate) fn str(&mut self) -> Result<Cow<'j, str>, Malformed> {
        let mut scratch = Vec::new();
        let text = self.text(&mut scratch)?;
        if text.start & SCRATCH == 0 {
            let json = self.json;
            let part = std::str::from_utf8(text.of(json, &[]));
            return part.map(Cow::Borrowed).map_err(|_| NOT_UTF8);
        }
        let text = String::from_utf8(scratch);
        text.map(Cow::Owned).map_err(|_| NOT_UTF8)
    }

    /// Passes over a value; answers where it stands.
    ///
    /// # Errors
    /// [`Malformed`] when it does not end.
    pub fn range(&mut self) -> Result<Range<usize>, Malformed> {
        let span = self.skip()?;
        let start = span.start as usize;
        Ok(start..start + span.length as usize)
    }
}

/// Bytes that are looked at together: a bit of a word stands for each.
const BLOCK: usize = 64;

/// Counts brackets outside texts, a block at a time, until all that were opened are closed.
#[derive(Default)]
struct Brackets {
    depth: usize,
    /// All bits, when the last block ended within a text.
    in_text: u64,
    /// Whether the last block ended with a backslash that escapes what comes next.
    escapes: bool,
}

impl Brackets {
    /// Where in this block the last open bracket is closed, if it is.
    fn close(&mut self, block: &[u8; BLOCK]) -> Result<Option<usize>, Malformed> {
        let marks = Marks::of(block);
        let quotes = marks.quotes & !self.escaped(marks.backslashes);
        // A bit is set from an opening quote up to the closing one.
        let text = prefix_xor(quotes) ^ self.in_text;
        self.in_text = 0_u64.wrapping_sub(text >> (BLOCK - 1));
        let (opening, mut closing) = (marks.opening & !text, marks.closing & !text);
        let n_closing = closing.count_ones() as usize;
        if self.depth > n_closing {
            self.depth = self.depth + opening.count_ones() as usize - n_closing;
            return match self.depth > DEPTH_MAX {
                true => Err(Malformed("messages are nested too deeply")),
                false => Ok(None),
            };
        }
        let mut counted = 0;
        while closing != 0 {
            let at = closing.trailing_zeros();
            let before = (1 << at) - 1;
            let depth = self.depth + (opening & before).count_ones() as usize;
            counted += 1;
            if depth == counted {
                return Ok(Some(at as usize));
            }
            closing &= closing - 1;
        }
        self.depth = self.depth + opening.count_ones() as usize - counted;
        Ok(None)
    }

    /// The characters that a backslash escapes.
    fn escaped(&mut self, backslashes: u64) -> u64 {
        if backslashes == 0 {
            return u64::from(std::mem::take(&mut self.escapes));
        }
        let mut escaped = u64::from(self.escapes);
        let mut rest = backslashes & !escaped;
        self.escapes = false;
        while rest != 0 {
            let at = rest.trailing_zeros();
            rest &= rest - 1;
            match at as usize == BLOCK - 1 {
                true => self.escapes = true,
                false => escaped |= 2 << at,
            }
            rest &= !escaped;
        }
        escaped
    }
}

/// Where the bytes that matter are in a block.
struct Marks {
    quotes: u64,
    backslashes: u64,
    opening: u64,
    closing: u64,
}

impl Marks {
    fn of(block: &[u8; BLOCK]) -> Self {
        let mut marks = Self {
            quotes: 0,
            backslashes: 0,
            opening: 0,
            closing: 0,
        };
        let (parts, _) = block.as_chunks();
        for (n, part) in parts.iter().enumerate() {
            let part = u8x16::new(*part);
            let find = |byte: u8, part: u8x16| {
                u64::from(part.simd_eq(u8x16::splat(byte)).to_bitmask()) << (n * size_of::<u8x16>())
            };
            // Square brackets differ from braces in one bit, and nothing else is made one of them by it.
            let braces = part | u8x16::splat(b'{' ^ b'[');
            marks.quotes |= find(b'"', part);
            marks.backslashes |= find(b'\\', part);
            marks.opening |= find(b'{', braces);
            marks.closing |= find(b'}', braces);
        }
        marks
    }
}

/// Each bit becomes the parity of itself and those below it.
fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

#[cfg(test)]
mod tests;
