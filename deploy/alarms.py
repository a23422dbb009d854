"""What somebody is told of at three in the morning, and the dashboard on which to look then.

Metrics of namespace `trs` come from the worker's log, in CloudWatch's embedded metric format: no further container, no
right beyond writing the log. Where no worker runs there are none, and without data the alarm on the age breaches.
"""

import json
from typing import Any

from app.cloudwatch import DIMENSION, NAMESPACE
from deploy.cloudformation import Json, attribute, camel, either, ref, sub, under
from deploy.scaling import DIMENSIONS, LAG
from deploy.tasks import SCHEDULED, WITH_BACKUPS, WORKER, Task

WATERMARK_AGE = "WatermarkAgeSeconds"
DEAD_LETTERS = "DeadLetters"
ALARMS = "Alarms"
BACKUPS = "Backups"
_PER_STACK = sub(f"{NAMESPACE}/${{AWS::StackName}}")
"""Namespace of what is counted in logs: such a metric has no dimension that could tell the stack."""
BACKUP_DONE = "copied:"
"""What `trs lake backup` prints once its manifest is written, and at no other time; a test holds it against that."""


def cluster_name() -> Json:
    """The cluster of ECS, given or made."""
    return either("HasCluster", ref("ClusterName"), ref("Cluster"))


def alarms() -> Json:
    """Alarms, and the rule that tells of tasks that end with an error."""
    service = [
        {"Name": "ClusterName", "Value": cluster_name()},
        {"Name": "ServiceName", "Value": attribute("Worker", "Name")},
    ]
    group = [
        {"Name": "Cluster Name", "Value": ref("KafkaClusterName")},
        {"Name": "Consumer Group", "Value": ref("Group")},
    ]
    return {
        "LakeIsOld": _alarm(
            "The lake's watermark is old, or no worker says how old it is: trs status, the worker's log.",
            NAMESPACE, WATERMARK_AGE, DIMENSIONS, ">", ref("FreshnessAlarmSeconds"), minutes=5, missing="breaching",
        ),
        "LagStays": _alarm(
            "Workers have been behind for half an hour: raise MaxWorkers or Size; is one partition hot?",
            NAMESPACE, LAG, DIMENSIONS, ">", ref("LagForMoreWorkers"), minutes=30,
        ),
        "RecordsRefused": _alarm(
            "Records went to the dead letters: trs dead-letters list.",
            NAMESPACE, DEAD_LETTERS, DIMENSIONS, ">", 0, minutes=1, statistic="Sum",
        ),
        "WorkerHasAlarm": _alarm(
            "The worker has an alarm about the source's tables or a parked bucket: trs status, the worker's log.",
            NAMESPACE, ALARMS, DIMENSIONS, ">", 0, minutes=5,
        ),
        "MemoryIsFull": _alarm(
            "A worker's memory is nearly used up: a larger Size, or more workers.",
            "AWS/ECS", "MemoryUtilization", service, ">", 90, minutes=10,
        ),
        "StartsFailed": _alarm(
            "A scheduled task could not be started: the messages in the queue say why.",
            "AWS/SQS", "ApproximateNumberOfMessagesVisible",
            [{"Name": "QueueName", "Value": attribute("FailedStarts", "QueueName")}], ">", 0, minutes=5,
        ),
        "GroupIsBehind": {
            **_alarm(
                "Kafka itself says that the group is behind; seen where no worker tells.",
                "AWS/Kafka", "MaxOffsetLag", group, ">", ref("LagForMoreWorkers"), minutes=30,
            ),
            "Condition": "HasGroupMetrics",
        },
        "BackupIsOld": under(
            WITH_BACKUPS,
            _alarm(
                "No backup was finished in time: the log of the task backup; is BackupState ENABLED?",
                _PER_STACK, BACKUPS, [], "<", 1, hours=ref("BackupAlarmHours"), missing="breaching", statistic="Sum",
            ),
        ),
        "TaskEnded": _task_ended(),
    }  # fmt: skip


def _alarm(
    description: str,
    namespace: Any,
    metric: str,
    dimensions: list[Json],
    comparison: str,
    threshold: Any,
    *,
    minutes: int = 0,
    hours: Json | None = None,
    missing: str = "notBreaching",
    statistic: str = "Maximum",
) -> Json:
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmDescription": description,
            "Namespace": namespace,
            "MetricName": metric,
            "Dimensions": dimensions,
            "Statistic": statistic,
            "Period": 60 if hours is None else 3600,
            "EvaluationPeriods": minutes if hours is None else hours,
            "ComparisonOperator": {">": "GreaterThanThreshold", "<": "LessThanThreshold"}[comparison],
            "Threshold": threshold,
            "TreatMissingData": missing,
            "AlarmActions": [ref("AlarmTopicArn")],
            "OKActions": [ref("AlarmTopicArn")],
        },
    }


def backups_done() -> Json:
    """Counts backups in the log of their task: a metric for the alarm on their absence."""
    return {
        "Condition": WITH_BACKUPS,
        "Type": "AWS::Logs::MetricFilter",
        "Properties": {
            "LogGroupName": ref("BackupLog"),
            "FilterPattern": f'"{BACKUP_DONE}"',
            "MetricTransformations": [{"MetricName": BACKUPS, "MetricNamespace": _PER_STACK, "MetricValue": "1"}],
        },
    }


def _task_ended() -> Json:
    """Every container of ours that ended with an exit code other than 0, with its reason."""
    families = [f"family:${{AWS::StackName}}-{task.name}" for task in SCHEDULED]
    return {
        "Type": "AWS::Events::Rule",
        "Properties": {
            "Description": "A task of trs-stream ended with an error; docs/exit_codes.md lists the exit codes.",
            "EventPattern": {
                "source": ["aws.ecs"],
                "detail-type": ["ECS Task State Change"],
                "detail": {
                    "lastStatus": ["STOPPED"],
                    "group": [
                        sub("service:${Worker.Name}"),
                        either("WithDms", sub("service:${Translator.Name}")),
                        *(sub(family) for family in families),
                    ],
                    "containers": {"exitCode": [{"anything-but": [0]}]},
                },
            },
            "Targets": [
                {
                    "Id": "tell",
                    "Arn": ref("AlarmTopicArn"),
                    "InputTransformer": {
                        "InputPathsMap": {
                            "task": "$.detail.group",
                            "code": "$.detail.containers[0].exitCode",
                            "reason": "$.detail.stoppedReason",
                        },
                        "InputTemplate": '"trs-stream: <task> ended with exit code <code>: <reason>"',
                    },
                }
            ],
        },
    }


def dashboard() -> Json:
    """Freshness, lag, refused records, the machine, and the last errors of the log."""
    ours: list[Any] = [DIMENSION, "${Group}"]
    optional = [task for task in SCHEDULED if task.condition is not None]  # a query names log groups that there are
    service: list[Any] = ["ClusterName", "${Name}", "ServiceName", "${Worker.Name}"]
    widgets = [
        _graph("Age of the lake, seconds", 0, 0, [[NAMESPACE, WATERMARK_AGE, *ours]], "Maximum"),
        _graph("Records behind, of the last worker", 12, 0, [[NAMESPACE, LAG, *ours]], "Maximum"),
        _graph(
            "Refused records; alarms of the worker", 0, 6,
            [[NAMESPACE, DEAD_LETTERS, *ours, {"stat": "Sum"}], [NAMESPACE, ALARMS, *ours]], "Maximum",
        ),
        _graph(
            "Memory and processor, percent", 12, 6,
            [["AWS/ECS", metric, *service] for metric in ("MemoryUtilization", "CPUUtilization")], "Maximum",
        ),
        {
            "type": "log", "x": 0, "y": 12, "width": 24, "height": 6,
            "properties": {
                "title": "What went wrong last",
                "region": "${AWS::Region}",
                "view": "table",
                "query": " | ".join(_source(task) for task in (WORKER, *SCHEDULED) if task.condition is None)
                + "".join(f"${{{camel(task.name)}Source}}" for task in optional)
                + " | fields @timestamp, @log, level, event, reason | filter level in ['error', 'critical', 'warning']"
                " | sort @timestamp desc | limit 50",
            },
        },
    ]  # fmt: skip
    body = json.dumps({"widgets": widgets})
    return {
        "Type": "AWS::CloudWatch::Dashboard",
        "Properties": {
            "DashboardName": sub("${AWS::StackName}"),
            "DashboardBody": {
                "Fn::Sub": [
                    body,
                    {
                        "Name": cluster_name(),
                        **{
                            f"{camel(t.name)}Source": either(str(t.condition), sub(f" | {_source(t)}"), "")
                            for t in optional
                        },
                    },
                ]
            },
        },
    }


def _source(task: Task) -> str:
    """The task's log, in a query."""
    return f"SOURCE '/trs/${{AWS::StackName}}/{task.name}'"


def _graph(title: str, x: int, y: int, metrics: list[list[Any]], statistic: str) -> Json:
    return {
        "type": "metric", "x": x, "y": y, "width": 12, "height": 6,
        "properties": {
            "title": title,
            "region": "${AWS::Region}",
            "metrics": metrics,
            "stat": statistic,
            "period": 60,
        },
    }  # fmt: skip
