//! When registries are asked, over a real store.

use std::sync::atomic::{AtomicUsize, Ordering};

use neargate_image::{Next, Platform};

use super::*;

/// A registry with one image, whose marker is in its command.
struct Sim {
    store: ImageStore,
    marker: Mutex<Option<String>>,
    asked: AtomicUsize,
    pulled: AtomicUsize,
}

impl Sim {
    fn bytes(&self) -> Result<[Vec<u8>; 2], ImageProblem> {
        let marker = self.marker.lock().unwrap().clone();
        let marker = marker.ok_or_else(|| ImageProblem::cannot_pull("the registry is away"))?;
        let Platform { architecture, .. } = Platform::host();
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","config":{{"Cmd":["{marker}"]}},"rootfs":{{"diff_ids":[]}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{}","size":{}}},"layers":[]}}"#,
            sha256(config.as_bytes()),
            config.len()
        );
        Ok([manifest.into_bytes(), config.into_bytes()])
    }

    fn says(&self, marker: Option<&str>) {
        *self.marker.lock().unwrap() = marker.map(str::to_owned);
    }

    /// How often it was asked, and pulled from, since the last look.
    fn seen(&self) -> (usize, usize) {
        (self.asked.swap(0, Ordering::Relaxed), self.pulled.swap(0, Ordering::Relaxed))
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

#[async_trait]
impl Registries for Arc<Sim> {
    async fn current(&self, _: &ImageReference) -> Result<Digest, ImageProblem> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(sha256(&self.bytes()?[0]))
    }

    async fn pull(&self, reference: &ImageReference) -> Result<(), ImageProblem> {
        self.pulled.fetch_add(1, Ordering::Relaxed);
        let [manifest, config] = self.bytes()?;
        let mut pull = self.store.begin_pull(reference.clone(), None).unwrap();
        assert!(matches!(pull.document(&manifest, None, None).unwrap(), Next::Config(_)));
        assert!(pull.config(&config).unwrap().is_empty());
        pull.commit().unwrap();
        Ok(())
    }
}

struct Bench {
    sim: Arc<Sim>,
    images: LocalImages,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(behavior: PullBehavior) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path().join("images")).unwrap();
        let (asked, pulled) = Default::default();
        let sim =
            Arc::new(Sim { store: store.clone(), marker: Mutex::new(Some("one".into())), asked, pulled });
        let images = LocalImages::pulling(store, Arc::new(sim.clone()), behavior);
        Self { sim, images, _directory: directory }
    }

    async fn resolve(&self) -> Result<String, String> {
        let found = self.images.resolve("r.example/a").await;
        found.map(|image| image.cmd.concat()).map_err(|problem| problem.reason)
    }

    /// Time in which what a registry has said is forgotten.
    async fn later(&self) {
        tokio::time::advance(FRESH).await;
    }
}

#[tokio::test(start_paused = true)]
async fn by_default_moved_names_are_followed() {
    let bench = Bench::new(PullBehavior::Default);
    assert_eq!(bench.resolve().await.unwrap(), "one");
    assert_eq!(bench.sim.seen(), (0, 1));
    // Just now it was pulled.
    assert_eq!(bench.resolve().await.unwrap(), "one");
    assert_eq!(bench.sim.seen(), (0, 0));
    bench.later().await;
    assert_eq!(bench.resolve().await.unwrap(), "one");
    assert_eq!(bench.sim.seen(), (1, 0));
    bench.later().await;
    bench.sim.says(Some("two"));
    assert_eq!(bench.resolve().await.unwrap(), "two");
    assert_eq!(bench.sim.seen(), (1, 1));
    // Who does not answer is not missed.
    bench.later().await;
    bench.sim.says(None);
    assert_eq!(bench.resolve().await.unwrap(), "two");
}

#[tokio::test(start_paused = true)]
async fn always_means_always() {
    let bench = Bench::new(PullBehavior::Always);
    assert_eq!(bench.resolve().await.unwrap(), "one");
    bench.later().await;
    assert_eq!(bench.resolve().await.unwrap(), "one");
    assert_eq!(bench.sim.seen(), (0, 2));
    bench.later().await;
    bench.sim.says(None);
    assert_eq!(bench.resolve().await.unwrap_err(), "CannotPullContainerError: the registry is away");
}

#[tokio::test(start_paused = true)]
async fn what_is_here_is_enough() {
    for behavior in [PullBehavior::Once, PullBehavior::PreferCached] {
        let bench = Bench::new(behavior);
        assert_eq!(bench.resolve().await.unwrap(), "one");
        bench.sim.says(Some("two"));
        bench.later().await;
        assert_eq!(bench.resolve().await.unwrap(), "one");
        assert_eq!(bench.sim.seen(), (0, 1));
        bench.sim.store.remove(&"r.example/a".parse().unwrap()).unwrap();
        assert_eq!(bench.resolve().await.unwrap(), "two");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_nowhere_has_a_reason() {
    let bench = Bench::new(PullBehavior::Default);
    bench.sim.says(None);
    assert_eq!(bench.resolve().await.unwrap_err(), "CannotPullContainerError: the registry is away");
    let error = bench.images.resolve("NOT VALID").await.err().unwrap();
    assert!(error.reason.starts_with("CannotPullContainerError: invalid reference format"), "{error}");
}

#[test]
fn behaviors() {
    use PullBehavior::{Always, Default, Once, PreferCached};
    // Whether it was pulled, is pinned, and was asked for just now.
    let check = |behavior, [pulled, pinned, fresh]: [bool; 3], expect| {
        assert_eq!(step(behavior, pulled, pinned, fresh), expect, "{behavior:?} {pulled} {pinned} {fresh}");
    };
    let (imported, pulled) = ([false, false, false], [true, false, false]);
    check(Default, imported, Step::Use);
    check(Default, pulled, Step::Ask);
    check(Default, [true, true, false], Step::Use);
    check(Default, [true, false, true], Step::Use);
    check(Always, imported, Step::Pull);
    check(Always, pulled, Step::Pull);
    check(Always, [true, true, false], Step::Pull);
    check(Always, [true, false, true], Step::Use);
    for behavior in [Once, PreferCached] {
        check(behavior, imported, Step::Use);
        check(behavior, pulled, Step::Use);
    }
}

#[test]
fn signals() {
    let check = |text, expect| assert_eq!(signal_number(text), expect, "{text}");
    check("SIGTERM", Some(15));
    check("quit", Some(3));
    check("9", Some(9));
    check("0", None);
    check("65", None);
    check("SIGNONE", None);
}
