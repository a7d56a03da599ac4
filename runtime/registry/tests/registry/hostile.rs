//! A registry that does what a test tells it to, byte by byte.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::image::Image;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }

    /// First and last byte of `Range`.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// All of it, with its length.
    Whole(Vec<u8>),
    /// This length is claimed, and these bytes come before the connection is closed.
    Cut(Vec<u8>, usize),
    /// The same, and then nothing for ever.
    Stalled(Vec<u8>, usize),
    /// Bytes that never end, without a length.
    Endless,
    /// One byte after the other, this far apart.
    Slow(Vec<u8>, Duration),
    /// Not even a head.
    Silent,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(body.into()) }
    }

    pub(crate) fn body(status: u16, body: Body) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn not_found() -> Self {
        Self::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
    }
}

type Script = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// A running registry; it ends when it is dropped.
pub(crate) struct Registry {
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    log: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Registry {
    pub(crate) async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (log, script): (Arc<Mutex<Vec<Asked>>>, Script) = (Arc::default(), Arc::new(script));
        let seen = log.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (script, log) = (script.clone(), seen.clone());
                tokio::spawn(async move { serve(stream, &script, &log).await });
            }
        });
        Self { address, log, task }
    }

    /// One that has these images, honestly.
    pub(crate) async fn honest(images: Vec<(&'static str, Image)>) -> Self {
        Self::start(move |asked| {
            let reply = images.iter().find_map(|(name, image)| image.reply(name, asked));
            reply.unwrap_or_else(Reply::not_found)
        })
        .await
    }

    pub(crate) fn reference(&self, rest: &str) -> neargate_model::image::ImageReference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    pub(crate) fn log(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.log().iter().filter(|asked| asked.is(method, part)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, script: &Script, log: &Mutex<Vec<Asked>>) -> Option<()> {
    loop {
        let asked = read(&mut stream).await?;
        log.lock().unwrap().push(asked.clone());
        let reply = script(&asked);
        let (length, bytes) = match &reply.body {
            Body::Whole(bytes) => (Some(bytes.len()), bytes.clone()),
            Body::Slow(bytes, _) => (Some(bytes.len()), Vec::new()),
            Body::Cut(bytes, length) | Body::Stalled(bytes, length) => (Some(*length), bytes.clone()),
            Body::Endless => (None, vec![b'x'; 1 << 16]),
            Body::Silent => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                return None;
            }
        };
        let mut head = format!("HTTP/1.1 {} Said\r\n", reply.status);
        reply.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        if let Some(length) = length {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        if asked.method != "HEAD" {
            stream.write_all(&bytes).await.ok()?;
        }
        match &reply.body {
            Body::Whole(_) => {}
            Body::Slow(bytes, pause) => {
                for byte in bytes {
                    stream.write_all(&[*byte]).await.ok()?;
                    tokio::time::sleep(*pause).await;
                }
            }
            Body::Stalled(..) => tokio::time::sleep(Duration::from_secs(3600)).await,
            Body::Cut(..) | Body::Silent => return None,
            Body::Endless => loop {
                stream.write_all(&bytes).await.ok()?;
            },
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(bytes).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let header =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let headers: HashMap<String, String> = lines.filter_map(header).collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { method, path, headers, body: String::from_utf8(body).ok()? })
}
