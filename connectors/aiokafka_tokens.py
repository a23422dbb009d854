"""Tokens of SASL/OAUTHBEARER for the worker's consumer."""

import asyncio

from aiokafka.abc import AbstractTokenProvider

from connectors.kafka_config import TokenSource


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """aiokafka's way to ask for a token, once per connection; asking may take a request to AWS, so not on its loop."""

    def __init__(self, tokens: TokenSource) -> None:
        self._tokens = tokens

    async def token(self) -> str:
        token, _ = await asyncio.to_thread(self._tokens)
        return token
