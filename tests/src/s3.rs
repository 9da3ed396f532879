//! A blocking S3 client over one kept-alive connection: signs, sends, and gives back what came, bad answers included.

use crate::path_encoding::encode;
use crate::signature::{Credentials, Unsigned, authorization, query_string, sha256_hex, timestamp};
use crate::xml;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long one read or write on the socket may take. Far beyond anything but a hang.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(120);
/// How much of a body is read at once, in bytes.
const READ_BYTES: usize = 256 << 10;

/// One client. Not shared between threads: each has its own connection.
pub struct Client {
    address: SocketAddr,
    credentials: Credentials,
    connection: Option<BufReader<TcpStream>>,
    /// Whether bodies are left out of the signature (`UNSIGNED-PAYLOAD`), for large ones.
    pub unsigned_payload: bool,
}

/// A request. `path` starts with `/`; a key's bytes are encoded here.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// `GET`, `PUT`, …
    pub method: &'a str,
    /// `/bucket/key`, not encoded.
    pub path: &'a [u8],
    /// Query pairs, not encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// Further headers, lower-case names.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    /// The whole body; empty if it was given to a sink.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// AWS' error code in the body, if there is one.
    pub fn code(&self) -> Option<String> {
        xml::text(&self.text(), "Code")
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Itself, or a panic that shows it.
    #[must_use]
    pub fn expect_success(self, what: &str) -> Response {
        assert!(self.is_success(), "{what}: {} {}", self.status, self.text());
        self
    }
}

impl Client {
    /// A client of the endpoint at `address`. Connects with the first request.
    pub fn new(address: SocketAddr, credentials: Credentials) -> Client {
        Client { address, credentials, connection: None, unsigned_payload: false }
    }

    /// Sends a request and reads the whole answer. After an error the connection is dropped; nothing is sent twice.
    pub fn send(&mut self, request: &Request<'_>) -> io::Result<Response> {
        let mut body = Vec::new();
        let mut response = self.send_into(request, &mut |piece| body.extend_from_slice(piece))?;
        response.body = body;
        Ok(response)
    }

    /// As [`Client::send`], but the body goes to `sink` piece by piece.
    pub fn send_into(&mut self, request: &Request<'_>, sink: &mut dyn FnMut(&[u8])) -> io::Result<Response> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let head = self.head(request);
        let stream = connection.get_mut();
        if request.body.len() <= 16 << 10 {
            stream.write_all(&[head.as_bytes(), request.body].concat())?;
        } else {
            stream.write_all(head.as_bytes())?;
            stream.write_all(request.body)?;
        }
        let response = read_response(&mut connection, request.method == "HEAD", sink)?;
        if response.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    /// Sends the head of a request and part of its body, then hangs up.
    pub fn send_part(&mut self, request: &Request<'_>, body_bytes: usize) -> io::Result<()> {
        let mut connection = self.connect()?;
        let head = self.head(request);
        connection.get_mut().write_all(head.as_bytes())?;
        connection.get_mut().write_all(&request.body[..body_bytes])
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, SOCKET_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
        stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
        Ok(BufReader::with_capacity(READ_BYTES, stream))
    }

    /// Request line and headers, signed.
    fn head(&self, request: &Request<'_>) -> String {
        let path = encode(request.path, true);
        let timestamp = timestamp();
        let payload_hash =
            if self.unsigned_payload { "UNSIGNED-PAYLOAD".to_string() } else { sha256_hex(request.body) };
        let mut headers: Vec<(String, String)> =
            request.headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        headers.push(("host".into(), self.address.to_string()));
        headers.push(("x-amz-date".into(), timestamp.clone()));
        headers.push(("x-amz-content-sha256".into(), payload_hash.clone()));
        let unsigned = Unsigned {
            method: request.method,
            path: &path,
            query: request.query,
            headers: &headers,
            payload_hash: &payload_hash,
        };
        let authorization = authorization(&self.credentials, &unsigned, &timestamp);
        let mut query = query_string(request.query);
        if !query.is_empty() {
            query.insert(0, '?');
        }
        let mut head = format!("{} {path}{query} HTTP/1.1\r\nauthorization: {authorization}\r\n", request.method);
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !request.body.is_empty() || matches!(request.method, "PUT" | "POST") {
            head.push_str(&format!("content-length: {}\r\n", request.body.len()));
        }
        head.push_str("\r\n");
        head
    }
}

fn read_response(
    connection: &mut BufReader<TcpStream>,
    is_head: bool,
    sink: &mut dyn FnMut(&[u8]),
) -> io::Result<Response> {
    let status_line = read_line(connection)?;
    let status = status_line.split(' ').nth(1).and_then(|text| text.parse().ok());
    let status: u16 = status.ok_or_else(|| invalid(format!("'{status_line}' is no status line")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(connection)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid(format!("'{line}' is no header")))?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_string()));
    }
    let response = Response { status, headers, body: Vec::new() };
    if is_head || status == 204 || status == 304 {
        return Ok(response);
    }
    if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(connection)?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = u64::from_str_radix(digits, 16).map_err(|_| invalid(format!("'{line}' is no chunk size")))?;
            if length == 0 {
                while !read_line(connection)?.is_empty() {}
                return Ok(response);
            }
            read_body(connection, length, sink)?;
            read_line(connection)?;
        }
    }
    let length = response.header("content-length").map_or(Ok(0), str::parse);
    let length = length.map_err(|_| invalid("a content-length that is no number".into()))?;
    read_body(connection, length, sink)?;
    Ok(response)
}

fn read_body(connection: &mut BufReader<TcpStream>, length: u64, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let piece = connection.fill_buf()?;
        let take = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if take == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{left} bytes of the body are missing")));
        }
        sink(&piece[..take]);
        connection.consume(take);
        left -= take as u64;
    }
    Ok(())
}

fn read_line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    connection.by_ref().take(64 << 10).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside the head"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| invalid("a header that is not UTF-8".into()))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
