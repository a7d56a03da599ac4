use std::fs;

use neargate_fuzz::Fuzz;
use neargate_image::{
    ImageKind, ImageStore, ImportError, Imported, Kind, LayerError, Platform, ResolveError, WasmFormat,
};
use neargate_model::chain;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::build::{
    self, COMPONENT, Files, MODULE, add_image, add_index, archive, config, contents, digest, dir,
    docker_save, file, layout, store, symlink, tar,
};

fn name(text: &str) -> neargate_model::image::ImageReference {
    text.parse().unwrap()
}

fn layers() -> Vec<Vec<u8>> {
    vec![tar(&[file("a", b"1"), dir("d")]), tar(&[file(".wh.a", b""), file("b", b"2")])]
}

fn import(files: &Files) -> Result<Imported, ImportError> {
    let (directory, store) = store();
    let result = store.import_reader(archive(files).as_slice(), None);
    match &result {
        Ok(_) => assert!(!contents(directory.path()).iter().any(|p| p.contains("tmp/"))),
        Err(_) => {
            assert_eq!(contents(directory.path()), Vec::<String>::new(), "a failed import left something")
        }
    }
    result
}

fn refuse(files: &Files, expect: &str) {
    let text = chain(&import(files).expect_err(expect));
    assert!(text.contains(expect), "{text}");
}

fn check_layers(store: &ImageStore, reference: &str) {
    let image = store.resolve(&name(reference)).unwrap_or_else(|e| panic!("{}", chain(&e)));
    let ImageKind::Oci { layers } = &image.kind else { panic!("{image:?}") };
    assert_eq!(layers.len(), 2);
    assert_eq!(fs::read(layers[0].join("a")).unwrap(), b"1");
    assert_eq!(fs::read(layers[1].join("b")).unwrap(), b"2");
    assert!(!layers[1].join(".wh.a").exists());
    assert_eq!(image.config.cmd, ["run"]);
    assert_eq!(image.config.env, [("A".to_owned(), "b=c".to_owned()), ("D".to_owned(), String::new())]);
    assert_eq!((image.config.user.as_deref(), image.config.working_dir.as_str()), (Some("7:8"), "/w"));
    assert_eq!(image.config.exposed_ports, ["53/udp", "80/tcp"]);
}

fn process() -> Value {
    json!({ "Cmd": ["run"], "Env": ["A=b=c", "D", "=x"], "User": "7:8", "WorkingDir": "/w", "Entrypoint": null,
            "ExposedPorts": { "80/tcp": {}, "53/udp": {} }, "StopSignal": "SIGQUIT", "Labels": { "neargate.hook": "/bin/sh" } })
}

#[test]
fn oci_layouts_as_directory_tar_and_compressed_tar() {
    let files = layout(process(), &layers());
    let (directory, store) = store();
    let path = directory.path().join("My_App");
    build::write_to(&files, &path);
    let plain = archive(&files);
    fs::write(directory.path().join("b.tar"), &plain).unwrap();
    fs::write(directory.path().join("c.tar.gz"), build::gzip(&plain)).unwrap();
    fs::write(directory.path().join("d.tar.zst"), build::zstd(&plain)).unwrap();
    let mut digests = Vec::new();
    for (file, expect) in [("My_App", "my-app"), ("b.tar", "b"), ("c.tar.gz", "c"), ("d.tar.zst", "d")] {
        let imported =
            store.import(directory.path().join(file), None).unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert_eq!((imported.name.familiar(), imported.kind), (format!("{expect}:latest"), Kind::Oci));
        check_layers(&store, expect);
        digests.push(imported.digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn docker_archives_with_names() {
    let (_directory, store) = store();
    let files = docker_save(&["app:1", "registry.example:5000/team/app:2"], process(), &layers());
    let imported = store.import_reader(archive(&files).as_slice(), None).unwrap();
    assert_eq!(
        (imported.name, imported.aliases),
        (name("app:1"), vec![name("registry.example:5000/team/app:2")])
    );
    check_layers(&store, "app:1");
    check_layers(&store, "registry.example:5000/team/app:2");
    let again = store.import_reader(archive(&files).as_slice(), Some(name("other"))).unwrap();
    assert_eq!((again.name, again.digest, again.aliases.len()), (name("other"), imported.digest, 0));
}

#[test]
fn docker_archives_that_link_a_shared_layer() {
    let mut files = docker_save(&["app:1"], process(), &layers());
    let shared = files.remove(&format!("{:064}/layer.tar", 1)).unwrap();
    let mut entries: Vec<_> = files.iter().map(|(n, d)| file(n, d)).collect();
    entries.push(symlink(&format!("{:064}/layer.tar", 1), "../shared/layer.tar"));
    entries.push(file("shared/layer.tar", &shared));
    let (_directory, store) = store();
    store.import_reader(tar(&entries).as_slice(), None).unwrap();
    check_layers(&store, "app:1");
}

#[test]
fn names_in_layouts() {
    let check = |key: &str, value: &str, expect: &str| {
        let mut files = Files::new();
        let mut image = add_image(&mut files, &config(json!({}), &[]), &[]);
        image["annotations"] = json!({ key: value });
        add_index(&mut files, &[image]);
        assert_eq!(import(&files).unwrap().name, name(expect), "{key}={value}");
    };
    check("org.opencontainers.image.ref.name", "3.20", "imported:3.20");
    check("org.opencontainers.image.ref.name", "alpine:3.20", "alpine:3.20");
    check("org.opencontainers.image.ref.name", "quay.io/a/b", "quay.io/a/b:latest");
    check("io.containerd.image.name", "docker.io/library/alpine:3", "alpine:3");
}

#[test]
fn of_several_images_one_is_chosen_by_name() {
    let mut files = Files::new();
    let images: Vec<Value> = ["one:1", "two:2"]
        .iter()
        .map(|n| {
            let mut image = add_image(&mut files, &config(json!({ "Cmd": [n] }), &[]), &[]);
            image["annotations"] = json!({ "org.opencontainers.image.ref.name": n });
            image
        })
        .collect();
    add_index(&mut files, &images);
    refuse(&files, "2 images (one:1, two:2)");
    let (_directory, store) = store();
    store.import_reader(archive(&files).as_slice(), Some(name("two:2"))).unwrap();
    assert_eq!(store.resolve(&name("two:2")).unwrap().config.cmd, ["two:2"]);
}

fn with_platform(files: &mut Files, os: &str, architecture: &str) -> Value {
    let mut document = config(json!({}), &[]);
    document["os"] = os.into();
    document["architecture"] = architecture.into();
    let mut image = add_image(files, &document, &[]);
    image["platform"] = json!({ "os": os, "architecture": architecture });
    image
}

#[test]
fn row_24_foreign_platforms_are_refused_by_name() {
    let host = Platform::host().architecture;
    let mut files = Files::new();
    let images = [with_platform(&mut files, "linux", "s390x"), with_platform(&mut files, "windows", &host)];
    add_index(&mut files, &images);
    refuse(&files, "linux/s390x, windows");
    add_index(&mut files, &images[..1]);
    refuse(&files, "the image is for linux/s390x");

    // An index in a blob: the name stands for the index, the digest of the manifest resolves too.
    let own = with_platform(&mut files, "linux", &host);
    let index = json!({ "schemaVersion": 2, "manifests": [images[0], own] }).to_string();
    let index = build::blob(&mut files, index.as_bytes(), "application/vnd.oci.image.index.v1+json");
    add_index(&mut files, std::slice::from_ref(&index));
    let (_directory, store) = store();
    let imported = store.import_reader(archive(&files).as_slice(), None).unwrap();
    let image = store.resolve(&imported.name).unwrap();
    assert_eq!(Value::from(image.digest.to_string()), index["digest"]);
    assert_eq!(Value::from(image.manifest.to_string()), own["digest"]);
    assert_eq!(store.resolve(&imported.name.with_digest(image.manifest)).unwrap(), image);
    assert_eq!(store.resolve(&imported.name.with_digest(image.digest)).unwrap(), image);
    let other = name("elsewhere/app").with_digest(image.digest);
    assert!(matches!(store.resolve(&other), Err(ResolveError::NotFound { .. })));
    store.prune().unwrap();
    assert_eq!(store.inspect(&imported.name).unwrap().manifest, image.manifest);
}

#[test]
fn row_15_damaged_blobs_are_refused() {
    let files = layout(process(), &layers());
    let blobs: Vec<String> = files.keys().filter(|k| k.starts_with("blobs/")).cloned().collect();
    assert_eq!(blobs.len(), 4);
    for blob in blobs {
        let check = |edit: &dyn Fn(&mut Vec<u8>)| {
            let mut files = files.clone();
            edit(files.get_mut(&blob).unwrap());
            assert!(matches!(import(&files), Err(ImportError::WrongContent { .. })), "{blob}");
        };
        check(&|b| b[0] ^= 1);
        check(&|b| b.truncate(b.len() - 1));
        check(&|b| b.push(b' '));
        let mut missing = files.clone();
        missing.remove(&blob);
        refuse(&missing, &blob);
    }
    // Retrying works, and a truncated archive names where it ends.
    let (directory, store) = store();
    let whole = archive(&files);
    for cut in [600, whole.len() / 2, whole.len() - 1100] {
        assert!(store.import_reader(&whole[..cut], None).is_err());
        assert_eq!(contents(directory.path()), Vec::<String>::new());
    }
    store.import_reader(whole.as_slice(), None).unwrap();
    check_layers(&store, "imported");
}

#[test]
fn row_15_layers_that_are_not_what_the_configuration_says_are_refused() {
    let mut files = Files::new();
    let image = add_image(
        &mut files,
        &config(json!({}), &[tar(&[file("claimed", b"")])]),
        &[tar(&[file("real", b"")])],
    );
    add_index(&mut files, &[image]);
    assert!(matches!(import(&files), Err(ImportError::Layer(LayerError::WrongDiffId { .. }))));

    // Claiming a layer that the store has from another image gives no access to it.
    let secret = tar(&[file("secret", b"s")]);
    let (_directory, store) = store();
    store
        .import_reader(
            archive(&layout(json!({}), std::slice::from_ref(&secret))).as_slice(),
            Some(name("victim")),
        )
        .unwrap();
    let mut files = Files::new();
    let image = add_image(&mut files, &config(json!({}), std::slice::from_ref(&secret)), &[tar(&[])]);
    add_index(&mut files, &[image]);
    let stolen = store.import_reader(archive(&files).as_slice(), Some(name("thief")));
    assert!(matches!(stolen, Err(ImportError::Layer(LayerError::WrongDiffId { .. }))), "{stolen:?}");
}

#[test]
fn row_16_confused_documents_are_refused() {
    let tars = layers();
    let mut files = layout(process(), &tars);
    let layer = build::gzip(&tars[0]);
    let descriptor = build::blob(&mut files, &layer, "application/vnd.oci.image.config.v1+json");
    let layers = json!([{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&layer), "size": layer.len() }]);
    let mut check = |manifest: Value, media_type: &str, expect: &str| {
        let image = build::blob(&mut files, manifest.to_string().as_bytes(), media_type);
        add_index(&mut files, &[image]);
        refuse(&files, expect);
    };
    let (manifest, index) =
        ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json");
    check(
        json!({ "schemaVersion": 2, "config": descriptor, "layers": layers }),
        manifest,
        "not a valid document",
    );
    check(
        json!({ "schemaVersion": 2, "config": descriptor, "layers": layers, "manifests": [] }),
        manifest,
        "not clear",
    );
    check(json!({ "schemaVersion": 2, "config": descriptor, "layers": layers }), index, "not clear");
    check(json!({ "schemaVersion": 2, "mediaType": manifest, "manifests": [] }), index, "media type is");
    check(
        json!({ "schemaVersion": 2, "config": descriptor, "layers": vec![layers[0].clone(); 128] }),
        manifest,
        "127 layers",
    );
}

#[test]
fn row_14_documents_are_capped() {
    let mut files = layout(process(), &layers());
    files.insert("index.json".into(), vec![b' '; (4 << 20) + 1]);
    refuse(&files, "4194304 bytes of manifest");
}

#[test]
fn row_01_hostile_layers_leave_nothing() {
    for (hostile, expect) in
        [(file("../x", b""), "\"..\""), (build::hard_link("a", "/etc/shadow"), "hard link")]
    {
        refuse(&layout(json!({}), &[tar(&[file("ok", b"")]), tar(&[hostile])]), expect);
    }
}

#[test]
fn inputs_that_are_no_image_are_named() {
    let (directory, store) = store();
    for (bytes, expect) in [
        (&b"\x7fELF\x02\x01\x01\0"[..], "ELF"),
        (b"(module)", "Wasm text"),
        (b"", "empty"),
        (b"hello", "unknown format"),
        (b"\0asm\x07\0\0\0", "unknown version"),
        (&MODULE[..4], "unknown version"),
        (b"\0asm\x01\0\0\0\xff", "not a usable Wasm binary"),
    ] {
        let error = store.import_reader(bytes, None).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }
    let error = store.import_reader(tar(&[file("x", b"")]).as_slice(), None).unwrap_err();
    assert!(error.to_string().contains("without index.json"), "{error}");
    assert!(matches!(store.import(directory.path().join("none"), None), Err(ImportError::File(_))));
    assert_eq!(contents(directory.path()), Vec::<String>::new());
}

fn check_wasm(files: &Files, format: WasmFormat, binary: &[u8]) {
    let (_directory, store) = store();
    let imported =
        store.import_reader(archive(files).as_slice(), None).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(imported.kind, Kind::Wasm);
    let image = store.resolve(&imported.name).unwrap();
    let ImageKind::Wasm { path, digest: key, format: found } = &image.kind else { panic!("{image:?}") };
    assert_eq!(
        (fs::read(path).unwrap().as_slice(), key.to_string(), *found),
        (binary, digest(binary), format)
    );
    store.prune().unwrap();
    assert!(path.exists());
}

#[test]
fn wasm_files_become_artifacts() {
    let (directory, store) = store();
    for (file, bytes, format) in
        [("m.wasm", MODULE, WasmFormat::Module), ("c.wasm", COMPONENT, WasmFormat::Component)]
    {
        let path = directory.path().join(file);
        fs::write(&path, bytes).unwrap();
        let imported = store.import(&path, None).unwrap();
        assert_eq!((imported.name.familiar(), imported.kind), (format!("{}:latest", &file[..1]), Kind::Wasm));
        let detail = store.inspect(&imported.name).unwrap();
        assert_eq!((detail.wasm.map(|w| w.1), detail.layers.len()), (Some(format), 1));
        assert_eq!(
            (detail.layers[0].media_type.as_str(), detail.layers[0].size_bytes),
            ("application/wasm", 8)
        );
        assert_eq!(store.import(&path, None).unwrap().digest, imported.digest);
    }
}

#[test]
fn wasm_images_in_every_format() {
    let artifact = |config_type: &str, layer_type: &str, layers: &[&[u8]]| {
        let mut files = Files::new();
        let config = build::blob(&mut files, br#"{"os":"wasip1","architecture":"wasm"}"#, config_type);
        let layers: Vec<Value> = layers.iter().map(|l| build::blob(&mut files, l, layer_type)).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string();
        let image =
            build::blob(&mut files, manifest.as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        add_index(&mut files, &[image]);
        files
    };
    let (cncf, oci) = ("application/vnd.wasm.config.v0+json", "application/vnd.oci.image.config.v1+json");
    check_wasm(&artifact(cncf, "application/wasm", &[COMPONENT]), WasmFormat::Component, COMPONENT);
    check_wasm(
        &artifact(oci, "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm", &[COMPONENT]),
        WasmFormat::Component,
        COMPONENT,
    );
    check_wasm(&artifact(oci, "application/wasm", &[MODULE]), WasmFormat::Module, MODULE);
    refuse(&artifact(cncf, "application/wasm", &[MODULE, COMPONENT]), "exactly one application/wasm layer");
    refuse(&artifact(cncf, "application/wasm", &[]), "exactly one application/wasm layer");
    refuse(&artifact(cncf, "application/wasm", &[b"\x7fELF\x02\x01\x01\0"]), "ELF");
    refuse(
        &artifact("application/vnd.fermyon.spin.application.v1+config", "application/wasm", &[MODULE]),
        "Spin",
    );

    let compat = |os: &str, architecture: &str, process: Value, tars: &[Vec<u8>]| {
        let mut document = config(process, tars);
        document["os"] = os.into();
        document["architecture"] = architecture.into();
        let mut files = Files::new();
        let image = add_image(&mut files, &document, tars);
        add_index(&mut files, &[image]);
        files
    };
    let app = [tar(&[file("app.wasm", COMPONENT)]), tar(&[file("./app.wasm", MODULE), dir("d")])];
    let entrypoint = json!({ "Entrypoint": ["/app.wasm", "--flag"] });
    for (os, architecture) in [("wasi", "wasm"), ("wasip1", "wasm32"), ("wasip2", "wasm")] {
        check_wasm(&compat(os, architecture, entrypoint.clone(), &app), WasmFormat::Module, MODULE);
    }
    let host = Platform::host().architecture;
    check_wasm(
        &compat("linux", &host, json!({ "Cmd": ["app.wasm"], "WorkingDir": "/d/.." }), &app),
        WasmFormat::Module,
        MODULE,
    );
    let hidden = [app[0].clone(), tar(&[file(".wh.app.wasm", b"")])];
    refuse(&compat("wasi", "wasm", entrypoint.clone(), &hidden), "not a .wasm file in its layers");
    refuse(&compat("wasi", "wasm", json!({}), &app), "not a .wasm file in its layers");
    // On Linux a name alone makes no Wasm image.
    let script = [tar(&[file("app.wasm", b"#!/bin/sh")])];
    assert_eq!(import(&compat("linux", &host, entrypoint, &script)).unwrap().kind, Kind::Oci);
}

/// Wasm that is nearly right is an image or refused, and what is refused leaves nothing. Whether it is valid is for
/// the compiler to say.
#[test]
fn damaged_wasm_is_imported_or_refused_cleanly() {
    // Each import waits for the disk.
    let fuzz = Fuzz { cases: 100, memory_bytes_max: 256 << 20 };
    fuzz.run(&neargate_fuzz::binaries(), |bytes| {
        let (directory, store) = store();
        match store.import_reader(bytes, None) {
            Ok(imported) => {
                assert_eq!(imported.kind, Kind::Wasm);
                let image = store.resolve(&imported.name).unwrap();
                let ImageKind::Wasm { path, .. } = &image.kind else { panic!("{image:?}") };
                assert_eq!(fs::read(path).unwrap(), bytes);
            }
            Err(_) => assert_eq!(contents(directory.path()), Vec::<String>::new()),
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_input_is_refused_cleanly(bytes in prop::collection::vec(any::<u8>(), 0..2048), magic in 0..4usize) {
        let magics: [&[u8]; 4] = [b"", MODULE, COMPONENT, b"\x1f\x8b\x08\0"];
        let (directory, store) = store();
        if store.import_reader([magics[magic], &bytes].concat().as_slice(), None).is_err() {
            prop_assert_eq!(contents(directory.path()), Vec::<String>::new());
        }
    }

    #[test]
    fn damaged_images_are_refused_cleanly(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let mut bytes = archive(&layout(json!({}), &[tar(&[file("a", b"1")])]));
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() * 2).min(bytes.len()));
        let (directory, store) = store();
        if store.import_reader(bytes.as_slice(), None).is_err() {
            prop_assert_eq!(contents(directory.path()), Vec::<String>::new());
        }
    }
}
