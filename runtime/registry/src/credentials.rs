//! Who pulls: the files that `docker login` and `podman login` write, and the programs that keep what they do not.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use neargate_model::image::DEFAULT_REGISTRY;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::error::CredentialError;
use crate::transport::printable;

/// Docker Hub's name in the files.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// A longer file is a mistake.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// A program may ask a person's keyring or another server, and no longer than this.
const HELPER_LIMIT: Duration = Duration::from_secs(30);
/// What a program may answer.
const HELPER_BYTES_MAX: u64 = 64 << 10;
/// How often it is looked whether a program has ended.
const HELPER_POLL: Duration = Duration::from_millis(10);
/// The user that a program names when the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What shows a registry who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user; empty with an identity token.
    pub username: String,
    /// A password or an identity token.
    pub secret: String,
    /// Whether `secret` is to be exchanged for tokens (OAuth 2.0, RFC 6749 §6).
    pub is_identity_token: bool,
}

impl Credential {
    /// A user and a password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), secret: password.into(), is_identity_token: false }
    }

    /// Tells credentials apart without holding them.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let kind = [u8::from(self.is_identity_token)];
        let length = (self.username.len() as u64).to_be_bytes();
        let parts = [kind.as_slice(), &length, self.username.as_bytes(), self.secret.as_bytes()];
        let hash = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part));
        hash.finalize().into()
    }

    /// The value of `Authorization`.
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.secret)))
    }
}

/// Nobody finds a secret in a log.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Where credentials are looked for, the first that has some for a registry.
#[derive(Clone, Debug, Default)]
pub struct CredentialFiles {
    files: Vec<PathBuf>,
    path: Option<OsString>,
}

impl CredentialFiles {
    /// Those of an environment: `$REGISTRY_AUTH_FILE` alone if it is set; else `own`, then
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json` and
    /// `~/.config/containers/auth.json`.
    pub fn of_environment(own: Option<PathBuf>, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let directory = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = variable("PATH");
        if let Some(file) = directory("REGISTRY_AUTH_FILE") {
            return Self { files: vec![file], path };
        }
        let home = directory("HOME");
        let docker = directory("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        let podman = directory("XDG_RUNTIME_DIR").into_iter().chain(home.map(|home| home.join(".config")));
        let files = own.into_iter().chain(docker.map(|docker| docker.join("config.json")));
        let files = files.chain(podman.map(|directory| directory.join("containers/auth.json")));
        Self { files: files.collect(), path }
    }

    /// These files and no others.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files, path: std::env::var_os("PATH") }
    }

    /// The credential for a repository of a registry. Blocks for as long as a program takes that is asked.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
        for path in &self.files {
            let Some(file) = read(path)? else { continue };
            if let Some(found) = self.find_in(&file, path, registry, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn find_in(
        &self,
        file: &File,
        path: &Path,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let server = if registry == DEFAULT_REGISTRY { DOCKER_HUB_KEY } else { registry };
        let hosts = [server, registry];
        if let Some(helper) = hosts.iter().find_map(|host| file.cred_helpers.get(*host)) {
            return self.ask(helper, server, path);
        }
        let entry = keys(registry, repository).into_iter().find_map(|key| file.auths.get(&key));
        if let Some(credential) = entry.map(|entry| entry.credential(path)).transpose()?.flatten() {
            return Ok(Some(credential));
        }
        match &file.creds_store {
            Some(helper) if !helper.is_empty() => self.ask(helper, server, path),
            _ => Ok(None),
        }
    }

    /// Asks `docker-credential-<helper> get`.
    fn ask(&self, helper: &str, server: &str, path: &Path) -> Result<Option<Credential>, CredentialError> {
        let failed =
            |what: String| CredentialError::Helper { helper: helper.chars().take(64).collect(), what };
        // The file names a program that runs with our rights: it must be a name, and the file nobody else's.
        let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if helper.len() > 64 || !helper.chars().all(is_name) {
            return Err(failed("its name is not of letters, digits, . _ and -".to_owned()));
        }
        check_owner(path).map_err(failed)?;
        let mut command = Command::new(format!("docker-credential-{helper}"));
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let mut child = command.spawn().map_err(|error| failed(format!("start it: {error}")))?;
        let answer = converse(&mut child, server);
        if answer.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let (is_success, text) = answer.map_err(|error| failed(error.to_string()))?;
        if !is_success {
            let text = text.trim();
            let is_unknown = text.contains("credentials not found") || text.contains("no credentials");
            return if is_unknown { Ok(None) } else { Err(failed(format!("it says {:?}", printable(text)))) };
        }
        let answer: Answer =
            serde_json::from_str(&text).map_err(|error| failed(format!("read its answer: {error}")))?;
        if answer.secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(match answer.username == TOKEN_USER {
            true => Credential { username: String::new(), secret: answer.secret, is_identity_token: true },
            false => Credential::password(answer.username, answer.secret),
        }))
    }
}

/// Gives a program the server's name, and waits for its answer and end.
fn converse(child: &mut Child, server: &str) -> io::Result<(bool, String)> {
    if let Some(mut stdin) = child.stdin.take() {
        // One that needs no name may have closed it.
        let _ = stdin.write_all(server.as_bytes());
    }
    let stdout = child.stdout.take();
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let reading = std::thread::Builder::new().name("credential-helper".to_owned()).spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|stdout| stdout.take(HELPER_BYTES_MAX).read_to_string(&mut text)).transpose();
        let _ = sender.send(read.map(|_| text));
    })?;
    let deadline = Instant::now() + HELPER_LIMIT;
    let late =
        || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", HELPER_LIMIT.as_secs()));
    let text = receiver.recv_timeout(HELPER_LIMIT).map_err(|_| late())??;
    drop(reading);
    loop {
        match child.try_wait()? {
            Some(status) => return Ok((status.success(), text)),
            None if Instant::now() > deadline => return Err(late()),
            None => std::thread::sleep(HELPER_POLL),
        }
    }
}

/// Who may write the file may run programs as us.
fn check_owner(path: &Path) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    let own = rustix::process::geteuid().as_raw();
    let is_ours = meta.uid() == own || meta.uid() == 0;
    if is_ours && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let advice = "others can write the file that names it; chmod go-w it, and give it to the user that pulls";
    Err(format!("{advice}: {}", path.display()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Entry {
    fn credential(&self, path: &Path) -> Result<Option<Credential>, CredentialError> {
        let malformed =
            |what: &str| CredentialError::Malformed { path: path.to_owned(), what: what.to_owned() };
        if let Some(secret) = self.identitytoken.clone().filter(|token| !token.is_empty()) {
            return Ok(Some(Credential { username: String::new(), secret, is_identity_token: true }));
        }
        if let Some(auth) = self.auth.as_deref().filter(|auth| !auth.is_empty()) {
            let bytes = STANDARD.decode(auth.trim()).map_err(|_| malformed("an auth is not base64"))?;
            let text = String::from_utf8(bytes).map_err(|_| malformed("an auth is not text"))?;
            let (user, password) = text.split_once(':').ok_or_else(|| malformed("an auth has no :"))?;
            return Ok(Some(Credential::password(user, password.trim_end_matches('\0'))));
        }
        match (&self.username, &self.password) {
            (Some(user), Some(password)) => Ok(Some(Credential::password(user, password))),
            _ => Ok(None),
        }
    }
}

/// The keys under which a file may have a repository's credential, the most special first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut below = format!("{registry}/{repository}");
    while below.len() > registry.len() {
        keys.push(below.clone());
        below.truncate(below.rfind('/').unwrap_or(0));
    }
    let mut hosts = vec![registry];
    if registry == DEFAULT_REGISTRY {
        keys.push(DOCKER_HUB_KEY.to_owned());
        hosts.extend(["index.docker.io", "registry-1.docker.io"]);
    }
    for host in hosts {
        let forms = ["", "https://", "http://"].map(|scheme| format!("{scheme}{host}"));
        keys.extend(
            forms.iter().flat_map(|form| ["", "/", "/v1/", "/v2/"].map(|end| format!("{form}{end}"))),
        );
    }
    keys
}

fn read(path: &Path) -> Result<Option<File>, CredentialError> {
    let file = |source| CredentialError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    match fs::File::open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        // That of whoever started a server which is somebody else by now.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::debug!(path = %path.display(), "credentials are not ours to read");
            return Ok(None);
        }
        opened => opened.and_then(|f| f.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(file)?,
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(file(io::ErrorKind::FileTooLarge.into()));
    }
    let parsed = serde_json::from_slice(&bytes);
    // The parser's message could show a part of a secret.
    let malformed = |error: serde_json::Error| CredentialError::Malformed {
        path: path.to_owned(),
        what: format!("it is not JSON as Docker writes it, near line {}", error.line()),
    };
    parsed.map(Some).map_err(malformed)
}

#[cfg(test)]
mod tests;
