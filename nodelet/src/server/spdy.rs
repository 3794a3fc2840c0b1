//! The part of SPDY/3.1 that clients of exec, attach and port-forward speak: frames in and out of a byte stream.
//!
//! Header blocks of one direction share one zlib context that starts from the dictionary of the SPDY/3 draft, so they
//! must be read and written in order. Reference: SPDY Protocol draft 3.1, sections 2.2 (frames), 2.6.10 (headers).

use std::collections::HashMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The longest frame that is accepted: clients write at most 32 KiB at once.
pub const FRAME_LEN_MAX: usize = 1 << 20;

/// The largest header block once unpacked.
const HEADERS_LEN_MAX: usize = 16 << 10;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// The sender will not send on this stream any more.
const FIN: u8 = 1;

/// What a peer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    Open {
        /// The stream.
        stream: u32,
        /// What it is for.
        headers: HashMap<String, String>,
        /// The peer will send nothing on it.
        fin: bool,
    },
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes.
        bytes: Vec<u8>,
        /// They are the last.
        fin: bool,
    },
    /// The stream is over.
    Reset(u32),
    /// To be sent back.
    Ping(u32),
    /// No more streams.
    GoAway,
    /// Settings, windows and other things that need no answer.
    Ignored,
}

/// The peer broke the protocol.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("SPDY: {0}")]
pub struct Malformed(&'static str);

/// Takes frames out of bytes.
pub struct Decoder {
    buffer: Vec<u8>,
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            inflate: Decompress::new(true),
        }
    }
}

impl Decoder {
    /// Adds bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is whole.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(head) = self.buffer.first_chunk::<8>() else {
            return Ok(None);
        };
        let (first, flags) = (
            u32::from_be_bytes([head[0], head[1], head[2], head[3]]),
            head[4],
        );
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > FRAME_LEN_MAX {
            return Err(Malformed("a frame is too long"));
        }
        if self.buffer.len() < 8 + length {
            return Ok(None);
        }
        let body: Vec<u8> = self.buffer.drain(..8 + length).skip(8).collect();
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data {
                stream: first,
                bytes: body,
                fin: flags & FIN != 0,
            }));
        }
        let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
        if version != VERSION {
            return Err(Malformed("the version is not 3"));
        }
        self.control(kind, flags, &body).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Frame, Malformed> {
        let number = |at: usize| -> Result<u32, Malformed> {
            let bytes = body
                .get(at..at + 4)
                .and_then(|bytes| bytes.first_chunk::<4>());
            bytes
                .map(|bytes| u32::from_be_bytes(*bytes))
                .ok_or(Malformed("a frame is too short"))
        };
        let stream = || number(0).map(|stream| stream & 0x7fff_ffff);
        Ok(match kind {
            SYN_STREAM => {
                let block = body.get(10..).ok_or(Malformed("a frame is too short"))?;
                Frame::Open {
                    stream: stream()?,
                    headers: self.headers(block)?,
                    fin: flags & FIN != 0,
                }
            }
            // Their header blocks have to pass through the context even though nobody reads them.
            SYN_REPLY | HEADERS => {
                self.headers(body.get(4..).ok_or(Malformed("a frame is too short"))?)?;
                Frame::Ignored
            }
            RST_STREAM => Frame::Reset(stream()?),
            PING => Frame::Ping(number(0)?),
            GOAWAY => Frame::GoAway,
            _ => Frame::Ignored,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<HashMap<String, String>, Malformed> {
        let plain = self.unpack(block)?;
        let mut rest = plain.as_slice();
        let count = take_number(&mut rest)?;
        let mut headers = HashMap::new();
        for _ in 0..count {
            let name = take_text(&mut rest)?;
            let value = take_text(&mut rest)?;
            headers.insert(name.to_lowercase(), value);
        }
        Ok(headers)
    }

    fn unpack(&mut self, block: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut plain = Vec::with_capacity(HEADERS_LEN_MAX);
        let mut rest = block;
        while !rest.is_empty() {
            if plain.len() == HEADERS_LEN_MAX {
                return Err(Malformed("the headers are too large"));
            }
            let before = (self.inflate.total_in(), plain.len());
            match self
                .inflate
                .decompress_vec(rest, &mut plain, FlushDecompress::Sync)
            {
                Ok(Status::StreamEnd) => return Ok(plain),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&dictionary())
                        .map_err(|_| Malformed("an unknown dictionary"))?;
                }
                Err(_) => return Err(Malformed("the headers cannot be unpacked")),
            }
            let read = usize::try_from(self.inflate.total_in() - before.0).unwrap_or(rest.len());
            rest = &rest[read.min(rest.len())..];
            if read == 0 && plain.len() == before.1 && self.inflate.total_in() != 0 && before.0 != 0
            {
                return Err(Malformed("the headers cannot be unpacked"));
            }
        }
        Ok(plain)
    }
}

fn take_number(rest: &mut &[u8]) -> Result<u32, Malformed> {
    let (bytes, after) = rest
        .split_first_chunk::<4>()
        .ok_or(Malformed("the headers are cut off"))?;
    *rest = after;
    Ok(u32::from_be_bytes(*bytes))
}

fn take_text(rest: &mut &[u8]) -> Result<String, Malformed> {
    let length = take_number(rest)? as usize;
    let (bytes, after) = rest
        .split_at_checked(length)
        .ok_or(Malformed("the headers are cut off"))?;
    *rest = after;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Makes frames.
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // Before any input this cannot fail.
        let _ = deflate.set_dictionary(&dictionary());
        Self { deflate }
    }
}

impl Encoder {
    /// Accepts a stream.
    pub fn reply(&mut self, stream: u32) -> Vec<u8> {
        let mut block = Vec::with_capacity(256);
        // No headers: their number, zero, is all there is to pack.
        let _ = self
            .deflate
            .compress_vec(&0_u32.to_be_bytes(), &mut block, FlushCompress::Sync);
        let mut body = stream.to_be_bytes().to_vec();
        body.extend_from_slice(&block);
        control(SYN_REPLY, &body)
    }

    /// Bytes of a stream; `fin` when they are the last.
    pub fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.extend_from_slice(&length(bytes.len(), if fin { FIN } else { 0 }));
        frame.extend_from_slice(bytes);
        frame
    }

    /// Ends a stream at once, as cancelled.
    pub fn reset(stream: u32) -> Vec<u8> {
        let mut body = stream.to_be_bytes().to_vec();
        body.extend_from_slice(&5_u32.to_be_bytes());
        control(RST_STREAM, &body)
    }

    /// Sends a ping back.
    pub fn pong(id: u32) -> Vec<u8> {
        control(PING, &id.to_be_bytes())
    }
}

fn control(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&length(body.len(), 0));
    frame.extend_from_slice(body);
    frame
}

fn length(length: usize, flags: u8) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [flags, a, b, c]
}

/// The words of the SPDY/3 dictionary, each preceded by its length there.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// What follows the words.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
    Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// What only clients say.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// A client's side of a connection.
    pub struct Client(Compress);

    impl Default for Client {
        fn default() -> Self {
            let mut deflate = Compress::new(Compression::fast(), true);
            deflate.set_dictionary(&dictionary()).expect("fresh");
            Self(deflate)
        }
    }

    impl Client {
        /// Opens a stream.
        pub fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
            let number = |n: usize| u32::try_from(n).expect("few").to_be_bytes();
            let mut plain = number(headers.len()).to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                plain.extend_from_slice(&number(text.len()));
                plain.extend_from_slice(text.as_bytes());
            }
            let mut block = Vec::with_capacity(1024);
            self.0
                .compress_vec(&plain, &mut block, FlushCompress::Sync)
                .expect("packs");
            let mut body = stream.to_be_bytes().to_vec();
            body.extend_from_slice(&[0; 6]);
            body.extend_from_slice(&block);
            control(SYN_STREAM, &body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Client;
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        let bytes = dictionary();
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in &bytes {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!((bytes.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn streams_are_opened_with_headers_of_one_context() {
        let mut client = Client::default();
        let mut bytes = client.open(1, &[("streamtype", "error"), ("port", "80")]);
        bytes.extend(client.open(3, &[("Streamtype", "data"), ("port", "80")]));
        bytes.extend(Encoder::data(3, b"hello", true));
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]);
            frames.extend(decoder.next_frame().expect("well-formed"));
        }
        assert!(
            matches!(&frames[0], Frame::Open { stream: 1, headers, .. } if headers["streamtype"] == "error")
        );
        assert!(
            matches!(&frames[1], Frame::Open { stream: 3, headers, .. } if headers["streamtype"] == "data")
        );
        assert_eq!(
            frames[2],
            Frame::Data {
                stream: 3,
                bytes: b"hello".to_vec(),
                fin: true
            }
        );
    }

    #[test]
    fn our_replies_can_be_read_in_sequence() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for stream in [1, 3, 5] {
            decoder.push(&encoder.reply(stream));
            assert_eq!(decoder.next_frame(), Ok(Some(Frame::Ignored)));
        }
    }
}
