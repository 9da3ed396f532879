//! An S3 endpoint under load, and the same load on another endpoint in the same run.
//!
//! The endpoints come from the environment, so that any S3 server can be either: `BENCH_S3` and, if there is something to compare
//! with, `BENCH_S3_REFERENCE` (HOST:PORT, no TLS), `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` for both. The reference can have its own keys
//! as `BENCH_S3_REFERENCE_ACCESS_KEY` and `BENCH_S3_REFERENCE_SECRET_KEY`.

use crate::Failure;
use crate::figure::{header, rate, row};
use crate::source::Source;
use bytes::Bytes;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tombolo_tests::s3::{Client, Request};
use tombolo_tests::signature::Credentials;
use tombolo_tests::xml;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Operations of each small row.
    #[arg(long, default_value_t = 8_000)]
    operations: u64,
    /// Connections of the small rows.
    #[arg(long, default_value_t = 16)]
    connections: u64,
    /// Size of a large object, in MiB.
    #[arg(long, default_value_t = 64)]
    mib: u64,
    /// Large objects of each large row.
    #[arg(long, default_value_t = 16)]
    large: u64,
    /// Keys to list.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Measure each endpoint so many times, in turn; the best counts.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
}

const BUCKET: &str = "/bench";
const SMALL_BYTES: usize = 4096;
const PART_BYTES: usize = 16 << 20;

struct Endpoint {
    address: SocketAddr,
    credentials: Credentials,
}

/// One figure of a run.
struct Figure {
    what: String,
    unit: &'static str,
    value: f64,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let measured = endpoint("BENCH_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")?
        .ok_or("BENCH_S3=HOST:PORT names the endpoint to measure")?;
    let reference = endpoint("BENCH_S3_REFERENCE", "BENCH_S3_REFERENCE_ACCESS_KEY", "BENCH_S3_REFERENCE_SECRET_KEY")?;
    let (mut figures, mut compared) = (Vec::new(), Vec::new());
    for round in 0..options.rounds.max(1) {
        best(&mut figures, measured.load(options, u64::from(round))?);
        if let Some(reference) = &reference {
            best(&mut compared, reference.load(options, u64::from(round))?);
        }
    }
    header();
    for (number, figure) in figures.iter().enumerate() {
        let other = compared.get(number);
        let text = |figure: &Figure| format!("{:.0} {}", figure.value, figure.unit);
        let ratio = other.map_or(f64::NAN, |other| figure.value / other.value);
        row(&figure.what, &text(figure), &other.map_or("no BENCH_S3_REFERENCE".into(), text), ratio);
    }
    Ok(())
}

fn best(kept: &mut Vec<Figure>, new: Vec<Figure>) {
    if kept.is_empty() {
        *kept = new;
        return;
    }
    for (kept, new) in kept.iter_mut().zip(new) {
        kept.value = kept.value.max(new.value);
    }
}

fn endpoint(address: &str, access_key: &str, secret_key: &str) -> Result<Option<Endpoint>, Failure> {
    let Ok(address) = std::env::var(address) else { return Ok(None) };
    let text = address.trim_start_matches("http://").trim_end_matches('/');
    let address = text.to_socket_addrs()?.next().ok_or("an endpoint without an address")?;
    let key = |own: &str, shared: &str| std::env::var(own).or_else(|_| std::env::var(shared));
    let credentials = Credentials {
        access_key: key(access_key, "AWS_ACCESS_KEY_ID")?,
        secret_key: key(secret_key, "AWS_SECRET_ACCESS_KEY")?,
    };
    Ok(Some(Endpoint { address, credentials }))
}

impl Endpoint {
    fn client(&self) -> Client {
        let mut client = Client::new(self.address, self.credentials.clone());
        client.unsigned_payload = true;
        client
    }

    fn load(&self, options: &Options, round: u64) -> Result<Vec<Figure>, Failure> {
        // There already is fine; anything else shows with the first put.
        self.client().send(&Request { method: "PUT", path: BUCKET.as_bytes(), ..Request::default() })?;
        let mut figures = self.small(options, round)?;
        figures.extend(self.large(options, round)?);
        figures.push(self.multipart(round)?);
        figures.push(self.list(options)?);
        Ok(figures)
    }

    fn small(&self, options: &Options, round: u64) -> Result<Vec<Figure>, Failure> {
        let content = Source::new(round).piece(SMALL_BYTES);
        let key = |number: u64| format!("{BUCKET}/small/{:03}/{round}-{number:08}", number % 100);
        let ranged = [("range", "bytes=100-1123")];
        let mut figures = Vec::new();
        for (what, method, headers) in [
            ("4 KiB PUT", "PUT", &[][..]),
            ("4 KiB GET", "GET", &[]),
            ("4 KiB HEAD", "HEAD", &[]),
            ("ranged GET of 1 KiB of 4", "GET", &ranged),
            ("4 KiB DELETE", "DELETE", &[]),
        ] {
            let seconds = self.parallel(options.connections, options.operations, |client, number| {
                let path = key(number);
                let mut unique = content.to_vec();
                // No two contents the same: a store that shares them must not look faster for it.
                unique.iter_mut().zip(number.to_le_bytes()).for_each(|(slot, byte)| *slot ^= byte);
                let body = if method == "PUT" { &unique[..] } else { &[] };
                self.expect(client, &Request { method, path: path.as_bytes(), headers, body, ..Request::default() })
            })?;
            let what = format!("{what}, {} connections", options.connections);
            figures.push(Figure { what, unit: "op/s", value: options.operations as f64 / seconds });
        }
        Ok(figures)
    }

    fn large(&self, options: &Options, round: u64) -> Result<Vec<Figure>, Failure> {
        let mut figures = Vec::new();
        for streams in [1, 4] {
            let count = options.large.max(streams);
            let contents: Vec<Bytes> = (0..count)
                .map(|number| Source::new(round << 32 | streams << 16 | number).piece((options.mib as usize) << 20))
                .collect();
            for method in ["PUT", "GET"] {
                let seconds = self.parallel(streams, count, |client, number| {
                    let path = format!("{BUCKET}/large/{streams}/{number}");
                    let content = contents.get(number as usize).ok_or("a content too few")?;
                    let body = if method == "PUT" { &content[..] } else { &[] };
                    self.expect(client, &Request { method, path: path.as_bytes(), body, ..Request::default() })
                })?;
                let what = format!("{} MiB {method}, {streams} streams", options.mib);
                figures.push(Figure { what, unit: "MiB/s", value: rate((count * options.mib) << 20, seconds) });
            }
        }
        Ok(figures)
    }

    fn multipart(&self, round: u64) -> Result<Figure, Failure> {
        const PARTS: u64 = 64;
        let path = format!("{BUCKET}/multipart");
        let parts: Vec<Bytes> =
            (0..PARTS).map(|number| Source::new(round << 32 | 1 << 31 | number).piece(PART_BYTES)).collect();
        let mut client = self.client();
        let start = Instant::now();
        let request =
            Request { method: "POST", path: path.as_bytes(), query: &[("uploads", "")], ..Request::default() };
        let created = client.send(&request)?.text();
        let upload = xml::text(&created, "UploadId").ok_or("an upload without an id")?;
        let tags = std::sync::Mutex::new(vec![String::new(); parts.len()]);
        self.parallel(4, PARTS, |client, number| {
            let part = (number + 1).to_string();
            let query = [("partNumber", part.as_str()), ("uploadId", upload.as_str())];
            let body = parts.get(number as usize).ok_or("a part too few")?;
            let request = Request { method: "PUT", path: path.as_bytes(), query: &query, body, ..Request::default() };
            let response = client.send(&request)?;
            let tag = response.header("etag").ok_or("a part without a tag")?.to_string();
            let mut tags = tags.lock().map_err(|_| "another stream failed")?;
            *tags.get_mut(number as usize).ok_or("a tag too few")? = tag;
            Ok(())
        })?;
        let tags = tags.into_inner()?;
        let list: String = tags
            .iter()
            .zip(1..)
            .map(|(tag, number)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"))
            .collect();
        let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        let query = [("uploadId", upload.as_str())];
        let request = Request {
            method: "POST",
            path: path.as_bytes(),
            query: &query,
            body: body.as_bytes(),
            ..Request::default()
        };
        self.expect(&mut client, &request)?;
        let value = rate(PARTS * PART_BYTES as u64, start.elapsed().as_secs_f64());
        Ok(Figure { what: "1 GiB multipart PUT, 4 streams".into(), unit: "MiB/s", value })
    }

    fn list(&self, options: &Options) -> Result<Figure, Failure> {
        self.parallel(options.connections, options.keys, |client, number| {
            let path = format!("{BUCKET}/list/{number:08}");
            self.expect(client, &Request { method: "PUT", path: path.as_bytes(), body: b"x", ..Request::default() })
        })?;
        let mut client = self.client();
        let (mut listed, mut token) = (0, None::<String>);
        let start = Instant::now();
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", "list/")];
            if let Some(token) = &token {
                query.push(("continuation-token", token));
            }
            let request = Request { method: "GET", path: BUCKET.as_bytes(), query: &query, ..Request::default() };
            let answer = client.send(&request)?.text();
            listed += xml::blocks(&answer, "Contents").len() as u64;
            token = xml::text(&answer, "NextContinuationToken");
            if token.is_none() {
                break;
            }
        }
        if listed < options.keys {
            return Err(format!("{listed} keys listed of {}", options.keys).into());
        }
        let value = listed as f64 / start.elapsed().as_secs_f64();
        Ok(Figure { what: format!("LIST of {} keys", options.keys), unit: "keys/s", value })
    }

    /// Numbers 0 to `count`, shared out to `connections` threads; seconds for all.
    fn parallel(
        &self,
        connections: u64,
        count: u64,
        work: impl Fn(&mut Client, u64) -> Result<(), Failure> + Sync,
    ) -> Result<f64, Failure> {
        let next = AtomicU64::new(0);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..connections)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = self.client();
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= count {
                                return Ok::<(), Failure>(());
                            }
                            work(&mut client, number)?;
                        }
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a connection's thread panicked".into())))
        })?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn expect(&self, client: &mut Client, request: &Request<'_>) -> Result<(), Failure> {
        // The body is looked at only to see its length: a load generator that copies is its own bottleneck.
        let mut received = 0;
        let response = client.send_into(request, &mut |piece| received += piece.len())?;
        if !response.is_success() {
            return Err(format!("{} {} gave {}", request.method, request.path.escape_ascii(), response.status).into());
        }
        Ok(())
    }
}
