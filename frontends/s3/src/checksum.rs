//! Checksums that clients send, ask for and get back: `Content-MD5` and the `x-amz-checksum-*` family.
//!
//! Values travel as base64 of big-endian bytes. A multipart object has either the checksum of its whole content
//! (`FULL_OBJECT`, only CRCs: they can be put together from the parts') or the checksum of its parts' checksums
//! (`COMPOSITE`, written `VALUE-PARTS`). See "Checking object integrity" in the S3 user guide.

use crate::errors::{custom, refuse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use http::{HeaderMap, StatusCode};
use md5::Digest as _;
use parking_lot::Mutex;
use s3s::{S3ErrorCode, S3Result};
use std::sync::Arc;
use tombolo_core::{Checksum, PartInfo, Tap};

/// One of the algorithms of `x-amz-checksum-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// What a multipart object's checksum covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// The whole content.
    FullObject,
    /// The checksums of the parts, one after the other.
    Composite,
}

impl Coverage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Coverage::FullObject => "FULL_OBJECT",
            Coverage::Composite => "COMPOSITE",
        }
    }

    pub(crate) fn parse(text: &str) -> S3Result<Coverage> {
        match text {
            "FULL_OBJECT" => Ok(Coverage::FullObject),
            "COMPOSITE" => Ok(Coverage::Composite),
            _ => Err(refuse(S3ErrorCode::InvalidRequest, "Value for x-amz-checksum-type header is invalid.")),
        }
    }
}

impl Algorithm {
    pub(crate) const ALL: [Algorithm; 5] =
        [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];

    /// As kept in [`Checksum::algorithm`].
    pub(crate) fn name(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "crc32",
            Algorithm::Crc32c => "crc32c",
            Algorithm::Crc64Nvme => "crc64nvme",
            Algorithm::Sha1 => "sha1",
            Algorithm::Sha256 => "sha256",
        }
    }

    /// As S3 names it in `x-amz-checksum-algorithm`.
    pub(crate) fn s3_name(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "CRC32",
            Algorithm::Crc32c => "CRC32C",
            Algorithm::Crc64Nvme => "CRC64NVME",
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
        }
    }

    /// The header (and trailer) that carries its value.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "x-amz-checksum-crc32",
            Algorithm::Crc32c => "x-amz-checksum-crc32c",
            Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Algorithm::Sha1 => "x-amz-checksum-sha1",
            Algorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Reads either name, in any case.
    pub(crate) fn parse(text: &str) -> S3Result<Algorithm> {
        Algorithm::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            refuse(S3ErrorCode::InvalidRequest, "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
        })
    }

    fn value_bytes(self) -> usize {
        match self {
            Algorithm::Crc32 | Algorithm::Crc32c => 4,
            Algorithm::Crc64Nvme => 8,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
        }
    }

    /// The coverage of a multipart upload that names the algorithm and no type.
    pub(crate) fn default_coverage(self) -> Coverage {
        if self == Algorithm::Crc64Nvme { Coverage::FullObject } else { Coverage::Composite }
    }

    /// Whether S3 takes the algorithm with this coverage.
    pub(crate) fn allows(self, coverage: Coverage) -> bool {
        match coverage {
            Coverage::FullObject => self.crc().is_some(),
            Coverage::Composite => self != Algorithm::Crc64Nvme,
        }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Algorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Algorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Algorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Algorithm::Sha1 | Algorithm::Sha256 => None,
        }
    }

    /// A value as it travels in a header.
    pub(crate) fn decode(self, text: &str) -> S3Result<Bytes> {
        match STANDARD.decode(text) {
            Ok(value) if value.len() == self.value_bytes() => Ok(value.into()),
            _ => Err(refuse(S3ErrorCode::InvalidRequest, format!("Value for {} header is invalid.", self.header()))),
        }
    }

    /// What AWS says when the content does not match.
    pub(crate) fn mismatch(self) -> s3s::S3Error {
        refuse(
            S3ErrorCode::BadDigest,
            format!("The {} you specified did not match the calculated checksum.", self.s3_name()),
        )
    }

    fn crc_value(self, value: u64) -> Bytes {
        let bytes = value.to_be_bytes();
        Bytes::copy_from_slice(bytes.get(8 - self.value_bytes().min(8)..).unwrap_or(&bytes))
    }
}

/// A checksum's value in a header: base64, with `-PARTS` when it covers parts.
pub(crate) fn encode(checksum: &Checksum) -> String {
    let value = STANDARD.encode(&checksum.value);
    if checksum.parts > 0 { format!("{value}-{}", checksum.parts) } else { value }
}

/// The kept checksum of an algorithm, as header text.
pub(crate) fn find(checksums: &[Checksum], algorithm: Algorithm) -> Option<String> {
    checksums.iter().find(|c| c.algorithm == algorithm.name()).map(encode)
}

/// The value for `x-amz-checksum-type`, when anything is kept.
pub(crate) fn coverage_of(checksums: &[Checksum]) -> Option<Coverage> {
    let first = checksums.first()?;
    Some(if first.parts > 0 { Coverage::Composite } else { Coverage::FullObject })
}

/// Runs the wanted algorithms over a content in one pass.
pub(crate) struct Hasher {
    states: Vec<(Algorithm, State)>,
    md5: Option<md5::Md5>,
}

enum State {
    Crc(crc_fast::Digest),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Hasher {
    pub(crate) fn new(algorithms: &[Algorithm], md5: bool) -> Hasher {
        let state = |algorithm: Algorithm| match algorithm.crc() {
            Some(crc) => State::Crc(crc_fast::Digest::new(crc)),
            None if algorithm == Algorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            None => State::Sha256(sha2::Sha256::new()),
        };
        Hasher { states: algorithms.iter().map(|&a| (a, state(a))).collect(), md5: md5.then(md5::Md5::new) }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        for (_, state) in &mut self.states {
            match state {
                State::Crc(digest) => digest.update(data),
                State::Sha1(digest) => digest.update(data),
                State::Sha256(digest) => digest.update(data),
            }
        }
        if let Some(digest) = &mut self.md5 {
            digest.update(data);
        }
    }

    /// The values, in the order of the algorithms, and the MD5 if it was wanted.
    pub(crate) fn finish(self) -> (Vec<Checksum>, Option<[u8; 16]>) {
        let value = |algorithm: Algorithm, state: State| match state {
            State::Crc(digest) => algorithm.crc_value(digest.finalize()),
            State::Sha1(digest) => Bytes::copy_from_slice(&digest.finalize()),
            State::Sha256(digest) => Bytes::copy_from_slice(&digest.finalize()),
        };
        let checksums = self
            .states
            .into_iter()
            .map(|(a, state)| Checksum { algorithm: a.name().into(), value: value(a, state), parts: 0 })
            .collect();
        (checksums, self.md5.map(|digest| digest.finalize().into()))
    }
}

/// A [`Hasher`] that the engine's worker pool drives and the request reads afterwards.
#[derive(Clone)]
pub(crate) struct SharedHasher(Arc<Mutex<Hasher>>);

impl SharedHasher {
    pub(crate) fn new(hasher: Hasher) -> SharedHasher {
        SharedHasher(Arc::new(Mutex::new(hasher)))
    }

    pub(crate) fn tap(&self) -> Tap {
        let hasher = self.0.clone();
        Box::new(move |data| hasher.lock().update(data))
    }

    /// The values; the content must have been sealed.
    pub(crate) fn finish(&self) -> (Vec<Checksum>, Option<[u8; 16]>) {
        std::mem::replace(&mut *self.0.lock(), Hasher::new(&[], false)).finish()
    }
}

/// What a request says its content must hash to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Declared {
    /// `Content-MD5`.
    pub(crate) md5: Option<[u8; 16]>,
    /// The algorithm of the header, the trailer or `x-amz-sdk-checksum-algorithm`.
    pub(crate) algorithm: Option<Algorithm>,
    /// The value of the header; the trailer's comes with the end of the content.
    pub(crate) value: Option<Bytes>,
    /// Whether the value comes in a trailer.
    pub(crate) in_trailer: bool,
    /// The SHA-256 of `x-amz-content-sha256`, where s3s does not say that it was the one that did not match.
    pub(crate) payload: Option<Bytes>,
}

/// Refuses checksums that nothing here could verify: AWS has more algorithms than s3s 0.14.1 can give back.
pub(crate) fn refuse_unknown(headers: &HeaderMap) -> S3Result<()> {
    let is_known = |name: &str| {
        let about = ["x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-mode"];
        about.contains(&name) || Algorithm::ALL.iter().any(|algorithm| algorithm.header() == name)
    };
    let trailers = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    let trailers = trailers.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase());
    let named = headers.keys().map(|name| name.as_str().to_owned());
    match named.chain(trailers).find(|name| name.starts_with("x-amz-checksum-") && !is_known(name)) {
        Some(name) => {
            let message = format!("A header you provided implies functionality that is not implemented: {name}");
            Err(refuse(S3ErrorCode::NotImplemented, message))
        }
        None => Ok(()),
    }
}

impl Declared {
    /// Reads `Content-MD5`, `x-amz-checksum-*`, `x-amz-trailer` and `x-amz-sdk-checksum-algorithm`.
    pub(crate) fn from_headers(headers: &HeaderMap) -> S3Result<Declared> {
        let text = |name: &str| -> S3Result<Option<&str>> {
            let invalid = || refuse(S3ErrorCode::InvalidRequest, format!("Value for {name} header is invalid."));
            headers.get(name).map(|v| v.to_str().map(str::trim).map_err(|_| invalid())).transpose()
        };
        refuse_unknown(headers)?;
        let mut declared = Declared { md5: content_md5(headers)?, ..Declared::default() };
        for algorithm in Algorithm::ALL {
            if let Some(value) = text(algorithm.header())? {
                declared.claim(algorithm)?;
                declared.value = Some(algorithm.decode(value)?);
            }
        }
        for name in text("x-amz-trailer")?.unwrap_or("").split(',') {
            let name = name.trim();
            if let Some(algorithm) = Algorithm::ALL.into_iter().find(|a| a.header().eq_ignore_ascii_case(name)) {
                declared.claim(algorithm)?;
                declared.in_trailer = true;
            }
        }
        if let Some(name) = text("x-amz-sdk-checksum-algorithm")?.filter(|name| !name.is_empty()) {
            let algorithm = Algorithm::parse(name)?;
            if declared.algorithm.is_some_and(|other| other != algorithm) {
                let message = "Value for x-amz-sdk-checksum-algorithm header is invalid.";
                return Err(refuse(S3ErrorCode::InvalidRequest, message));
            }
            declared.algorithm = Some(algorithm);
        }
        Ok(declared)
    }

    fn claim(&mut self, algorithm: Algorithm) -> S3Result<()> {
        if self.algorithm.is_some() {
            let message = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
            return Err(refuse(S3ErrorCode::InvalidRequest, message));
        }
        self.algorithm = Some(algorithm);
        Ok(())
    }

    /// Takes the value that came in the trailers.
    pub(crate) fn read_trailers(&mut self, trailers: Option<&HeaderMap>) -> S3Result<()> {
        let Some(algorithm) = self.algorithm.filter(|_| self.in_trailer) else {
            return Ok(());
        };
        let value =
            trailers.and_then(|map| map.get(algorithm.header())).and_then(|value| value.to_str().ok()).ok_or_else(
                || refuse(S3ErrorCode::InvalidRequest, format!("The trailer {} is missing.", algorithm.header())),
            )?;
        self.value = Some(algorithm.decode(value.trim())?);
        Ok(())
    }

    /// What hashes a body that is to be held against all this.
    pub(crate) fn hasher(&self) -> Hasher {
        let payload = self.payload.as_ref().map(|_| Algorithm::Sha256).filter(|&a| self.algorithm != Some(a));
        let algorithms: Vec<Algorithm> = self.algorithm.into_iter().chain(payload).collect();
        Hasher::new(&algorithms, self.md5.is_some())
    }

    /// Holds what was declared against what was computed.
    pub(crate) fn verify(&self, computed: &[Checksum], md5: Option<[u8; 16]>) -> S3Result<()> {
        if let Some(wanted) = &self.payload
            && !computed.iter().any(|c| c.algorithm == Algorithm::Sha256.name() && c.value == *wanted)
        {
            return Err(payload_mismatch());
        }
        if let Some(wanted) = self.md5
            && md5 != Some(wanted)
        {
            return Err(refuse(
                S3ErrorCode::BadDigest,
                "The Content-MD5 you specified did not match what we received.",
            ));
        }
        if let (Some(algorithm), Some(wanted)) = (self.algorithm, &self.value) {
            let found = computed.iter().find(|c| c.algorithm == algorithm.name());
            if found.is_none_or(|c| c.value != *wanted) {
                return Err(algorithm.mismatch());
            }
        }
        Ok(())
    }
}

/// What AWS says when a body does not match its `x-amz-content-sha256`.
pub(crate) fn payload_mismatch() -> s3s::S3Error {
    let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
    custom("XAmzContentSHA256Mismatch", StatusCode::BAD_REQUEST, message)
}

/// The value of `Content-MD5`, if there is one.
pub(crate) fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(value) = headers.get("content-md5") else {
        return Ok(None);
    };
    let value = STANDARD.decode(value.as_bytes()).ok().and_then(|v| <[u8; 16]>::try_from(v).ok());
    match value {
        Some(value) => Ok(Some(value)),
        None => Err(refuse(S3ErrorCode::InvalidDigest, "The Content-MD5 you specified is not valid.")),
    }
}

/// The checksum of a multipart object from its parts', in order. `None` when a part has none of this algorithm.
pub(crate) fn combine(algorithm: Algorithm, coverage: Coverage, parts: &[PartInfo]) -> Option<Checksum> {
    let values: Option<Vec<&Bytes>> = parts
        .iter()
        .map(|part| part.checksums.iter().find(|c| c.algorithm == algorithm.name()).map(|c| &c.value))
        .collect();
    let values = values?;
    let name = algorithm.name().to_owned();
    match coverage {
        Coverage::Composite => {
            let mut hasher = Hasher::new(&[algorithm], false);
            values.iter().for_each(|value| hasher.update(value));
            let value = hasher.finish().0.pop()?.value;
            Some(Checksum { algorithm: name, value, parts: u32::try_from(parts.len()).ok()? })
        }
        Coverage::FullObject => {
            let crc = algorithm.crc()?;
            let number = |value: &Bytes| value.iter().fold(0u64, |sum, &byte| (sum << 8) | u64::from(byte));
            let empty = crc_fast::checksum(crc, b"");
            let whole = values
                .iter()
                .zip(parts)
                .fold(empty, |sum, (value, part)| crc_fast::checksum_combine(crc, sum, number(value), part.size));
            Some(Checksum { algorithm: name, value: algorithm.crc_value(whole), parts: 0 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::Etag;

    fn hash(algorithm: Algorithm, data: &[u8]) -> Checksum {
        let mut hasher = Hasher::new(&[algorithm], false);
        hasher.update(data);
        hasher.finish().0.pop().unwrap()
    }

    fn part(number: u32, data: &[u8], algorithm: Algorithm) -> PartInfo {
        PartInfo {
            number,
            size: data.len() as u64,
            etag: Etag::Md5([0; 16]),
            modified_ns: 0,
            checksums: vec![hash(algorithm, data)],
        }
    }

    #[test]
    fn known_values() {
        // The check values of "123456789" in the CRC catalogue, and FIPS 180 for the hashes of "abc".
        let digits = b"123456789";
        assert_eq!(hash(Algorithm::Crc32, digits).value, 0xcbf4_3926u32.to_be_bytes().as_slice());
        assert_eq!(hash(Algorithm::Crc32c, digits).value, 0xe306_9283u32.to_be_bytes().as_slice());
        assert_eq!(hash(Algorithm::Crc64Nvme, digits).value, 0xae8b_1486_0a79_9888u64.to_be_bytes().as_slice());
        assert_eq!(encode(&hash(Algorithm::Sha1, b"abc")), "qZk+NkcGgWq6PiVxeFDCbJzQ2J0=");
        assert_eq!(encode(&hash(Algorithm::Sha256, b"abc")), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }

    #[test]
    fn full_object_crcs_are_put_together_from_parts() {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i * 31 % 251) as u8).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            for cut in [0, 1, 4096, 99_999, 100_000] {
                let (a, b) = data.split_at(cut);
                let parts = [part(1, a, algorithm), part(2, b, algorithm)];
                let whole = combine(algorithm, Coverage::FullObject, &parts).unwrap();
                assert_eq!(whole, hash(algorithm, &data), "{algorithm:?} cut at {cut}");
            }
        }
        let parts = [part(1, b"a", Algorithm::Sha256)];
        assert_eq!(combine(Algorithm::Sha256, Coverage::FullObject, &parts), None);
        assert_eq!(combine(Algorithm::Sha1, Coverage::Composite, &parts), None, "no part has a sha1");
    }

    #[test]
    fn composite_checksums_hash_the_parts_values() {
        let parts = [part(1, b"hello", Algorithm::Sha256), part(2, b"world", Algorithm::Sha256)];
        let whole = combine(Algorithm::Sha256, Coverage::Composite, &parts).unwrap();
        let joined = [hash(Algorithm::Sha256, b"hello").value, hash(Algorithm::Sha256, b"world").value].concat();
        assert_eq!(whole.value, hash(Algorithm::Sha256, &joined).value);
        assert!(encode(&whole).ends_with("=-2"), "{}", encode(&whole));
        assert_eq!(coverage_of(&[whole]), Some(Coverage::Composite));
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap())).collect()
    }

    #[test]
    fn declared_checksums_are_read_and_verified() {
        let good = hash(Algorithm::Crc32, b"abc");
        let declared = Declared::from_headers(&headers(&[("x-amz-checksum-crc32", &encode(&good))])).unwrap();
        declared.verify(std::slice::from_ref(&good), None).unwrap();
        assert_eq!(
            declared.verify(&[hash(Algorithm::Crc32, b"abd")], None).unwrap_err().code(),
            &S3ErrorCode::BadDigest
        );
        assert_eq!(declared.verify(&[], None).unwrap_err().code(), &S3ErrorCode::BadDigest);

        let list = [("x-amz-trailer", "x-amz-checksum-crc32"), ("x-amz-sdk-checksum-algorithm", "CRC32")];
        let mut declared = Declared::from_headers(&headers(&list)).unwrap();
        assert!(declared.in_trailer);
        assert!(declared.clone().read_trailers(None).is_err());
        declared.read_trailers(Some(&headers(&[("x-amz-checksum-crc32", &encode(&good))]))).unwrap();
        declared.verify(&[good], None).unwrap();

        for bad in [
            headers(&[("x-amz-checksum-crc32", "AAAA")]),
            headers(&[("x-amz-checksum-crc32", "!")]),
            headers(&[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")]),
            headers(&[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-trailer", "x-amz-checksum-sha1")]),
            headers(&[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-sdk-checksum-algorithm", "SHA1")]),
            headers(&[("x-amz-sdk-checksum-algorithm", "MD4")]),
        ] {
            assert_eq!(Declared::from_headers(&bad).unwrap_err().code(), &S3ErrorCode::InvalidRequest, "{bad:?}");
        }
        for unknown in [
            headers(&[("x-amz-checksum-md5", "kAFQmDzST7DWlj99KOF/cg==")]),
            headers(&[("x-amz-trailer", "X-Amz-Checksum-XXHash3")]),
        ] {
            assert_eq!(Declared::from_headers(&unknown).unwrap_err().code(), &S3ErrorCode::NotImplemented);
        }
        let bad = headers(&[("content-md5", "AAAA")]);
        assert_eq!(Declared::from_headers(&bad).unwrap_err().code(), &S3ErrorCode::InvalidDigest);
        let md5 = headers(&[("content-md5", "kAFQmDzST7DWlj99KOF/cg==")]);
        let mut hasher = Hasher::new(&[], true);
        hasher.update(b"abc");
        Declared::from_headers(&md5).unwrap().verify(&[], hasher.finish().1).unwrap();
    }

    #[test]
    fn coverages_that_s3_allows() {
        for algorithm in Algorithm::ALL {
            assert!(algorithm.allows(algorithm.default_coverage()));
            assert_eq!(Algorithm::parse(algorithm.s3_name()).unwrap(), algorithm);
            assert_eq!(Algorithm::parse(algorithm.name()).unwrap(), algorithm);
        }
        assert!(!Algorithm::Sha256.allows(Coverage::FullObject));
        assert!(!Algorithm::Crc64Nvme.allows(Coverage::Composite));
        assert!(Algorithm::Crc32.allows(Coverage::FullObject));
    }
}
