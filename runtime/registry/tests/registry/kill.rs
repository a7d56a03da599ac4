//! A pull that is killed. The child is this test binary, told by the environment what to pull and where to.

use std::process::{Command, Stdio};
use std::time::Duration;

use neargate_image::ImageStore;
use neargate_registry::{CredentialFiles, PullRequest, Puller, RegistryConfig};

use crate::Bench;
use crate::hostile::{Body, Registry, Reply};
use crate::image::{Image, gzip, tar};

const STORE: &str = "NEARGATE_TEST_PULL_STORE";
const IMAGE: &str = "NEARGATE_TEST_PULL_IMAGE";

#[tokio::test(flavor = "multi_thread")]
async fn kill_child() {
    let (Some(store), Ok(image)) = (std::env::var_os(STORE), std::env::var(IMAGE)) else { return };
    let store = ImageStore::open(store).unwrap();
    let puller = Puller::new(store, RegistryConfig::default(), CredentialFiles::default());
    puller.pull(PullRequest::new(image.parse().unwrap())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn row_30_a_pull_that_is_killed_leaves_nothing_in_use() {
    let files: Vec<(String, Vec<u8>)> = (0..200).map(|n| (format!("f{n}"), vec![n as u8; 3000])).collect();
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
    let (first, second) = (tar(&files), tar(&[("hello", b"x")]));
    let image = Image::new(&[(first.clone(), first), (gzip(&second), second)]);
    for share in [0, 50, 99] {
        let (served, blob) = (image.clone(), image.blobs[1].clone());
        let layer = crate::image::digest(&blob);
        let registry = Registry::start(move |asked| match asked.is("GET", &layer) {
            true => Reply::body(200, Body::Stalled(blob[..blob.len() * share / 100].to_vec(), blob.len())),
            false => served.reply("a", asked).unwrap(),
        })
        .await;
        let bench = Bench::new();
        let root = bench.directory.path().join("images");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::kill_child", "--exact", "--nocapture"])
            .env(STORE, &root)
            .env(IMAGE, registry.reference("a").canonical())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while registry.count("GET", "/blobs/") < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(std::fs::read_dir(root.join("tmp")).unwrap().count() > 0, "{share} %");
        drop(ImageStore::open(&root).unwrap());
        bench.assert_empty().await;
        let honest = Registry::honest(vec![("a", image.clone())]).await;
        bench.pull(honest.reference("a")).await.unwrap();
        assert_eq!(bench.read(&honest.reference("a"), "hello"), "x");
    }
}
