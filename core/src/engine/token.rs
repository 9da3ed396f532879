//! [`Token`]: what a bucket holds at one segment, as a text that a reader at another one can wait for.

use super::bucket::Bucket;
use super::segment::Segment;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BucketId, base64_decode, base64_encode};
use crate::namespace;
use crate::register::{VersionVector, take_array, take_slice};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

const FORMAT: u8 = 1;
/// The longest text that is looked at: a vector of the most segments fits.
const TEXT_BYTES_MAX: usize = 160 << 10;
/// A wait looks again after this, also when nothing tells it to.
const LOOK: Duration = Duration::from_millis(500);

/// All changes of a bucket that were at one segment at one moment. Whoever has what a token stands for sees them, or what has replaced them since.
///
/// Text form: URL-safe base64 without padding over a format byte (1), the bucket's id (16 bytes) and a version vector in its binary form. A token is no secret
/// and grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    /// The bucket.
    pub bucket: BucketId,
    /// Up to where.
    pub vector: VersionVector,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.bucket.0);
        self.vector.encode(&mut bytes);
        f.write_str(&base64_encode(&bytes))
    }
}

impl FromStr for Token {
    type Err = Error;

    /// Reads the text form, and no other; anything else is `Invalid`.
    fn from_str(text: &str) -> Result<Token> {
        let bad = || Error::invalid("not a token; a write prints one, see: tombolo put --token");
        let bytes = (text.len() <= TEXT_BYTES_MAX).then(|| base64_decode(text)).flatten().ok_or_else(bad)?;
        let mut input = bytes.as_slice();
        match take_slice(&mut input, 1).map_err(|_| bad())? {
            [FORMAT] => {}
            other => {
                let message = format!("a token has format {other:?}; this build reads format {FORMAT}");
                return Err(Error::invalid(message));
            }
        }
        let bucket = BucketId(take_array(&mut input).map_err(|_| bad())?);
        let vector = VersionVector::decode(&mut input).map_err(|_| bad())?;
        if input.is_empty() { Ok(Token { bucket, vector }) } else { Err(bad()) }
    }
}

impl Bucket {
    /// Whether other segments may have seen the bucket. Until then nobody can read elsewhere what is written here.
    pub fn is_shared(&self) -> bool {
        self.state().is_shared()
    }

    /// What the bucket holds now. A write that was acknowledged before is part of it.
    pub async fn token(&self) -> Result<Token> {
        self.alive()?;
        self.settle_files().await;
        let snapshot = self.segment().store().snapshot().await?;
        let vector = namespace::effective_vector(self.segment().ledger(), &snapshot, self.state().number).await?;
        Ok(Token { bucket: self.state().id, vector })
    }

    /// Waits until all is here that `token` stands for: names; their data as far as the bucket's links bring it. [`ErrorKind::Offline`] if that is not so within `limit`,
    /// [`ErrorKind::Invalid`] for a token of another bucket.
    pub async fn wait_for(&self, token: &Token, limit: Duration) -> Result<()> {
        if token.bucket != self.state().id {
            return Err(Error::invalid(format!("the token is of another bucket than {}", self.path())));
        }
        self.segment().wait_for(token, limit).await.map(|_| ())
    }
}

impl Segment {
    /// The bucket of `token`, as soon as all is here that the token stands for; the bucket itself may still have to come. [`ErrorKind::Offline`] if that is not so
    /// within `limit`.
    pub async fn wait_for(&self, token: &Token, limit: Duration) -> Result<Bucket> {
        // Far enough to be never.
        let deadline = Instant::now() + limit.min(Duration::from_secs(10 * 365 * 24 * 3600));
        let mut watch = self.ledger().watch_buckets();
        loop {
            match self.catalog().bucket_with_id(&token.bucket).await {
                Ok(bucket) if bucket.vector().await?.dominates(&token.vector) => return Ok(bucket),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Error::new(ErrorKind::Offline, "what the token stands for is not here in time"));
            }
            // Either way it is looked at again.
            let _ = timeout_at(deadline.min(now + LOOK), watch.next()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SegmentId;
    use crate::register::Dot;
    use proptest::prelude::*;

    #[test]
    fn a_token_has_one_text() {
        let vector = [Dot::new(SegmentId([1; 16]), 7), Dot::new(SegmentId([2; 16]), 1 << 40)].into_iter().collect();
        let token = Token { bucket: BucketId([3; 16]), vector };
        let text = token.to_string();
        assert!(text.len() < 90, "{text}");
        assert_eq!(text.parse::<Token>().unwrap(), token);
        let longer = format!("{text}A");
        let other_format = base64_encode(&[2; 40]);
        for bad in ["", "A", "AQ", &text[1..], &text[..text.len() - 1], &longer, &other_format, "ü", "AQ=="] {
            assert_eq!(bad.parse::<Token>().unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        assert!("A".repeat(TEXT_BYTES_MAX + 1).parse::<Token>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9_-]{0,120}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            for text in [text, base64_encode(&[&[FORMAT][..], &bytes].concat())] {
                if let Ok(token) = text.parse::<Token>() {
                    prop_assert_eq!(token.to_string(), text);
                }
            }
        }
    }
}
