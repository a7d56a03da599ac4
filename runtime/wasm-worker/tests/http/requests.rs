//! What guests see of requests, and clients of responses.

use neargate_wasm::protocol::Entry;

use crate::served::Served;

#[test]
fn an_answer_that_is_whole_has_its_length() {
    let served = Served::new();
    let response = served.get("/hello");
    assert_eq!((response.status, response.text()), (200, "hello\n"));
    assert_eq!(response.header("content-length"), Some("6"));
    assert!(response.header("date").is_some());
    assert_eq!(response.header("transfer-encoding"), None);
}

#[test]
fn each_request_of_a_connection_gets_a_fresh_instance() {
    let served = Served::new();
    let mut client = served.client();
    for _ in 0..5 {
        assert_eq!(client.get("/seen").text(), "1");
    }
    assert_eq!(served.usage().requests, 5);
    served.wait_for_no_instance();
}

#[test]
fn reuse_is_counted() {
    let served = Served::with(16, |setup| setup.plan.entry = Entry::Http { reuse: Some(3) });
    let mut client = served.client();
    let seen: Vec<String> = (0..7).map(|_| client.get("/seen").text().to_owned()).collect();
    assert_eq!(seen, ["1", "2", "3", "1", "2", "3", "1"]);
    assert_eq!(client.get("/trap").status, 500);
    assert_eq!(client.get("/seen").text(), "1", "an instance that trapped is not used again");
}

#[test]
fn a_guest_sees_the_request() {
    let served = Served::new();
    let mut client = served.client();
    client.write(b"GET /describe?a=b HTTP/1.1\r\nHost: example.com:81\r\n\r\n");
    let text = "Method::Get Some(Scheme::Http) Some(\"example.com:81\") Some(\"/describe?a=b\")\n";
    assert_eq!(client.response().unwrap().text(), text);
    client.write(b"GET /headers HTTP/1.1\r\nHost: a\r\nX-Twice: 1\r\nX-Twice: 2\r\nUpgrade: b\r\n\r\n");
    let headers = client.response().unwrap();
    // What is about the connection is not the guest's (RFC 9110, 7.6.1).
    assert_eq!(headers.text(), "x-twice: 1\nx-twice: 2\n");
}

#[test]
fn a_request_needs_one_host() {
    let served = Served::new();
    for request in [
        "GET /hello HTTP/1.1\r\n\r\n",
        "GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /hello HTTP/1.0\r\n\r\n",
    ] {
        let mut client = served.client();
        client.write(request.as_bytes());
        assert_eq!(client.response().unwrap().status, 400, "{request:?}");
    }
    let mut client = served.client();
    client.write(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 501);
}

#[test]
fn a_head_request_gets_a_head() {
    let served = Served::new();
    let mut client = served.client();
    client.write(b"HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 200);
    // Had a body come, it would be read as the next status line.
    assert_eq!(client.get("/hello").text(), "hello\n");
}
