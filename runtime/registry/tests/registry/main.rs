//! Pulls from registries that do what tests tell them to. `row_N` is row N of the adversarial test list, group A.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

mod access;
mod content;
mod hostile;
mod image;
mod kill;
mod sharing;
mod time;

use std::path::Path;
use std::time::Duration;

use neargate_image::ImageStore;
use neargate_model::chain;
use neargate_model::image::ImageReference;
use neargate_registry::{CredentialFiles, Patience, PullRequest, Puller, RegistryConfig};

/// A store of a test's own, and what pulls into it.
struct Bench {
    directory: tempfile::TempDir,
    store: ImageStore,
    puller: Puller,
}

/// Long enough for a busy machine, and short enough for tests that wait for it.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    head: Duration::from_secs(2),
    body: Duration::from_secs(2),
    bytes: 64,
    attempts: 3,
    pause: Duration::from_millis(5),
    pause_max: Duration::from_secs(1),
};

impl Bench {
    fn new() -> Self {
        Self::with(RegistryConfig::default(), None, PATIENCE)
    }

    /// With what `docker login` would write.
    fn with(config: RegistryConfig, auth: Option<&str>, patience: Patience) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path().join("images")).unwrap();
        let file = directory.path().join("auth.json");
        if let Some(auth) = auth {
            std::fs::write(&file, auth).unwrap();
        }
        let credentials = CredentialFiles::new(vec![file]);
        let puller = Puller::with_patience(store.clone(), config, credentials, patience);
        Self { directory, store, puller }
    }

    async fn pull(&self, reference: ImageReference) -> Result<(), String> {
        let pulled = self.puller.pull(PullRequest::new(reference)).await;
        pulled.map(drop).map_err(|error| chain(&*error))
    }

    async fn refuse(&self, reference: ImageReference, expect: &str) {
        let error = self.pull(reference).await.expect_err(expect);
        assert!(error.contains(expect), "{error}");
        self.assert_empty().await;
    }

    /// Nothing of a failed pull is left. What is unpacked in the background has a moment to end.
    async fn assert_empty(&self) {
        let root = self.directory.path().join("images");
        let blobs = || {
            let below = std::fs::read_dir(root.join("blobs/sha256")).unwrap();
            below.map(|entry| entries(&entry.unwrap().path())).sum()
        };
        let rest = || {
            let [layers, refs, notes, tmp] =
                ["layers", "refs", "notes", "tmp"].map(|name| entries(&root.join(name)));
            [blobs(), layers, refs, notes, tmp]
        };
        for _ in 0..200 {
            if rest() == [0; 5] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("entries of blobs, layers, refs, notes and tmp are left: {:?}", rest());
    }

    /// What a file of the image's root holds.
    fn read(&self, reference: &ImageReference, file: &str) -> String {
        let resolved = self.store.resolve(reference).unwrap();
        let neargate_image::ImageKind::Oci { layers } = &resolved.kind else { panic!("{:?}", resolved.kind) };
        let found = layers.iter().rev().find_map(|layer| std::fs::read_to_string(layer.join(file)).ok());
        found.unwrap_or_else(|| panic!("no {file} in {layers:?}"))
    }
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}
