//! Files and programs that keep credentials.

use std::os::unix::fs::PermissionsExt;

use super::*;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), config).unwrap();
        Self { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("config.json")
    }

    /// A program that keeps credentials, as a shell script.
    fn helper(self, name: &str, script: &str) -> Self {
        let path = self.directory.path().join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn find(&self, registry: &str, repository: &str) -> Result<Option<String>, String> {
        let path = format!("{}:/usr/bin:/bin", self.directory.path().display());
        let files = CredentialFiles { files: vec![self.file()], path: Some(path.into()) };
        let found = files.find(registry, repository).map_err(|error| neargate_model::chain(&error))?;
        Ok(found.map(|c| match c.is_identity_token {
            true => format!("token {}", c.secret),
            false => format!("{}:{}", c.username, c.secret),
        }))
    }
}

#[test]
fn files_of_docker_and_podman() {
    let place = Place::new(
        r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHVi OnA=", "username": "hub", "password": "p"},
            "r.example:5000": {"auth": "YTpiOmM="},
            "quay.io/org": {"auth": "b3JnOnB3"},
            "quay.io": {"auth": "cXVheTpwdw=="},
            "https://old.example/v2/": {"username": "u", "password": "p"},
            "id.example": {"identitytoken": "t0"},
            "empty.example": {}
        }}"#,
    );
    let check = |registry: &str, repository: &str, expect: Option<&str>| {
        assert_eq!(place.find(registry, repository).unwrap().as_deref(), expect, "{registry}/{repository}");
    };
    check("r.example:5000", "a", Some("a:b:c"));
    check("quay.io", "org/app", Some("org:pw"));
    check("quay.io", "organisation/app", Some("quay:pw"));
    check("old.example", "a", Some("u:p"));
    check("id.example", "a", Some("token t0"));
    check("empty.example", "a", None);
    check("r.example", "a", None);
    // A space is no base64; the error says where and shows nothing of it.
    let error = place.find("docker.io", "library/alpine").unwrap_err();
    assert!(error.contains("base64") && !error.contains("aHVi"), "{error}");
}

#[test]
fn helpers_are_asked() {
    let place = Place::new(r#"{"credsStore": "store", "credHelpers": {"ecr.example": "ecr"}}"#)
        .helper("store", r#"read server; echo "{\"Username\":\"u\",\"Secret\":\"$server\"}""#)
        .helper("ecr", r#"echo '{"ServerURL":"x","Username":"<token>","Secret":"s"}'"#);
    assert_eq!(
        place.find("docker.io", "library/a").unwrap().as_deref(),
        Some("u:https://index.docker.io/v1/")
    );
    assert_eq!(place.find("ghcr.io", "a").unwrap().as_deref(), Some("u:ghcr.io"));
    assert_eq!(place.find("ecr.example", "a").unwrap().as_deref(), Some("token s"));
}

#[test]
fn helpers_that_fail() {
    let check = |helper: &str, script: &str, expect: Result<(), &str>| {
        let place = Place::new(&format!(r#"{{"credsStore": "{helper}"}}"#)).helper("h", script);
        match (place.find("r.example", "a"), expect) {
            (Ok(None), Ok(())) => {}
            (Err(error), Err(text)) => assert!(error.contains(text), "{error}"),
            (found, _) => panic!("{script}: {found:?}"),
        }
    };
    check("h", "echo credentials not found in native keychain; exit 1", Ok(()));
    check("h", "echo keyring is locked; exit 1", Err("keyring is locked"));
    check("h", "echo not json", Err("answer"));
    check("h", "head -c 1000000 /dev/zero; exit 0", Err("answer"));
    check("../h", "echo", Err("letters, digits"));
    check("absent", "echo", Err("start it"));
}

#[test]
fn a_file_that_others_write_names_no_program() {
    let place =
        Place::new(r#"{"credsStore": "h"}"#).helper("h", "echo '{\"Username\":\"u\",\"Secret\":\"s\"}'");
    assert_eq!(place.find("r.example", "a").unwrap().as_deref(), Some("u:s"));
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o666)).unwrap();
    let error = place.find("r.example", "a").unwrap_err();
    assert!(error.contains("chmod go-w"), "{error}");
}

#[test]
fn places_of_files() {
    let check = |variables: &[(&str, &str)], expect: &[&str]| {
        let variable = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        let files = CredentialFiles::of_environment(Some("/data/auth".into()), variable).files;
        assert_eq!(files, expect.iter().map(PathBuf::from).collect::<Vec<_>>());
    };
    check(&[("REGISTRY_AUTH_FILE", "/f"), ("HOME", "/h")], &["/f"]);
    check(
        &[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")],
        &[
            "/data/auth",
            "/h/.docker/config.json",
            "/r/containers/auth.json",
            "/h/.config/containers/auth.json",
        ],
    );
    check(&[("DOCKER_CONFIG", "/d")], &["/data/auth", "/d/config.json"]);
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let credential = Credential::password("u", "hunter2");
    assert!(!format!("{credential:?}").contains("hunter2"));
    assert_ne!(credential.fingerprint(), Credential::password("uh", "unter2").fingerprint());
}
