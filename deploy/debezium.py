"""Debezium in MSK Connect: `deploy/debezium.json`.

The connector's configuration is that of `trs connector register`, made by the same function of parameters in place of
settings. What differs is how MSK Connect reaches the brokers, which is IAM and nothing else, and where the database's
password comes from: a provider of Kafka Connect reads Secrets Manager when the connector starts, so the password stands
neither in the template nor in the connector's configuration.

MSK Connect has no REST interface of Kafka Connect's, so `trs connector` and `trs cutover` cannot reach it;
docs/deploy.md has the steps in their place. Who wants these commands runs Kafka Connect as a service of his own.
"""

from typing import Any

from connectors.debezium import ConnectorPlan, Flavour, render
from connectors.kafka_config import IAM, KafkaConfig
from connectors.mysql import DatabaseUrl
from deploy.cloudformation import (
    Json,
    allow,
    attribute,
    choice,
    number,
    of_this_account,
    ref,
    role,
    sub,
    template,
    text,
)
from processors.tables import TABLES

_NAME, _PREFIX, _DATABASE, _PARTITIONS, _REPLICATION = "connectorname", "topicprefix", "databasename", 811, 812
TRUST_STORE_PASSWORD = "changeit"  # noqa: S105 - of public certificates; Java wants one, and this is its own default
_CLUSTER = "arn:${AWS::Partition}:kafka:${AWS::Region}:${AWS::AccountId}"


def debezium_template() -> Json:
    """The template as JSON values."""
    return template(
        "trs-stream: change data capture by Debezium in MSK Connect; written by python -m deploy",
        Parameters=_parameters(),
        Resources={
            "Log": {
                "Type": "AWS::Logs::LogGroup",
                "Properties": {"LogGroupName": sub("/trs/${AWS::StackName}/debezium"), "RetentionInDays": 30},
            },
            "Role": _role(),
            "Plugin": {
                "Type": "AWS::KafkaConnect::CustomPlugin",
                "Properties": {
                    "Name": sub("${AWS::StackName}-debezium"),
                    "ContentType": "ZIP",
                    "Location": {
                        "S3Location": {
                            "BucketArn": sub("arn:${AWS::Partition}:s3:::${PluginBucket}"),
                            "FileKey": ref("PluginKey"),
                        }
                    },
                },
            },
            "WorkerConfiguration": _worker_configuration(),
            "Connector": _connector(),
            "ConnectorStands": _alarm(),
        },
        Outputs={"ConnectorArn": {"Value": ref("Connector")}},
    )


def connector_configuration() -> dict[str, Any]:
    """The options, with parameters in place of what an installation tells."""
    plan = ConnectorPlan(
        name=_NAME,
        source_name="sourcename",
        topic_prefix=_PREFIX,
        partitions=_PARTITIONS,
        flavour=Flavour.AURORA,
        database=DatabaseUrl("databasehost", 3306, "user", "password", _DATABASE),
        kafka=KafkaConfig("kafkabootstrap", security=IAM, replication=_REPLICATION),
        snapshot="no_data",
    )
    rendered = render(plan)
    del rendered["name"]  # a property of its own there
    replaced: dict[str, Any] = {name: _with_parameters(value) for name, value in rendered.items()}
    return replaced | {
        "database.server.id": ref("ServerId"),
        "database.user": _of_secret("username"),
        "database.password": _of_secret("password"),
        "database.ssl.truststore": _of_bucket("TrustStoreKey"),
        "database.ssl.truststore.password": TRUST_STORE_PASSWORD,
        "config.action.reload": "none",  # else MSK Connect restarts the connector again and again
    }


def _of_secret(key: str) -> Json:
    """A reference that Kafka Connect resolves; of two dollars in one text Fn::Sub would take the wrong brace."""
    return {"Fn::Join": ["", ["${secretManager:", ref("DatabaseSecretName"), f":{key}}}"]]}


def _of_bucket(key: str) -> Json:
    """A reference to a file, which Kafka Connect copies to its own disk."""
    return {"Fn::Join": ["", ["${s3import:", ref("AWS::Region"), ":", ref("PluginBucket"), "/", ref(key), "}"]]}


def _with_parameters(value: str) -> Any:
    """Our stand-ins become parameters."""
    assert "${" not in value, f"{value}: Fn::Sub would take this for its own"
    for stand_in, parameter in (
        (_PREFIX, "TopicPrefix"),
        (_DATABASE, "DatabaseName"),
        ("databasehost", "DatabaseHost"),
        ("kafkabootstrap", "KafkaBootstrapIam"),
        ("sourcename", "SourceName"),
    ):
        value = value.replace(stand_in, f"${{{parameter}}}")
    whole = {str(_PARTITIONS): ref("Partitions"), str(_REPLICATION): ref("Replication")}
    return whole.get(value, sub(value) if "${" in value else value)


def _parameters() -> Json:
    return {
        "ConnectorName": text("Name of the connector.", "trs-aurora"),
        "SourceName": text("The newest of TRS_SOURCE_NAMES.", "aurora", AllowedPattern="[A-Za-z0-9_-]+"),
        "TopicPrefix": text("TRS_TOPIC_PREFIX.", "aurora.trs", AllowedPattern="[A-Za-z0-9._-]+"),
        "Partitions": number("TRS_PARTITIONS.", 64, MinValue=1, MaxValue=1024),
        "Replication": number("Replication factor of topics that are made.", 3, MinValue=1, MaxValue=5),
        "DatabaseHost": text("The cluster's writer endpoint."),
        "DatabaseName": text("The source database.", "trs", AllowedPattern="[A-Za-z0-9_]+"),
        "DatabaseSecretName": text("Name of the secret with username and password of the connector's user."),
        "DatabaseSecretArn": text("ARN of that secret."),
        "ServerId": number("An id that no replica of the database has.", 730001, MinValue=1, MaxValue=4294967295),
        "KafkaBootstrapIam": text("Brokers, for IAM over TLS: b-1...:9098,b-2...:9098."),
        "KafkaClusterName": text("Name of the MSK cluster."),
        "KafkaClusterUuid": text("Last part of the ARN of the MSK cluster."),
        "Subnets": {"Type": "List<AWS::EC2::Subnet::Id>", "Description": "Reach brokers and database."},
        "SecurityGroups": {"Type": "List<AWS::EC2::SecurityGroup::Id>", "Description": "Of the connector."},
        "PluginBucket": text("Bucket with the plugin: Debezium's MySQL connector and the provider of secrets, zipped."),
        "PluginKey": text("Its key; a new version has a new key."),
        "TrustStoreKey": text("Key in that bucket of the Java trust store with RDS's authorities (docs/deploy.md)."),
        "ConnectVersion": choice("Version of Kafka Connect.", ("3.7.x",)),
        "AlarmTopicArn": text("Topic of SNS that is told (output AlarmTopicArn of the foundation)."),
    }


def _role() -> Json:
    """What MSK's guide gives a connector, narrowed to our topics and to those that MSK Connect makes for itself."""
    topics = [
        sub(f"{_CLUSTER}:topic/${{KafkaClusterName}}/${{KafkaClusterUuid}}/{name}")
        for name in (*(f"${{TopicPrefix}}.{t.name}" for t in TABLES), "${TopicPrefix}.schema_history.${SourceName}",
                     "${SourceName}", "__debezium-heartbeat.${SourceName}")
    ]  # fmt: skip
    own = [
        sub(f"{_CLUSTER}:topic/${{KafkaClusterName}}/${{KafkaClusterUuid}}/__amazon_msk_connect_*"),
    ]
    groups = [
        sub(f"{_CLUSTER}:group/${{KafkaClusterName}}/${{KafkaClusterUuid}}/{name}")
        for name in ("__amazon_msk_connect_*", "connect-*", "${SourceName}-schemahistory*")
    ]
    actions = [f"kafka-cluster:{name}" for name in ("CreateTopic", "DescribeTopic", "ReadData", "WriteData")]
    more = [f"kafka-cluster:{name}" for name in ("AlterTopicDynamicConfiguration", "DescribeTopicDynamicConfiguration")]
    return role(
        "kafkaconnect.amazonaws.com",
        [
            allow(
                "Connect",
                ["kafka-cluster:Connect", "kafka-cluster:DescribeCluster", "kafka-cluster:WriteDataIdempotently"],
                [sub(f"{_CLUSTER}:cluster/${{KafkaClusterName}}/${{KafkaClusterUuid}}")],
            ),
            allow("OurTopics", [*actions, *more], topics),
            allow("TopicsOfMskConnect", actions, own),
            allow("Groups", ["kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup"], groups),
            allow("ReadSecret", ["secretsmanager:GetSecretValue"], [ref("DatabaseSecretArn")]),
            allow(
                "ReadTrustStore",
                ["s3:GetObject"],
                [sub("arn:${AWS::Partition}:s3:::${PluginBucket}/${TrustStoreKey}")],
            ),
        ],
        description="Debezium's connector of trs-stream.",
        condition=of_this_account(),
    )


def _worker_configuration() -> Json:
    lines = [
        "key.converter=org.apache.kafka.connect.json.JsonConverter",
        "value.converter=org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable=false",
        "value.converter.schemas.enable=false",
        "config.providers=secretManager,s3import",
        "config.providers.s3import.class=com.amazonaws.kafka.config.providers.S3ImportConfigProvider",
        "config.providers.secretManager.class=com.amazonaws.kafka.config.providers.SecretsManagerConfigProvider",
        "config.providers.secretManager.param.aws.region=${AWS::Region}",
    ]
    return {
        "Type": "AWS::KafkaConnect::WorkerConfiguration",
        "Properties": {
            "Name": sub("${AWS::StackName}-secrets"),
            "PropertiesFileContent": {"Fn::Base64": sub("\n".join(lines) + "\n")},
        },
    }


def _connector() -> Json:
    return {
        "Type": "AWS::KafkaConnect::Connector",
        "Properties": {
            "ConnectorName": ref("ConnectorName"),
            "KafkaConnectVersion": ref("ConnectVersion"),
            "ConnectorConfiguration": connector_configuration(),
            # One task reads one binlog: more workers would idle.
            "Capacity": {"ProvisionedCapacity": {"McuCount": 1, "WorkerCount": 1}},
            "KafkaCluster": {
                "ApacheKafkaCluster": {
                    "BootstrapServers": ref("KafkaBootstrapIam"),
                    "Vpc": {"Subnets": ref("Subnets"), "SecurityGroups": ref("SecurityGroups")},
                }
            },
            "KafkaClusterClientAuthentication": {"AuthenticationType": "IAM"},
            "KafkaClusterEncryptionInTransit": {"EncryptionType": "TLS"},
            "ServiceExecutionRoleArn": attribute("Role", "Arn"),
            "Plugins": [{"CustomPlugin": {"CustomPluginArn": ref("Plugin"), "Revision": 1}}],
            "WorkerConfiguration": {
                "Revision": 1,
                "WorkerConfigurationArn": ref("WorkerConfiguration"),
            },
            "LogDelivery": {
                "WorkerLogDelivery": {"CloudWatchLogs": {"Enabled": True, "LogGroup": ref("Log")}},
            },
        },
    }


def _alarm() -> Json:
    """A connector whose task does not run sends nothing; after five minutes somebody is told."""
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmDescription": "Debezium's task does not run: its log; docs/cdc.md says what to do after a purge.",
            "Namespace": "AWS/KafkaConnect",
            "MetricName": "RunningTaskCount",
            "Dimensions": [{"Name": "ConnectorName", "Value": ref("ConnectorName")}],
            "Statistic": "Minimum",
            "Period": 60,
            "EvaluationPeriods": 5,
            "ComparisonOperator": "LessThanThreshold",
            "Threshold": 1,
            "TreatMissingData": "breaching",
            "AlarmActions": [ref("AlarmTopicArn")],
            "OKActions": [ref("AlarmTopicArn")],
        },
    }
