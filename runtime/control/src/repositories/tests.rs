use std::sync::Arc;

use neargate_model::image::Digest;
use neargate_model::lifecycle::testing::scope;
use neargate_model::repository::{Mutability, RepositoryError};
use neargate_model::{ImageTag, RepositoryName, Tags};
use neargate_store::MemoryStore;

use super::{ImageWanted, NewImage, NewRepository, Put, RepositoryChangeError};
use crate::Control;
use crate::tests::bench_on;

fn name() -> RepositoryName {
    RepositoryName::new("team/app").unwrap()
}

fn tag(text: &str) -> ImageTag {
    ImageTag::new(text).unwrap()
}

fn digest(id: u8) -> Digest {
    Digest::from_bytes([id; 32])
}

fn image(id: u8) -> NewImage {
    NewImage {
        digest: digest(id),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        artifact_type: None,
        manifest_bytes: 10,
        content_bytes: 20,
        subject: None,
        children: Vec::new(),
    }
}

async fn with_repository(mutability: Mutability) -> Control {
    let control = bench_on(Arc::new(MemoryStore::new())).control;
    let new = NewRepository { name: name(), mutability, tags: Tags::new(), face: String::new() };
    control.create_repository(&scope(), &new).await.unwrap();
    assert!(matches!(
        control.create_repository(&scope(), &new).await,
        Err(RepositoryChangeError::Repository(RepositoryError::RepositoryExists { .. }))
    ));
    control
}

async fn put(control: &Control, id: u8, to: &str) -> Result<Put, RepositoryChangeError> {
    control.put_image(&scope(), &name(), &image(id), Some(&tag(to))).await
}

async fn count(control: &Control) -> usize {
    let repository = control.repository(&scope(), &name()).await.unwrap();
    assert_eq!(repository.images, control.images(&scope(), &name()).await.unwrap().len());
    repository.images
}

#[tokio::test]
async fn a_tag_is_one_images() {
    let control = with_repository(Mutability::Mutable).await;
    assert_eq!(put(&control, 1, "v1").await.unwrap(), Put::New);
    assert_eq!(put(&control, 1, "v1").await.unwrap(), Put::Same);
    assert_eq!(put(&control, 1, "v2").await.unwrap(), Put::Tagged);
    assert_eq!(put(&control, 2, "v1").await.unwrap(), Put::New);
    let of = |wanted| {
        let control = control.clone();
        async move { control.image(&scope(), &name(), &wanted).await.unwrap() }
    };
    assert_eq!(of(ImageWanted::Tag(tag("v1"))).await.digest, digest(2));
    assert_eq!(of(ImageWanted::Digest(digest(1))).await.tags, [tag("v2")].into());
    assert_eq!(count(&control).await, 2);
    let (tags, has_more) = control.image_tags(&scope(), &name(), None, 1).await.unwrap();
    assert_eq!((tags, has_more), (vec![tag("v1")], true));
    let (tags, has_more) = control.image_tags(&scope(), &name(), Some(&tag("v1")), 1).await.unwrap();
    assert_eq!((tags, has_more), (vec![tag("v2")], false));
    assert_eq!(control.remove_tag(&scope(), &name(), &tag("v2")).await.unwrap().digest, digest(1));
    assert!(of(ImageWanted::Digest(digest(1))).await.tags.is_empty());
}

#[tokio::test]
async fn immutable_tags_stay() {
    let control = with_repository(Mutability::Immutable).await;
    put(&control, 1, "v1").await.unwrap();
    assert_eq!(put(&control, 1, "v1").await.unwrap(), Put::Same);
    let refused = put(&control, 2, "v1").await.unwrap_err();
    assert!(matches!(refused, RepositoryChangeError::Repository(RepositoryError::TagImmutable { .. })));
    assert_eq!(count(&control).await, 1);
}

#[tokio::test]
async fn images_go_with_all_their_tags() {
    let control = with_repository(Mutability::Mutable).await;
    for n in 0..100 {
        put(&control, 1, &format!("t{n}")).await.unwrap();
    }
    let index = NewImage { children: vec![digest(1)], ..image(2) };
    control.put_image(&scope(), &name(), &index, None).await.unwrap();
    let refused = control.delete_image(&scope(), &name(), digest(1)).await.unwrap_err();
    assert!(matches!(refused, RepositoryChangeError::Repository(RepositoryError::InIndex { .. })));
    control.delete_image(&scope(), &name(), digest(2)).await.unwrap();
    assert_eq!(control.delete_image(&scope(), &name(), digest(1)).await.unwrap().tags.len(), 100);
    assert_eq!(count(&control).await, 0);
    assert!(control.image_tags(&scope(), &name(), None, 10).await.unwrap().0.is_empty());
    assert!(control.delete_image(&scope(), &name(), digest(1)).await.is_err());
}

#[tokio::test]
async fn referrers_are_found_by_what_they_are_about() {
    let control = with_repository(Mutability::Mutable).await;
    for id in [5, 6, 7] {
        let about = NewImage { subject: Some(digest(1)), ..image(id) };
        control.put_image(&scope(), &name(), &about, None).await.unwrap();
    }
    let referrers = |after| {
        let control = control.clone();
        async move {
            let (found, has_more) = control.referrers(&scope(), &name(), digest(1), after, 2).await.unwrap();
            (found.into_iter().map(|image| image.digest).collect::<Vec<_>>(), has_more)
        }
    };
    assert_eq!(referrers(None).await, (vec![digest(5), digest(6)], true));
    assert_eq!(referrers(Some(digest(6))).await, (vec![digest(7)], false));
    control.delete_image(&scope(), &name(), digest(7)).await.unwrap();
    assert_eq!(referrers(Some(digest(6))).await, (vec![], false));
}

#[tokio::test]
async fn a_repository_with_images_is_removed_by_force_alone() {
    let control = with_repository(Mutability::Mutable).await;
    put(&control, 1, "v1").await.unwrap();
    let refused = control.delete_repository(&scope(), &name(), false).await.unwrap_err();
    assert!(matches!(refused, RepositoryChangeError::Repository(RepositoryError::RepositoryNotEmpty { .. })));
    control.delete_repository(&scope(), &name(), true).await.unwrap();
    assert!(put(&control, 1, "v1").await.is_err());
    assert!(control.images(&scope(), &name()).await.unwrap().is_empty());
    assert!(control.image(&scope(), &name(), &ImageWanted::Tag(tag("v1"))).await.is_err());
}
