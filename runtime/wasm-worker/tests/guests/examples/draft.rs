//! Walks through `wasi:keyvalue` as its older draft has it, where places in lists of keys are numbers.

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package test:guest;
        world guest {
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:keyvalue/atomics@0.2.0-draft;
            import wasi:keyvalue/batch@0.2.0-draft;
        }
    ",
    world: "test:guest/guest",
    generate_all,
});

use wasi::keyvalue0_2_0_draft::{atomics, batch, store};

fn main() {
    println!("{:?} {:?}", store::open("no/such").map(drop), store::open(&"b".repeat(65)).map(drop));
    let bucket = store::open("draft").expect("open");
    values(&bucket);
    batches(&bucket);
    keys(&bucket);
    cursors(&bucket);
    numbers(&bucket);
}

fn values(bucket: &store::Bucket) {
    println!("{:?} {:?}", bucket.get("k"), bucket.exists("k"));
    println!("{:?} {:?} {:?}", bucket.set("k", b"v"), bucket.get("k"), bucket.exists("k"));
    println!("{:?} {:?}", bucket.delete("k"), bucket.get("k"));
    println!("{:?}", bucket.set("", b"v"));
    println!("{:?}", bucket.set("large", &vec![0; (1 << 20) + 1]));
}

fn batches(bucket: &store::Bucket) {
    let pairs: Vec<(String, Vec<u8>)> = (0..5).map(|n| (format!("k{n}"), vec![n])).collect();
    println!("{:?}", batch::set_many(bucket, &pairs));
    println!("{:?}", batch::get_many(bucket, &["k1".into(), "none".into(), "k4".into()]));
    println!("{:?}", batch::delete_many(bucket, &["k0".into(), "none".into()]));
    let many: Vec<String> = (0..1001).map(|n| format!("{n}")).collect();
    println!("{:?}", batch::get_many(bucket, &many));
}

/// All keys, page by page.
fn keys(bucket: &store::Bucket) {
    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor).expect("list");
        pages.push(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    println!("{pages:?}");
}

/// A cursor can be used again, by its own bucket, and not for ever.
fn cursors(bucket: &store::Bucket) {
    let first = bucket.list_keys(None).expect("list").cursor;
    let page = |cursor| bucket.list_keys(cursor).map(|page| page.keys);
    println!("{:?} {:?}", page(first), page(first));
    println!("{:?}", page(Some(u64::MAX)));
    let other = store::open("draft").expect("open");
    println!("{:?}", other.list_keys(first).map(|page| page.keys));
    let newest = (0..16).map(|_| bucket.list_keys(None).expect("list").cursor).last().flatten();
    println!("{:?} {:?}", page(newest), page(first));
}

fn numbers(bucket: &store::Bucket) {
    println!("{:?} {:?}", atomics::increment(bucket, "n", 40), atomics::increment(bucket, "n", 2));
    println!("{:?}", bucket.get("n").map(|value| value.map(String::from_utf8)));
    println!("{:?}", atomics::increment(bucket, "n", u64::MAX));
    bucket.set("below", b"-5").expect("set");
    println!("{:?} {:?}", atomics::increment(bucket, "below", 3), atomics::increment(bucket, "below", 3));
}
