//! A server on the web that has content for a node to download: a good one, and every bad one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farmhand::tasks::Tasks;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::Notify;

/// What it does when asked for a path.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Gives it.
    Content(Vec<u8>),
    /// Says this status.
    Status(u16),
    /// Says that it is there.
    Redirect(String),
    /// Gives it to who has this header.
    For(&'static str, &'static str, Vec<u8>),
    /// Announces so many bytes, and sends these.
    Announced(usize, Vec<u8>),
    /// Sends bytes without end.
    Endless,
    /// Sends a byte now and then.
    Drip,
    /// Gives it when told to.
    Later(Arc<Notify>, Vec<u8>),
    /// Is a repository: asks `git upload-pack`, which has it there.
    Repository(PathBuf),
}

/// A running server; it ends with the test.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    body: Vec<u8>,
}

// === impl Origin ===

impl Origin {
    /// Answers under these paths; others are not there.
    pub(crate) async fn start(replies: &[(&str, Reply)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let replies: Vec<_> =
            replies.iter().map(|(path, reply)| ((*path).to_owned(), reply.clone())).collect();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let (replies, told) = (Arc::new(replies), Arc::clone(&heard));
        let tasks = Tasks::default();
        tasks.clone().spawn("origin", async move {
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn("answer", serve(stream, Arc::clone(&replies), Arc::clone(&told)));
            }
        });
        Self { address, heard }
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Every request so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// How often a path was asked for.
    pub(crate) fn hits(&self, path: &str) -> usize {
        self.heard().iter().filter(|heard| heard.path == path).count()
    }
}

async fn serve(stream: TcpStream, replies: Arc<Vec<(String, Reply)>>, told: Arc<Mutex<Vec<Heard>>>) {
    let mut stream = BufReader::new(stream);
    let Some(heard) = hear(&mut stream).await else { return };
    told.lock().unwrap().push(heard.clone());
    // A proxy is asked for whole addresses.
    let path = match heard.path.strip_prefix("http://") {
        Some(rest) => format!("/{}", rest.split_once('/').map_or("", |(_, path)| path)),
        None => heard.path.clone(),
    };
    let is_for = |(known, reply): &&(String, Reply)| match reply {
        Reply::Repository(_) => path.starts_with(known.as_str()),
        _ => path == *known,
    };
    let reply = replies.iter().find(is_for).map_or(Reply::Status(404), |(_, reply)| reply.clone());
    // Who asked may have gone.
    let _ = answer(stream.get_mut(), reply, &heard).await;
}

async fn hear(stream: &mut BufReader<TcpStream>) -> Option<Heard> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Heard { method, path, headers, body })
}

async fn answer(stream: &mut TcpStream, reply: Reply, heard: &Heard) -> std::io::Result<()> {
    match reply {
        Reply::Content(data) => content(stream, data.len(), &data).await,
        Reply::Announced(length, data) => content(stream, length, &data).await,
        Reply::Status(status) => {
            let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: 4\r\n\r\nno\r\n");
            stream.write_all(head.as_bytes()).await
        }
        Reply::Redirect(location) => {
            let head = format!("HTTP/1.1 302 There\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await
        }
        Reply::For(name, value, data) => match heard.headers.get(name).is_some_and(|given| given == value) {
            true => content(stream, data.len(), &data).await,
            false => stream.write_all(b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n").await,
        },
        Reply::Later(when, data) => {
            when.notified().await;
            content(stream, data.len(), &data).await
        }
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 64 * 1024]).await?;
            }
        }
        Reply::Drip => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await?;
            loop {
                stream.write_all(b"x").await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Reply::Repository(directory) => repository(stream, &directory, heard).await,
    }
}

async fn content(stream: &mut TcpStream, length: usize, data: &[u8]) -> std::io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await?;
    stream.write_all(data).await
}

/// The smart protocol of git, by `git upload-pack`.
async fn repository(stream: &mut TcpStream, directory: &Path, heard: &Heard) -> std::io::Result<()> {
    let mut command = Command::new("git");
    command.args(["upload-pack", "--stateless-rpc"]);
    if heard.method == "GET" {
        command.arg("--http-backend-info-refs");
    }
    let version = heard.headers.get("git-protocol").cloned().unwrap_or_default();
    command.arg(directory).env("GIT_PROTOCOL", version).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().unwrap().write_all(&heard.body).await?;
    let output = child.wait_with_output().await?.stdout;
    content(stream, output.len(), &output).await
}
