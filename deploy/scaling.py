"""How many workers run: by steps on the lag of the worker that is furthest behind.

Steps rather than a target: a worker that joins or leaves costs a rebalance and the loading of its share of the state,
so few and late moves are better than many. One is added after three minutes above the limit; one is taken away after
half an hour below the lower limit.
"""

from app.cloudwatch import DIMENSION, NAMESPACE
from deploy.cloudformation import Json, either, ref, sub

LAG = "Lag"
DIMENSIONS = [{"Name": DIMENSION, "Value": ref("Group")}]
"""The worker's metrics have this one dimension: its consumer group, one per installation."""


def scaling() -> Json:
    """The target, a policy up and one down, with the alarms that set them off."""
    service = either(
        "HasCluster",
        sub("service/${ClusterName}/${Worker.Name}"),
        sub("service/${Cluster}/${Worker.Name}"),
    )
    return {
        "WorkerCount": {
            "Type": "AWS::ApplicationAutoScaling::ScalableTarget",
            "Properties": {
                "ServiceNamespace": "ecs",
                "ScalableDimension": "ecs:service:DesiredCount",
                "ResourceId": service,
                "MinCapacity": ref("MinWorkers"),
                "MaxCapacity": ref("MaxWorkers"),
            },
        },
        "MoreWorkers": _policy(300, [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}]),
        "FewerWorkers": _policy(1800, [{"MetricIntervalUpperBound": 0, "ScalingAdjustment": -1}]),
        "LagIsHigh": _alarm(
            "Workers are behind: one more is started.",
            "GreaterThanThreshold",
            ref("LagForMoreWorkers"),
            minutes=3,
            action="MoreWorkers",
        ),
        "LagIsLow": _alarm(
            "Workers have little to do: one is stopped, down to the least number.",
            "LessThanThreshold",
            ref("LagForFewerWorkers"),
            minutes=30,
            action="FewerWorkers",
        ),
    }


def _policy(cooldown_s: int, steps: list[Json]) -> Json:
    return {
        "Type": "AWS::ApplicationAutoScaling::ScalingPolicy",
        "Properties": {
            "PolicyName": sub(f"${{AWS::StackName}}-{'more' if 'MetricIntervalLowerBound' in steps[0] else 'fewer'}"),
            "PolicyType": "StepScaling",
            "ScalingTargetId": ref("WorkerCount"),
            "StepScalingPolicyConfiguration": {
                "AdjustmentType": "ChangeInCapacity",
                "Cooldown": cooldown_s,
                "MetricAggregationType": "Maximum",
                "StepAdjustments": steps,
            },
        },
    }


def _alarm(description: str, comparison: str, threshold: Json, *, minutes: int, action: str) -> Json:
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmDescription": description,
            "Namespace": NAMESPACE,
            "MetricName": LAG,
            "Dimensions": DIMENSIONS,
            "Statistic": "Maximum",
            "Period": 60,
            "EvaluationPeriods": minutes,
            "ComparisonOperator": comparison,
            "Threshold": threshold,
            "TreatMissingData": "notBreaching",
            "AlarmActions": [ref(action)],
        },
    }
