//! Whole calls: bytes in, an implementation of the generated trait, bytes out.
#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use neargate_wire::ecs::{self, Failure, RunTaskRequest, RunTaskResponse, Task};
use neargate_wire::logs::{self, LogsError};
use neargate_wire::sts::{
    self, AssumeRoleRequest, AssumeRoleResponse, GetCallerIdentityRequest, GetCallerIdentityResponse,
    GetSessionTokenRequest, GetSessionTokenResponse, Sts, StsError,
};
use neargate_wire::{Call, Constraint, DispatchError, ErrorReply, Form, Input, Protocol, Timestamp, json};
use proptest::prelude::{ProptestConfig, any, proptest};

struct Caller;

impl Sts for Caller {
    type Context = String;

    async fn get_caller_identity(
        &self,
        account: &String,
        _: GetCallerIdentityRequest,
    ) -> Result<GetCallerIdentityResponse, StsError> {
        if account.is_empty() {
            return Err(StsError::Reply(ErrorReply::sender(403, "AccessDenied", "no account")));
        }
        Ok(GetCallerIdentityResponse {
            user_id: Some("AKIA<1>".into()),
            account: Some(account.clone()),
            arn: Some(format!("arn:aws:iam::{account}:root")),
        })
    }

    async fn assume_role(&self, _: &String, _: AssumeRoleRequest) -> Result<AssumeRoleResponse, StsError> {
        Err(StsError::Reply(ErrorReply::sender(403, "AccessDenied", "no roles")))
    }

    async fn get_session_token(
        &self,
        _: &String,
        _: GetSessionTokenRequest,
    ) -> Result<GetSessionTokenResponse, StsError> {
        Err(StsError::Reply(ErrorReply::sender(403, "AccessDenied", "no sessions")))
    }
}

/// Runs a future that never waits.
fn run<T>(future: impl Future<Output = T> + Send) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the implementations here do not wait"),
    }
}

fn call_sts(form: &str, account: &str) -> Result<String, DispatchError> {
    let form = Form::parse(form.as_bytes()).expect("a form");
    let operation = form.get("Action").expect("an action");
    let call = Call { operation, request_id: "id-1", input: Input::Form(&form) };
    run(sts::dispatch(&Caller, &account.to_owned(), &call))
        .map(|body| String::from_utf8(body).expect("XML is UTF-8"))
}

#[test]
fn a_query_call_answers_in_xml() {
    let body = call_sts("Action=GetCallerIdentity&Version=2011-06-15", "123456789012").expect("an answer");
    assert_eq!(
        body,
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <UserId>AKIA&lt;1&gt;</UserId><Account>123456789012</Account><Arn>arn:aws:iam::123456789012:root</Arn>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>id-1</RequestId></ResponseMetadata>\
         </GetCallerIdentityResponse>"
    );
}

#[test]
fn operations_without_implementation_are_refused_in_words() {
    let check = |operation: &str, code: &str, message: &str| {
        let reply = call_sts(&format!("Action={operation}"), "1").expect_err("no implementation").reply();
        assert_eq!((reply.status, reply.code, reply.message.as_str()), (400, code, message));
    };
    check("Nope", "InvalidAction", "Could not find operation Nope for version 2011-06-15");
    check(
        "AssumeRoot",
        "InvalidAction",
        "operation AssumeRoot is not supported by Neargate; see the fidelity ledger",
    );
    let refuse = |service, operation| {
        Call { operation, request_id: "id-1", input: Input::Json(b"{}") }.refuse(service).reply().code
    };
    assert_eq!(refuse(&ecs::SERVICE, "CreateService"), "UnsupportedFeatureException");
    assert_eq!(refuse(&ecs::SERVICE, "Nope"), "UnknownOperationException");
    assert_eq!(refuse(&logs::SERVICE, "StartQuery"), "UnknownOperationException");
}

#[test]
fn errors_of_an_operation_reach_the_client() {
    let error = call_sts("Action=GetCallerIdentity", "").expect_err("access is denied");
    let body = error.reply().render(Protocol::Query, Some(&sts::SERVICE), "id-1").body;
    assert!(String::from_utf8(body).expect("XML is UTF-8").contains("<Code>AccessDenied</Code>"));
    let error = LogsError::ServiceUnavailable { message: "later".into() };
    assert_eq!((error.http_status(), error.sender_fault()), (500, false));
    assert_eq!(error.to_string(), "ServiceUnavailableException: later");
}

#[test]
fn broken_constraints_are_worded_as_aws_words_them() {
    fn check<T: neargate_wire::shape::Shape + std::fmt::Debug>(body: &str, code: &str, message: &str) {
        let service = if code == "ValidationError" { &sts::SERVICE } else { &ecs::SERVICE };
        let call = Call { operation: "X", request_id: "id-1", input: Input::Json(body.as_bytes()) };
        let reply = call.decode::<T>(service).expect_err(body).reply();
        assert_eq!((reply.status, reply.code, reply.message.as_str()), (400, code, message));
    }
    check::<RunTaskRequest>(
        "{}",
        "InvalidParameterException",
        "1 validation error detected: Value null at 'taskDefinition' failed to satisfy constraint: \
         Member must not be null",
    );
    check::<RunTaskRequest>(
        r#"{"taskDefinition": "a", "launchType": "MARS"}"#,
        "InvalidParameterException",
        "1 validation error detected: Value 'MARS' at 'launchType' failed to satisfy constraint: \
         Member must satisfy enum value set: [EC2, FARGATE, EXTERNAL, MANAGED_INSTANCES]",
    );
    check::<RunTaskRequest>(
        r#"{"taskDefinition": "a", "tags": [{"key": ""}, {"key": "a#"}],
            "capacityProviderStrategy": [{"weight": 1001}]}"#,
        "InvalidParameterException",
        "4 validation errors detected: \
         Value null at 'capacityProviderStrategy[0].capacityProvider' failed to satisfy constraint: \
         Member must not be null; \
         Value '1001' at 'capacityProviderStrategy[0].weight' failed to satisfy constraint: \
         Member must have value less than or equal to 1000; \
         Value '' at 'tags[0].key' failed to satisfy constraint: \
         Member must have length greater than or equal to 1; \
         Value 'a#' at 'tags[1].key' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: ([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)",
    );
    check::<logs::CreateLogGroupRequest>(
        &format!(r#"{{"logGroupName": "{}"}}"#, "x".repeat(513)),
        "InvalidParameterException",
        &format!(
            "1 validation error detected: Value '{}…' at 'logGroupName' failed to satisfy constraint: \
             Member must have length less than or equal to 512",
            "x".repeat(256)
        ),
    );
}

#[test]
fn violations_can_be_inspected() {
    let call = Call { operation: "RunTask", request_id: "id-1", input: Input::Json(b"{}") };
    let Err(DispatchError::Constraint { violations, .. }) = call.decode::<RunTaskRequest>(&ecs::SERVICE)
    else {
        panic!("taskDefinition is required");
    };
    let [violation] = violations.as_slice() else { panic!("one violation") };
    assert_eq!((violation.path.as_str(), violation.constraint), ("taskDefinition", Constraint::Required));
}

#[test]
fn malformed_input_is_a_serialization_exception() {
    let call = Call { operation: "RunTask", request_id: "id-1", input: Input::Json(b"{\"count\": \"x\"}") };
    let reply = call.decode::<RunTaskRequest>(&ecs::SERVICE).expect_err("count is a number").reply();
    assert_eq!((reply.status, reply.code), (400, "SerializationException"));
    assert_eq!(reply.message, "expected a 32-bit integer at 'count', found a string");
}

/// What a client of ECS receives, byte for byte.
#[test]
fn the_bytes_of_a_run_task_response() {
    let response = RunTaskResponse {
        tasks: Some(vec![Task {
            task_arn: Some("arn:aws:ecs:us-east-1:123456789012:task/c/0123".into()),
            last_status: Some("PROVISIONING".into()),
            launch_type: Some(ecs::LaunchType::Fargate),
            created_at: Some(Timestamp::from_millis(1_700_000_000_123)),
            enable_execute_command: Some(false),
            tags: Some(Vec::new()),
            version: Some(1),
            ..Task::default()
        }]),
        failures: Some(vec![Failure { reason: Some("RESOURCE:MEMORY \"x\"".into()), ..Failure::default() }]),
    };
    let bytes = String::from_utf8(json::encode(&response)).expect("JSON is UTF-8");
    assert_eq!(
        bytes,
        "{\"tasks\":[{\"createdAt\":1700000000.123,\"enableExecuteCommand\":false,\
         \"lastStatus\":\"PROVISIONING\",\"launchType\":\"FARGATE\",\"tags\":[],\
         \"taskArn\":\"arn:aws:ecs:us-east-1:123456789012:task/c/0123\",\"version\":1}],\
         \"failures\":[{\"reason\":\"RESOURCE:MEMORY \\\"x\\\"\"}]}"
    );
    assert_eq!(json::decode::<RunTaskResponse>(bytes.as_bytes()).expect("our own bytes").0, response);
}

#[test]
fn environment_variables_do_not_show_in_debug_texts() {
    let body = br#"{"name": "web", "environment": [{"name": "PASSWORD", "value": "hunter2"}]}"#;
    let (container, _) = json::decode::<ecs::ContainerDefinition>(body).expect("a container");
    let text = format!("{container:?}");
    assert!(text.contains("web") && text.contains("[redacted]") && !text.contains("hunter2"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_form_panics(body in any::<Vec<u8>>()) {
        let _ = Form::parse(&body);
    }

    #[test]
    fn no_form_of_plausible_names_panics(body in "((tags|member|entry|key|value|overrides|[1-9]|[.=&%+])*)") {
        if let Ok(form) = Form::parse(body.as_bytes()) {
            let call = Call { operation: "RunTask", request_id: "", input: Input::Form(&form) };
            let _ = call.decode::<RunTaskRequest>(&ecs::SERVICE).map_err(|error| error.reply());
        }
    }

    #[test]
    fn no_json_panics(body in "[\\[\\]{}:,\"a-c0-9.eE+-]*") {
        let call = Call { operation: "RunTask", request_id: "", input: Input::Json(body.as_bytes()) };
        let _ = call.decode::<RunTaskRequest>(&ecs::SERVICE).map_err(|error| error.reply());
    }

    #[test]
    fn any_text_survives_json(text in any::<String>()) {
        let tag = ecs::Tag { key: Some(text), value: None };
        assert_eq!(json::decode::<ecs::Tag>(&json::encode(&tag)).expect("our own bytes").0, tag);
    }

    #[test]
    fn any_timestamp_survives_json(epoch_ms in any::<i64>()) {
        let task = Task { created_at: Some(Timestamp::from_millis(epoch_ms % 253_402_300_799_999)), ..Task::default() };
        assert_eq!(json::decode::<Task>(&json::encode(&task)).expect("our own bytes").0, task);
    }
}
