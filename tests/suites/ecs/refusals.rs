//! Requests that Amazon ECS refuses: the code that a client branches on, and a text that names the mistake.

use anyhow::Result;
use aws_sdk_ecs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ecs::types::{
    Compatibility, ContainerCondition, ContainerDefinition, ContainerDependency, LaunchType, NetworkMode,
};

use crate::suite::{Case, Needs};
use crate::{CLUSTER, client, container, network, register, wait};

pub(crate) const CASES: &[Case] = &[
    ("refused/definitions", Needs::Nothing, definitions),
    ("refused/fargate_sizes", Needs::Nothing, fargate_sizes),
    ("refused/unknown_cluster", Needs::Nothing, unknown_cluster),
    ("refused/unknown_definition", Needs::Nothing, unknown_definition),
    ("refused/unknown_task", Needs::Nothing, unknown_task),
    ("refused/inactive_definition", Needs::Nothing, inactive_definition),
    ("refused/unsupported_operations", Needs::Nothing, unsupported_operations),
];

/// The code and text of a refusal.
fn refused<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(
    answer: Result<T, impl Into<Box<SdkError<E>>>>,
) -> (String, String) {
    let error = answer.map_err(Into::into).expect_err("it should have been refused");
    let part = |text: Option<&str>| text.unwrap_or_default().to_owned();
    (part(error.code()), part(error.message()))
}

fn plain(name: &str) -> aws_sdk_ecs::types::builders::ContainerDefinitionBuilder {
    container(name, "probe", &["exit", "0"])
}

fn after(name: &str) -> ContainerDependency {
    let dependency = ContainerDependency::builder().container_name(name).condition(ContainerCondition::Start);
    dependency.build().expect("both fields are set")
}

fn definitions() -> Result<()> {
    let client = client()?;
    let check = |what: &str, containers: Vec<ContainerDefinition>, mentions: &str| {
        let call = client
            .register_task_definition()
            .family("refused")
            .requires_compatibilities(Compatibility::Fargate)
            .network_mode(NetworkMode::Awsvpc)
            .cpu("256")
            .memory("512")
            .set_container_definitions(Some(containers));
        let (code, text) = refused(wait(call.send()));
        assert!(["ClientException", "InvalidParameterException"].contains(&&*code), "{what}: {code}: {text}");
        assert!(text.contains(mentions), "{what}: {mentions:?} is not in {text:?}");
    };
    check("no container", vec![], "");
    let eleven = (0..11).map(|i| plain(&format!("c{i}")).build()).collect();
    check("eleven containers", eleven, "10");
    check("one name twice", vec![plain("a").build(), plain("a").build()], "a");
    check("no essential container", vec![plain("a").essential(false).build()], "essential");
    let cycle = vec![plain("a").depends_on(after("b")).build(), plain("b").depends_on(after("a")).build()];
    check("a cycle", cycle, "");
    check("itself", vec![plain("a").depends_on(after("a")).build()], "a");
    check("unknown dependency", vec![plain("a").depends_on(after("z")).build()], "z");
    check(
        "no image",
        vec![ContainerDefinition::builder().name("a").build()],
        "Container.image should not be null or empty.",
    );
    check("a name with a slash", vec![plain("../a").build()], "");
    check("a name with a newline", vec![plain("a\nb").build()], "");
    check("privileged", vec![plain("a").privileged(true).build()], "privileged");
    check("too little memory", vec![plain("a").memory(3).build()], "6");
    check("more memory than the task", vec![plain("a").memory(1024).build()], "");
    check("stop timeout", vec![plain("a").stop_timeout(121).build()], "120");
    Ok(())
}

fn fargate_sizes() -> Result<()> {
    let client = client()?;
    let register = |cpu: &str, memory: &str| {
        let call = client
            .register_task_definition()
            .family("sizes")
            .requires_compatibilities(Compatibility::Fargate)
            .network_mode(NetworkMode::Awsvpc)
            .cpu(cpu)
            .memory(memory)
            .container_definitions(plain("a").build());
        wait(call.send()).map_err(Box::new)
    };
    for (cpu, memory) in
        [("256", "512"), ("256", "2048"), ("1 vCPU", "2 GB"), ("1024", "8192"), (".25 vCPU", "0.5 GB")]
    {
        register(cpu, memory)?;
    }
    for (cpu, memory, text) in [
        ("256", "4096", "No Fargate configuration exists for given values."),
        ("512", "512", "No Fargate configuration exists for given values."),
        ("1024", "2049", "No Fargate configuration exists for given values."),
        ("300", "512", "Invalid 'cpu' setting for task."),
    ] {
        let (code, message) = refused(register(cpu, memory));
        assert_eq!(code, "ClientException", "{cpu}/{memory}: {message}");
        assert!(message.contains(text), "{cpu}/{memory}: {message}");
    }
    Ok(())
}

fn unknown_cluster() -> Result<()> {
    let client = client()?;
    register(&client, "nowhere", vec![plain("a").build()])?;
    let call =
        client.run_task().cluster("nowhere").task_definition("nowhere").launch_type(LaunchType::Fargate);
    let refusals = [
        refused(wait(call.network_configuration(network()?).send())),
        refused(wait(client.list_tasks().cluster("nowhere").send())),
        refused(wait(client.describe_tasks().cluster("nowhere").tasks("a".repeat(32)).send())),
        refused(wait(client.delete_cluster().cluster("nowhere").send())),
    ];
    for (code, message) in refusals {
        assert_eq!((code.as_str(), message.as_str()), ("ClusterNotFoundException", "Cluster not found."));
    }
    let described = wait(client.describe_clusters().clusters("nowhere").send())?;
    assert_eq!(described.failures().first().and_then(|failure| failure.reason()), Some("MISSING"));
    Ok(())
}

fn unknown_definition() -> Result<()> {
    let client = client()?;
    for name in
        ["no-such-family", "no-such-family:3", "arn:aws:ecs:us-east-1:123456789012:task-definition/no:1"]
    {
        let (code, message) = refused(wait(client.describe_task_definition().task_definition(name).send()));
        assert_eq!(code, "ClientException", "{name}: {message}");
    }
    let run = |name: &str| {
        let call = client.run_task().cluster(CLUSTER).task_definition(name).launch_type(LaunchType::Fargate);
        anyhow::Ok(refused(wait(call.network_configuration(network()?).send())))
    };
    for name in ["no-such-family", "bad:arn:here:x", "arn:aws:s3:::bucket", "family:zero"] {
        let (code, message) = run(name)?;
        assert!(
            ["ClientException", "InvalidParameterException"].contains(&&*code),
            "{name}: {code}: {message}"
        );
    }
    Ok(())
}

fn unknown_task() -> Result<()> {
    let client = client()?;
    let id = "0123456789abcdef0123456789abcdef";
    let (code, message) = refused(wait(client.stop_task().cluster(CLUSTER).task(id).send()));
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("InvalidParameterException", "The referenced task was not found.")
    );
    let described = wait(client.describe_tasks().cluster(CLUSTER).tasks(id).send())?;
    let failure = described.failures().first().expect("a failure");
    assert_eq!(failure.reason(), Some("MISSING"));
    assert!(failure.arn().is_some_and(|arn| arn.ends_with(id)), "{failure:?}");
    Ok(())
}

fn inactive_definition() -> Result<()> {
    let client = client()?;
    register(&client, "inactive", vec![plain("a").build()])?;
    wait(client.deregister_task_definition().task_definition("inactive:1").send())?;
    let call =
        client.run_task().cluster(CLUSTER).task_definition("inactive:1").launch_type(LaunchType::Fargate);
    let (code, message) = refused(wait(call.network_configuration(network()?).send()));
    assert!(["ClientException", "InvalidParameterException"].contains(&&*code), "{code}: {message}");
    assert!(message.to_lowercase().contains("inactive"), "{message}");
    let described = wait(client.describe_task_definition().task_definition("inactive:1").send())?;
    let status = described.task_definition().and_then(|definition| definition.status());
    assert_eq!(status.map(|status| status.as_str()), Some("INACTIVE"));
    Ok(())
}

/// Nothing silently does nothing: an operation that is not there says so.
fn unsupported_operations() -> Result<()> {
    let client = client()?;
    let call =
        client.create_service().cluster(CLUSTER).service_name("web").task_definition("x").desired_count(1);
    let (code, message) = refused(wait(call.send()));
    assert_eq!(code, "UnsupportedFeatureException", "{message}");
    let (code, message) = refused(wait(client.describe_capacity_providers().send()));
    assert_eq!(code, "UnsupportedFeatureException", "{message}");
    Ok(())
}
