//! What to generate: AWS services, and of each the operations that Neargate implements.
//!
//! An operation that is not listed is refused. Listing one makes it a method without default in the service's trait, so
//! that the server does not compile until it implements it.

/// An AWS service to generate.
pub(crate) struct Input {
    /// Name of the Rust module, and our name for the AWS service.
    pub(crate) module: &'static str,
    /// Name of the trait; the error enum is this with `Error`.
    pub(crate) trait_name: &'static str,
    /// Folder of the model in botocore's data, with the API version.
    pub(crate) folder: &'static str,
    /// Code of the error for input that breaks a constraint of the model.
    pub(crate) invalid_code: &'static str,
    /// Code of the error for an operation that is not listed; `None` for the protocol's own.
    pub(crate) unsupported_code: Option<&'static str>,
    /// The operations that Neargate implements.
    pub(crate) operations: &'static [Listed],
}

impl Input {
    /// Path of the model in the archive.
    pub(crate) fn model_path(&self) -> String {
        format!("botocore/data/{}/service-2.json", self.folder)
    }
}

/// An implemented operation.
pub(crate) struct Listed {
    pub(crate) name: &'static str,
    /// Whether something acts on what it records.
    pub(crate) real: bool,
    pub(crate) note: &'static str,
}

const fn real(name: &'static str) -> Listed {
    Listed { name, real: true, note: "" }
}

const fn noted(name: &'static str, note: &'static str) -> Listed {
    Listed { name, real: true, note }
}

const fn stored(name: &'static str, note: &'static str) -> Listed {
    Listed { name, real: false, note }
}

const CLUSTER_NOTE: &str = "settings and configuration are stored only";
const DEFINITION_NOTE: &str = "port mappings lead to containers under bridge, and to Wasm HTTP handlers; under awsvpc those of other images are stored only; \
     dockerLabels neargate.wasm.… say how Wasm is run, neargate.timeout-s how long a task may run, \
     neargate.network-mbps how much passes its interface, others are stored only; \
     swappiness acts with cgroup v1 and is stored only with v2; privileged, devices, capabilities beyond the default, \
     host paths, and networkMode, pidMode and ipcMode host work only where the operator's policy allows them";
const VPC_NOTE: &str = "blocks do not overlap, as all VPCs share one routed address space; the IPv6 block of a VPC is a private one (RFC 4193); \
     tenancy is always default, and DHCP options, route tables, gateways and network ACLs do not exist";
const SUBNET_NOTE: &str =
    "IPv6 only beside IPv4, with /64; subnets of a VPC reach each other, availability zones are names";
const BLOCK_NOTE: &str =
    "one IPv6 block, which Neargate chooses; further blocks of IPv4 and blocks of one's own are refused";
const SUBNET_BLOCK_NOTE: &str = "one block of IPv6, a /64 of the VPC's";
const RULE_NOTE: &str = "enforced for tasks of the mode awsvpc; prefix lists and peered VPCs are refused";
const INTERFACE_NOTE: &str = "those of tasks; RunTask makes them and the end of a task removes them";
const NAMESPACE_NOTE: &str = "names have at most 253 characters";
const ZONE_NOTE: &str = "answered by the resolver of tasks in its VPC; there is no Route 53, so the hosted zone has an id and nothing else";
const OPERATION_NOTE: &str =
    "everything is done when it is answered, so that every operation is SUCCESS; known for a day";
const REGISTRY_NOTE: &str =
    "health is told by HealthCheckCustomConfig; HealthCheckConfig, by which Route 53 would ask, is refused";
const INSTANCE_NOTE: &str = "AWS_ALIAS_DNS_NAME and AWS_EC2_INSTANCE_ID are refused: there are neither load balancers nor instances of EC2";
const HEALTH_NOTE: &str = "takes effect at once, not after 30 seconds";
const ACCOUNT_NOTE: &str = "settings are kept and returned; dualStackIPv6 alone is acted upon: whether tasks get IPv6 addresses in subnets that have some";

const REPOSITORY_NOTE: &str = "images are encrypted at rest by what encrypts the data directory, so that encryptionConfiguration is stored only, as is imageScanningConfiguration: nothing scans images; exclusion filters of tag mutability are refused";
const REPOSITORY_POLICY_NOTE: &str = "acted upon for callers of the account: there are no others here";
const LIFECYCLE_NOTE: &str = "images expire at once, and then every quarter of an hour; the action transition is refused, as there is one storage class";
const PART_NOTE: &str = "parts have 2 MiB, as the answer says; a larger request is refused";
const DOWNLOAD_NOTE: &str = "the URL is of this server and good for an hour";
const SCANNING_NOTE: &str = "nothing scans images";
const REGISTRY_NOTE_ECR: &str = "there is no replication, so that its rules are always empty";
const TOKEN_NOTE: &str = "the password is good for 12 hours, for the caller's rights at the time of its use, and for this server only";

const RUN_NOTE: &str = "taskRoleArn acts for container tasks of the mode awsvpc and is checked for all; executionRoleArn is stored only, and assignPublicIp, because tasks leave by the address of the host";
const PROTECTION_NOTE: &str =
    "there are no services yet, so no task can be protected, which is what ECS answers for such a task";
const ROLE_NOTE: &str = "permissions boundaries are refused; the root user may take on a role that trusts it";
const DOCUMENT_NOTE: &str = "policy variables and unknown condition operators are refused";
const MANAGED_NOTE: &str = "of AWS's own policies, AdministratorAccess, AWSDenyAll and service-role/AmazonECSTaskExecutionRolePolicy exist";
const SESSION_NOTE: &str = "session policies, session tags and MFA are refused; not across accounts";

/// All AWS services that Neargate knows.
pub(crate) const SERVICES: &[Input] = &[
    Input {
        module: "ec2",
        trait_name: "Ec2",
        folder: "ec2/2016-11-15",
        invalid_code: "InvalidParameterValue",
        unsupported_code: Some("UnsupportedOperation"),
        operations: &[
            real("DescribeVpcs"),
            noted("CreateVpc", VPC_NOTE),
            real("DeleteVpc"),
            real("CreateDefaultVpc"),
            real("DescribeVpcAttribute"),
            noted("AssociateVpcCidrBlock", BLOCK_NOTE),
            real("DisassociateVpcCidrBlock"),
            real("DescribeSubnets"),
            noted("CreateSubnet", SUBNET_NOTE),
            real("DeleteSubnet"),
            noted("AssociateSubnetCidrBlock", SUBNET_BLOCK_NOTE),
            real("DisassociateSubnetCidrBlock"),
            real("CreateDefaultSubnet"),
            real("DescribeSecurityGroups"),
            real("CreateSecurityGroup"),
            real("DeleteSecurityGroup"),
            noted("AuthorizeSecurityGroupIngress", RULE_NOTE),
            noted("AuthorizeSecurityGroupEgress", RULE_NOTE),
            real("RevokeSecurityGroupIngress"),
            real("RevokeSecurityGroupEgress"),
            real("DescribeSecurityGroupRules"),
            noted("ModifySecurityGroupRules", RULE_NOTE),
            real("UpdateSecurityGroupRuleDescriptionsIngress"),
            real("UpdateSecurityGroupRuleDescriptionsEgress"),
            noted("DescribeNetworkInterfaces", INTERFACE_NOTE),
            real("CreateTags"),
            real("DeleteTags"),
            real("DescribeTags"),
            real("DescribeAvailabilityZones"),
            real("DescribeRegions"),
            real("DescribeAccountAttributes"),
        ],
    },
    Input {
        module: "ecr",
        trait_name: "Ecr",
        folder: "ecr/2015-09-21",
        invalid_code: "InvalidParameterException",
        unsupported_code: None,
        operations: &[
            noted("GetAuthorizationToken", TOKEN_NOTE),
            noted("CreateRepository", REPOSITORY_NOTE),
            real("DescribeRepositories"),
            real("DeleteRepository"),
            real("PutImageTagMutability"),
            stored("PutImageScanningConfiguration", SCANNING_NOTE),
            noted("SetRepositoryPolicy", REPOSITORY_POLICY_NOTE),
            real("GetRepositoryPolicy"),
            real("DeleteRepositoryPolicy"),
            noted("PutLifecyclePolicy", LIFECYCLE_NOTE),
            real("GetLifecyclePolicy"),
            real("DeleteLifecyclePolicy"),
            noted("StartLifecyclePolicyPreview", "is complete when it is answered"),
            noted("GetLifecyclePolicyPreview", "works the preview out anew"),
            real("ListImages"),
            real("DescribeImages"),
            real("BatchGetImage"),
            real("BatchDeleteImage"),
            real("PutImage"),
            real("BatchCheckLayerAvailability"),
            noted("GetDownloadUrlForLayer", DOWNLOAD_NOTE),
            noted("InitiateLayerUpload", PART_NOTE),
            noted("UploadLayerPart", PART_NOTE),
            real("CompleteLayerUpload"),
            real("TagResource"),
            real("UntagResource"),
            real("ListTagsForResource"),
            noted("DescribeRegistry", REGISTRY_NOTE_ECR),
        ],
    },
    Input {
        module: "ecs",
        trait_name: "Ecs",
        folder: "ecs/2014-11-13",
        invalid_code: "InvalidParameterException",
        unsupported_code: Some("UnsupportedFeatureException"),
        operations: &[
            noted("CreateCluster", CLUSTER_NOTE),
            real("DescribeClusters"),
            real("ListClusters"),
            noted("UpdateCluster", CLUSTER_NOTE),
            stored("UpdateClusterSettings", CLUSTER_NOTE),
            real("DeleteCluster"),
            noted("RegisterTaskDefinition", DEFINITION_NOTE),
            real("DescribeTaskDefinition"),
            real("ListTaskDefinitions"),
            real("ListTaskDefinitionFamilies"),
            real("DeregisterTaskDefinition"),
            real("DeleteTaskDefinitions"),
            noted("RunTask", RUN_NOTE),
            real("StopTask"),
            real("DescribeTasks"),
            real("ListTasks"),
            noted("UpdateTaskProtection", PROTECTION_NOTE),
            noted("GetTaskProtection", PROTECTION_NOTE),
            real("TagResource"),
            real("UntagResource"),
            real("ListTagsForResource"),
            real("ListAccountSettings"),
            stored("PutAccountSetting", ACCOUNT_NOTE),
            stored("PutAccountSettingDefault", ACCOUNT_NOTE),
            stored("DeleteAccountSetting", ACCOUNT_NOTE),
        ],
    },
    Input {
        module: "iam",
        trait_name: "Iam",
        folder: "iam/2010-05-08",
        invalid_code: "ValidationError",
        unsupported_code: None,
        operations: &[
            noted("CreateRole", ROLE_NOTE),
            real("GetRole"),
            real("ListRoles"),
            real("DeleteRole"),
            noted("UpdateAssumeRolePolicy", DOCUMENT_NOTE),
            real("TagRole"),
            real("UntagRole"),
            real("ListRoleTags"),
            noted("PutRolePolicy", DOCUMENT_NOTE),
            real("GetRolePolicy"),
            real("ListRolePolicies"),
            real("DeleteRolePolicy"),
            noted("AttachRolePolicy", MANAGED_NOTE),
            real("DetachRolePolicy"),
            real("ListAttachedRolePolicies"),
            noted("CreatePolicy", DOCUMENT_NOTE),
            real("GetPolicy"),
            noted("GetPolicyVersion", "a policy has one version"),
            noted("ListPolicies", MANAGED_NOTE),
            real("DeletePolicy"),
        ],
    },
    Input {
        module: "logs",
        trait_name: "Logs",
        folder: "logs/2014-03-28",
        invalid_code: "InvalidParameterException",
        unsupported_code: None,
        operations: &[
            real("CreateLogGroup"),
            real("DeleteLogGroup"),
            real("DescribeLogGroups"),
            real("CreateLogStream"),
            real("DeleteLogStream"),
            real("DescribeLogStreams"),
            real("PutLogEvents"),
            real("GetLogEvents"),
            real("FilterLogEvents"),
            real("PutRetentionPolicy"),
            real("DeleteRetentionPolicy"),
        ],
    },
    Input {
        module: "servicediscovery",
        trait_name: "ServiceDiscovery",
        folder: "servicediscovery/2017-03-14",
        invalid_code: "InvalidInput",
        unsupported_code: None,
        operations: &[
            noted("CreateHttpNamespace", NAMESPACE_NOTE),
            noted("CreatePrivateDnsNamespace", ZONE_NOTE),
            real("GetNamespace"),
            real("ListNamespaces"),
            real("DeleteNamespace"),
            noted("GetOperation", OPERATION_NOTE),
            real("ListOperations"),
            noted("CreateService", REGISTRY_NOTE),
            real("GetService"),
            noted("UpdateService", REGISTRY_NOTE),
            real("ListServices"),
            real("DeleteService"),
            noted("RegisterInstance", INSTANCE_NOTE),
            real("DeregisterInstance"),
            real("GetInstance"),
            real("ListInstances"),
            noted("UpdateInstanceCustomHealthStatus", HEALTH_NOTE),
            real("GetInstancesHealthStatus"),
            real("DiscoverInstances"),
            real("DiscoverInstancesRevision"),
            real("TagResource"),
            real("UntagResource"),
            real("ListTagsForResource"),
        ],
    },
    Input {
        module: "sts",
        trait_name: "Sts",
        folder: "sts/2011-06-15",
        invalid_code: "ValidationError",
        unsupported_code: None,
        operations: &[
            noted("AssumeRole", SESSION_NOTE),
            noted("GetSessionToken", "session policies and MFA are refused"),
            real("GetCallerIdentity"),
        ],
    },
];

/// A deviation from a model.
pub(crate) struct Patch {
    /// The module of the AWS service.
    pub(crate) module: &'static str,
    /// The shape that is changed.
    pub(crate) shape: &'static str,
    /// What is changed.
    pub(crate) change: Change,
    /// Why.
    pub(crate) reason: &'static str,
}

/// What a patch does.
pub(crate) enum Change {
    /// Does not check the pattern.
    SkipPattern,
    /// Has no other members than these. What is left out of an output is absent; what is left out of an input is refused
    /// by EC2's dialect when a client sends it, and by no other protocol, so that this is for EC2 alone.
    Keep(&'static [&'static str]),
    /// Is text, not an enum.
    PlainText,
    /// Has this value as well.
    Value(&'static str),
}

/// A shape of EC2 without the members that no answer of ours has, nor any request that is understood. Without these, the
/// module would have twice as many structures, most of them for hardware that does not exist here.
const fn keep(shape: &'static str, members: &'static [&'static str]) -> Patch {
    Patch {
        module: "ec2",
        shape,
        change: Change::Keep(members),
        reason: "nothing here has the others: IPv6 of one's own, IPAM, Outposts, peering, prefix lists, instances, encryption",
    }
}

/// A pattern of Cloud Map that looks ahead, as no regular language does.
const fn look_ahead(shape: &'static str) -> Patch {
    let reason =
        "it looks ahead, which the crate `regex` does not; the rule is in `neargate_model::discovery`";
    Patch { module: "servicediscovery", shape, change: Change::SkipPattern, reason }
}

/// All deviations from the models.
pub(crate) const PATCHES: &[Patch] = &[
    Patch {
        module: "sts",
        shape: "arnType",
        change: Change::SkipPattern,
        reason: "it writes U+10000 as \\u10000, which Java reads as U+1000 and a zero; it is only in output",
    },
    Patch {
        module: "ecs",
        shape: "SettingName",
        change: Change::Value("dualStackIPv6"),
        reason: "the model lacks it, while ECS takes and lists it (Developer Guide, \"Account settings\")",
    },
    look_ahead("NamespaceNameHttp"),
    look_ahead("NamespaceNamePrivate"),
    look_ahead("ServiceName"),
    Patch {
        module: "ec2",
        shape: "ResourceType",
        change: Change::PlainText,
        reason: "of its ninety values four exist here, and EC2 has an error of its own for the others",
    },
    Patch {
        module: "ec2",
        shape: "NetworkInterfaceType",
        change: Change::PlainText,
        reason: "of its values one exists here, and it is only in output",
    },
    keep(
        "CreateVpcRequest",
        &["CidrBlock", "TagSpecifications", "DryRun", "InstanceTenancy", "AmazonProvidedIpv6CidrBlock"],
    ),
    keep(
        "Vpc",
        &[
            "OwnerId",
            "InstanceTenancy",
            "Ipv6CidrBlockAssociationSet",
            "CidrBlockAssociationSet",
            "IsDefault",
            "Tags",
            "VpcId",
            "State",
            "CidrBlock",
            "DhcpOptionsId",
        ],
    ),
    keep("VpcCidrBlockState", &["State"]),
    keep(
        "VpcIpv6CidrBlockAssociation",
        &["AssociationId", "Ipv6CidrBlock", "Ipv6CidrBlockState", "NetworkBorderGroup", "Ipv6Pool"],
    ),
    keep("AssociateVpcCidrBlockRequest", &["VpcId", "AmazonProvidedIpv6CidrBlock"]),
    keep("AssociateVpcCidrBlockResult", &["Ipv6CidrBlockAssociation", "VpcId"]),
    keep("DisassociateVpcCidrBlockResult", &["Ipv6CidrBlockAssociation", "VpcId"]),
    keep("AssociateSubnetCidrBlockRequest", &["SubnetId", "Ipv6CidrBlock"]),
    keep("SubnetIpv6CidrBlockAssociation", &["AssociationId", "Ipv6CidrBlock", "Ipv6CidrBlockState"]),
    keep("SubnetCidrBlockState", &["State"]),
    keep(
        "CreateSubnetRequest",
        &[
            "TagSpecifications",
            "AvailabilityZone",
            "AvailabilityZoneId",
            "CidrBlock",
            "Ipv6CidrBlock",
            "VpcId",
            "DryRun",
        ],
    ),
    keep("CreateDefaultSubnetRequest", &["AvailabilityZone", "AvailabilityZoneId", "DryRun"]),
    keep(
        "Subnet",
        &[
            "AvailabilityZoneId",
            "MapCustomerOwnedIpOnLaunch",
            "OwnerId",
            "AssignIpv6AddressOnCreation",
            "Ipv6CidrBlockAssociationSet",
            "Tags",
            "SubnetArn",
            "EnableDns64",
            "Ipv6Native",
            "SubnetId",
            "State",
            "VpcId",
            "CidrBlock",
            "AvailableIpAddressCount",
            "AvailabilityZone",
            "DefaultForAz",
            "MapPublicIpOnLaunch",
        ],
    ),
    keep(
        "AvailabilityZone",
        &[
            "OptInStatus",
            "RegionName",
            "ZoneName",
            "ZoneId",
            "GroupName",
            "NetworkBorderGroup",
            "ZoneType",
            "State",
        ],
    ),
    keep("Region", &["OptInStatus", "RegionName", "Endpoint"]),
    keep(
        "SecurityGroupRule",
        &[
            "SecurityGroupRuleId",
            "GroupId",
            "GroupOwnerId",
            "IsEgress",
            "IpProtocol",
            "FromPort",
            "ToPort",
            "CidrIpv4",
            "CidrIpv6",
            "ReferencedGroupInfo",
            "Description",
            "Tags",
            "SecurityGroupRuleArn",
        ],
    ),
    keep("UserIdGroupPair", &["Description", "UserId", "GroupName", "GroupId", "VpcId"]),
    keep("ReferencedSecurityGroup", &["GroupId", "UserId", "VpcId"]),
    keep(
        "RevokedSecurityGroupRule",
        &[
            "SecurityGroupRuleId",
            "GroupId",
            "IsEgress",
            "IpProtocol",
            "FromPort",
            "ToPort",
            "CidrIpv4",
            "CidrIpv6",
            "ReferencedGroupId",
            "Description",
        ],
    ),
    keep(
        "SecurityGroupRuleRequest",
        &["IpProtocol", "FromPort", "ToPort", "CidrIpv4", "CidrIpv6", "ReferencedGroupId", "Description"],
    ),
    keep(
        "NetworkInterface",
        &[
            "Attachment",
            "AvailabilityZone",
            "Description",
            "Groups",
            "InterfaceType",
            "Ipv6Addresses",
            "MacAddress",
            "NetworkInterfaceId",
            "OwnerId",
            "PrivateDnsName",
            "PrivateIpAddress",
            "PrivateIpAddresses",
            "RequesterManaged",
            "SourceDestCheck",
            "Status",
            "SubnetId",
            "TagSet",
            "VpcId",
        ],
    ),
    keep(
        "NetworkInterfaceAttachment",
        &[
            "AttachTime",
            "AttachmentId",
            "DeleteOnTermination",
            "DeviceIndex",
            "NetworkCardIndex",
            "InstanceOwnerId",
            "Status",
        ],
    ),
    keep("NetworkInterfaceIpv6Address", &["Ipv6Address"]),
    keep("NetworkInterfacePrivateIpAddress", &["Primary", "PrivateDnsName", "PrivateIpAddress"]),
];
