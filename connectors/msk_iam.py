"""Tokens with which Amazon MSK lets an IAM role in (SASL/OAUTHBEARER): a request that the role's credentials signed.

AWS's signer looks for credentials as every AWS SDK does. A token is good for 15 minutes; clients ask for the next one.
"""

from processors.errors import AccessDeniedError, SettingsError

EXTRA = "pip install 'trs-stream[msk]'"


class IamTokens:
    """`connectors.kafka_config.TokenSource` of the brokers of one region."""

    def __init__(self, region: str) -> None:
        """Raises SettingsError where the signer is not installed."""
        try:
            import aws_msk_iam_sasl_signer  # noqa: F401
        except ImportError:
            raise SettingsError("TRS_KAFKA_SECURITY=sasl_iam needs AWS's signer of tokens", hint=EXTRA) from None
        self._region = region

    def __call__(self) -> tuple[str, float]:
        """Raises AccessDeniedError where there are no credentials, or a role may not be taken."""
        import botocore.session
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if botocore.session.Session().get_credentials() is None:
                raise AccessDeniedError(
                    "no AWS credentials to sign in to Kafka with", hint="give the task a role, or set AWS_PROFILE"
                )
            token, expires_ms = MSKAuthTokenProvider.generate_auth_token(self._region)
        except (BotoCoreError, ClientError) as error:
            raise AccessDeniedError(f"AWS credentials to sign in to Kafka with: {error}") from None
        return token, expires_ms / 1000
