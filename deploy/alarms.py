"""What somebody is told of at three in the morning, and the dashboard on which to look then.

Metrics of namespace `trs` come from the worker's log, in CloudWatch's embedded metric format: no further container, no
right beyond writing the log. Where no worker runs there are none, and without data the alarm on the age breaches.
"""

import json
from typing import Any

from app.cloudwatch import DIMENSION, NAMESPACE
from deploy.cloudformation import Json, attribute, either, ref, sub
from deploy.scaling import DIMENSIONS, LAG
from deploy.tasks import SCHEDULED, WORKER

WATERMARK_AGE = "WatermarkAgeSeconds"
DEAD_LETTERS = "DeadLetters"
ALARMS = "Alarms"


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
            "The worker has an alarm about the source's tables or a bucket that is parked: trs status.",
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
        "TaskEnded": _task_ended(),
    }  # fmt: skip


def _alarm(
    description: str,
    namespace: str,
    metric: str,
    dimensions: list[Json],
    comparison: str,
    threshold: Any,
    *,
    minutes: int,
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
            "Period": 60,
            "EvaluationPeriods": minutes,
            "ComparisonOperator": {">": "GreaterThanThreshold", "<": "LessThanThreshold"}[comparison],
            "Threshold": threshold,
            "TreatMissingData": missing,
            "AlarmActions": [ref("AlarmTopicArn")],
            "OKActions": [ref("AlarmTopicArn")],
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
                "query": " | ".join(f"SOURCE '/trs/${{AWS::StackName}}/{task.name}'" for task in (WORKER, *SCHEDULED))
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
            "DashboardBody": {"Fn::Sub": [body, {"Name": cluster_name()}]},
        },
    }


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
