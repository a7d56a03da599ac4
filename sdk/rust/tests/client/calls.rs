//! Calls: encoding, signatures, errors, what is tried again and what is not.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use neargate_sdk::types::{ecs, logs, sts};
use neargate_sdk::{Client, Config, Error};
use serde_json::json;

use crate::server::{Call, REGION, Reply, Server};

/// Answers the first calls with these replies, and all later ones with an empty list of clusters.
fn first(replies: Vec<Reply>) -> impl FnMut(&Call) -> Reply + Send + 'static {
    let mut replies = replies.into_iter();
    move |_| replies.next().unwrap_or(Reply::Json(200, json!({"clusterArns": ["a"]})))
}

fn list() -> ecs::ListClustersRequest {
    ecs::ListClustersRequest::default()
}

fn throttled() -> Reply {
    Reply::Json(400, json!({"__type": "ThrottlingException", "message": "Rate exceeded"}))
}

fn unwell() -> Reply {
    Reply::Json(500, json!({"__type": "ServerException", "message": "Oops."}))
}

#[tokio::test]
async fn calls_are_typed_and_signed_and_share_a_connection() {
    let server = Server::start(first(Vec::new())).await;
    let client = server.client();
    for _ in 0..3 {
        let answer = client.ecs().list_clusters(list()).await.unwrap();
        assert_eq!(answer.cluster_arns, Some(vec!["a".to_owned()]));
    }
    let input = logs::CreateLogGroupRequest { log_group_name: "g é".into(), ..Default::default() };
    client.clone().cloudwatch_logs().in_region("us-west-2").create_log_group(input).await.unwrap();
    let calls = server.calls();
    assert_eq!(calls[0].region, REGION);
    assert_eq!((calls[3].operation.as_str(), calls[3].region.as_str()), ("CreateLogGroup", "us-west-2"));
    assert_eq!(calls[3].input, json!({"logGroupName": "g é"}));
    assert_eq!(calls.iter().map(|call| call.connection).collect::<BTreeSet<_>>().len(), 1);
}

#[tokio::test]
async fn the_query_protocol_is_spoken_where_there_is_no_other() {
    let answer = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <GetCallerIdentityResult><Arn>arn:aws:iam::1:root</Arn><UserId>1&amp;2</UserId><Account>1</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>\
         </GetCallerIdentityResponse>";
    let refusal = "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code>\
         <Message>No such key.</Message></Error></ErrorResponse>";
    let mut replies = [Reply::Raw(200, &[], answer), Reply::Raw(403, &[], refusal)].into_iter();
    let server = Server::start(move |_| replies.next().unwrap()).await;
    let client = server.client();
    let call = || client.sts().get_caller_identity(sts::GetCallerIdentityRequest {});
    let identity = call().await.unwrap();
    assert_eq!(identity.arn.as_deref(), Some("arn:aws:iam::1:root"));
    assert_eq!(identity.user_id.as_deref(), Some("1&2"));
    assert_eq!(server.calls()[0].input, json!("Action=GetCallerIdentity&Version=2011-06-15"));
    let error = call().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidClientTokenId"));
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn errors_have_a_code_a_message_and_an_id() {
    let check = async |reply: Reply, status: u16, code: &str, message: &str| {
        let server = Server::start(first(vec![reply])).await;
        let config = server.config().attempts_max(1);
        let error = Client::new(config).unwrap().ecs().list_clusters(list()).await.unwrap_err();
        let Error::Service(error) = error else { panic!("{error:?}") };
        assert_eq!((error.status, error.code.as_str(), error.message.as_str()), (status, code, message));
        assert_eq!((error.operation, error.request_id.as_deref()), ("ListClusters", Some("request-1")));
    };
    let body = json!({"__type": "ClusterNotFoundException", "message": "Cluster not found."});
    check(Reply::Json(400, body), 400, "ClusterNotFoundException", "Cluster not found.").await;
    let body = json!({"__type": "com.amazonaws.ecs#ClientException:http://x", "Message": "m"});
    check(Reply::Json(400, body), 400, "ClientException", "m").await;
    let named = &[("x-amzn-errortype", "AccessDeniedException:")];
    check(Reply::Raw(403, named, ""), 403, "AccessDeniedException", "").await;
    check(Reply::Raw(502, &[], " <h1>Bad gateway</h1>\n"), 502, "HTTP 502", "<h1>Bad gateway</h1>").await;
}

#[tokio::test]
async fn an_answer_that_is_none_of_the_apis_is_said_to_be_so() {
    let server = Server::start(first(vec![Reply::Raw(200, &[], "<html>hello</html>")])).await;
    let error = server.client().ecs().list_clusters(list()).await.unwrap_err();
    assert!(matches!(error, Error::Answer { operation: "ListClusters", status: 200, .. }), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("endpoint")));
}

#[tokio::test]
async fn what_may_be_repeated_is_and_the_rest_is_not() {
    enum Kind {
        Safe,
        Once,
    }
    let check = async |kind: Kind, reply: fn() -> Reply, expect: usize| {
        let server = Server::start(first(vec![reply(), reply()])).await;
        let client = server.client();
        let result = match kind {
            Kind::Safe => client.ecs().list_clusters(list()).await.map(drop),
            Kind::Once => {
                let input = ecs::RegisterTaskDefinitionRequest { family: "f".into(), ..Default::default() };
                client.ecs().register_task_definition(input).await.map(drop)
            }
        };
        assert_eq!((server.calls().len(), result.is_ok()), (expect, expect == 3));
    };
    let refused = || Reply::Json(400, json!({"__type": "ClientException"}));
    check(Kind::Safe, throttled, 3).await;
    check(Kind::Safe, unwell, 3).await;
    check(Kind::Safe, || Reply::Hangup, 3).await;
    check(Kind::Safe, refused, 1).await;
    check(Kind::Once, throttled, 3).await;
    check(Kind::Once, unwell, 1).await;
    check(Kind::Once, || Reply::Hangup, 1).await;
}

#[tokio::test]
async fn attempts_have_a_bound() {
    let server = Server::start(|_| throttled()).await;
    let error = Client::new(server.config().attempts_max(2)).unwrap().ecs().list_clusters(list()).await;
    assert_eq!(error.unwrap_err().code(), Some("ThrottlingException"));
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    let server = Server::start(|_| Reply::Silence).await;
    let limit = Duration::from_millis(50);
    let config = server.config().attempts_max(1).attempt_timeout(limit);
    let error = Client::new(config).unwrap().ecs().list_clusters(list()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { limit: l, .. } if l == limit), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let credentials = Server::start(first(Vec::new())).await.config().credentials().clone();
    let client = Client::new(Config::new(&url, REGION, credentials).unwrap()).unwrap();
    let error = client.ecs().list_clusters(list()).await.unwrap_err();
    let Error::Connect { endpoint, source } = &error else { panic!("{error:?}") };
    assert_eq!((endpoint, source.kind()), (&url, std::io::ErrorKind::ConnectionRefused));
    assert!(error.hint().is_some_and(|hint| hint.contains("neargate serve")));
}
