"""The roles of the tasks: for each what its program needs, and nothing more.

Every task has two. The *task role* is what its program may do; the *execution role* is what ECS may do to start it:
fetch the image, write the log, read the secrets that the task gets as environment variables.
"""

from typing import Any

from deploy.cloudformation import Json, allow, camel, either, of_this_account, ref, role, sub
from deploy.tasks import ALL_TABLES, DMS_GROUP, Task
from processors.lake_tables import PERSONAL_TABLES

_TASKS = "ecs-tasks.amazonaws.com"
_BUCKET = "arn:${AWS::Partition}:s3:::${LakeBucket}"
_PLACE = "arn:${AWS::Partition}:s3:::${BackupBucket}"
_GLUE = "arn:${AWS::Partition}:glue:${AWS::Region}:${AWS::AccountId}"
REFERENCES = "HasSettingsSecrets"
REFERENCE_ACTIONS = ("secretsmanager:GetSecretValue", "ssm:GetParameter")
_CLUSTER = "arn:${AWS::Partition}:kafka:${AWS::Region}:${AWS::AccountId}"
CONNECT = ("kafka-cluster:Connect", "kafka-cluster:DescribeCluster")
TOPICS = (
    "kafka-cluster:AlterTopic",
    "kafka-cluster:CreateTopic",
    "kafka-cluster:DescribeTopic",
    "kafka-cluster:ReadData",
    "kafka-cluster:WriteData",
)
GROUPS = ("kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup")
TRANSACTIONS = ("kafka-cluster:AlterTransactionalId", "kafka-cluster:DescribeTransactionalId")
IDEMPOTENT = "kafka-cluster:WriteDataIdempotently"
IAM_LOGIN = "IamLogin"
"""The condition under which tasks sign in to the brokers as their roles."""


def task_role(task: Task) -> Json:
    """The role in which the task's program runs."""
    statements: list[Any] = _lake(task) if task.lake else []
    statements += _place() if task.backs_up else []
    if task.glue:
        entries = [
            sub(f"{_GLUE}:{part}") for part in ("catalog", "database/${GlueDatabase}", "table/${GlueDatabase}/*")
        ]
        statements.append(allow("KeepCatalogue", task.glue, entries))
    statements += [either(REFERENCES, statement) for statement in _referred_to()] if task.kafka or task.database else []
    if task.kafka:
        statements += [either(IAM_LOGIN, statement) for statement in _kafka(task)]
    return role(_TASKS, statements, description=f"trs {task.name}: {task.doc}", condition=of_this_account())


def execution_role(task: Task) -> Json:
    """The role in which ECS starts the task."""
    user = ref("KafkaSecret")
    secrets: list[Any] = [user] * task.kafka
    if task.database:
        secrets = [either(IAM_LOGIN, None, user), ref("DatabaseSecret")]
    statements: list[Any] = [
        allow("SignInToRegistry", ["ecr:GetAuthorizationToken"], ["*"]),
        allow(
            "FetchImage",
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            [sub("arn:${AWS::Partition}:ecr:${AWS::Region}:${AWS::AccountId}:repository/${ImageRepository}")],
        ),
        allow("WriteLog", ["logs:CreateLogStream", "logs:PutLogEvents"], [sub(f"${{{log_group_id(task)}.Arn}}")]),
    ]
    if secrets:
        reading = allow("ReadSecrets", ["secretsmanager:GetSecretValue"], secrets)
        statements.append(reading if task.database else either(IAM_LOGIN, None, reading))
        statements.append(either("SecretsHaveKey", allow("OpenSecrets", ["kms:Decrypt"], [ref("SecretsKeyArn")])))
    return role(_TASKS, statements, description=f"Starts trs {task.name}.", condition=of_this_account())


def log_group_id(task: Task) -> str:
    """The logical id of the task's log group."""
    return f"{camel(task.name)}Log"


def _referred_to() -> list[Json]:
    """Secrets and parameters that settings refer to by name, which the program itself reads (`SettingsSecrets`)."""
    return [allow("ReadSettings", sorted(REFERENCE_ACTIONS), [ref("SettingsSecrets")])]


def _kafka(task: Task) -> list[Json]:
    """What a role does at the brokers, where it signs in by itself (no `KafkaSecret`)."""

    def named(kind: str, *names: str) -> list[Any]:
        return [sub(f"{_CLUSTER}:{kind}/${{KafkaClusterName}}/${{KafkaClusterUuid}}{name}") for name in names]

    topics = ["/${TopicPrefix}.*", *(["/${DmsTopicPrefix}.*"] if task.dms else [])]
    statements = [
        allow("ConnectToKafka", [*CONNECT, IDEMPOTENT], named("cluster", "")),
        allow("UseTopics", TOPICS, named("topic", *topics)),
        allow("UseGroups", GROUPS, named("group", f"/{DMS_GROUP}" if task.dms else "/${Group}")),
    ]
    if task.transactions:
        statements.append(allow("UseTransactions", TRANSACTIONS, named("transactional-id", f"/{task.transactions}")))
    return statements


def _lake(task: Task) -> list[Json]:
    """Rights on the lake's objects, by table: reading all of them, writing and deleting what the task declares.

    Listing names the bucket, and the prefix is a condition. It must hold without a prefix, too: S3 answers 404 for an
    object that is missing only to those who may list, and asks that without one; else it answers 403.
    """
    everything = [sub(f"{_BUCKET}/${{LakePrefix}}/*")]
    written = (
        everything
        if task.writes == ALL_TABLES
        else [sub(f"{_BUCKET}/${{LakePrefix}}/{name}/*") for name in task.writes]
    )
    prefixes = [sub("${LakePrefix}"), sub("${LakePrefix}/*")]
    statements = [
        allow("ReadLake", ["s3:GetObject"], everything),
        allow("ListLake", ["s3:ListBucket"], [sub(_BUCKET)], {"StringLikeIfExists": {"s3:prefix": prefixes}}),
        _key("LakeKey", ["kms:Decrypt", *(["kms:GenerateDataKey"] if task.writes else [])], ref("LakeKeyArn")),
    ]
    if task.writes:
        statements.append(allow("WriteLake", ["s3:AbortMultipartUpload", "s3:PutObject"], written))
    if task.deletes:
        statements.append(allow("DeleteFromLake", ["s3:DeleteObject"], written))
    if not task.personal:
        # their logs are read: they name the columns
        guarded = [sub(f"{_BUCKET}/${{LakePrefix}}/{name}/known_date=*") for name in sorted(PERSONAL_TABLES)]
        statements.append({"Sid": "NeverPersonalData", "Effect": "Deny", "Action": "s3:*", "Resource": guarded})
    return statements


def _place() -> list[Any]:
    """Rights on the place of backups: to look what is there, and to add to it."""
    objects = [sub(f"{_PLACE}/${{BackupPrefix}}/*")]
    prefixes = [sub("${BackupPrefix}/*")]
    return [
        allow("ReadPlace", ["s3:GetObject"], objects),
        allow("ListPlace", ["s3:ListBucket"], [sub(_PLACE)], {"StringLikeIfExists": {"s3:prefix": prefixes}}),
        allow("WritePlace", ["s3:AbortMultipartUpload", "s3:PutObject"], objects),
        either("PlaceHasKey", _key("PlaceKey", ["kms:Decrypt", "kms:GenerateDataKey"], ref("BackupKeyArn"))),
    ]


def _key(sid: str, actions: list[str], arn: Json) -> Json:
    """The use of a key by way of S3 alone."""
    through = {"StringEquals": {"kms:ViaService": sub("s3.${AWS::Region}.${AWS::URLSuffix}")}}
    return allow(sid, actions, [arn], through)
