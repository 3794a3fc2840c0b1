//! Profiles in the format of <https://github.com/google/pprof/blob/main/proto/profile.proto>, compressed.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

/// A message of protobuf that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }
}

/// Numbers things from 1 on, each once.
#[derive(Default)]
struct Numbers<T>(HashMap<T, u64>);

impl<T: std::hash::Hash + Eq> Numbers<T> {
    /// The number of a thing, and whether it is new.
    fn of(&mut self, thing: T) -> (u64, bool) {
        let next = self.0.len() as u64 + 1;
        let number = *self.0.entry(thing).or_insert(next);
        (number, number == next)
    }
}

/// A line of the program on a stack.
pub(super) struct Frame {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) line: u32,
}

/// What is measured, and in what.
pub(super) type Measure = (&'static str, &'static str);

/// A profile that is being written.
pub(super) struct Profile {
    out: Message,
    /// The table of texts: it comes last.
    table: Message,
    strings: Numbers<String>,
    functions: Numbers<(u64, u64)>,
    locations: Numbers<(u64, u32)>,
}

impl Profile {
    /// A profile whose samples have a value for each of these.
    pub(super) fn new(measures: &[Measure]) -> Self {
        let mut profile = Self {
            out: Message::default(),
            table: Message::default(),
            strings: Numbers::default(),
            functions: Numbers::default(),
            locations: Numbers::default(),
        };
        // The first text is empty; it has no number.
        profile.table.bytes(6, b"");
        for measure in measures {
            profile.value_type(1, *measure);
        }
        profile
    }

    fn string(&mut self, text: &str) -> u64 {
        let (number, is_new) = self.strings.of(text.to_owned());
        if is_new {
            self.table.bytes(6, text.as_bytes());
        }
        number
    }

    fn value_type(&mut self, field: u64, (what, unit): Measure) {
        let (what, unit) = (self.string(what), self.string(unit));
        self.out.message(field, |message| {
            message.number(1, what);
            message.number(2, unit);
        });
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        let (name, file) = (self.string(&frame.name), self.string(&frame.file));
        let (function, is_new) = self.functions.of((name, file));
        if is_new {
            self.out.message(5, |message| {
                message.number(1, function);
                message.number(2, name);
                message.number(3, name);
                message.number(4, file);
            });
        }
        let (location, is_new) = self.locations.of((function, frame.line));
        if is_new {
            self.out.message(4, |message| {
                message.number(1, location);
                message.message(4, |message| {
                    message.number(1, function);
                    message.number(2, u64::from(frame.line));
                });
            });
        }
        location
    }

    /// Adds a stack, its innermost frame first, with a value for each measure.
    pub(super) fn add<'f>(&mut self, frames: impl Iterator<Item = &'f Frame>, values: &[u64]) {
        let mut stack = Message::default();
        for frame in frames {
            let location = self.location(frame);
            stack.varint(location);
        }
        self.out.message(2, |message| {
            message.bytes(1, &stack.0);
            let mut written = Message::default();
            values.iter().for_each(|value| written.varint(*value));
            message.bytes(2, &written.0);
        });
    }

    /// The profile: made when, over what time, with one sample in how much of what, and which of the measures is shown
    /// first.
    ///
    /// # Errors
    /// When it cannot be compressed.
    pub(super) fn finish(
        mut self,
        (began, time): (Timestamp, Duration),
        (period_of, period): (Measure, u64),
        shown: &str,
    ) -> std::io::Result<Vec<u8>> {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let began = u64::try_from(began.as_nanosecond()).unwrap_or(0);
        self.out.number(9, began);
        self.out.number(10, nanos);
        self.value_type(11, period_of);
        self.out.number(12, period);
        let shown = self.string(shown);
        self.out.number(14, shown);
        self.out.0.extend(self.table.0);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&self.out.0)?;
        gzip.finish()
    }
}
