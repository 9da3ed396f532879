//! A small S3 client that can also do wrong on purpose, and a door to knock on.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tombolo_core::{CreateOptions, Environment, OpenOptions, Secret, Segment, TenantPath};
use tombolo_s3::{S3Door, S3Limits, S3Options};

pub const BUCKET: &str = "bucket";
/// Hosts below it name their bucket.
pub const DOMAIN: &str = "s3.example.org";

/// A segment behind a listening door, with a tenant `west/lab` that has a bucket, and a second tenant.
pub struct Door {
    pub segment: Segment,
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Door {
    pub async fn open() -> Door {
        Door::with(S3Limits::default()).await
    }

    pub async fn with(limits: S3Limits) -> Door {
        Door::over(OpenOptions::default(), limits).await
    }

    /// Over a segment that is opened like this.
    pub async fn over(open: OpenOptions, limits: S3Limits) -> Door {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { name: "local".into(), cluster: "west".into() };
        let segment = Segment::create(dir.path().join("data"), create, open).await.unwrap();
        let catalog = segment.catalog();
        for (tenant, key) in [("lab", "LABKEY"), ("other", "OTHERKEY")] {
            let tenant = TenantPath::new("west", tenant).unwrap();
            catalog.create_tenant(&tenant).await.unwrap();
            let keys = (key.to_owned(), Secret(format!("secret-of-{key}")));
            catalog.create_user(&tenant, "user", Some(keys)).await.unwrap();
        }
        let options = S3Options { tenant: None, domains: vec![DOMAIN.into()], limits };
        let door = S3Door::bind(segment.clone(), &["127.0.0.1:0".parse().unwrap()], options).await.unwrap();
        let address = door.addresses().unwrap()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(door.serve(async {
            drop(stopped.await);
        }));
        let door = Door { segment, address, stop: Some(stop), serving, _dir: dir };
        let reply = door.client().put(&format!("/{BUCKET}")).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        door
    }

    pub fn client(&self) -> Client {
        self.client_of("LABKEY")
    }

    pub fn client_of(&self, key: &str) -> Client {
        Client { address: self.address, access_key: key.into(), secret: format!("secret-of-{key}") }
    }

    /// Asks the door to close and waits until it has.
    pub async fn close(mut self) {
        drop(self.stop.take());
        self.serving.await.unwrap();
    }

    /// The keys that a listing shows.
    pub async fn keys(&self) -> Vec<String> {
        self.client().get(&format!("/{BUCKET}")).query("list-type", "2").send().await.all("Key")
    }
}

#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub access_key: String,
    pub secret: String,
}

macro_rules! verbs {
    ($($name:ident $method:literal;)*) => {
        impl Client {
            $(
                /// A request about a path, already percent-encoded.
                pub fn $name(&self, path: &str) -> Request { Request::new(self.clone(), $method, path) }
            )*
        }
    };
}

verbs! { get "GET"; head "HEAD"; put "PUT"; post "POST"; delete "DELETE"; }

/// How a request proves who sends it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    Header,
    Query { expires_s: i64 },
    Not,
}

/// How the content travels.
#[derive(Clone)]
enum Content {
    Plain { hash: Option<String> },
    Chunked { chunk: usize, trailers: Vec<(String, String)>, signed: bool, tamper: bool },
}

pub struct Request {
    client: Client,
    method: &'static str,
    path: String,
    query: Vec<(String, String)>,
    headers: BTreeMap<String, String>,
    body: Bytes,
    content: Content,
    sign: Sign,
    skew_s: i64,
    unsigned: Vec<(String, String)>,
}

pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The texts of all elements of a name.
    pub fn all(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let text = self.text();
        text.split(&open).skip(1).map(|rest| unescape(rest.split(&close).next().unwrap())).collect()
    }

    /// The text of the first element of a name, empty if there is none.
    pub fn xml(&self, name: &str) -> String {
        self.all(name).into_iter().next().unwrap_or_default()
    }

    /// Panics unless this is the error named, with its status.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.xml("Code").as_str()), (status, code), "{}", self.text());
        assert_eq!(self.xml("RequestId"), self.header("x-amz-request-id").unwrap());
    }

    #[track_caller]
    pub fn ok(self) -> Reply {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text());
        self
    }
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}

pub fn encode(text: &[u8], keep_slash: bool) -> String {
    text.iter()
        .map(|&b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (b as char).to_string(),
            b'/' if keep_slash => "/".into(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// The path of a key in the bucket.
pub fn path(key: &str) -> String {
    format!("/{BUCKET}/{}", encode(key.as_bytes(), true))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

pub fn base64(data: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(data)
}

pub fn md5(data: &[u8]) -> [u8; 16] {
    use md5::Digest as _;
    md5::Md5::digest(data).into()
}

pub fn crc32(data: &[u8]) -> String {
    base64(&(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, data) as u32).to_be_bytes())
}

pub fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

pub fn hmac_sha1(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(key).unwrap();
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

/// `YYYYMMDDTHHMMSSZ`, this many seconds from now.
pub fn amz_date(skew_s: i64) -> String {
    let now_s = Environment::default().clock.now_ns() / 1_000_000_000 + skew_s;
    let t = time::OffsetDateTime::from_unix_timestamp(now_s).unwrap();
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

pub fn signing_key(secret: &str, day: &str) -> Vec<u8> {
    let steps = [day, "anywhere", "s3", "aws4_request"];
    steps.iter().fold(format!("AWS4{secret}").into_bytes(), |key, step| hmac(&key, step.as_bytes()))
}

impl Request {
    fn new(client: Client, method: &'static str, path: &str) -> Request {
        Request {
            client,
            method,
            path: path.into(),
            query: Vec::new(),
            headers: BTreeMap::new(),
            body: Bytes::new(),
            content: Content::Plain { hash: None },
            sign: Sign::Header,
            skew_s: 0,
            unsigned: Vec::new(),
        }
    }

    pub fn query(mut self, name: &str, value: &str) -> Request {
        self.query.push((name.into(), value.into()));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.insert(name.to_ascii_lowercase(), value.into());
        self
    }

    /// A header that the signature leaves out.
    pub fn unsigned_header(mut self, name: &str, value: &str) -> Request {
        self.unsigned.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Request {
        self.body = body.into();
        self
    }

    /// States a payload hash, right or wrong.
    pub fn hash(mut self, hash: &str) -> Request {
        self.content = Content::Plain { hash: Some(hash.into()) };
        self
    }

    /// Sends the content as `STREAMING-UNSIGNED-PAYLOAD-TRAILER`.
    pub fn chunked(mut self, chunk: usize, trailers: &[(&str, &str)]) -> Request {
        let trailers = trailers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.content = Content::Chunked { chunk, trailers, signed: false, tamper: false };
        self
    }

    /// Sends the content in signed chunks; `tamper`: changes a byte after signing.
    pub fn signed_chunks(mut self, chunk: usize, trailers: &[(&str, &str)], tamper: bool) -> Request {
        let trailers = trailers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.content = Content::Chunked { chunk, trailers, signed: true, tamper };
        self
    }

    pub fn sign(mut self, sign: Sign) -> Request {
        self.sign = sign;
        self
    }

    pub fn skew(mut self, skew_s: i64) -> Request {
        self.skew_s = skew_s;
        self
    }

    /// Signs and gives the request as it goes over the wire.
    pub fn build(mut self) -> http::Request<Full<Bytes>> {
        let date = amz_date(self.skew_s);
        let day = &date[..8];
        let scope = format!("{day}/anywhere/s3/aws4_request");
        self.headers.entry("host".into()).or_insert(self.client.address.to_string());
        let payload = match &self.content {
            Content::Plain { hash } => hash.clone().unwrap_or_else(|| sha256(&self.body)),
            Content::Chunked { trailers, signed, .. } => {
                self.headers.insert("x-amz-decoded-content-length".into(), self.body.len().to_string());
                if !trailers.is_empty() || !signed {
                    let names: Vec<&str> = trailers.iter().map(|(name, _)| name.as_str()).collect();
                    self.headers.entry("x-amz-trailer".into()).or_insert(names.join(","));
                }
                match (signed, trailers.is_empty()) {
                    (false, _) => "STREAMING-UNSIGNED-PAYLOAD-TRAILER".into(),
                    (true, true) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".into(),
                    (true, false) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER".to_owned(),
                }
            }
        };
        let key = signing_key(&self.client.secret, day);
        let mut canonical_payload = payload.clone();
        match self.sign {
            Sign::Header => {
                self.headers.insert("x-amz-date".into(), date.clone());
                self.headers.insert("x-amz-content-sha256".into(), payload);
            }
            Sign::Query { expires_s } => {
                canonical_payload = "UNSIGNED-PAYLOAD".into();
                let signed: Vec<&str> = self.headers.keys().map(String::as_str).collect();
                let signed = signed.join(";");
                for (name, value) in [
                    ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
                    ("X-Amz-Credential", &format!("{}/{scope}", self.client.access_key)),
                    ("X-Amz-Date", &date),
                    ("X-Amz-Expires", &expires_s.to_string()),
                    ("X-Amz-SignedHeaders", &signed),
                ] {
                    self.query.push((name.into(), value.into()));
                }
            }
            Sign::Not => {}
        }
        let mut query: Vec<(String, String)> =
            self.query.iter().map(|(k, v)| (encode(k.as_bytes(), false), encode(v.as_bytes(), false))).collect();
        query.sort();
        let mut query = query.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("&");
        let names = self.headers.keys().cloned().collect::<Vec<_>>().join(";");
        let lines: String = self.headers.iter().map(|(k, v)| format!("{k}:{}\n", v.trim())).collect();
        let canonical = format!("{}\n{}\n{query}\n{lines}\n{names}\n{canonical_payload}", self.method, self.path);
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        match self.sign {
            Sign::Header => {
                let value = format!(
                    "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
                    self.client.access_key
                );
                self.headers.insert("authorization".into(), value);
            }
            Sign::Query { .. } => query.push_str(&format!("&X-Amz-Signature={signature}")),
            Sign::Not => {}
        }
        let body = match &self.content {
            Content::Plain { .. } => self.body.clone(),
            Content::Chunked { chunk, trailers, signed, tamper } => {
                let prefix = format!("{date}\n{scope}");
                frame(
                    &self.body,
                    *chunk,
                    trailers,
                    signed.then_some((key.as_slice(), prefix.as_str(), signature)),
                    *tamper,
                )
            }
        };
        let uri = if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) };
        let mut request = http::Request::builder().method(self.method).uri(uri);
        for (name, value) in self.headers.iter().chain(self.unsigned.iter().map(|(k, v)| (k, v))) {
            request = request.header(name, value);
        }
        request.body(Full::new(body)).unwrap()
    }

    pub async fn send(self) -> Reply {
        let address = self.client.address;
        send(address, self.build()).await
    }

    /// Asks, without a body, and reads nothing of the answer.
    pub async fn stuck(self) -> TcpStream {
        let mut stream = TcpStream::connect(self.client.address).await.unwrap();
        let request = self.build();
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        stream
    }
}

/// Puts chunk headers around a content, signed from the seed signature on when there is one.
fn frame(
    content: &[u8],
    chunk: usize,
    trailers: &[(String, String)],
    seed: Option<(&[u8], &str, String)>,
    tamper: bool,
) -> Bytes {
    let mut body = Vec::new();
    let mut previous = seed.as_ref().map(|(_, _, seed)| seed.clone()).unwrap_or_default();
    let mut pieces: Vec<&[u8]> = content.chunks(chunk.max(1)).collect();
    pieces.push(b"");
    for piece in pieces {
        body.extend_from_slice(format!("{:x}", piece.len()).as_bytes());
        if let Some((key, prefix, _)) = &seed {
            let to_sign = format!("AWS4-HMAC-SHA256-PAYLOAD\n{prefix}\n{previous}\n{}\n{}", sha256(b""), sha256(piece));
            previous = hex(&hmac(key, to_sign.as_bytes()));
            body.extend_from_slice(format!(";chunk-signature={previous}").as_bytes());
        }
        body.extend_from_slice(b"\r\n");
        body.extend_from_slice(piece);
        if !piece.is_empty() {
            if tamper {
                *body.last_mut().unwrap() ^= 1;
            }
            body.extend_from_slice(b"\r\n");
        }
    }
    for (name, value) in trailers {
        body.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
    }
    if let Some((key, prefix, _)) = &seed
        && !trailers.is_empty()
    {
        let lines: String = trailers.iter().map(|(k, v)| format!("{k}:{v}\n")).collect();
        let to_sign = format!("AWS4-HMAC-SHA256-TRAILER\n{prefix}\n{previous}\n{}", sha256(lines.as_bytes()));
        body.extend_from_slice(
            format!("x-amz-trailer-signature:{}\r\n", hex(&hmac(key, to_sign.as_bytes()))).as_bytes(),
        );
    }
    body.extend_from_slice(b"\r\n");
    body.into()
}

/// Sends a request over a connection of its own.
pub async fn send<B>(address: SocketAddr, request: http::Request<B>) -> Reply
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    drop(sender);
    driving.abort();
    Reply { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// Bytes that don't repeat and don't compress.
pub fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out.into()
}
