//! JSON as protobuf, without a tree in between.
//!
//! One pass reads the JSON into flat cells (where a text stands, what a number is, which cells belong together); a
//! second writes the message from its end, so that lengths are known where they are needed. Fields come in order of
//! their numbers, keys of maps sorted, and what Go always writes is written: the bytes are those of Go's encoder.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Malformed;
use super::layout::{Item, Layout, Shape, Tag, Target};
use crate::scan::{Scanner, Span};
use crate::schema::Other;

/// Deepest nesting of messages.
const DEPTH_MAX: usize = 256;
/// Marks the time that is not set.
const NO_TIME: i64 = i64::MIN;

/// Marks a struct where something else could stand.
const IS_STRUCT: u32 = 1;

/// A value. What the words mean follows from its shape.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cell {
    a: u32,
    b: u32,
    c: u32,
    /// The item before this one, in a list or map.
    previous: u32,
}

impl Cell {
    fn text(span: Span) -> Self {
        Self {
            a: span.start,
            b: span.length,
            ..Self::default()
        }
    }

    fn number(bits: u64) -> Self {
        Self {
            a: (bits & 0xffff_ffff) as u32,
            b: (bits >> 32) as u32,
            ..Self::default()
        }
    }

    fn bits(self) -> u64 {
        u64::from(self.a) | u64::from(self.b) << 32
    }

    fn span(self) -> Span {
        Span {
            start: self.a,
            length: self.b,
        }
    }
}

/// Makes messages; kept between objects so that its memory is used again.
#[derive(Debug, Default)]
pub struct Encoder {
    cells: Vec<Cell>,
    /// For each struct the cells of its fields, 0 where a field is not set.
    slots: Vec<u32>,
    /// Texts that stand in the JSON in another form.
    scratch: Vec<u8>,
    out: Frame,
}

/// Bytes that are written from the end.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    /// Where the written part begins.
    at: usize,
}

impl Encoder {
    /// An encoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// The message of an object, without an envelope.
    ///
    /// # Errors
    /// [`Malformed`] when the JSON is not of that shape.
    pub fn message(&mut self, layout: &Layout, json: &[u8]) -> Result<&[u8], Malformed> {
        self.cells.clear();
        self.slots.clear();
        self.scratch.clear();
        self.cells.push(Cell::default());
        let mut reading = Reading {
            scanner: Scanner::new(json),
            encoder: self,
        };
        let root = reading.object(layout, 0)?;
        reading.scanner.end()?;
        self.out.clear(json.len() + 256);
        let source = Source {
            json,
            cells: &self.cells,
            slots: &self.slots,
            scratch: &self.scratch,
        };
        self.out.message(&source, layout, root);
        Ok(self.out.written())
    }
}

struct Reading<'e, 'j> {
    scanner: Scanner<'j>,
    encoder: &'e mut Encoder,
}

impl Reading<'_, '_> {
    fn add(&mut self, cell: Cell) -> u32 {
        self.encoder.cells.push(cell);
        u32::try_from(self.encoder.cells.len() - 1).unwrap_or(u32::MAX)
    }

    /// Reads an object; answers where its slots begin.
    fn object(&mut self, layout: &Layout, depth: usize) -> Result<usize, Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed("messages are nested too deeply"));
        }
        let base = self.encoder.slots.len();
        self.encoder.slots.resize(base + layout.fields.len(), 0);
        self.scanner.expect(b'{')?;
        if self.scanner.take(b'}') {
            return Ok(base);
        }
        let mut next = 0;
        loop {
            let key = self.scanner.text(&mut self.encoder.scratch)?;
            let found = layout.find(self.scanner.bytes(key, &self.encoder.scratch), next);
            self.scanner.expect(b':')?;
            match found {
                Some(slot) if !self.scanner.take_null()? => {
                    next = slot + 1;
                    let cell = self.value(&layout.fields[slot].shape, depth)?;
                    self.encoder.slots[base + slot] = cell;
                }
                Some(slot) => next = slot + 1,
                None => self.scanner.skip().map(|_| ())?,
            }
            if !self.scanner.more(b'}')? {
                return Ok(base);
            }
        }
    }

    fn value(&mut self, shape: &Shape, depth: usize) -> Result<u32, Malformed> {
        let cell = match shape {
            Shape::Text => Cell::text(self.scanner.text(&mut self.encoder.scratch)?),
            Shape::Quantity => match self.scanner.peek() {
                Some(b'"') => Cell::text(self.scanner.text(&mut self.encoder.scratch)?),
                _ => Cell::text(self.scanner.skip()?),
            },
            Shape::Bytes => {
                let text = self.scanner.text(&mut self.encoder.scratch)?;
                Cell::text(self.decoded(text)?)
            }
            Shape::Boolean => Cell::number(u64::from(self.scanner.boolean()?)),
            Shape::Integer => Cell::number(self.scanner.integer()?.cast_unsigned()),
            Shape::Double => Cell::number(self.scanner.double()?.to_bits()),
            Shape::Time | Shape::MicroTime => self.time(matches!(shape, Shape::MicroTime))?,
            Shape::IntOrString => match self.scanner.peek() {
                Some(b'"') => Cell {
                    c: 1,
                    ..Cell::text(self.scanner.text(&mut self.encoder.scratch)?)
                },
                _ => Cell::number(self.scanner.integer()?.cast_unsigned()),
            },
            Shape::Raw => Cell::text(self.scanner.skip()?),
            Shape::Struct(target) => {
                let slots = self.object(target.layout(), depth + 1)?;
                Cell::number(slots as u64)
            }
            Shape::StructOr(target, other) => self.struct_or(target, *other, depth)?,
            Shape::List(item) | Shape::ListMessage(item) => self.list(item, depth)?,
            Shape::Map(value) => self.map(value, depth)?,
        };
        Ok(self.add(cell))
    }

    /// Reads a struct or what stands in its place; the cell tells which by its third word.
    fn struct_or(
        &mut self,
        target: &Target,
        other: Other,
        depth: usize,
    ) -> Result<Cell, Malformed> {
        match (self.scanner.peek(), other) {
            (Some(b'{'), _) => {
                let slots = self.object(target.layout(), depth + 1)?;
                Ok(Cell {
                    c: IS_STRUCT,
                    ..Cell::number(slots as u64)
                })
            }
            (_, Other::Boolean) => Ok(Cell::number(u64::from(self.scanner.boolean()?))),
            (_, Other::List) => self.list(&Shape::Struct(target.clone()), depth + 1),
        }
    }

    fn list(&mut self, item: &Shape, depth: usize) -> Result<Cell, Malformed> {
        let mut last = 0;
        self.scanner.expect(b'[')?;
        if !self.scanner.take(b']') {
            loop {
                let index = match self.scanner.take_null()? {
                    true => self.unset(item),
                    false => self.value(item, depth + 1)?,
                };
                self.encoder.cells[index as usize].previous = last;
                last = index;
                if !self.scanner.more(b']')? {
                    break;
                }
            }
        }
        Ok(Cell {
            a: last,
            ..Cell::default()
        })
    }

    fn map(&mut self, value: &Shape, depth: usize) -> Result<Cell, Malformed> {
        let mut last = 0;
        let mut sorted = true;
        self.scanner.expect(b'{')?;
        if !self.scanner.take(b'}') {
            loop {
                let key = self.scanner.text(&mut self.encoder.scratch)?;
                self.scanner.expect(b':')?;
                let index = match self.scanner.take_null()? {
                    true => self.unset(value),
                    false => self.value(value, depth + 1)?,
                };
                if last != 0 {
                    let before = self.encoder.cells[last as usize].span();
                    let scratch = &self.encoder.scratch;
                    sorted &=
                        self.scanner.bytes(before, scratch) < self.scanner.bytes(key, scratch);
                }
                last = self.add(Cell {
                    c: index,
                    previous: last,
                    ..Cell::text(key)
                });
                if !self.scanner.more(b'}')? {
                    break;
                }
            }
        }
        if !sorted {
            last = self.sort(last);
        }
        Ok(Cell {
            a: last,
            ..Cell::default()
        })
    }

    /// Links the entries of a map in order of their keys; of equal ones the last counts. Answers the last.
    fn sort(&mut self, mut entry: u32) -> u32 {
        let mut entries = Vec::new();
        while entry != 0 {
            entries.push(entry);
            entry = self.encoder.cells[entry as usize].previous;
        }
        // They come with the last one first, and the sort is stable.
        let key = |index: &u32| {
            let span = self.encoder.cells[*index as usize].span();
            self.scanner.bytes(span, &self.encoder.scratch)
        };
        entries.sort_by(|a, b| key(a).cmp(key(b)));
        entries.dedup_by(|later, kept| key(later) == key(kept));
        let mut last = 0;
        for index in entries {
            self.encoder.cells[index as usize].previous = last;
            last = index;
        }
        last
    }

    /// What stands for `null` in a list or map.
    fn unset(&mut self, shape: &Shape) -> u32 {
        let cell = match shape {
            Shape::Time | Shape::MicroTime => Cell::number(NO_TIME.cast_unsigned()),
            Shape::Struct(target) => {
                let base = self.encoder.slots.len();
                let length = base + target.layout().fields.len();
                self.encoder.slots.resize(length, 0);
                Cell::number(base as u64)
            }
            _ => Cell::default(),
        };
        self.add(cell)
    }

    fn decoded(&mut self, text: Span) -> Result<Span, Malformed> {
        let encoded = self.scanner.bytes(text, &self.encoder.scratch).to_vec();
        let start = self.encoder.scratch.len();
        STANDARD
            .decode_vec(&encoded, &mut self.encoder.scratch)
            .map_err(|_| Malformed("bytes are not base64"))?;
        Ok(Span::scratch(start, self.encoder.scratch.len() - start))
    }

    fn time(&mut self, micros: bool) -> Result<Cell, Malformed> {
        let text = self.scanner.text(&mut self.encoder.scratch)?;
        let text = self.scanner.bytes(text, &self.encoder.scratch);
        let (seconds, nanos) = match parse_utc(text) {
            Some(parts) => parts,
            None => {
                let text = std::str::from_utf8(text).unwrap_or("");
                let at: jiff::Timestamp = text
                    .parse()
                    .map_err(|_| Malformed("a time does not parse"))?;
                // Nanoseconds count forward, before 1970 as well.
                let nanos = at.subsec_nanosecond();
                match nanos < 0 {
                    true => (at.as_second() - 1, (nanos + 1_000_000_000).cast_unsigned()),
                    false => (at.as_second(), nanos.cast_unsigned()),
                }
            }
        };
        Ok(Cell {
            // Times of seconds lose what is beyond, as in Go.
            c: if micros { nanos / 1000 * 1000 } else { 0 },
            ..Cell::number(seconds.cast_unsigned())
        })
    }
}

/// Seconds since 1970 and nanoseconds of a time in the form that the API writes.
fn parse_utc(text: &[u8]) -> Option<(i64, u32)> {
    let digits = |from: usize, to: usize| -> Option<i64> {
        text.get(from..to)?.iter().try_fold(0_i64, |sum, byte| {
            byte.is_ascii_digit()
                .then(|| sum * 10 + i64::from(byte - b'0'))
        })
    };
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let shape = [text[4], text[7], text[10], text[13], text[16]];
    if shape != *b"--T::" || !(1..=12).contains(&month) {
        return None;
    }
    let nanos = match text.get(19..)? {
        b"Z" => 0,
        [b'.', fraction @ .., b'Z'] if (1..=9).contains(&fraction.len()) => {
            let value = digits(20, 20 + fraction.len())?;
            let scale = 10_i64.pow(9 - u32::try_from(fraction.len()).ok()?);
            u32::try_from(value * scale).ok()?
        }
        _ => return None,
    };
    // Days of the civil calendar, counted in years that begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    // The zero time of Go is no time.
    Some(match year {
        1 if month == 1 && day == 1 && hour + minute + second == 0 && nanos == 0 => (NO_TIME, 0),
        _ => (seconds, nanos),
    })
}

struct Source<'a> {
    json: &'a [u8],
    cells: &'a [Cell],
    slots: &'a [u32],
    scratch: &'a [u8],
}

impl Source<'_> {
    fn text(&self, cell: Cell) -> &[u8] {
        cell.span().of(self.json, self.scratch)
    }
}

impl Frame {
    fn clear(&mut self, capacity: usize) {
        if self.bytes.len() < capacity {
            self.bytes.resize(capacity, 0);
        }
        self.at = self.bytes.len();
    }

    fn written(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// The message of a type of which no field is set.
    pub(super) fn of_unset(layout: &Layout, slots: &[u32]) -> Box<[u8]> {
        let mut frame = Self::default();
        let source = Source {
            json: &[],
            cells: &[],
            slots,
            scratch: &[],
        };
        frame.message(&source, layout, 0);
        frame.written().into()
    }

    #[cold]
    fn grow(&mut self, room: usize) {
        let length = self.bytes.len() - self.at;
        let mut bytes = vec![0; (self.bytes.len() + room) * 2];
        let at = bytes.len() - length;
        bytes[at..].copy_from_slice(&self.bytes[self.at..]);
        (self.bytes, self.at) = (bytes, at);
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.at < bytes.len() {
            self.grow(bytes.len());
        }
        let start = self.at - bytes.len();
        self.bytes[start..self.at].copy_from_slice(bytes);
        self.at = start;
    }

    /// Writes a few bytes, for which a call to copy them would cost more than they do.
    fn few(&mut self, bytes: &[u8]) {
        match *bytes {
            [a] => self.byte(a),
            [a, b] => {
                self.byte(b);
                self.byte(a);
            }
            [a, b, c] => {
                self.byte(c);
                self.byte(b);
                self.byte(a);
            }
            _ => self.put(bytes),
        }
    }

    fn byte(&mut self, byte: u8) {
        if self.at == 0 {
            self.grow(1);
        }
        self.at -= 1;
        self.bytes[self.at] = byte;
    }

    fn varint(&mut self, mut value: u64) {
        if value < 0x80 {
            return self.byte(value as u8);
        }
        let mut bytes = [0; 10];
        let mut length = 0;
        for byte in &mut bytes {
            *byte = (value & 0x7f) as u8 | 0x80;
            value >>= 7;
            length += 1;
            if value == 0 {
                *byte &= 0x7f;
                break;
            }
        }
        self.put(&bytes[..length]);
    }

    /// Writes the length of what has been written since `end` bytes were there.
    fn length(&mut self, end: usize) {
        let length = self.bytes.len() - self.at - end;
        self.varint(length as u64);
    }

    fn mark(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn message(&mut self, source: &Source<'_>, layout: &Layout, base: usize) {
        self.items(source, layout, &layout.order, base);
    }

    fn items(&mut self, source: &Source<'_>, layout: &Layout, items: &[Item], base: usize) {
        for item in items {
            match item {
                Item::Field { slot, tag, zero } => match source.slots[base + slot] {
                    0 => self.few(zero),
                    cell => self.field(source, &layout.fields[*slot].shape, *tag, cell),
                },
                Item::Inline { tag, items } => {
                    let end = self.mark();
                    self.items(source, layout, items, base);
                    self.length(end);
                    self.few(tag.as_slice());
                }
            }
        }
    }

    fn field(&mut self, source: &Source<'_>, shape: &Shape, tag: Tag, cell: u32) {
        let value = source.cells[cell as usize];
        match shape {
            Shape::List(item) => {
                let mut next = value.a;
                while next != 0 {
                    self.field(source, item, tag, next);
                    next = source.cells[next as usize].previous;
                }
            }
            Shape::Map(inner) => {
                let mut next = value.a;
                while next != 0 {
                    let entry = source.cells[next as usize];
                    let end = self.mark();
                    self.field(source, inner, Tag::new(2, inner.wire()), entry.c);
                    self.sized(source.text(entry));
                    self.byte(0x0a);
                    self.length(end);
                    self.few(tag.as_slice());
                    next = entry.previous;
                }
            }
            _ => {
                self.value(source, shape, value);
                self.few(tag.as_slice());
            }
        }
    }

    fn sized(&mut self, bytes: &[u8]) {
        self.put(bytes);
        self.varint(bytes.len() as u64);
    }

    fn value(&mut self, source: &Source<'_>, shape: &Shape, cell: Cell) {
        match shape {
            Shape::Text | Shape::Bytes => self.sized(source.text(cell)),
            Shape::Boolean | Shape::Integer => self.varint(cell.bits()),
            Shape::Double => self.put(&cell.bits().to_le_bytes()),
            Shape::Quantity | Shape::Raw => {
                let end = self.mark();
                self.sized(source.text(cell));
                self.byte(0x0a);
                self.length(end);
            }
            Shape::Time | Shape::MicroTime if cell.bits() == NO_TIME.cast_unsigned() => {
                self.byte(0);
            }
            Shape::Time | Shape::MicroTime => {
                let end = self.mark();
                self.varint(cell.c.into());
                self.byte(0x10);
                self.varint(cell.bits());
                self.byte(0x08);
                self.length(end);
            }
            Shape::IntOrString => {
                let is_text = cell.c == 1;
                let end = self.mark();
                self.sized(if is_text { source.text(cell) } else { &[] });
                self.byte(0x1a);
                self.varint(if is_text { 0 } else { cell.bits() });
                self.byte(0x10);
                self.byte(u8::from(is_text));
                self.byte(0x08);
                self.length(end);
            }
            Shape::Struct(target) => {
                let end = self.mark();
                self.message(source, target.layout(), cell.bits() as usize);
                self.length(end);
            }
            Shape::StructOr(target, other) => {
                let end = self.mark();
                let (own, list) = match other {
                    Other::List => (Tag::new(1, 2), Tag::new(2, 2)),
                    Other::Boolean => (Tag::new(2, 2), Tag::new(1, 0)),
                };
                let is_struct = cell.c == IS_STRUCT;
                let target = Shape::Struct(target.clone());
                if is_struct {
                    self.value(source, &target, Cell { c: 0, ..cell });
                    self.put(own.as_slice());
                } else if *other == Other::List {
                    let mut next = cell.a;
                    while next != 0 {
                        self.field(source, &target, list, next);
                        next = source.cells[next as usize].previous;
                    }
                }
                if *other == Other::Boolean {
                    self.varint(if is_struct { 1 } else { cell.bits() });
                    self.put(list.as_slice());
                }
                self.length(end);
            }
            Shape::ListMessage(item) => {
                let end = self.mark();
                let tag = Tag::new(1, item.wire());
                let mut next = cell.a;
                while next != 0 {
                    self.field(source, item, tag, next);
                    next = source.cells[next as usize].previous;
                }
                self.length(end);
            }
            // Both are written with a tag for each of their entries.
            Shape::List(_) | Shape::Map(_) => {}
        }
    }
}
