"""Connects to a node by address and key: the one expected, or any that is permitted.

Each stream has a connection of its own. Nothing is sent before the key of the peer is known to be right, no redirect
is followed and no name in a certificate is believed. Retrying is for the caller; `backoff_s` says how long to wait.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from typing import Final

import msgspec
from aiohttp import (
    ClientConnectionError,
    ClientConnectorError,
    ClientHandlerType,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    ClientWSTimeout,
    DummyCookieJar,
    TCPConnector,
    WSServerHandshakeError,
)
from yarl import URL

from appliance.core.errors import X0tError, error
from appliance.core.limits import Limits
from appliance.transport.certificates import Credentials
from appliance.transport.peers import Permitted, Verdict
from appliance.transport.pqtls import PqChannel, TlsFailure
from appliance.transport.stream import Stream, WebSocketStream
from appliance.transport.wire import REFUSAL_HEADER, SYNC_PATH
