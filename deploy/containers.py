"""What runs in a container of ECS: log group, roles and task definition of each task, with its settings and secrets."""

from typing import Any

from deploy.cloudformation import Json, attribute, camel, either, ref, sub, under
from deploy.roles import IAM_LOGIN, execution_role, log_group_id, task_role
from deploy.tasks import HEALTH_CHECK, HOME, STOP_TIMEOUT_S, TRANSLATOR, WORKER, Task

_TMP = "/tmp"  # noqa: S108 - a volume of the container's own


def task_resources(task: Task) -> Json:
    """Log group, roles and task definition, under the task's condition."""
    parts: Json = {
        log_group_id(task): {
            "Type": "AWS::Logs::LogGroup",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "LogGroupName": sub(f"/trs/${{AWS::StackName}}/{task.name}"),
                "RetentionInDays": ref("LogDays"),
            },
        },
        f"{camel(task.name)}Role": task_role(task),
        f"{camel(task.name)}StartRole": execution_role(task),
        f"{camel(task.name)}Task": _definition(task),
    }
    return {name: under(task.condition, part) for name, part in parts.items()}


def environment(task: Task) -> dict[str, Any]:
    """The settings of a task, by environment variable; a test holds the names against app/settings.py."""
    values: dict[str, Any] = {"TRS_LOG_FORMAT": "json"}
    if task.lake:
        values |= {"TRS_LAKE": sub("s3://${LakeBucket}/${LakePrefix}"), "TRS_AWS_REGION": ref("AWS::Region")}
    if task is WORKER:
        sized = {"TRS_MEMORY_BUDGET_MB": "Memory", "TRS_THREADS": "Threads"}
        values |= {name: {"Fn::FindInMap": ["Sizes", ref("Size"), column]} for name, column in sized.items()}
        values |= {
            "TRS_EPOCH_INTERVAL_S": ref("EpochIntervalSeconds"),
            "TRS_WEB_HOST": either("PagesInVpc", "0.0.0.0", "127.0.0.1"),  # noqa: S104 - where it is asked for
        }
    else:
        values |= {"TRS_MEMORY_MB": str(task.memory_for_state_mb), "TRS_THREADS": str(max(1, task.cpu // 1024))}
    if task.kafka:
        values |= {
            "TRS_KAFKA": ref("KafkaBootstrap"),
            "TRS_KAFKA_SECURITY": either(IAM_LOGIN, "sasl_iam", "sasl_ssl"),
            "TRS_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "TRS_TOPIC_PREFIX": ref("TopicPrefix"),
            "TRS_GROUP": ref("Group"),
            "TRS_REPLICATION": ref("Replication"),
            "TRS_SOURCE_NAMES": ref("SourceNames"),
        }
    if task.database:
        values["TRS_DATABASE_CA_FILE"] = ref("DatabaseCaFile")
    if task.kafka or task.writes:
        values["TRS_PARTITIONS"] = ref("Partitions")
    if task is TRANSLATOR:
        values |= {"TRS_DMS_TOPIC_PREFIX": ref("DmsTopicPrefix"), "TRS_DMS_SCHEMA": ref("DmsSchema")}
    if task.glue:
        values["TRS_GLUE_DATABASE"] = ref("GlueDatabase")
    return values | task.environment


def secrets(task: Task) -> dict[str, Any]:
    """What ECS reads from Secrets Manager for the task, by environment variable."""
    found: dict[str, Any] = {}
    if task.kafka:
        found |= {
            "TRS_KAFKA_USER": sub("${KafkaSecret}:username::"),
            "TRS_KAFKA_PASSWORD": sub("${KafkaSecret}:password::"),
        }
    if task.database:
        found["TRS_DATABASE"] = ref("DatabaseSecret")
    return found


def _secret(name: str, value: Any) -> Json:
    """One entry; of the brokers' user only where there is one."""
    entry = {"Name": name, "ValueFrom": value}
    return either(IAM_LOGIN, None, entry) if name.startswith("TRS_KAFKA_") else entry


def _definition(task: Task) -> Json:
    container: Json = {
        "Name": task.name,
        "Image": ref("ImageUri"),
        "Essential": True,
        "Command": [sub(part) if "${" in part else part for part in task.command],
        "ReadonlyRootFilesystem": True,
        "StopTimeout": STOP_TIMEOUT_S,
        "LinuxParameters": {"InitProcessEnabled": True, "Capabilities": {"Drop": ["ALL"]}},
        "Environment": [{"Name": name, "Value": value} for name, value in environment(task).items()],
        "Secrets": [_secret(name, value) for name, value in secrets(task).items()],
        "MountPoints": [
            {"SourceVolume": "home", "ContainerPath": HOME},
            {"SourceVolume": "tmp", "ContainerPath": _TMP},
        ],
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": ref(log_group_id(task)),
                "awslogs-region": ref("AWS::Region"),
                "awslogs-stream-prefix": task.name,
                "mode": "non-blocking",  # a log that is slow must not stop epochs
                "max-buffer-size": "8m",
            },
        },
    }
    if task is WORKER:
        container["HealthCheck"] = {
            "Command": ["CMD", *HEALTH_CHECK],
            "Interval": 30,
            "Timeout": 10,
            "Retries": 3,
            "StartPeriod": 300,
        }
        size: Json = {
            "Cpu": {"Fn::FindInMap": ["Sizes", ref("Size"), "Cpu"]},
            "Memory": {"Fn::FindInMap": ["Sizes", ref("Size"), "Memory"]},
            "EphemeralStorage": {"SizeInGiB": ref("WorkDiskGiB")},
        }
    else:
        size = {"Cpu": str(task.cpu), "Memory": str(task.memory_mb)}
    return {
        "Type": "AWS::ECS::TaskDefinition",
        "Properties": {
            "Family": sub(f"${{AWS::StackName}}-{task.name}"),
            "RequiresCompatibilities": ["FARGATE"],
            "NetworkMode": "awsvpc",
            "RuntimePlatform": {"OperatingSystemFamily": "LINUX", "CpuArchitecture": ref("CpuArchitecture")},
            **size,
            "TaskRoleArn": attribute(f"{camel(task.name)}Role", "Arn"),
            "ExecutionRoleArn": attribute(f"{camel(task.name)}StartRole", "Arn"),
            "Volumes": [{"Name": "home"}, {"Name": "tmp"}],
            "ContainerDefinitions": [container],
        },
    }
