//! aws-chunked bodies: signed and unsigned chunks, trailers, one chunk of any size in bounded memory.

use crate::client::*;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;

#[tokio::test]
async fn unsigned_chunks_with_a_trailer() {
    let door = Door::open().await;
    let client = door.client();
    for (size, chunk) in [(0usize, 1000usize), (10, 10), (100_000, 65_536), (3_000_000, 3_000_000)] {
        let content = noise(size, 2);
        let key = path(&format!("{size}"));
        let sum = crc32(&content);
        let put = client.put(&key).body(content.clone()).chunked(chunk, &[("x-amz-checksum-crc32", &sum)]);
        let put = put.header("content-encoding", "aws-chunked").send().await.ok();
        assert_eq!(put.header("x-amz-checksum-crc32"), Some(sum.as_str()));
        let get = client.get(&key).header("x-amz-checksum-mode", "ENABLED").send().await.ok();
        assert_eq!(get.body, content);
        assert_eq!(get.header("x-amz-checksum-crc32"), Some(sum.as_str()));
        assert_eq!(get.header("content-encoding"), None, "that was about the transfer");
    }
    let content = noise(100_000, 2);
    for chunk in [1000, 100_000] {
        let put = |trailers: &[(&str, &str)]| client.put(&path("bad")).body(content.clone()).chunked(chunk, trailers);
        put(&[("x-amz-checksum-crc32", &crc32(b"other"))]).send().await.refused(400, "BadDigest");
        put(&[]).header("x-amz-trailer", "x-amz-checksum-crc32").send().await.refused(400, "MalformedTrailerError");
        let short = put(&[("x-amz-checksum-crc32", "AA")]).send().await;
        short.refused(400, "InvalidRequest");
    }
    assert!(!door.keys().await.contains(&"bad".to_owned()));
}

#[tokio::test]
async fn signed_chunks_with_and_without_trailers() {
    let door = Door::open().await;
    let client = door.client();
    for (size, chunk) in [(0usize, 8192usize), (10, 8192), (200_000, 65_536)] {
        let content = noise(size, 4);
        let sum = crc32(&content);
        let trailers = [("x-amz-checksum-crc32", sum.as_str())];
        for (name, trailers) in [("plain", &trailers[..0]), ("trailer", &trailers[..])] {
            let key = path(&format!("{name}-{size}"));
            client.put(&key).body(content.clone()).signed_chunks(chunk, trailers, false).send().await.ok();
            assert_eq!(client.get(&key).send().await.ok().body, content);
            if size > 0 {
                let bad =
                    client.put(&path("bad")).body(content.clone()).signed_chunks(chunk, trailers, true).send().await;
                bad.refused(403, "SignatureDoesNotMatch");
            }
        }
    }
    assert!(!door.keys().await.contains(&"bad".to_owned()), "a wrong signature leaves nothing");
}

#[tokio::test]
async fn a_signed_chunk_above_the_limit_is_refused() {
    let limits = tombolo_s3::S3Limits { signed_chunk_bytes_max: 1 << 20, ..Default::default() };
    let door = Door::with(limits).await;
    let client = door.client();
    let content = noise(3 << 20, 4);
    client.put(&path("good")).body(content.clone()).signed_chunks(1 << 20, &[], false).send().await.ok();
    let refused =
        client.put(&path("bad")).body(content.slice(..1_100_000)).signed_chunks(2 << 20, &[], false).send().await;
    refused.refused(400, "InvalidChunkSizeError");
    assert_eq!(door.keys().await, ["good"]);
}

#[tokio::test]
async fn a_part_may_come_chunked_without_a_content_length() {
    let door = Door::open().await;
    let client = door.client();
    let id = client.post(&path("k")).query("uploads", "").send().await.ok().xml("UploadId");
    let content = noise(700_000, 6);
    let request = client.put(&path("k")).query("partNumber", "1").query("uploadId", &id);
    let request = request.body(content.clone()).chunked(500_000, &[("x-amz-checksum-crc32", &crc32(&content))]).build();
    let (parts, body) = request.into_parts();
    let framed = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    let pieces: Vec<Result<Frame<Bytes>, std::io::Error>> =
        framed.chunks(10_000).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    // A stream of unknown length makes the client use Transfer-Encoding: chunked.
    let body = StreamBody::new(futures::stream::iter(pieces));
    let part = send(door.address, http::Request::from_parts(parts, body)).await.ok();
    let etag = part.header("etag").unwrap().to_owned();
    let xml = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    client.post(&path("k")).query("uploadId", &id).body(xml).send().await.ok();
    assert_eq!(client.get(&path("k")).send().await.ok().body, content);
}

#[tokio::test]
async fn a_body_that_lies_about_its_length_leaves_nothing() {
    let door = Door::open().await;
    let client = door.client();
    for (stated, size) in [("99999", 100_000usize), ("100001", 100_000), ("9", 10), ("11", 10)] {
        let content = noise(size, 8);
        let request =
            client.put(&path("bad")).body(content.clone()).chunked(size, &[("x-amz-checksum-crc32", &crc32(&content))]);
        // The signature covers the lie.
        let mut liar = request;
        liar = liar.header("x-amz-meta-stated", stated);
        let mut request = liar.build();
        let signed = client.put(&path("bad")).hash("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        let signed = signed
            .header("x-amz-decoded-content-length", stated)
            .header("x-amz-trailer", "x-amz-checksum-crc32")
            .build();
        *request.headers_mut() = signed.headers().clone();
        send(door.address, request).await.refused(400, "IncompleteBody");
    }
    assert!(door.keys().await.is_empty());
}

/// 1 GiB in one unsigned chunk must pass in little memory; s3s alone would hold all of it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_huge_chunk_stays_within_memory() {
    const SIZE: u64 = 1 << 30;
    let door = Door::open().await;
    let piece = noise(1 << 20, 11);
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
    (0..SIZE >> 20).for_each(|_| digest.update(&piece));
    let sum = base64(&(digest.finalize() as u32).to_be_bytes());
    let signed = door.client().put(&path("huge")).hash("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    let signed = signed
        .header("x-amz-decoded-content-length", &SIZE.to_string())
        .header("x-amz-trailer", "x-amz-checksum-crc32");
    let head = Bytes::from(format!("{SIZE:x}\r\n"));
    let tail = Bytes::from(format!("\r\n0\r\nx-amz-checksum-crc32:{sum}\r\n\r\n"));
    let pieces = std::iter::once(head).chain((0..SIZE >> 20).map(move |_| piece.clone())).chain(std::iter::once(tail));
    let body = StreamBody::new(futures::stream::iter(pieces.map(|piece| Ok::<_, std::io::Error>(Frame::data(piece)))));
    let (parts, _) = signed.build().into_parts();
    let before = resident_bytes();
    let peak = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let watch = {
        let peak = peak.clone();
        tokio::spawn(async move {
            loop {
                peak.fetch_max(resident_bytes(), std::sync::atomic::Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
    };
    send(door.address, http::Request::from_parts(parts, body)).await.ok();
    watch.abort();
    let grown = peak.load(std::sync::atomic::Ordering::Relaxed).saturating_sub(before);
    assert!(grown < 400 << 20, "{} MiB", grown >> 20);
    let head = door.client().head(&path("huge")).send().await.ok();
    assert_eq!(head.header("content-length"), Some(SIZE.to_string().as_str()));
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
