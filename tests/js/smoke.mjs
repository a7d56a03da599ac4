// Runs one task with the AWS SDK for JavaScript and prints what it saw as JSON.
// usage: node smoke.mjs ENDPOINT CLUSTER FAMILY SUBNET; credentials and region come from the environment.

import { ECSClient, ListTasksCommand, RunTaskCommand, waitUntilTasksStopped, DescribeTasksCommand } from "@aws-sdk/client-ecs";

const [endpoint, cluster, family, subnet] = process.argv.slice(2);
const client = new ECSClient({ endpoint, region: process.env.AWS_DEFAULT_REGION });

const { tasks } = await client.send(new RunTaskCommand({
  cluster,
  taskDefinition: family,
  launchType: "FARGATE",
  networkConfiguration: { awsvpcConfiguration: { subnets: [subnet] } },
}));
const [task] = tasks;
await waitUntilTasksStopped({ client, minDelay: 1, maxDelay: 2, maxWaitTime: 60 }, { cluster, tasks: [task.taskArn] });
const described = await client.send(new DescribeTasksCommand({ cluster, tasks: [task.taskArn] }));

let refusal;
try {
  await client.send(new ListTasksCommand({ cluster: "absent" }));
} catch (error) {
  refusal = error.name;
}

console.log(JSON.stringify({
  accepted: task.lastStatus,
  exitCode: described.tasks[0].containers[0].exitCode,
  refusal,
}));
