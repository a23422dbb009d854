"""The worker as a service of ECS on Fargate, and the scheduled tasks beside it: `deploy/service.json`.

What exists already is given by parameters: network, brokers, database, secrets, image, and what `foundation.json` made.
Templates are joined by parameters rather than by exports, so that each part may also be somebody else's.
"""

from deploy.alarms import alarms, backups_done, cluster_name, dashboard
from deploy.cloudformation import (
    Json,
    allow,
    attribute,
    camel,
    choice,
    either,
    given,
    number,
    of_this_account,
    ref,
    role,
    sub,
    template,
    text,
    under,
)
from deploy.containers import task_resources
from deploy.roles import IAM_LOGIN, REFERENCES
from deploy.scaling import scaling
from deploy.tasks import SCHEDULED, TASKS, TRANSLATOR, WITH_BACKUPS, WITH_DMS, Task

SIZES = {"small": (1024, 4096), "medium": (2048, 8192), "large": (4096, 16384), "huge": (8192, 61440)}
"""Fargate's CPU units and MB of memory for a worker."""


def service_template() -> Json:
    """The template as JSON values."""
    return template(
        "trs-stream: worker, scheduled tasks, roles, alarms; written by python -m deploy",
        Parameters=_parameters(),
        Mappings={
            "Sizes": {
                name: {"Cpu": str(cpu), "Memory": str(memory), "Threads": str(cpu // 1024)}
                for name, (cpu, memory) in SIZES.items()
            }
        },
        Conditions={
            "SecretsHaveKey": given("SecretsKeyArn"),
            "PagesInVpc": {"Fn::Equals": [ref("PagesListenTo"), "vpc"]},
            "HasCluster": given("ClusterName"),
            REFERENCES: given("SettingsSecrets"),
            IAM_LOGIN: {"Fn::Equals": [ref("KafkaSecret"), ""]},
            "PlaceHasKey": given("BackupKeyArn"),
            WITH_BACKUPS: given("BackupBucket"),
            WITH_DMS: {"Fn::Equals": [ref("UseDms"), "true"]},
            "OwnCluster": {"Fn::Equals": [ref("ClusterName"), ""]},
            "HasGroupMetrics": given("KafkaClusterName"),
        },
        Resources={
            "Cluster": _cluster(),
            **{name: body for task in TASKS for name, body in task_resources(task).items()},
            "Worker": _worker_service(),
            "Translator": _translator_service(),
            **scaling(),
            **_schedules(),
            **alarms(),
            "BackupsDone": backups_done(),
            "Dashboard": dashboard(),
        },
        Outputs={
            "ClusterName": {"Value": cluster_name()},
            "ServiceName": {"Value": attribute("Worker", "Name")},
            **{
                f"{camel(task.name)}RoleArn": under(
                    task.condition, {"Value": attribute(f"{camel(task.name)}Role", "Arn")}
                )
                for task in TASKS
                if task is not TRANSLATOR
            },
        },
    )


def _parameters() -> Json:
    return {
        "ImageUri": text("Image of the worker, by digest: ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME@sha256:..."),
        "ImageRepository": text("Name of the image's repository in ECR.", "trs-stream"),
        "CpuArchitecture": choice("For which the image was built.", ("X86_64", "ARM64")),
        "Subnets": {"Type": "List<AWS::EC2::Subnet::Id>", "Description": "Private subnets that reach Kafka and AWS."},
        "SecurityGroups": {
            "Type": "List<AWS::EC2::SecurityGroup::Id>",
            "Description": "May reach the brokers, the database and AWS's endpoints.",
        },
        "ClusterName": text("An ECS cluster that exists; empty: one is made.", ""),
        "LakeBucket": text("Bucket of the lake (output LakeBucket of the foundation)."),
        "LakePrefix": text("Folder of the lake in it.", "lake", AllowedPattern="[^/].*[^/]"),
        "LakeKeyArn": text("Key of KMS with which the bucket is encrypted (output LakeKeyArn)."),
        "BackupBucket": text("Bucket for backups (output BackupBucket of backups.json); empty: none are made.", ""),
        "BackupPrefix": text("Folder of this lake's backups in it.", "trs", AllowedPattern="[^/].*[^/]"),
        "BackupKeyArn": text("Key of KMS of that bucket (output BackupKeyArn); empty: S3's own.", ""),
        "BackupAlarmHours": number("Hours without a backup that raise the alarm.", 30, MinValue=2, MaxValue=168),
        "GlueDatabase": text("TRS_GLUE_DATABASE (output GlueDatabase).", "trs", AllowedPattern="[a-z0-9_]+"),
        "AlarmTopicArn": text("Topic of SNS that is told (output AlarmTopicArn)."),
        "KafkaBootstrap": text("Brokers, for SASL over TLS: b-1...:9096,... for SCRAM, b-1...:9098,... for IAM."),
        "KafkaClusterName": text("Name of the MSK cluster, for IAM and for an alarm on its metrics; or empty.", ""),
        "KafkaClusterUuid": text("Last part of the ARN of the MSK cluster: for IAM.", ""),
        "KafkaSecret": text("ARN of the secret with username and password; empty: tasks sign in by IAM.", ""),
        "DatabaseSecret": text("ARN of the secret with TRS_DATABASE as its whole text: mysql://USER:PASSWORD@HOST/DB."),
        "DatabaseCaFile": text(
            "TRS_DATABASE_CA_FILE: where the image has the authorities of RDS (docs/deploy.md).", "/etc/trs/rds-ca.pem"
        ),
        "SettingsSecrets": text("ARN of secrets that settings refer to (secretsmanager:NAME, ssm:NAME); or empty.", ""),
        "SecretsKeyArn": text("Key of KMS of these secrets; empty: AWS's own.", ""),
        "TopicPrefix": text("TRS_TOPIC_PREFIX.", "aurora.trs", AllowedPattern="[A-Za-z0-9._-]+"),
        "Group": text("TRS_GROUP: consumer group of the workers, and dimension of their metrics.", "trs-worker"),
        "Partitions": number("TRS_PARTITIONS: of every topic, fixed at installation.", 64, MinValue=1, MaxValue=1024),
        "Replication": number("TRS_REPLICATION: of topics that are made.", 3, MinValue=1, MaxValue=5),
        "SourceNames": text("TRS_SOURCE_NAMES, oldest first, comma-separated.", "aurora"),
        "UseDms": choice("Whether AWS DMS sends the changes: its records are translated.", ("false", "true")),
        "DmsTopicPrefix": text("TRS_DMS_TOPIC_PREFIX.", "dms.trs", AllowedPattern="[A-Za-z0-9._-]+"),
        "DmsSchema": text("TRS_DMS_SCHEMA: the source database whose rows DMS sends.", "trs"),
        "EpochIntervalSeconds": number("TRS_EPOCH_INTERVAL_S: of each stage's commits.", 10, MinValue=1, MaxValue=3600),
        "Size": choice("Size of a worker: 1, 2, 4 or 8 processors.", ("medium", "small", "large", "huge")),
        "WorkDiskGiB": number("Disk of a worker, for state that exceeds its memory.", 40, MinValue=21, MaxValue=200),
        "MinWorkers": number("Workers at least.", 1, MinValue=1, MaxValue=100),
        "MaxWorkers": number("Workers at most; more than partitions are idle.", 4, MinValue=1, MaxValue=100),
        "LagForMoreWorkers": number("Records that one worker may be behind before another is added.", 1_000_000),
        "LagForFewerWorkers": number("Records below which a worker is taken away.", 10_000),
        "FreshnessAlarmSeconds": number("Age of the lake's watermark that raises the alarm.", 300, MinValue=60),
        "PagesListenTo": choice("loopback: the pages are for health checks only; vpc: for people too.",
                                ("loopback", "vpc")),
        "LogDays": number("Days for which logs are kept.", 30, AllowedValues=[7, 14, 30, 60, 90, 180, 365]),
        **{
            f"{camel(task.name)}State": choice(f"Whether it runs by its timetable. {task.doc}", ("ENABLED", "DISABLED"))
            for task in SCHEDULED
        },
        **{f"{camel(task.name)}Schedule": text(f"When {task.name} runs, UTC.", task.every) for task in SCHEDULED},
    }  # fmt: skip


def _cluster() -> Json:
    return {
        "Type": "AWS::ECS::Cluster",
        "Condition": "OwnCluster",
        "Properties": {"ClusterName": sub("${AWS::StackName}")},
    }


def _network() -> Json:
    return {
        "AwsvpcConfiguration": {
            "AssignPublicIp": "DISABLED",
            "Subnets": ref("Subnets"),
            "SecurityGroups": ref("SecurityGroups"),
        }
    }


def _worker_service() -> Json:
    return {
        "Type": "AWS::ECS::Service",
        "Properties": {
            "Cluster": cluster_name(),
            "TaskDefinition": ref("WorkerTask"),
            "LaunchType": "FARGATE",
            # No DesiredCount: an update of the stack would take back what scaling has set.
            "NetworkConfiguration": _network(),
            "PropagateTags": "SERVICE",
            "DeploymentConfiguration": {
                # The new ones join before the old ones leave: the buckets are taken over from a living worker.
                "MinimumHealthyPercent": 100,
                "MaximumPercent": 200,
                "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
            },
        },
    }


def _translator_service() -> Json:
    """One at a time: a second would take the first one's transactional id."""
    return {
        "Type": "AWS::ECS::Service",
        "Condition": WITH_DMS,
        "Properties": {
            "Cluster": cluster_name(),
            "TaskDefinition": ref("TranslatorTask"),
            "LaunchType": "FARGATE",
            "DesiredCount": 1,
            "NetworkConfiguration": _network(),
            "PropagateTags": "SERVICE",
            "DeploymentConfiguration": {"MinimumHealthyPercent": 0, "MaximumPercent": 100},
        },
    }


def _schedules() -> Json:
    """A timetable per task, one role that may start these tasks alone, and a queue of starts that failed."""

    def where_it_exists(task: Task, value: Json) -> Json:
        return value if task.condition is None else either(task.condition, value)

    definitions = [where_it_exists(t, ref(f"{camel(t.name)}Task")) for t in SCHEDULED]
    roles = [
        where_it_exists(t, attribute(f"{camel(t.name)}{kind}", "Arn"))
        for t in SCHEDULED
        for kind in ("Role", "StartRole")
    ]
    statements = [
        allow("StartTasks", ["ecs:RunTask"], definitions),
        allow("HandOverRoles", ["iam:PassRole"], roles,
              {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}),
        allow("KeepFailures", ["sqs:SendMessage"], [attribute("FailedStarts", "Arn")]),
    ]  # fmt: skip
    return {
        "FailedStarts": {
            "Type": "AWS::SQS::Queue",
            "Properties": {"MessageRetentionPeriod": 1_209_600, "SqsManagedSseEnabled": True},
        },
        "ScheduleRole": role(
            "scheduler.amazonaws.com",
            statements,
            description="Starts the scheduled tasks of trs-stream.",
            condition=of_this_account(),
        ),
        **{f"{camel(task.name)}Timetable": under(task.condition, _schedule(task)) for task in SCHEDULED},
    }


def _schedule(task: Task) -> Json:
    name = camel(task.name)
    return {
        "Type": "AWS::Scheduler::Schedule",
        "Properties": {
            "Description": task.doc,
            "State": ref(f"{name}State"),
            "ScheduleExpression": ref(f"{name}Schedule"),
            "ScheduleExpressionTimezone": "UTC",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": {
                "Arn": either(
                    "HasCluster",
                    sub("arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:cluster/${ClusterName}"),
                    attribute("Cluster", "Arn"),
                ),
                "RoleArn": attribute("ScheduleRole", "Arn"),
                "DeadLetterConfig": {"Arn": attribute("FailedStarts", "Arn")},
                "RetryPolicy": {"MaximumEventAgeInSeconds": 600, "MaximumRetryAttempts": 3},
                "EcsParameters": {
                    "TaskDefinitionArn": ref(f"{name}Task"),
                    "TaskCount": 1,
                    "LaunchType": "FARGATE",
                    "PropagateTags": "TASK_DEFINITION",
                    "NetworkConfiguration": _network(),
                },
            },
        },
    }
