"""Tokens of SASL/OAUTHBEARER for the worker's consumer."""

import asyncio

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError

from connectors.kafka_config import TokenSource
from processors.errors import TrsError


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """aiokafka's way to ask for a token, once per connection; asking may take a request to AWS, so not on its loop."""

    def __init__(self, tokens: TokenSource) -> None:
        self._tokens = tokens

    async def token(self) -> str:
        """Raises KafkaConnectionError, at which aiokafka connects again; at another its fetching ends for ever."""
        try:
            token, _ = await asyncio.to_thread(self._tokens)
        except TrsError as error:
            raise KafkaConnectionError(str(error)) from None
        return token
