//! Speaks to the interfaces that a task definition grants, as its arguments say.

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package test:guest;
        world guest {
            import wasi:config/store@0.2.0-rc.1;
            import wasi:keyvalue/store@0.2.0-draft2;
            import wasi:keyvalue/atomics@0.2.0-draft2;
            import wasi:keyvalue/batch@0.2.0-draft2;
            import wasi:logging/logging@0.1.0-draft;
        }
    ",
    world: "test:guest/guest",
    generate_all,
});

use wasi::config::store as config;
use wasi::keyvalue0_2_0_draft2::{atomics, batch, store};
use wasi::logging0_1_0_draft::logging;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[1..] {
        ["config"] => println!("{:?} {:?} {:?}", config::get("a"), config::get("b"), config::get_all()),
        ["log"] => {
            logging::log(logging::Level::Warn, "db", "slow\n\u{1b}[31m");
            logging::log(logging::Level::Info, "", "done");
        }
        ["count", times] => {
            let bucket = store::open("").expect("open");
            for _ in 0..times.parse().expect("a number") {
                atomics::increment(&bucket, "hits", 1).expect("increment");
            }
        }
        ["swap", times] => {
            let bucket = store::open("swaps").expect("open");
            for _ in 0..times.parse().expect("a number") {
                add_by_swap(&bucket);
            }
        }
        ["store"] => walk_the_store(),
        _ => panic!("{arguments:?}"),
    }
}

/// Adds one the hard way: reads, adds, and tries again when somebody was faster.
fn add_by_swap(bucket: &store::Bucket) {
    let mut cas = atomics::Cas::new(bucket, "n").expect("read");
    loop {
        let seen = cas.current().expect("seen");
        let number = seen.map_or(0, |seen| String::from_utf8(seen).unwrap().parse::<u32>().unwrap());
        match atomics::swap(cas, (number + 1).to_string().as_bytes()) {
            Ok(()) => return,
            Err(atomics::CasError::CasFailed(newer)) => cas = newer,
            Err(atomics::CasError::StoreError(error)) => panic!("{error:?}"),
        }
    }
}

fn walk_the_store() {
    println!("{:?}", store::open("no/such").map(drop));
    let bucket = store::open("b").expect("open");
    println!("{:?} {:?}", bucket.get("k"), bucket.exists("k"));
    println!("{:?} {:?} {:?}", bucket.set("k", b"v"), bucket.get("k"), bucket.exists("k"));
    println!("{:?} {:?}", bucket.delete("k"), bucket.get("k"));
    println!("{:?}", bucket.get(""));
    println!("{:?}", bucket.set("large", &vec![0; (1 << 20) + 1]));
    let pairs: Vec<(String, Vec<u8>)> = (0..5).map(|n| (format!("k{n}"), vec![n])).collect();
    println!("{:?}", batch::set_many(&bucket, &pairs));
    println!("{:?}", batch::get_many(&bucket, &["k1".into(), "none".into(), "k4".into()]));
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor.as_deref()).expect("list");
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    println!("{keys:?}");
    println!("{:?}", batch::delete_many(&bucket, &["k0".into(), "k1".into()]));
    println!("{:?}", bucket.list_keys(None).map(|page| page.keys));
}
