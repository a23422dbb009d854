"""The few words of CloudFormation that the templates share, and how a template becomes a file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
POLICY_VERSION = "2012-10-17"


def ref(name: str) -> Json:
    """A parameter, or the name of a resource."""
    return {"Ref": name}


def sub(text: str) -> Json:
    """Text with `${Name}` and `${Resource.Attribute}` filled in."""
    return {"Fn::Sub": text}


def attribute(resource: str, name: str) -> Json:
    """An attribute of a resource."""
    return {"Fn::GetAtt": [resource, name]}


def either(condition: str, yes: Any, no: Any = None) -> Json:
    """`yes` where the condition holds, else `no`; None leaves the property or entry out."""
    nothing = ref("AWS::NoValue")
    return {"Fn::If": [condition, nothing if yes is None else yes, nothing if no is None else no]}


def under(condition: str | None, resource: Json) -> Json:
    """The resource or output, there only where the condition holds; None: always."""
    return resource if condition is None else {"Condition": condition, **resource}


def given(parameter: str) -> Json:
    """A condition: the parameter is not empty."""
    return {"Fn::Not": [{"Fn::Equals": [ref(parameter), ""]}]}


def text(description: str, default: str | None = None, **more: Any) -> Json:
    """A parameter that is text."""
    given = {} if default is None else {"Default": default}
    return {"Type": "String", "Description": description, **given, **more}


def number(description: str, default: float, **more: Any) -> Json:
    """A parameter that is a number."""
    return {"Type": "Number", "Description": description, "Default": default, **more}


def choice(description: str, allowed: Sequence[str]) -> Json:
    """A parameter with the values that it may have; the first is the default."""
    return text(description, allowed[0], AllowedValues=list(allowed))


def allow(sid: str, actions: Sequence[str], resources: Sequence[Any], condition: Json | None = None) -> Json:
    """A statement of a policy that allows."""
    statement = {"Sid": sid, "Effect": "Allow", "Action": sorted(actions), "Resource": list(resources)}
    return statement if condition is None else {**statement, "Condition": condition}


def policy(*statements: Any) -> Json:
    """A policy document."""
    return {"Version": POLICY_VERSION, "Statement": list(statements)}


def role(service: str, statements: Sequence[Any], *, description: str, condition: Json | None = None) -> Json:
    """A role that one service may take on, with one policy in it; without statements, none."""
    trust: Json = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    if condition is not None:
        trust["Condition"] = condition
    properties: Json = {"Description": description, "AssumeRolePolicyDocument": policy(trust)}
    if statements:
        properties["Policies"] = [{"PolicyName": "rights", "PolicyDocument": policy(*statements)}]
    return {"Type": "AWS::IAM::Role", "Properties": properties}


def of_this_account() -> Json:
    """The condition of a trust that a service acts for this account: no other's resources can borrow the role."""
    return {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}}


def template(description: str, **sections: Mapping[str, Any]) -> Json:
    """A whole template; sections that are empty are left out."""
    body = {"AWSTemplateFormatVersion": "2010-09-09", "Description": description}
    return body | {name: dict(section) for name, section in sections.items() if section}


def rendered(body: Json) -> str:
    """The template as its file holds it."""
    return json.dumps(body, indent=2) + "\n"


def camel(name: str) -> str:
    """`invoice_log`, `invoice-log` as a logical id: InvoiceLog."""
    return "".join(part.capitalize() for part in name.replace("-", "_").split("_"))
