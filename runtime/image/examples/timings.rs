//! Prints how long import and resolve take: `cargo run --release -p neargate-image --example timings [archive]`.
//! Without an archive it packs an image of 2 000 files and 64 MiB.

use std::time::Instant;

use neargate_image::{ImageStore, PackOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = ImageStore::open(directory.path().join("store"))?;
    let files = directory.path().join("files");
    let name = "timings".parse()?;
    let started = Instant::now();
    match std::env::args_os().nth(1) {
        Some(archive) => {
            store.import(archive, Some(name))?;
            println!("import           {:>10.1?}", started.elapsed());
        }
        None => {
            for i in 0..2000_usize {
                let path = files.join(format!("{}/{i}", i % 40));
                std::fs::create_dir_all(files.join(format!("{}", i % 40)))?;
                let noise = |n: usize| (n.wrapping_mul(2_654_435_761) >> 13) as u8;
                std::fs::write(path, (0..32 << 10).map(|n| noise(n * (i + 7))).collect::<Vec<u8>>())?;
            }
            let started = Instant::now();
            store.pack_directory(&files, &PackOptions::new(name))?;
            println!("pack and unpack  {:>10.1?}", started.elapsed());
        }
    }
    let name = "timings".parse()?;
    let store = ImageStore::open(directory.path().join("store"))?;
    let started = Instant::now();
    let image = store.resolve(&name)?;
    println!("first resolve    {:>10.1?}", started.elapsed());
    let rounds = 100_000;
    let started = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(store.resolve(&name)?);
    }
    println!("further resolves {:>10.1?} each", started.elapsed() / rounds);
    let _pin = store.pin(&image)?;
    let started = Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(store.pin(&image)?);
    }
    println!("further pins     {:>10.1?} each", started.elapsed() / rounds);

    let module = directory.path().join("m.wasm");
    std::fs::write(&module, b"\0asm\x01\0\0\0")?;
    let started = Instant::now();
    store.import(&module, None)?;
    println!("wasm import      {:>10.1?}", started.elapsed());
    Ok(())
}
