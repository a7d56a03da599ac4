//! `neargate env`: what AWS tools need to talk to the server, for a shell or as a profile.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use neargate_sdk::{Config, Credentials, ENDPOINT_DEFAULT, REGION_DEFAULT, local};

use super::connect::variable;
use super::hint::Hinted;
use super::ini;
use super::shell::Shell;

/// Options of `neargate env`.
#[derive(Args, Debug)]
pub(crate) struct EnvArgs {
    /// Data directory of the server, which holds its root key [default: NEARGATE_DATA, /var/lib/neargate as root, else
    /// below $XDG_DATA_HOME].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// URL of the server [default: where it last listened, http://127.0.0.1:7878].
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Region to use.
    #[arg(long, value_name = "REGION", default_value = REGION_DEFAULT)]
    region: String,
    /// Write this profile to the AWS files instead of printing variables.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Overwrite an existing profile without asking.
    #[arg(long, requires = "profile")]
    yes: bool,
    /// The shell that reads the variables.
    #[arg(long, value_enum, default_value = "posix", conflicts_with = "profile")]
    shell: Shell,
}

/// Prints variables, or writes a profile.
pub(crate) async fn run(args: EnvArgs) -> Result<ExitCode> {
    let access = Access::find(&args)?;
    match &args.profile {
        Some(name) => write_profile(name, &access, &AwsFiles::find()?, args.yes)?,
        None => {
            io::stdout().write_all(variables(args.shell, &access).as_bytes())?;
            if io::stdout().is_terminal() {
                eprintln!("hint: this shell takes them with: eval \"$(neargate env)\"");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How to reach the server.
struct Access {
    endpoint: String,
    region: String,
    credentials: Credentials,
}

impl Access {
    fn find(args: &EnvArgs) -> Result<Self> {
        let data = args.data.clone().or_else(|| local::data_dir(&variable));
        let no_home = || {
            let message = "find the server's data directory: there is no HOME".to_owned();
            Hinted::not_found(message, "name it with --data")
        };
        let data = data.ok_or_else(no_home)?;
        let credentials = local::root_key(&data)?.ok_or_else(|| {
            let message = format!("read root key {}", local::root_key_path(&data).display());
            let hint = "start a server with `neargate serve`, which makes one, or name its data directory with --data; \
                        only the user who runs the server can read it";
            Hinted::not_found(message, hint)
        })?;
        let endpoint = args.endpoint.clone().or_else(|| local::endpoint(&data));
        let endpoint = endpoint.unwrap_or_else(|| ENDPOINT_DEFAULT.to_owned());
        let config = Config::new(&endpoint, &args.region, credentials)?;
        Ok(Self {
            endpoint: config.endpoint(),
            region: args.region.clone(),
            credentials: config.credentials().clone(),
        })
    }
}

fn variables(shell: Shell, access: &Access) -> String {
    let values = [
        ("AWS_ENDPOINT_URL", access.endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", &access.credentials.access_key),
        ("AWS_SECRET_ACCESS_KEY", access.credentials.secret.expose()),
        ("AWS_REGION", &access.region),
        ("AWS_DEFAULT_REGION", &access.region),
    ];
    let mut text: String = values.iter().map(|(name, value)| shell.export(name, value)).collect();
    // A token of another key would make every signature invalid.
    text.push_str(&shell.unset("AWS_SESSION_TOKEN"));
    text
}

/// The two files that AWS tools read.
struct AwsFiles {
    config: PathBuf,
    credentials: PathBuf,
}

impl AwsFiles {
    fn find() -> Result<Self> {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        let file = |name: &str, below_home: &str| {
            let path = get(name).map(PathBuf::from);
            path.or_else(|| get("HOME").map(|home| PathBuf::from(home).join(below_home)))
        };
        let config = file("AWS_CONFIG_FILE", ".aws/config");
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        let (Some(config), Some(credentials)) = (config, credentials) else {
            let message = "find the AWS files: there is no HOME".to_owned();
            let hint = "set HOME, or AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE";
            return Err(Hinted::not_found(message, hint).into());
        };
        Ok(Self { config, credentials })
    }
}

fn write_profile(name: &str, access: &Access, files: &AwsFiles, yes: bool) -> Result<()> {
    let is_named = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@+/:".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_named) {
        let message = format!("use '{}' as the name of a profile", name.escape_debug());
        return Err(Hinted::refused(message, "use letters, digits and any of -_.@+/:").into());
    }
    let section = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let (config, credentials) = (read(&files.config)?, read(&files.credentials)?);
    if ini::has_section(&config, &section) || ini::has_section(&credentials, name) {
        confirm(name, files, yes)?;
    }
    let place = [("region", access.region.as_str()), ("endpoint_url", access.endpoint.as_str())];
    let keys = [
        ("aws_access_key_id", access.credentials.access_key.as_str()),
        ("aws_secret_access_key", access.credentials.secret.expose()),
    ];
    write(&files.config, &ini::set_section(&config, &section, &place))?;
    write(&files.credentials, &ini::set_section(&credentials, name, &keys))?;
    eprintln!("wrote profile {name} to {} and {}", files.config.display(), files.credentials.display());
    eprintln!("hint: use it with: aws --profile {name} ecs list-clusters");
    Ok(())
}

/// Returns when the profile may be overwritten.
fn confirm(name: &str, files: &AwsFiles, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    let refuse = |hint: &str| {
        let (config, credentials) = (files.config.display(), files.credentials.display());
        let message = format!("write profile {name}: {config} or {credentials} has it already");
        Err(Hinted::refused(message, hint).into())
    };
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return refuse("--yes overwrites it");
    }
    eprint!(
        "overwrite profile {name} in {} and {}? [y/N] ",
        files.config.display(),
        files.credentials.display()
    );
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("read the answer")?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => refuse("nothing was changed; name another profile"),
    }
}

/// A file that does not exist is empty.
fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result.with_context(|| format!("read {}", path.display())),
    }
}

/// Writes a file so that it is there whole or not at all, readable by its owner only. A link is followed, not replaced.
fn write(path: &Path, text: &str) -> Result<()> {
    let attempt = || -> io::Result<()> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        make_private_dir(parent)?;
        // A temporary file has the mode 0600 from its beginning.
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path).map(drop).map_err(|error| error.error)
    };
    attempt().with_context(|| format!("write {}", path.display()))
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use neargate_sdk::Secret;

    use super::*;

    fn access() -> Access {
        let credentials =
            Credentials { access_key: "AKROOT".into(), secret: Secret::new("se'cret"), session_token: None };
        Access { endpoint: "http://127.0.0.1:7878".into(), region: "us-east-1".into(), credentials }
    }

    #[test]
    fn variables_are_all_that_aws_tools_need() {
        let expect = "export AWS_ENDPOINT_URL='http://127.0.0.1:7878'\nexport AWS_ACCESS_KEY_ID='AKROOT'\n\
                      export AWS_SECRET_ACCESS_KEY='se'\\''cret'\nexport AWS_REGION='us-east-1'\n\
                      export AWS_DEFAULT_REGION='us-east-1'\nunset AWS_SESSION_TOKEN\n";
        assert_eq!(variables(Shell::Posix, &access()), expect);
    }

    #[test]
    fn a_profile_is_written_without_touching_the_others() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join("aws").join(name);
        let files = AwsFiles { config: path("config"), credentials: path("credentials") };
        write_profile("near", &access(), &files, false).unwrap();
        let config = fs::read_to_string(&files.config).unwrap();
        assert_eq!(config, "[profile near]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:7878\n");
        let credentials = fs::read_to_string(&files.credentials).unwrap();
        assert_eq!(credentials, "[near]\naws_access_key_id = AKROOT\naws_secret_access_key = se'cret\n");
        for path in [&files.config, &files.credentials] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        write_profile("default", &access(), &files, false).unwrap();
        assert!(fs::read_to_string(&files.config).unwrap().starts_with(&config));
        assert!(fs::read_to_string(&files.config).unwrap().contains("\n[default]\n"));
    }

    #[test]
    fn an_existing_profile_is_overwritten_only_when_asked_to() {
        let home = tempfile::tempdir().unwrap();
        let real = home.path().join("dotfiles");
        let files =
            AwsFiles { config: home.path().join("config"), credentials: home.path().join("credentials") };
        let old = "[near]\naws_access_key_id = OLD\naws_session_token = t\n[other]\nx = 1\n";
        fs::write(&real, old).unwrap();
        std::os::unix::fs::symlink(&real, &files.credentials).unwrap();
        let error = write_profile("near", &access(), &files, false).unwrap_err();
        assert!(error.to_string().contains("has it already"), "{error}");
        assert_eq!(fs::read_to_string(&real).unwrap(), old);
        assert!(!files.config.exists());
        write_profile("near", &access(), &files, true).unwrap();
        let expect = "[near]\naws_access_key_id = AKROOT\naws_secret_access_key = se'cret\n[other]\nx = 1\n";
        assert_eq!(fs::read_to_string(&real).unwrap(), expect);
        assert!(fs::symlink_metadata(&files.credentials).unwrap().is_symlink());
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let files =
            AwsFiles { config: home.path().join("config"), credentials: home.path().join("credentials") };
        for name in ["", "a]", "a b", "a\nb", "\"a\""] {
            assert!(write_profile(name, &access(), &files, true).is_err(), "{name:?}");
        }
        assert!(!files.config.exists());
    }

    #[test]
    fn the_server_is_found_through_its_data_directory() {
        let data = tempfile::tempdir().unwrap();
        let args = |endpoint: Option<&str>| EnvArgs {
            data: Some(data.path().to_owned()),
            endpoint: endpoint.map(str::to_owned),
            region: "us-east-1".into(),
            profile: None,
            yes: false,
            shell: Shell::Posix,
        };
        let error = Access::find(&args(None)).err().unwrap();
        assert!(error.to_string().starts_with("read root key "), "{error}");
        let key = r#"{"access_key_id": "AKROOT", "secret_access_key": "s"}"#;
        fs::write(data.path().join("root-key.json"), key).unwrap();
        assert_eq!(Access::find(&args(None)).unwrap().endpoint, ENDPOINT_DEFAULT);
        fs::write(data.path().join("endpoint"), "http://127.0.0.1:9\n").unwrap();
        let access = Access::find(&args(None)).unwrap();
        assert_eq!(
            (access.endpoint.as_str(), access.credentials.access_key.as_str()),
            ("http://127.0.0.1:9", "AKROOT")
        );
        assert_eq!(Access::find(&args(Some("http://other:1"))).unwrap().endpoint, "http://other:1");
        assert!(Access::find(&args(Some("nonsense"))).is_err());
    }
}
