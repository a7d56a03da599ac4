//! One row for each AWS service.

use neargate_wire::{Call, DispatchError, Service, ec2, ecr, ecs, iam, logs, servicediscovery, sts};

use crate::RequestContext;
use crate::discovery::DiscoveryApi;
use crate::ec2::Ec2Api;
use crate::ecr::EcrApi;
use crate::ecs::EcsApi;
use crate::iam::IamApi;
use crate::logs::LogsApi;
use crate::sts::StsApi;

/// The AWS services that this server has.
pub struct Apis {
    /// AWS Cloud Map.
    pub discovery: DiscoveryApi,
    /// Amazon EC2.
    pub ec2: Ec2Api,
    /// Amazon ECR.
    pub ecr: EcrApi,
    /// Amazon ECS.
    pub ecs: EcsApi,
    /// AWS IAM.
    pub iam: IamApi,
    /// Amazon CloudWatch Logs.
    pub logs: LogsApi,
    /// AWS STS.
    pub sts: StsApi,
}

impl Apis {
    /// Runs one operation of one service.
    pub(crate) async fn dispatch(
        &self,
        service: &'static Service,
        cx: &RequestContext,
        call: &Call<'_>,
    ) -> Result<Vec<u8>, DispatchError> {
        match service.name {
            "ec2" => ec2::dispatch(&self.ec2, cx, call).await,
            "ecr" => ecr::dispatch(&self.ecr, cx, call).await,
            "ecs" => ecs::dispatch(&self.ecs, cx, call).await,
            "iam" => iam::dispatch(&self.iam, cx, call).await,
            "logs" => logs::dispatch(&self.logs, cx, call).await,
            "servicediscovery" => servicediscovery::dispatch(&self.discovery, cx, call).await,
            "sts" => sts::dispatch(&self.sts, cx, call).await,
            _ => Err(call.refuse(service)),
        }
    }
}
