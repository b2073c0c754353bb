//! Key-value: redis-server where it is installed, else a server of our own that speaks enough of RESP
//! (Redis serialization protocol, version 2); and the client.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Kind, which, workload};

/// Its port.
pub(super) const PORT: u16 = 6379;
/// Longest value that our own server takes, bytes.
const LIMIT: usize = 64 * 1024;

type Store = Arc<Mutex<HashMap<String, String>>>;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Client {
    stream: BufReader<TcpStream>,
}

/// The program to run: the distribution's, or this one.
pub(super) fn command(weir: &Path) -> Command {
    let Ok(redis) = which("redis-server") else { return workload(weir, Kind::Redis) };
    let mut command = Command::new(redis);
    command.args(["--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no"]);
    command.args(["--save", "", "--appendonly", "no", "--maxmemory", "16mb"]);
    command
}

/// Serves until ended.
pub(super) async fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await?;
    let store = Store::default();
    loop {
        let (stream, _) = listener.accept().await?;
        let store = Arc::clone(&store);
        // An error ends this client's connection, and nothing else.
        tokio::spawn(async move { converse(BufReader::new(stream), &store).await });
    }
}

async fn converse(mut stream: BufReader<TcpStream>, store: &Store) -> Result<()> {
    loop {
        let count = prefixed(&mut stream, '*').await?;
        ensure!(count <= 8, "too many words");
        let mut words = Vec::new();
        for _ in 0..count {
            words.push(bulk(&mut stream).await?.context("a null word")?);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = execute(&words, store);
        stream.get_mut().write_all(answer.as_bytes()).await?;
    }
}

fn execute(words: &[&str], store: &Store) -> String {
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    match words {
        [c] if c.eq_ignore_ascii_case("PING") => "+PONG\r\n".to_owned(),
        [c, key] if c.eq_ignore_ascii_case("GET") => store.get(*key).map_or_else(
            || "$-1\r\n".to_owned(),
            |value| format!("${}\r\n{value}\r\n", value.len()),
        ),
        [c, key, value] if c.eq_ignore_ascii_case("SET") => {
            store.insert((*key).to_owned(), (*value).to_owned());
            "+OK\r\n".to_owned()
        }
        [c, key] if c.eq_ignore_ascii_case("INCR") => {
            let value = store.entry((*key).to_owned()).or_default();
            let next = value.parse::<i64>().unwrap_or(0) + 1;
            *value = next.to_string();
            format!(":{next}\r\n")
        }
        _ => "-ERR unknown command\r\n".to_owned(),
    }
}

// === impl Client ===

impl Client {
    /// Connects.
    pub(super) async fn connect(to: SocketAddr) -> Result<Self> {
        Ok(Self { stream: BufReader::new(TcpStream::connect(to).await?) })
    }

    /// One command and its answer as text; `None` is null.
    pub(super) async fn call(&mut self, words: &[&str]) -> Result<Option<String>> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(request.as_bytes()).await?;
        let mut kind = [0];
        self.stream.read_exact(&mut kind).await?;
        match kind[0] {
            b'$' => sized(&mut self.stream).await,
            b'-' => bail!(line(&mut self.stream).await?),
            _ => Ok(Some(line(&mut self.stream).await?)),
        }
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut text = String::new();
    ensure!(stream.read_line(&mut text).await? > 0, "the connection ended");
    Ok(text.trim_end().to_owned())
}

async fn prefixed(stream: &mut BufReader<TcpStream>, prefix: char) -> Result<usize> {
    let text = line(stream).await?;
    let number = text.strip_prefix(prefix).with_context(|| format!("not {prefix}: {text}"))?;
    Ok(number.parse()?)
}

async fn bulk(stream: &mut BufReader<TcpStream>) -> Result<Option<String>> {
    let mut kind = [0];
    stream.read_exact(&mut kind).await?;
    ensure!(kind == *b"$", "not a string");
    sized(stream).await
}

async fn sized(stream: &mut BufReader<TcpStream>) -> Result<Option<String>> {
    let Ok(length) = line(stream).await?.parse::<usize>() else { return Ok(None) };
    ensure!(length <= LIMIT, "too long");
    let mut data = vec![0; length + 2];
    stream.read_exact(&mut data).await?;
    data.truncate(length);
    Ok(Some(String::from_utf8(data)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn client_and_server_agree() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            converse(BufReader::new(stream), &Store::default()).await
        });
        let mut client = Client::connect(address).await.unwrap();
        assert_eq!(client.call(&["INCR", "n"]).await.unwrap().as_deref(), Some("1"));
        assert_eq!(client.call(&["SET", "k", "two words"]).await.unwrap().as_deref(), Some("OK"));
        assert_eq!(client.call(&["GET", "k"]).await.unwrap().as_deref(), Some("two words"));
        assert_eq!(client.call(&["GET", "none"]).await.unwrap(), None);
        assert!(client.call(&["FLUSHALL"]).await.is_err());
    }
}
