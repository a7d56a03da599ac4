//! The search for endpoint, keys and region; [`Config::from_env`] documents the order.

use std::io;
use std::path::{Path, PathBuf};

use neargate_auth::Secret;

use crate::config::{
    Config, ConfigError, Credentials, ENDPOINT_DEFAULT, Endpoint, Explicit, Lookup, REGION_DEFAULT,
};
use crate::ini::{Ini, Section};
use crate::local;

pub(crate) fn resolve(explicit: &Explicit, lookup: Lookup<'_>) -> Result<Config, ConfigError> {
    let env = Env { lookup };
    let profile = Profile::read(explicit.profile.as_deref(), &env)?;
    let data = explicit.data.clone().or_else(|| local::data_dir(lookup));
    let noted = || data.as_deref().and_then(local::endpoint);
    let named = named_endpoint(explicit, &env, &profile);
    let is_local = named.is_none();
    let (endpoint, origin) = named
        .or_else(|| noted().map(|url| (url, "the server's data directory")))
        .unwrap_or_else(|| (ENDPOINT_DEFAULT.to_owned(), "the default"));
    let endpoint = Endpoint::parse(&endpoint, origin)?.to_string();
    let region = explicit.region.clone();
    let region = region.or_else(|| env.get("AWS_REGION")).or_else(|| env.get("AWS_DEFAULT_REGION"));
    let region = region.or_else(|| profile.get("region")).unwrap_or_else(|| REGION_DEFAULT.to_owned());
    let credentials = credentials(explicit, &env, &profile, data.as_ref(), is_local)?;
    Config::new(&endpoint, region, credentials)
}

struct Env<'a> {
    lookup: Lookup<'a>,
}

impl Env<'_> {
    /// The variable, unless it is empty, which AWS's tools take for absent.
    fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The file that the variable names, else the one below the home directory, if there is one.
    fn file(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let home = || self.get("HOME").or_else(|| self.get("USERPROFILE"));
        let default = || home().map(|home| PathBuf::from(home).join(below_home));
        self.get(variable).map(PathBuf::from).or_else(default)
    }
}

/// Who chose the profile, which decides how seriously it is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Caller,
    Variable,
    Nobody,
}

/// A profile as both files have it.
struct Profile {
    name: String,
    chosen: Chosen,
    /// In the order in which keys are looked for: the credentials file, then the config file.
    sections: Vec<Section>,
    /// The config file's `[services …]` section that the profile names.
    services: Option<Section>,
}

impl Profile {
    fn read(explicit: Option<&str>, env: &Env<'_>) -> Result<Self, ConfigError> {
        let variable = || env.get("AWS_PROFILE").or_else(|| env.get("AWS_DEFAULT_PROFILE"));
        let (name, chosen) = match explicit {
            Some(name) => (name.to_owned(), Chosen::Caller),
            None => match variable() {
                Some(name) => (name, Chosen::Variable),
                None => ("default".to_owned(), Chosen::Nobody),
            },
        };
        let config_path = env.file("AWS_CONFIG_FILE", ".aws/config");
        let credentials_path = env.file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
        let config = read_ini(config_path.as_deref())?;
        let credentials = read_ini(credentials_path.as_deref())?;
        let of_config = config.config_profile(&name);
        let sections: Vec<_> =
            [credentials.section(&name), of_config].into_iter().flatten().cloned().collect();
        if sections.is_empty() && chosen != Chosen::Nobody {
            let [config, credentials] = [config_path, credentials_path].map(Option::unwrap_or_default);
            return Err(ConfigError::NoProfile { name, config, credentials });
        }
        let services = of_config.and_then(|section| section.get("services"));
        let services = services.and_then(|name| config.section(&format!("services {name}"))).cloned();
        Ok(Self { name, chosen, sections, services })
    }

    fn get(&self, key: &str) -> Option<String> {
        self.sections.iter().find_map(|section| section.get(key)).filter(|value| !value.is_empty()).cloned()
    }

    fn endpoint(&self) -> Option<String> {
        let of_service = self.services.as_ref().and_then(|section| section.get("ecs.endpoint_url")).cloned();
        of_service.or_else(|| self.get("endpoint_url"))
    }

    /// The keys, all from the same section.
    fn credentials(&self) -> Result<Option<Credentials>, ConfigError> {
        let Some(section) = self.sections.iter().find(|section| section.contains_key("aws_access_key_id"))
        else {
            return Ok(None);
        };
        let get = |key: &str| section.get(key).filter(|value| !value.is_empty()).cloned();
        let origin = || format!("profile '{}'", self.name);
        key_pair(get("aws_access_key_id"), get("aws_secret_access_key"), get("aws_session_token"), origin)
    }
}

/// A file that does not exist is empty.
fn read_ini(path: Option<&Path>) -> Result<Ini, ConfigError> {
    let Some(path) = path else { return Ok(Ini::default()) };
    match std::fs::read(path) {
        Ok(bytes) => Ok(Ini::parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Ini::default())
        }
        Err(source) => Err(ConfigError::File { path: path.to_owned(), source }),
    }
}

/// The endpoint that somebody chose, and who did.
fn named_endpoint(explicit: &Explicit, env: &Env<'_>, profile: &Profile) -> Option<(String, &'static str)> {
    if let Some(endpoint) = &explicit.endpoint {
        return Some((endpoint.clone(), "the caller"));
    }
    if let Some(endpoint) = env.get("NEARGATE_ENDPOINT") {
        return Some((endpoint, "NEARGATE_ENDPOINT"));
    }
    // AWS SDKs and Tools Reference Guide, "Service-specific endpoints".
    if env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        return None;
    }
    let variable = |name: &'static str| env.get(name).map(|endpoint| (endpoint, name));
    variable("AWS_ENDPOINT_URL_ECS")
        .or_else(|| variable("AWS_ENDPOINT_URL"))
        .or_else(|| profile.endpoint().map(|endpoint| (endpoint, "the AWS profile")))
}

fn credentials(
    explicit: &Explicit,
    env: &Env<'_>,
    profile: &Profile,
    data: Option<&PathBuf>,
    is_local: bool,
) -> Result<Credentials, ConfigError> {
    if let Some(credentials) = &explicit.credentials {
        return Ok(credentials.clone());
    }
    if profile.chosen == Chosen::Caller {
        return profile.credentials()?.ok_or_else(|| ConfigError::NoKeys { name: profile.name.clone() });
    }
    let variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let [access_key, secret, token] = variables.map(|name| env.get(name));
    if let Some(credentials) = key_pair(access_key, secret, token, || "the environment".to_owned())? {
        return Ok(credentials);
    }
    let root_key = || data.map_or(Ok(None), |data| local::root_key(data));
    let found = if is_local && profile.chosen == Chosen::Nobody {
        first(root_key()?, || profile.credentials())?
    } else {
        first(profile.credentials()?, root_key)?
    };
    found.ok_or_else(|| ConfigError::NoCredentials {
        profile: profile.name.clone(),
        root_key: data.map(|data| local::root_key_path(data)),
    })
}

fn first<T, E>(one: Option<T>, other: impl FnOnce() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
    if one.is_some() { Ok(one) } else { other() }
}

fn key_pair(
    access_key: Option<String>,
    secret: Option<String>,
    session_token: Option<String>,
    origin: impl FnOnce() -> String,
) -> Result<Option<Credentials>, ConfigError> {
    let Some(access_key) = access_key else { return Ok(None) };
    let Some(secret) = secret else { return Err(ConfigError::NoSecret { origin: origin() }) };
    let session_token = session_token.map(Secret::new);
    Ok(Some(Credentials { access_key, secret: Secret::new(secret), session_token }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A home directory with these files, and what is found from there with these variables.
    fn search(
        explicit: Explicit,
        files: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        let home = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let data = home.path().join("data");
        let mut all = BTreeMap::from([
            ("HOME", home.path().to_str().unwrap()),
            ("NEARGATE_DATA", data.to_str().unwrap()),
        ]);
        all.extend(variables.iter().copied());
        resolve(&explicit, &|name| all.get(name).map(|value| (*value).to_owned()))
    }

    const ROOT: (&str, &str) =
        ("data/root-key.json", r#"{"access_key_id":"AKROOT","secret_access_key":"s"}"#);
    const NOTED: (&str, &str) = ("data/endpoint", "http://noted:1\n");
    const CREDENTIALS: (&str, &str) = (
        ".aws/credentials",
        "[default]\naws_access_key_id=AKDEFAULT\naws_secret_access_key=s\n[dev]\naws_access_key_id=AKDEV\n\
         aws_secret_access_key=s\naws_session_token=t\n[half]\naws_access_key_id=AKHALF\n",
    );
    const CONFIG: (&str, &str) = (
        ".aws/config",
        "[profile dev]\nregion=eu-west-1\nservices=local\nendpoint_url=http://profile:1\n\
         [services local]\necs =\n  endpoint_url=http://services:1\n\
         [profile plain]\nendpoint_url=http://plain:1\n[profile inconfig]\naws_access_key_id=AKCONFIG\n\
         aws_secret_access_key=s\n",
    );
    const ENV_KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "s")];

    #[test]
    fn endpoints_come_in_order() {
        let check = |named: Option<&str>, variables: &[(&str, &str)], expect: &str| {
            let explicit = Explicit { endpoint: named.map(str::to_owned), ..Explicit::default() };
            let found = search(explicit, &[ROOT, NOTED, CREDENTIALS, CONFIG], variables).unwrap();
            assert_eq!(found.endpoint(), expect, "{variables:?}");
        };
        let own = ("NEARGATE_ENDPOINT", "http://own:1");
        let ecs = ("AWS_ENDPOINT_URL_ECS", "http://ecs:1");
        let all = ("AWS_ENDPOINT_URL", "http://all:1");
        let dev = ("AWS_PROFILE", "dev");
        let ignore = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
        check(Some("http://flag:1"), &[own, ecs, all, dev], "http://flag:1");
        check(None, &[own, ecs, all, dev, ignore], "http://own:1");
        check(None, &[ecs, all, dev], "http://ecs:1");
        check(None, &[all, dev], "http://all:1");
        check(None, &[dev], "http://services:1");
        check(None, &[("AWS_PROFILE", "plain")], "http://plain:1");
        check(None, &[("AWS_ENDPOINT_URL", ""), ecs, all, dev, ignore], "http://noted:1");
        check(None, &[], "http://noted:1");
        assert_eq!(search(Explicit::default(), &[ROOT], &[]).unwrap().endpoint(), ENDPOINT_DEFAULT);
    }

    #[test]
    fn keys_come_in_order() {
        let check = |profile: Option<&str>, variables: &[(&str, &str)], expect: &str| {
            let explicit = Explicit { profile: profile.map(str::to_owned), ..Explicit::default() };
            let found = search(explicit, &[ROOT, CREDENTIALS, CONFIG], variables).unwrap();
            assert_eq!(found.credentials().access_key, expect, "{profile:?} {variables:?}");
        };
        let [id, secret] = ENV_KEYS;
        check(Some("dev"), &ENV_KEYS, "AKDEV");
        check(None, &[id, secret, ("AWS_PROFILE", "dev")], "AKENV");
        check(None, &[("AWS_PROFILE", "dev")], "AKDEV");
        check(None, &[("AWS_PROFILE", "inconfig")], "AKCONFIG");
        check(None, &[("AWS_PROFILE", "plain")], "AKROOT");
        check(None, &[], "AKROOT");
        check(None, &[("AWS_ENDPOINT_URL", "http://elsewhere:1")], "AKDEFAULT");
        let without_root = search(Explicit::default(), &[CREDENTIALS], &[]).unwrap();
        assert_eq!(without_root.credentials().access_key, "AKDEFAULT");
    }

    #[test]
    fn a_session_token_belongs_to_its_key() {
        let token = |variables: &[(&str, &str)]| {
            let found = search(Explicit::default(), &[CREDENTIALS, CONFIG], variables).unwrap();
            found.credentials().session_token.as_ref().map(|token| token.expose().to_owned())
        };
        let [id, secret] = ENV_KEYS;
        assert_eq!(token(&[("AWS_PROFILE", "dev")]).as_deref(), Some("t"));
        assert_eq!(token(&[("AWS_PROFILE", "dev"), id, secret]), None);
        assert_eq!(token(&[id, secret, ("AWS_SESSION_TOKEN", "u")]).as_deref(), Some("u"));
    }

    #[test]
    fn regions_come_in_order() {
        let check = |variables: &[(&str, &str)], expect: &str| {
            let found = search(Explicit::default(), &[CREDENTIALS, CONFIG], variables).unwrap();
            assert_eq!(found.region(), expect, "{variables:?}");
        };
        let dev = ("AWS_PROFILE", "dev");
        check(&[("AWS_REGION", "r1"), ("AWS_DEFAULT_REGION", "r2"), dev], "r1");
        check(&[("AWS_DEFAULT_REGION", "r2"), dev], "r2");
        check(&[dev], "eu-west-1");
        check(&[], REGION_DEFAULT);
    }

    #[test]
    fn the_aws_files_may_lie_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = home.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (credentials, config) = (write("a", CREDENTIALS.1), write("b", CONFIG.1));
        let variables = [
            ("AWS_SHARED_CREDENTIALS_FILE", credentials.as_str()),
            ("AWS_CONFIG_FILE", &config),
            ("AWS_PROFILE", "dev"),
        ];
        let found = search(Explicit::default(), &[], &variables).unwrap();
        assert_eq!((found.region(), found.endpoint().as_str()), ("eu-west-1", "http://services:1"));
    }

    #[test]
    fn errors_say_what_is_missing() {
        let check =
            |profile: Option<&str>, files: &[(&str, &str)], variables: &[(&str, &str)], expect: &str| {
                let explicit = Explicit { profile: profile.map(str::to_owned), ..Explicit::default() };
                let error = search(explicit, files, variables).unwrap_err().to_string();
                assert!(error.contains(expect), "{error}");
            };
        check(None, &[], &[], "find keys in AWS_ACCESS_KEY_ID, in the AWS profile 'default' or in ");
        check(None, &[], &[("AWS_PROFILE", "gone")], "find profile 'gone' in ");
        check(Some("gone"), &[ROOT], &ENV_KEYS, "find profile 'gone' in ");
        check(Some("plain"), &[ROOT, CONFIG], &[], "profile 'plain': it has no aws_access_key_id");
        check(Some("half"), &[CREDENTIALS], &[], "profile 'half': the access key id comes without");
        check(None, &[ROOT], &ENV_KEYS[..1], "keys of the environment: the access key id comes without");
        check(None, &[("data/root-key.json", "{}")], &[], "read root key ");
        check(None, &[ROOT], &[("NEARGATE_ENDPOINT", "nonsense")], "'nonsense' of NEARGATE_ENDPOINT");
    }

    #[test]
    fn the_data_directory_follows_xdg() {
        let check = |variables: &[(&str, &str)], expect: Option<&str>| {
            let lookup =
                |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            let found = local::data_dir(&lookup);
            let expect = match rustix::process::geteuid().is_root() {
                true if lookup("NEARGATE_DATA").is_none() => Some("/var/lib/neargate"),
                _ => expect,
            };
            assert_eq!(found.as_deref(), expect.map(Path::new), "{variables:?}");
        };
        check(&[("NEARGATE_DATA", "/d"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")], Some("/d"));
        check(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")], Some("/x/neargate"));
        check(&[("XDG_DATA_HOME", ""), ("HOME", "/h")], Some("/h/.local/share/neargate"));
        check(&[], None);
    }
}
