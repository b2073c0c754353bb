//! A small blocking HTTP/1.1 client: one request per connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Error, Result};

/// Longest wait for a connection and between two reads.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// An answer whose body is still coming: server-sent events, line by line.
#[derive(Debug)]
pub struct Lines {
    body: Body,
    pending: Vec<u8>,
}

#[derive(Debug)]
struct Body {
    reader: BufReader<TcpStream>,
    framing: Framing,
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    /// Bytes left.
    Length(u64),
    /// Bytes left of the present chunk; `None` after the last one.
    Chunked(Option<u64>),
    UntilClose,
}

/// `GET path`.
///
/// # Errors
/// When there is no answer, or one that is not HTTP.
pub fn get(address: SocketAddr, path: &str) -> Result<Response> {
    request(address, "GET", path, &[], &[])
}

/// `method path` with headers and a body.
///
/// # Errors
/// As [`get`].
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let url = format!("http://{address}{path}");
    exchange(address, method, path, headers, body)
        .map_err(|what| Error::Http { url, what: what.to_string() })
}

/// `GET path`, read line by line while it lasts.
///
/// # Errors
/// As [`get`], or when the status is not 200.
pub fn lines(address: SocketAddr, path: &str) -> Result<Lines> {
    let url = format!("http://{address}{path}");
    let error = |what: String| Error::Http { url: url.clone(), what };
    let opened = open(address, "GET", path, &[("accept", "text/event-stream")], &[]);
    let (status, _, body) = opened.map_err(|what| error(what.to_string()))?;
    match status {
        200 => Ok(Lines { body, pending: Vec::new() }),
        other => Err(error(format!("status {other}"))),
    }
}

fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    sent: &[u8],
) -> std::io::Result<Response> {
    let (status, headers, mut reader) = open(address, method, path, headers, sent)?;
    let mut body = Vec::new();
    reader.read_to_end(&mut body)?;
    Ok(Response { status, headers, body })
}

type Opened = (u16, Vec<(String, String)>, Body);

fn open(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Opened> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let status = line(&mut reader)?
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| std::io::Error::other("not an HTTP answer"))?;
    let mut headers = Vec::new();
    loop {
        let line = line(&mut reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let framing = framing(&headers);
    Ok((status, headers, Body { reader, framing }))
}

fn framing(headers: &[(String, String)]) -> Framing {
    let value =
        |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, v)| v.as_str());
    if value("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked(Some(0));
    }
    value("content-length")
        .and_then(|v| v.parse().ok())
        .map_or(Framing::UntilClose, Framing::Length)
}

fn line(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut text = String::new();
    reader.read_line(&mut text)?;
    Ok(text.trim_end().to_owned())
}

// === impl Response ===

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

// === impl Body ===

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Framing::Chunked(Some(0)) = self.framing {
            self.next_chunk()?;
        }
        let room = match self.framing {
            Framing::Length(left) | Framing::Chunked(Some(left)) => {
                buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX))
            }
            Framing::Chunked(None) => 0,
            Framing::UntilClose => buffer.len(),
        };
        let n = self.reader.read(&mut buffer[..room])?;
        match &mut self.framing {
            Framing::Length(left) if n == 0 && *left > 0 => {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            Framing::Length(left) => *left -= n as u64,
            Framing::Chunked(Some(left)) => {
                *left -= n as u64;
                if *left == 0 {
                    line(&mut self.reader)?;
                }
            }
            Framing::Chunked(None) | Framing::UntilClose => {}
        }
        Ok(n)
    }
}

impl Body {
    fn next_chunk(&mut self) -> std::io::Result<()> {
        let size = line(&mut self.reader)?;
        let size = size.split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(std::io::Error::other)?;
        self.framing = Framing::Chunked((size > 0).then_some(size));
        Ok(())
    }
}

// === impl Lines ===

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let mut buffer = [0; 4096];
            match self.body.read(&mut buffer) {
                Ok(n) if n > 0 => self.pending.extend_from_slice(&buffer[..n]),
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answer(text: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while !line(&mut reader).unwrap().is_empty() {}
            stream.write_all(text.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn reads_chunked_and_plain_bodies() {
        let chunked = answer(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        );
        let response = get(chunked, "/").unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "abcde"));
        let plain = answer("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno");
        let response = get(plain, "/").unwrap();
        assert_eq!((response.status, response.text().as_str()), (404, "no"));
    }

    #[test]
    fn a_short_body_is_an_error() {
        let cut = answer("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort");
        assert!(get(cut, "/").is_err());
    }
}
