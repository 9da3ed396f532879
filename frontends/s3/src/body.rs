//! The request body in front of s3s: re-chunked, held against what its head says that it hashes to where s3s reads it whole, and given up
//! when it stands still. Holds one frame of the connection at a time.

use crate::checksum::{Declared, Hasher};
use crate::errors::{custom, refuse};
use crate::rechunk::{ChunkError, Rechunker};
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use s3s::{S3Error, S3ErrorCode, StdError};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::PollSemaphore;

/// Signed chunks up to this size, the usual ones, don't count against the budget.
const FREE_CHUNK_BYTES: u64 = 256 << 10;
/// The unit of the budget of signed chunks.
pub(crate) const BUDGET_UNIT_BYTES: u64 = 64 << 10;

/// Where the body leaves the S3 error that a refused body means; s3s itself knows one error for all of them.
#[derive(Clone, Default)]
pub(crate) struct Fault(Arc<Mutex<Option<S3Error>>>);

impl Fault {
    pub(crate) fn set(&self, error: S3Error) {
        self.0.lock().get_or_insert(error);
    }

    pub(crate) fn take(&self) -> Option<S3Error> {
        self.0.lock().take()
    }
}

/// Where a body that was dropped before its end leaves the rest of it.
pub(crate) type Leftover<B> = Arc<Mutex<Option<B>>>;

#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request body was refused")
    }
}

impl std::error::Error for Refused {}

/// The S3 form of a body that breaks the aws-chunked grammar.
pub(crate) fn chunk_error(error: &ChunkError) -> S3Error {
    let message = error.to_string();
    match error {
        ChunkError::ChunkTooLarge(..) => custom("InvalidChunkSizeError", StatusCode::BAD_REQUEST, message),
        ChunkError::TooLong | ChunkError::TooShort => refuse(S3ErrorCode::IncompleteBody, message),
        ChunkError::Trailer => custom("MalformedTrailerError", StatusCode::BAD_REQUEST, message),
        ChunkError::Header | ChunkError::DataEnd => refuse(S3ErrorCode::InvalidRequest, message),
    }
}

/// What to do with a body on its way.
pub(crate) struct Guard {
    /// Cut it up, or refuse it.
    pub(crate) rechunker: Option<Rechunker>,
    /// Verify it at its end.
    pub(crate) digest: Option<Declared>,
    /// Refuse it when it is longer, in bytes; contents have limits of their own.
    pub(crate) bytes_max: Option<u64>,
    /// How long it may stand still.
    pub(crate) idle_timeout: Duration,
    /// Memory for signed chunks, in [`BUDGET_UNIT_BYTES`].
    pub(crate) budget: PollSemaphore,
}

/// A request body with its [`Guard`].
pub(crate) struct GuardBody<B> {
    inner: Option<B>,
    rechunker: Option<Rechunker>,
    out: VecDeque<Bytes>,
    digest: Option<(Hasher, Declared)>,
    /// Bytes that may still come.
    bytes_left: Option<u64>,
    idle_timeout: Duration,
    idle: Pin<Box<Sleep>>,
    is_waiting: bool,
    budget: PollSemaphore,
    wanted_units: u32,
    permit: Option<OwnedSemaphorePermit>,
    fault: Fault,
    leftover: Leftover<B>,
    /// It has no bytes, and should have.
    is_refused: bool,
}

impl<B: Body<Data = Bytes> + Unpin> GuardBody<B> {
    pub(crate) fn new(inner: B, guard: Guard, fault: Fault, leftover: Leftover<B>) -> GuardBody<B> {
        let digest = guard.digest.map(|declared| (declared.hasher(), declared));
        let mut body = GuardBody {
            inner: Some(inner),
            rechunker: guard.rechunker,
            out: VecDeque::new(),
            digest,
            bytes_left: guard.bytes_max,
            idle_timeout: guard.idle_timeout,
            idle: Box::pin(tokio::time::sleep(guard.idle_timeout)),
            is_waiting: false,
            budget: guard.budget,
            wanted_units: 0,
            permit: None,
            fault,
            leftover,
            is_refused: false,
        };
        // Nobody may ask for the bytes of an empty body. What is wrong with it is in the fault.
        body.is_refused = body.is_over() && body.verify().is_err();
        body
    }

    /// Whether no byte will come that has not been hashed.
    fn is_over(&self) -> bool {
        self.rechunker.is_none() && self.out.is_empty() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn refuse(&mut self, error: S3Error) -> StdError {
        self.fault.set(error);
        Box::new(Refused)
    }

    /// Waits for the next piece of the body, no longer than the timeout.
    fn poll_inner(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StdError>>>
    where
        StdError: From<B::Error>,
    {
        loop {
            let Some(inner) = &mut self.inner else {
                return Poll::Ready(None);
            };
            match Pin::new(inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.is_waiting = false;
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    if let Some(left) = &mut self.bytes_left {
                        match left.checked_sub(data.len() as u64) {
                            Some(rest) => *left = rest,
                            None => {
                                let message = "Your request was too big.";
                                let error = self.refuse(refuse(S3ErrorCode::MaxMessageLengthExceeded, message));
                                return Poll::Ready(Some(Err(error)));
                            }
                        }
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.inner = None;
                    let message = "You did not provide the number of bytes specified by the Content-Length HTTP header";
                    self.fault.set(refuse(S3ErrorCode::IncompleteBody, message));
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => {
                    self.inner = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    if !self.is_waiting {
                        self.is_waiting = true;
                        self.idle.as_mut().reset(Instant::now() + self.idle_timeout);
                    }
                    ready!(self.idle.as_mut().poll(context));
                    self.inner = None;
                    let message = "Your socket connection to the server was not read from or written to within the timeout period.";
                    let error = self.refuse(refuse(S3ErrorCode::RequestTimeout, message));
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// Waits until a large signed chunk that s3s will collect has its share of the budget.
    fn poll_budget(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.wanted_units > 0 {
            self.permit = ready!(self.budget.poll_acquire_many(context, self.wanted_units));
            self.wanted_units = 0;
        }
        Poll::Ready(())
    }

    fn rechunk(&mut self, piece: Option<Bytes>) -> Result<(), StdError> {
        let Some(rechunker) = &mut self.rechunker else {
            self.out.extend(piece);
            return Ok(());
        };
        let before = rechunker.signed_chunk_bytes();
        let result = match piece {
            Some(piece) => rechunker.push(piece, &mut self.out),
            None => rechunker.finish(&mut self.out),
        };
        let now = rechunker.signed_chunk_bytes();
        if let Err(error) = result {
            self.inner = None;
            return Err(self.refuse(chunk_error(&error)));
        }
        if now != before {
            self.permit = None;
            let units = now.div_ceil(BUDGET_UNIT_BYTES);
            self.wanted_units = if now > FREE_CHUNK_BYTES { u32::try_from(units).unwrap_or(u32::MAX) } else { 0 };
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<(), StdError> {
        if let Some((hasher, declared)) = self.digest.take() {
            let (checksums, md5) = hasher.finish();
            declared.verify(&checksums, md5).map_err(|error| self.refuse(error))?;
        }
        Ok(())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for GuardBody<B>
where
    StdError: From<B::Error>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.is_refused) {
            return Poll::Ready(Some(Err(Box::new(Refused))));
        }
        loop {
            ready!(this.poll_budget(context));
            if let Some(piece) = this.out.pop_front() {
                if let Some((hasher, _)) = &mut this.digest {
                    hasher.update(&piece);
                    // Not only when the end is asked for: s3s holds the last piece against its hash at once, and stops there.
                    if this.is_over() {
                        this.verify()?;
                    }
                }
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let had_body = this.inner.is_some();
            match ready!(this.poll_inner(context)) {
                Some(Ok(piece)) => this.rechunk(Some(piece))?,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    if had_body {
                        this.rechunk(None)?;
                    }
                    if this.out.is_empty() {
                        this.verify()?;
                        return Poll::Ready(None);
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.digest.is_none() && self.is_over() && !self.is_refused
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) if self.rechunker.is_none() && self.out.is_empty() => inner.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

impl<B> Drop for GuardBody<B> {
    fn drop(&mut self) {
        if let Some(rest) = self.inner.take() {
            *self.leftover.lock() = Some(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rechunk::ChunkMode;
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::sync::Semaphore;

    fn guard(rechunker: Option<Rechunker>, digest: Option<Declared>) -> Guard {
        let budget = PollSemaphore::new(Arc::new(Semaphore::new(4)));
        Guard { rechunker, digest, bytes_max: None, idle_timeout: Duration::from_secs(5), budget }
    }

    async fn collect<B: Body<Data = Bytes> + Unpin>(inner: B, guard: Guard) -> (Result<Bytes, StdError>, Fault)
    where
        StdError: From<B::Error>,
    {
        let fault = Fault::default();
        let body = GuardBody::new(inner, guard, fault.clone(), Leftover::default());
        (body.collect().await.map(|all| all.to_bytes()), fault)
    }

    #[tokio::test]
    async fn plain_bodies_pass_with_their_size() {
        let full = || Full::new(Bytes::from_static(b"hello"));
        let body = GuardBody::new(full(), guard(None, None), Fault::default(), Leftover::default());
        assert_eq!(body.size_hint().exact(), Some(5));
        let (bytes, fault) = collect(full(), guard(None, None)).await;
        assert_eq!(bytes.unwrap(), "hello");
        assert!(fault.take().is_none());
    }

    #[tokio::test]
    async fn a_digest_that_does_not_match_ends_the_body_with_bad_digest() {
        let md5 = |value: [u8; 16]| Some(Declared { md5: Some(value), ..Declared::default() });
        let (bytes, fault) = collect(Full::new(Bytes::from_static(b"hello")), guard(None, md5([0; 16]))).await;
        assert!(bytes.is_err());
        assert_eq!(fault.take().unwrap().code(), &S3ErrorCode::BadDigest);
        let mut hasher = Hasher::new(&[], true);
        hasher.update(b"hello");
        let right = md5(hasher.finish().1.unwrap());
        assert_eq!(collect(Full::new(Bytes::from_static(b"hello")), guard(None, right)).await.0.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_body_above_its_limit_is_refused() {
        let limited = |max| Guard { bytes_max: Some(max), ..guard(None, None) };
        assert_eq!(collect(Full::new(Bytes::from_static(b"hello")), limited(5)).await.0.unwrap(), "hello");
        let (bytes, fault) = collect(Full::new(Bytes::from_static(b"hello")), limited(4)).await;
        assert!(bytes.is_err());
        assert_eq!(fault.take().unwrap().code(), &S3ErrorCode::MaxMessageLengthExceeded);
    }

    #[tokio::test]
    async fn a_bad_chunk_leaves_its_own_error() {
        let rechunker = Rechunker::new(ChunkMode::Unsigned, 5, 0, &[]);
        let (bytes, fault) =
            collect(Full::new(Bytes::from_static(b"5\r\nhello\r\n")), guard(Some(rechunker), None)).await;
        assert!(bytes.is_err());
        assert_eq!(fault.take().unwrap().code(), &S3ErrorCode::IncompleteBody);
        let rechunker = Rechunker::new(ChunkMode::Unsigned, 5, 0, &[]);
        let whole = Full::new(Bytes::from_static(b"5\r\nhello\r\n0\r\n\r\n"));
        assert_eq!(collect(whole, guard(Some(rechunker), None)).await.0.unwrap(), "5\r\nhello\r\n0\r\n\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_times_out() {
        let pending = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, StdError>>());
        let (bytes, fault) = collect(pending, guard(None, None)).await;
        assert!(bytes.is_err());
        assert_eq!(fault.take().unwrap().code(), &S3ErrorCode::RequestTimeout);
    }

    #[tokio::test]
    async fn large_signed_chunks_wait_for_their_share_of_memory() {
        let signature = "0".repeat(64);
        let size = 4 * BUDGET_UNIT_BYTES + 1;
        let first = format!("{size:x};chunk-signature={signature}\r\n");
        let mut rest = vec![1u8; size as usize];
        rest.extend(format!("\r\n0;chunk-signature={signature}\r\n\r\n").into_bytes());
        let total = first.len() + rest.len();
        let frames = [Bytes::from(first), Bytes::from(rest)].map(|piece| Ok::<_, StdError>(Frame::data(piece)));
        let budget = Arc::new(Semaphore::new(5));
        let taken = budget.clone().acquire_many_owned(1).await.unwrap();
        let guard = Guard {
            rechunker: Some(Rechunker::new(ChunkMode::Signed, size, size, &[])),
            digest: None,
            bytes_max: None,
            idle_timeout: Duration::from_secs(5),
            budget: PollSemaphore::new(budget.clone()),
        };
        let body = GuardBody::new(
            StreamBody::new(futures::stream::iter(frames)),
            guard,
            Fault::default(),
            Leftover::default(),
        );
        let mut collecting = Box::pin(body.collect());
        assert!(futures::poll!(&mut collecting).is_pending());
        drop(taken);
        assert_eq!(collecting.await.unwrap().to_bytes().len(), total);
        assert_eq!(budget.available_permits(), 5);
    }

    #[tokio::test]
    async fn what_was_not_read_is_left_to_be_drained() {
        let leftover = Leftover::default();
        let body = GuardBody::new(
            Full::new(Bytes::from_static(b"rest")),
            guard(None, None),
            Fault::default(),
            leftover.clone(),
        );
        drop(body);
        let rest = leftover.lock().take().unwrap();
        assert_eq!(rest.collect().await.unwrap().to_bytes(), "rest");
    }
}
