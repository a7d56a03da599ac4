//! What goes by itself, and what stays.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use neargate_control::{
    Capacity, Clock, Control, Disk, DiskRoom, Host, ImageWanted, NewRepository, NodeLink, NodeLinkError,
    Ports, SystemClock,
};
use neargate_image::ImageStore;
use neargate_model::image::Digest;
use neargate_model::lifecycle::testing::scope;
use neargate_model::repository::{LifecyclePolicy, Mutability};
use neargate_model::{AccountId, ImageTag, NodeCommand, PortProtocol, Region, RepositoryName, Tags};
use neargate_store::MemoryStore;
use serde_json::json;

use super::manifest::OCI_MANIFEST;
use super::shelf::{Shelf, ShelfError, digest_of, holder};
use super::{RegistryConfig, own_region};

struct Nobody;

#[async_trait::async_trait]
impl NodeLink for Nobody {
    async fn send(&self, _: NodeCommand) -> Result<(), NodeLinkError> {
        Ok(())
    }
}

impl Disk for Nobody {
    fn room(&self) -> DiskRoom {
        DiskRoom::Ample
    }
}

impl Ports for Nobody {
    fn is_free(&self, _: PortProtocol, _: u16) -> bool {
        true
    }
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::new(text).unwrap()
}

fn wanted(tag: &str) -> ImageWanted {
    ImageWanted::Tag(ImageTag::new(tag).unwrap())
}

async fn shelf(repositories: &[&str]) -> (tempfile::TempDir, Shelf) {
    let directory = tempfile::tempdir().unwrap();
    let host = Host {
        clock: Arc::new(SystemClock) as Arc<dyn Clock>,
        disk: Arc::new(Nobody),
        region: scope().region,
        default_vpcs: Vec::new(),
        bridge_blocks: Vec::new(),
        ports: Arc::new(Nobody),
    };
    let capacity = Capacity { memory_mib: 1, memory_promised_mib_max: 1, cpu_units: 1, tasks_max: 1 };
    let control = Control::new(Arc::new(MemoryStore::new()), Arc::new(Nobody), host, capacity);
    for repository in repositories {
        let new = NewRepository {
            name: name(repository),
            mutability: Mutability::Mutable,
            tags: Tags::new(),
            face: String::new(),
        };
        control.create_repository(&scope(), &new).await.unwrap();
    }
    let images = ImageStore::open(directory.path().join("images")).unwrap();
    (directory, Shelf::new(control, images))
}

/// Puts an image in whose one layer has this content; answers its manifest's digest and the layer's.
async fn push(shelf: &Shelf, repository: &str, content: &str, tag: &str) -> (Digest, Digest) {
    let holder = holder(&scope(), &name(repository));
    let layer = shelf.images.put_held(&holder, content.as_bytes()).unwrap();
    let config = shelf.images.put_held(&holder, b"{}").unwrap();
    let blob =
        |digest: Digest, media_type: &str| json!({ "mediaType": media_type, "digest": digest, "size": 1 });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob(config, "a/config"),
        "layers": [blob(layer, "a/layer")],
    });
    let bytes = Bytes::from(manifest.to_string());
    let put = shelf.put(&scope(), &name(repository), (bytes, None), Some(&wanted(tag))).await.unwrap();
    (put.digest, layer)
}

fn has(shelf: &Shelf, repository: &str, digest: Digest) -> bool {
    shelf.images.held_size(&holder(&scope(), &name(repository)), digest).unwrap().is_some()
}

#[tokio::test]
async fn only_what_no_image_needs_is_let_go() {
    let (_directory, shelf) = shelf(&["a", "b"]).await;
    let (kept, kept_layer) = push(&shelf, "a", "kept", "v1").await;
    let (gone, gone_layer) = push(&shelf, "a", "gone", "v2").await;
    let stray = shelf.images.put_held(&holder(&scope(), &name("a")), b"stray").unwrap();
    push(&shelf, "b", "gone", "v1").await;
    shelf.delete(&scope(), &name("a"), gone).await.unwrap();
    shelf.sweep(Duration::from_secs(3600)).await.unwrap();
    assert!(has(&shelf, "a", stray) && has(&shelf, "a", gone_layer), "they are young");
    shelf.sweep(Duration::ZERO).await.unwrap();
    assert!(has(&shelf, "a", kept) && has(&shelf, "a", kept_layer));
    for digest in [stray, gone, gone_layer] {
        assert!(!has(&shelf, "a", digest));
    }
    assert!(has(&shelf, "b", gone_layer), "another repository needs it");
    let (_, bytes) = shelf.get(&scope(), &name("a"), &wanted("v1")).await.unwrap();
    assert_eq!(digest_of(&bytes), kept);
}

#[tokio::test]
async fn nothing_is_left_of_a_repository_that_is_removed() {
    let (directory, shelf) = shelf(&["a", "b"]).await;
    let (_, layer) = push(&shelf, "a", "x", "v1").await;
    push(&shelf, "b", "y", "v1").await;
    shelf.delete_repository(&scope(), &name("a"), true).await.unwrap();
    assert!(!has(&shelf, "a", layer));
    // As if the server had been killed between the record and the blobs.
    shelf.control.delete_repository(&scope(), &name("b"), true).await.unwrap();
    shelf.sweep(Duration::from_secs(3600)).await.unwrap();
    shelf.images.prune().unwrap();
    for below in ["held", "blobs/sha256"] {
        let left = std::fs::read_dir(directory.path().join("images").join(below)).unwrap();
        let files = left.filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.is_file() || std::fs::read_dir(path).unwrap().next().is_some()
        });
        assert_eq!(files.count(), 0, "{below}");
    }
}

#[tokio::test]
async fn images_expire_by_the_repositorys_policy() {
    let (_directory, shelf) = shelf(&["a"]).await;
    let (one, _) = push(&shelf, "a", "1", "v1").await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    push(&shelf, "a", "2", "v2").await;
    let policy = r#"{"rules":[{"rulePriority":1,"selection":{"tagStatus":"any","countType":"imageCountMoreThan","countNumber":1},"action":{"type":"expire"}}]}"#;
    let policy = LifecyclePolicy::parse(policy).unwrap();
    let (scope, repository) = (scope(), name("a"));
    let changed = shelf.control.change_repository(&scope, &repository, |repository| {
        repository.lifecycle = Some(policy.clone());
        Ok(())
    });
    changed.await.unwrap();
    shelf.sweep(Duration::from_secs(3600)).await.unwrap();
    let left = shelf.control.images(&scope, &repository).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_ne!(left[0].digest, one);
    assert!(shelf.control.repository(&scope, &repository).await.unwrap().swept_at.is_some());
}

#[tokio::test]
async fn another_repositorys_blobs_are_unknown() {
    let (_directory, shelf) = shelf(&["a", "b"]).await;
    let (manifest, _) = push(&shelf, "a", "secret", "v1").await;
    let (_, bytes) = shelf.get(&scope(), &name("a"), &ImageWanted::Digest(manifest)).await.unwrap();
    let refused = shelf.put(&scope(), &name("b"), (bytes, None), None).await.unwrap_err();
    assert!(matches!(refused, ShelfError::BlobUnknown { .. }));
    assert!(shelf.get(&scope(), &name("b"), &ImageWanted::Digest(manifest)).await.is_err());
    assert_eq!(shelf.manifest(&scope(), &name("b"), manifest).await.unwrap(), None);
}

#[test]
fn names_of_this_registry() {
    let config = RegistryConfig {
        account: AccountId::new("123456789012").unwrap(),
        region: Region::new("us-east-1").unwrap(),
        address: "127.0.0.1:7878".parse().unwrap(),
    };
    let check = |host: &str, expect: Option<&str>| {
        assert_eq!(own_region(&config, host).as_ref().map(Region::as_str), expect, "{host}");
    };
    check("127.0.0.1:7878", Some("us-east-1"));
    check("localhost:7878", Some("us-east-1"));
    check("[::1]:7878", Some("us-east-1"));
    check("127.0.0.1:7879", None);
    check("localhost", None);
    check("123456789012.dkr.ecr.eu-west-1.amazonaws.com", Some("eu-west-1"));
    check("123456789013.dkr.ecr.eu-west-1.amazonaws.com", None);
    check("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", None);
    check("docker.io", None);
}
