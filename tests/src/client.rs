//! A small signed client over one kept connection, for what no SDK sends: raw, wrong and timed requests.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use neargate_auth::sigv4::{Outgoing, PathStyle, Payload, Signer};
use neargate_auth::{Secret, Timestamp};
use serde_json::{Value, json};

/// An answer takes longer than this only if the server hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Larger answers than this are not expected from any operation.
const BODY_BYTES_MAX: usize = 64 << 20;

/// What AWS tools read from their environment.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: String,
    /// `AWS_DEFAULT_REGION`.
    pub region: String,
}

/// An AWS service as a client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Amazon EC2, whose operations take a form and answer in XML.
    Ec2,
    /// Amazon ECS.
    Ecs,
    /// CloudWatch Logs.
    Logs,
}

impl Api {
    fn scope(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Ecs => "ecs",
            Self::Logs => "logs",
        }
    }

    fn target(self) -> Option<&'static str> {
        match self {
            Self::Ec2 => None,
            Self::Ecs => Some("AmazonEC2ContainerServiceV20141113"),
            Self::Logs => Some("Logs_20140328"),
        }
    }
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The AWS error code in the body: `__type` without its namespace.
    pub fn error_code(&self) -> String {
        let body = self.json();
        let code = body.get("__type").and_then(Value::as_str).unwrap_or_default();
        code.rsplit('#').next().unwrap_or_default().to_owned()
    }
}

/// A refused call.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The operation.
    pub operation: String,
    /// What came back.
    pub answer: Answer,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.answer.body);
        write!(f, "{} answered {}: {body}", self.operation, self.answer.status)
    }
}

impl std::error::Error for Refused {}

/// One kept connection to a server.
pub struct Client {
    address: String,
    credentials: Credentials,
    connection: Option<BufReader<TcpStream>>,
    /// A subnet of the default VPC, once it was asked for.
    subnet: Option<String>,
}

impl Client {
    /// A client of `http://ADDRESS:PORT`; it connects when it first sends.
    pub fn new(endpoint: &str, credentials: Credentials) -> Self {
        let address = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { address, credentials, connection: None, subnet: None }
    }

    /// Calls an ECS operation; anything but a 200 is a [`Refused`].
    pub fn ecs(&mut self, operation: &str, body: &Value) -> Result<Value> {
        self.call(Api::Ecs, operation, body)
    }

    /// Calls a CloudWatch Logs operation; anything but a 200 is a [`Refused`].
    pub fn logs(&mut self, operation: &str, body: &Value) -> Result<Value> {
        self.call(Api::Logs, operation, body)
    }

    /// What RunTask needs to know of the network of a task with the network mode `awsvpc`: a subnet of the default VPC.
    /// The server is asked once.
    pub fn network(&mut self) -> Result<Value> {
        if self.subnet.is_none() {
            self.subnet = Some(self.default_subnet()?);
        }
        let subnet = &self.subnet;
        Ok(json!({"awsvpcConfiguration": {"subnets": [subnet]}}))
    }

    fn default_subnet(&mut self) -> Result<String> {
        const OPERATION: &str = "DescribeSubnets";
        let form = format!(
            "Action={OPERATION}&Version=2016-11-15&Filter.1.Name=default-for-az&Filter.1.Value.1=true"
        );
        let answer = self.post(Api::Ec2, OPERATION, form.as_bytes())?;
        if answer.status != 200 {
            bail!(Refused { operation: OPERATION.to_owned(), answer });
        }
        let text = String::from_utf8_lossy(&answer.body);
        let after = text.split_once("<subnetId>").map(|(_, after)| after);
        let id = after.and_then(|after| after.split('<').next());
        id.map(str::to_owned).with_context(|| format!("find a subnet in {text}"))
    }

    fn call(&mut self, api: Api, operation: &str, body: &Value) -> Result<Value> {
        let answer = self.post(api, operation, body.to_string().as_bytes())?;
        if answer.status == 200 {
            return Ok(answer.json());
        }
        bail!(Refused { operation: operation.to_owned(), answer })
    }

    /// Sends a correctly signed request with any body.
    pub fn post(&mut self, api: Api, operation: &str, body: &[u8]) -> Result<Answer> {
        let headers = self.signed_headers(api, operation, body, now())?;
        self.send("POST", "/", &headers, body)
    }

    /// The headers of a signed request. A test may change them, or the time of the signature, before it sends.
    pub fn signed_headers(
        &self,
        api: Api,
        operation: &str,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Vec<(String, String)>> {
        let target = api.target().map(|prefix| format!("{prefix}.{operation}"));
        let content_type = match target {
            Some(_) => "application/x-amz-json-1.1",
            None => "application/x-www-form-urlencoded",
        };
        let mut plain = vec![("host", self.address.as_bytes()), ("content-type", content_type.as_bytes())];
        plain.extend(target.iter().map(|target| ("x-amz-target", target.as_bytes())));
        let request =
            Outgoing { method: "POST", path: "/", query: "", headers: &plain, payload: Payload::Bytes(body) };
        let secret = Secret::new(self.credentials.secret.as_str());
        let added = self.signer(api.scope(), &secret).sign_header(&request, now).context("sign request")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let plain = plain.iter().map(|(name, value)| ((*name).to_owned(), text(value)));
        Ok(plain.chain(added.into_iter().map(|(name, value)| (name.to_owned(), value))).collect())
    }

    /// A signed GET of the native API.
    pub fn native(&mut self, path: &str, query: &str) -> Result<Value> {
        let plain = [("host", self.address.as_bytes())];
        let request = Outgoing { method: "GET", path, query, headers: &plain, payload: Payload::Bytes(b"") };
        let signed = self
            .signer("neargate", &Secret::new(self.credentials.secret.as_str()))
            .sign_header(&request, now())
            .context("sign request")?;
        let host = ("host".to_owned(), self.address.clone());
        let added = signed.into_iter().map(|(name, value)| (name.to_owned(), value));
        let headers: Vec<(String, String)> = std::iter::once(host).chain(added).collect();
        let answer = self.send("GET", &format!("{path}?{query}"), &headers, b"")?;
        if answer.status == 200 {
            return Ok(answer.json());
        }
        bail!(Refused { operation: format!("GET {path}"), answer })
    }

    fn signer<'c>(&'c self, service: &'c str, secret: &'c Secret) -> Signer<'c> {
        Signer {
            access_key: &self.credentials.access_key,
            secret,
            session_token: None,
            region: &self.credentials.region,
            service,
            path_style: PathStyle::Normalized,
        }
    }

    /// An unsigned GET.
    pub fn get(&mut self, path: &str) -> Result<Answer> {
        let host = [("host".to_owned(), self.address.clone())];
        self.send("GET", path, &host, b"")
    }

    /// Sends a request as it is given, and reads the answer. A connection that broke is not tried again.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut message = head.into_bytes();
        message.extend_from_slice(body);
        let answer = self.exchange(&message, body.len());
        let is_last = |answer: &Answer| answer.header("connection") == Some("close");
        if answer.as_ref().map_or(true, is_last) {
            self.connection = None;
        }
        answer
    }

    fn exchange(&mut self, message: &[u8], body_bytes: usize) -> Result<Answer> {
        if self.connection.is_none() {
            let stream =
                TcpStream::connect(&self.address).with_context(|| format!("connect to {}", self.address))?;
            stream.set_nodelay(true).context("set TCP_NODELAY")?;
            stream.set_read_timeout(Some(ANSWER_LIMIT)).context("set read timeout")?;
            self.connection = Some(BufReader::new(stream));
        }
        let connection = self.connection.as_mut().expect("connected above");
        let sent = connection.get_mut().write_all(message);
        // A server may refuse a large body before it has read it all; its answer then explains the error.
        if body_bytes <= 1 << 16 {
            sent.context("send request")?;
        }
        read_answer(connection)
    }
}

/// The time that requests are signed with.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    Timestamp::from_unix_s(since_epoch.as_secs().cast_signed())
}

fn read_answer(from: &mut BufReader<TcpStream>) -> Result<Answer> {
    let status_line = read_line(from)?;
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("read status from {status_line:?}"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').with_context(|| format!("read header {line:?}"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    answer.body = match (answer.header("content-length"), answer.header("transfer-encoding")) {
        (Some(length), _) => read_exact(from, length.parse().context("read content-length")?)?,
        (None, Some("chunked")) => read_chunks(from)?,
        (None, _) => Vec::new(),
    };
    Ok(answer)
}

fn read_line(from: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    let bytes = from.read_line(&mut line).context("read answer")?;
    ensure!(bytes > 0, "read answer: the server closed the connection");
    line.truncate(line.trim_end().len());
    Ok(line)
}

fn read_exact(from: &mut BufReader<TcpStream>, bytes: usize) -> Result<Vec<u8>> {
    ensure!(bytes <= BODY_BYTES_MAX, "read answer: a body of {bytes} bytes is unexpected");
    let mut body = vec![0; bytes];
    from.read_exact(&mut body).context("read body")?;
    Ok(body)
}

fn read_chunks(from: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(from)?;
        let bytes = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)
            .with_context(|| format!("read chunk size {line:?}"))?;
        ensure!(body.len() + bytes <= BODY_BYTES_MAX, "read answer: the body is longer than expected");
        body.extend(read_exact(from, bytes)?);
        read_line(from)?;
        if bytes == 0 {
            return Ok(body);
        }
    }
}
