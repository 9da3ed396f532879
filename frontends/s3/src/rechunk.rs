//! Cuts aws-chunked bodies small before s3s sees them.
//!
//! s3s 0.14.1 collects a whole aws-chunked chunk before it gives on a byte of it, and some SDKs send the whole body as
//! one chunk. A [`Rechunker`] sits in front: in bodies whose chunks carry no signature it puts chunk headers of its own
//! around every piece that arrives, so that s3s never holds more than one piece; in bodies whose chunks are signed it
//! can't (the signature covers the chunk), so it passes them on unchanged and refuses chunks above a limit.
//!
//! It is also strict where s3s is not: a body that ends before its last chunk, that is longer or shorter than its
//! `x-amz-decoded-content-length`, or that lacks a trailer it announced is an error and never a shorter object.
//!
//! Grammar (S3 API reference, "Signature calculations for trailing headers"):
//!
//! ```text
//! body    = *chunk last trailers
//! chunk   = size [";chunk-signature=" 64hex] CRLF data CRLF          size > 0
//! last    = "0"+ [";chunk-signature=" 64hex] CRLF
//! trailers = *(name ":" value (CRLF | LF)) [CRLF]
//! ```

use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;

/// The longest chunk header, in bytes, its line end included.
const HEADER_BYTES_MAX: usize = 256;
/// The most bytes of trailers.
const TRAILERS_BYTES_MAX: usize = 16 << 10;
/// The most hexadecimal digits of a chunk's size.
const SIZE_DIGITS_MAX: usize = 16;
const SIGNATURE_EXTENSION: &[u8] = b";chunk-signature=";

/// What `x-amz-content-sha256` says about the body's chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkMode {
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`: no chunk has a signature.
    Unsigned,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`, with or without `-TRAILER`: every chunk has one.
    Signed,
}

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkError {
    /// A chunk header that does not follow the grammar.
    Header,
    /// A signed chunk longer than the limit: (its size, the limit), in bytes.
    ChunkTooLarge(u64, u64),
    /// No line end where one must be after a chunk's data.
    DataEnd,
    /// More bytes than `x-amz-decoded-content-length` says.
    TooLong,
    /// Fewer bytes than `x-amz-decoded-content-length` says, or no last chunk.
    TooShort,
    /// Trailers that don't follow the grammar, were not announced or were announced and are missing.
    Trailer,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChunkError::Header => f.write_str("a chunk header of the aws-chunked body is malformed"),
            ChunkError::ChunkTooLarge(size, limit) => {
                write!(f, "a signed chunk of {size} bytes is larger than {limit}; send smaller chunks")
            }
            ChunkError::DataEnd => f.write_str("a chunk of the aws-chunked body does not end where its header says"),
            ChunkError::TooLong => f.write_str("the body is longer than x-amz-decoded-content-length"),
            ChunkError::TooShort => {
                f.write_str("the body ends before x-amz-decoded-content-length bytes and its last chunk")
            }
            ChunkError::Trailer => {
                f.write_str("the trailers of the body are malformed or are not those of x-amz-trailer")
            }
        }
    }
}

impl std::error::Error for ChunkError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a chunk header.
    Header,
    /// In a chunk's data, this many bytes of it to come.
    Data(u64),
    /// After a chunk's data: this many of the two bytes of its line end have been seen.
    DataEnd(u8),
    /// After the last chunk's header.
    Trailers,
}

/// The incremental parser and re-framer of one body. Holds at most one chunk header and the trailers.
#[derive(Debug)]
pub struct Rechunker {
    mode: ChunkMode,
    state: State,
    /// The header or the trailers so far.
    line: Vec<u8>,
    /// Bytes of content still to come.
    remaining: u64,
    chunk_bytes_max: u64,
    /// Lower-case names that `x-amz-trailer` announces.
    announced: Vec<String>,
    /// Size of the signed chunk that has begun last.
    signed_chunk_bytes: u64,
}

impl Rechunker {
    /// A parser for a body of `decoded_bytes` of content with the trailers of `announced` (names, any case).
    /// Signed chunks above `chunk_bytes_max` are refused.
    pub fn new(mode: ChunkMode, decoded_bytes: u64, chunk_bytes_max: u64, announced: &[&str]) -> Rechunker {
        Rechunker {
            mode,
            state: State::Header,
            line: Vec::new(),
            remaining: decoded_bytes,
            chunk_bytes_max,
            announced: announced.iter().map(|name| name.trim().to_ascii_lowercase()).collect(),
            signed_chunk_bytes: 0,
        }
    }

    /// Size of the signed chunk that is on its way, which s3s holds in memory whole; 0 for unsigned bodies.
    pub fn signed_chunk_bytes(&self) -> u64 {
        self.signed_chunk_bytes
    }

    /// Takes the next piece of the body and appends what s3s shall see to `out`. Content is passed on without copying.
    ///
    /// # Errors
    /// Whatever of [`ChunkError`] the piece shows; the body must not be used after that.
    pub fn push(&mut self, mut input: Bytes, out: &mut VecDeque<Bytes>) -> Result<(), ChunkError> {
        while !input.is_empty() {
            match self.state {
                State::Header => {
                    let end = input.iter().position(|&b| b == b'\n');
                    let take = end.map_or(input.len(), |at| at + 1);
                    if self.line.len() + take > HEADER_BYTES_MAX {
                        return Err(ChunkError::Header);
                    }
                    self.line.extend_from_slice(&input.split_to(take));
                    if end.is_some() {
                        self.header_done(out)?;
                    }
                }
                State::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let data = input.split_to(take);
                    let left = left - data.len() as u64;
                    match self.mode {
                        ChunkMode::Unsigned => {
                            out.push_back(Bytes::from(format!("{:x}\r\n", data.len())));
                            out.push_back(data);
                            out.push_back(Bytes::from_static(b"\r\n"));
                        }
                        ChunkMode::Signed => out.push_back(data),
                    }
                    self.state = if left > 0 { State::Data(left) } else { State::DataEnd(0) };
                }
                State::DataEnd(seen) => {
                    let wanted = if seen == 0 { b'\r' } else { b'\n' };
                    if input.split_to(1).first() != Some(&wanted) {
                        return Err(ChunkError::DataEnd);
                    }
                    self.state = if seen == 0 {
                        State::DataEnd(1)
                    } else {
                        if self.mode == ChunkMode::Signed {
                            out.push_back(Bytes::from_static(b"\r\n"));
                        }
                        State::Header
                    };
                }
                State::Trailers => {
                    if self.line.len() + input.len() > TRAILERS_BYTES_MAX {
                        return Err(ChunkError::Trailer);
                    }
                    self.line.extend_from_slice(&input.split_to(input.len()));
                }
            }
        }
        Ok(())
    }

    /// The body has ended; appends the trailers to `out`.
    ///
    /// # Errors
    /// [`ChunkError::TooShort`] or [`ChunkError::Trailer`].
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) -> Result<(), ChunkError> {
        if self.state != State::Trailers || self.remaining > 0 {
            return Err(ChunkError::TooShort);
        }
        self.check_trailers()?;
        if !self.line.is_empty() {
            out.push_back(Bytes::from(std::mem::take(&mut self.line)));
        }
        Ok(())
    }

    /// A chunk header is complete in `line`.
    fn header_done(&mut self, out: &mut VecDeque<Bytes>) -> Result<(), ChunkError> {
        let line = std::mem::take(&mut self.line);
        let text = line.strip_suffix(b"\r\n").ok_or(ChunkError::Header)?;
        let digits = text.iter().position(|&b| b == b';').unwrap_or(text.len());
        let (size, extension) = text.split_at_checked(digits).ok_or(ChunkError::Header)?;
        let size = hexadecimal(size).ok_or(ChunkError::Header)?;
        let has_signature = match extension.strip_prefix(SIGNATURE_EXTENSION) {
            Some(signature) if signature.len() == 64 && signature.iter().all(u8::is_ascii_hexdigit) => true,
            Some(_) => return Err(ChunkError::Header),
            None if extension.is_empty() => false,
            None => return Err(ChunkError::Header),
        };
        if has_signature != (self.mode == ChunkMode::Signed) {
            return Err(ChunkError::Header);
        }
        if size > self.remaining {
            return Err(ChunkError::TooLong);
        }
        if self.mode == ChunkMode::Signed {
            if size > self.chunk_bytes_max {
                return Err(ChunkError::ChunkTooLarge(size, self.chunk_bytes_max));
            }
            self.signed_chunk_bytes = size;
            out.push_back(Bytes::from(line));
        } else if size == 0 {
            out.push_back(Bytes::from_static(b"0\r\n"));
        }
        self.remaining -= size;
        self.state = if size == 0 { State::Trailers } else { State::Data(size) };
        Ok(())
    }

    fn check_trailers(&self) -> Result<(), ChunkError> {
        let mut missing: Vec<&str> = self.announced.iter().map(String::as_str).collect();
        let mut signed = false;
        for line in self.line.split(|&b| b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let colon = line.iter().position(|&b| b == b':').ok_or(ChunkError::Trailer)?;
            let (name, _) = line.split_at_checked(colon).ok_or(ChunkError::Trailer)?;
            let name = std::str::from_utf8(name).map_err(|_| ChunkError::Trailer)?.to_ascii_lowercase();
            if name == "x-amz-trailer-signature" && self.mode == ChunkMode::Signed && !signed {
                signed = true;
                continue;
            }
            // Not announced, or there twice.
            let at = missing.iter().position(|wanted| *wanted == name).ok_or(ChunkError::Trailer)?;
            missing.swap_remove(at);
        }
        if missing.is_empty() { Ok(()) } else { Err(ChunkError::Trailer) }
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > SIZE_DIGITS_MAX {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = (digit as char).to_digit(16)?;
        Some((value << 4) | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIGNATURE: &str = "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648";

    /// Runs `body` through, cut at `cuts`; gives what comes out.
    fn run(rechunker: &mut Rechunker, body: &[u8], cuts: &[usize]) -> Result<Vec<Bytes>, ChunkError> {
        let mut out = VecDeque::new();
        let mut cuts: Vec<usize> = cuts.iter().map(|at| at % (body.len() + 1)).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            rechunker.push(Bytes::copy_from_slice(&body[pair[0]..pair[1]]), &mut out)?;
        }
        rechunker.finish(&mut out)?;
        Ok(out.into())
    }

    fn unsigned(content: &[u8], chunk: usize, trailers: &str) -> Vec<u8> {
        let mut body = Vec::new();
        for piece in content.chunks(chunk.max(1)) {
            body.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            body.extend_from_slice(piece);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
        body
    }

    fn signed(content: &[u8], chunk: usize, trailers: &str) -> Vec<u8> {
        let mut body = Vec::new();
        for piece in content.chunks(chunk.max(1)) {
            body.extend_from_slice(format!("{:x};chunk-signature={SIGNATURE}\r\n", piece.len()).as_bytes());
            body.extend_from_slice(piece);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("0;chunk-signature={SIGNATURE}\r\n{trailers}\r\n").as_bytes());
        body
    }

    /// Parses what an unsigned rechunker gave out, independently of it: (content, longest chunk, trailers).
    fn decode(out: &[Bytes]) -> (Vec<u8>, usize, Vec<u8>) {
        let all = out.concat();
        let (mut at, mut content, mut longest) = (0, Vec::new(), 0);
        loop {
            let end = at + all[at..].windows(2).position(|w| w == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&all[at..end]).unwrap(), 16).unwrap();
            at = end + 2;
            if size == 0 {
                return (content, longest, all[at..].to_vec());
            }
            longest = longest.max(size);
            content.extend_from_slice(&all[at..at + size]);
            assert_eq!(&all[at + size..at + size + 2], b"\r\n");
            at += size + 2;
        }
    }

    #[test]
    fn one_huge_unsigned_chunk_leaves_in_the_pieces_it_came_in() {
        let content = vec![7u8; 1 << 20];
        let body = unsigned(&content, content.len(), "x-amz-checksum-crc32:AAAAAA==\r\n");
        let cuts: Vec<usize> = (0..body.len()).step_by(8192).collect();
        let mut rechunker = Rechunker::new(ChunkMode::Unsigned, 1 << 20, 0, &["x-amz-checksum-crc32"]);
        let out = run(&mut rechunker, &body, &cuts).unwrap();
        let (decoded, longest, trailers) = decode(&out);
        assert_eq!(decoded, content);
        assert!(longest <= 8192, "{longest}");
        assert_eq!(trailers, b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n");
        assert_eq!(rechunker.signed_chunk_bytes(), 0);
    }

    #[test]
    fn five_gib_in_one_chunk_is_only_a_number() {
        let size: u64 = 5 << 30;
        let mut rechunker = Rechunker::new(ChunkMode::Unsigned, size, 0, &["x-amz-checksum-crc32"]);
        let mut out = VecDeque::new();
        rechunker.push(Bytes::from(format!("{size:x}\r\n")), &mut out).unwrap();
        assert!(out.is_empty());
        rechunker.push(Bytes::from_static(b"abc"), &mut out).unwrap();
        assert_eq!(Vec::from(out).concat(), b"3\r\nabc\r\n");
    }

    #[test]
    fn signed_bodies_pass_unchanged_up_to_the_limit() {
        let body = signed(&[1u8; 3000], 1024, "");
        let mut rechunker = Rechunker::new(ChunkMode::Signed, 3000, 1024, &[]);
        assert_eq!(run(&mut rechunker, &body, &[17, 1000, 1001]).unwrap().concat(), body);
        let mut rechunker = Rechunker::new(ChunkMode::Signed, 3000, 1023, &[]);
        assert_eq!(run(&mut rechunker, &body, &[]), Err(ChunkError::ChunkTooLarge(1024, 1023)));

        let trailers = "x-amz-checksum-sha1:abc\nx-amz-trailer-signature:def\r\n";
        let body = signed(b"hello", 5, trailers);
        let mut rechunker = Rechunker::new(ChunkMode::Signed, 5, 1024, &["X-Amz-Checksum-SHA1"]);
        assert_eq!(run(&mut rechunker, &body, &[3, 90]).unwrap().concat(), body);
        assert_eq!(rechunker.signed_chunk_bytes(), 0);
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        let name = &["x-amz-checksum-crc32"];
        let cases: &[(&[u8], ChunkError)] = &[
            (b"", ChunkError::TooShort),
            (b"5\r\nhello\r\n", ChunkError::TooShort),
            (b"5\r\nhel", ChunkError::TooShort),
            (b"4\r\nhell\r\n0\r\nx-amz-checksum-crc32:A\r\n\r\n", ChunkError::TooShort),
            (b"6\r\nhello!\r\n0\r\n\r\n", ChunkError::TooLong),
            (b"5\r\nhello0\r\n\r\n", ChunkError::DataEnd),
            (b"5\r\nhello\rX", ChunkError::DataEnd),
            (b"5\nhello\r\n0\r\n\r\n", ChunkError::Header),
            (b"\r\nhello\r\n0\r\n\r\n", ChunkError::Header),
            (b"+5\r\nhello\r\n0\r\n\r\n", ChunkError::Header),
            (b" 5\r\nhello\r\n0\r\n\r\n", ChunkError::Header),
            (b"0x5\r\nhello\r\n0\r\n\r\n", ChunkError::Header),
            (b"5;x=y\r\nhello\r\n0\r\n\r\n", ChunkError::Header),
            (b"10000000000000005\r\nhello\r\n0\r\n\r\n", ChunkError::Header),
            (b"5\r\nhello\r\n0\r\n\r\n", ChunkError::Trailer),
            (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32\r\n\r\n", ChunkError::Trailer),
            (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:A\r\nx-amz-checksum-crc32:A\r\n\r\n", ChunkError::Trailer),
            (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:A\r\nx-amz-meta-a:b\r\n\r\n", ChunkError::Trailer),
            (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:A\r\nx-amz-trailer-signature:b\r\n\r\n", ChunkError::Trailer),
        ];
        for (body, error) in cases {
            let mut rechunker = Rechunker::new(ChunkMode::Unsigned, 5, 0, name);
            assert_eq!(run(&mut rechunker, body, &[]).as_ref(), Err(error), "{:?}", String::from_utf8_lossy(body));
        }
        let mut rechunker = Rechunker::new(ChunkMode::Unsigned, 5, 0, &[]);
        assert_eq!(
            run(&mut rechunker, &signed(b"hello", 5, ""), &[]),
            Err(ChunkError::Header),
            "a signature nobody asked for"
        );
        let mut rechunker = Rechunker::new(ChunkMode::Signed, 5, 9, &[]);
        assert_eq!(
            run(&mut rechunker, &unsigned(b"hello", 5, ""), &[]),
            Err(ChunkError::Header),
            "a missing signature"
        );
        let mut rechunker = Rechunker::new(ChunkMode::Unsigned, 5, 0, &[]);
        assert_eq!(
            run(&mut rechunker, &[b'0'; HEADER_BYTES_MAX + 1], &[]),
            Err(ChunkError::Header),
            "an endless header"
        );
        let mut endless = b"5\r\nhello\r\n0\r\n".to_vec();
        endless.extend(std::iter::repeat_n(b'x', TRAILERS_BYTES_MAX + 1));
        let mut rechunker = Rechunker::new(ChunkMode::Unsigned, 5, 0, &[]);
        assert_eq!(run(&mut rechunker, &endless, &[]), Err(ChunkError::Trailer), "endless trailers");
    }

    proptest! {
        #[test]
        fn content_survives_any_chunking_and_any_cuts(
            content in proptest::collection::vec(any::<u8>(), 0..5000),
            chunk in 1usize..3000,
            cuts in proptest::collection::vec(any::<usize>(), 0..20),
        ) {
            let size = content.len() as u64;
            let mut rechunker = Rechunker::new(ChunkMode::Unsigned, size, 0, &[]);
            let out = run(&mut rechunker, &unsigned(&content, chunk, ""), &cuts).unwrap();
            let (decoded, longest, trailers) = decode(&out);
            prop_assert_eq!(&decoded, &content);
            prop_assert!(longest <= chunk);
            prop_assert_eq!(trailers, b"\r\n");

            let body = signed(&content, chunk, "");
            let mut rechunker = Rechunker::new(ChunkMode::Signed, size, chunk as u64, &[]);
            prop_assert_eq!(run(&mut rechunker, &body, &cuts).unwrap().concat(), body);
        }

        #[test]
        fn a_body_cut_short_is_never_accepted(
            content in proptest::collection::vec(any::<u8>(), 1..500),
            chunk in 1usize..300,
            at in any::<proptest::sample::Index>(),
        ) {
            let body = unsigned(&content, chunk, "a:b\r\n");
            // The trailer's value and the final line end are the checksum's and HTTP's to check.
            let cut = at.index(body.len() - b"a:b\r\n\r\n".len() + 1);
            let mut rechunker = Rechunker::new(ChunkMode::Unsigned, content.len() as u64, 0, &["a"]);
            prop_assert!(run(&mut rechunker, &body[..cut], &[]).is_err());
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_grow_memory(
            bytes in proptest::collection::vec(proptest::prop_oneof![Just(b'0'), Just(b'\r'), Just(b'\n'), Just(b';'), any::<u8>()], 0..2000),
            signed in any::<bool>(),
            size in 0u64..3000,
        ) {
            let mode = if signed { ChunkMode::Signed } else { ChunkMode::Unsigned };
            let mut rechunker = Rechunker::new(mode, size, 100, &[]);
            let mut out = VecDeque::new();
            if rechunker.push(Bytes::from(bytes), &mut out).is_ok() {
                prop_assert!(rechunker.line.len() <= TRAILERS_BYTES_MAX);
                let _ = rechunker.finish(&mut out);
            }
        }
    }
}
