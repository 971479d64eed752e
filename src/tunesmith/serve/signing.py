"""Signatures of webhooks, as `client.webhooks.unwrap` of OpenAI's client verifies them (Standard Webhooks, 2023)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

START = "whsec_"


def new_secret() -> str:
    """A secret with 256 random bits."""
    return START + base64.b64encode(secrets.token_bytes(32)).decode()


def signed(id: str, moment: int, body: bytes, by: Sequence[str]) -> dict[str, str]:
    """Headers that prove who has sent a body, and when.

    Args:
        id: of what is told, the same each time that it is.
        moment: Unix seconds.
        body: that is sent.
        by: secrets, any of which the receiver may know.
    """
    content = f"{id}.{moment}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(START)) for secret in by]
    found = [base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode() for key in keys]
    signature = " ".join(f"v1,{one}" for one in found)
    return {"webhook-id": id, "webhook-timestamp": str(moment), "webhook-signature": signature}
