"""Who is told of a failed run: an automation of the server that calls a webhook, or sends through a notification block.

The address is a secret: it comes from the environment into a block, which the server keeps encrypted, and is never printed.
"""

from __future__ import annotations

import os
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import CallWebhook, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import SecretStr

WEBHOOK_VARIABLE = "HANDNET_WEBHOOK_URL"
WEBHOOK_BLOCK = "handnet-failures"
AUTOMATION = "handnet: a run failed"
# Every deployment in prefect.yaml carries it, and so do its runs.
TAG = "handnet"
FAILED = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"}

TEXT = "{{ flow.name }}/{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }}"
# `text` is what chat services show
PAYLOAD = """{
  "text": {{ (flow.name ~ "/" ~ flow_run.name ~ ": " ~ flow_run.state.name ~ ". " ~ flow_run.state.message) | tojson }},
  "flow": {{ flow.name | tojson }},
  "flow_run": {{ flow_run.name | tojson }},
  "flow_run_id": {{ flow_run.id | string | tojson }},
  "state": {{ flow_run.state.name | tojson }},
  "message": {{ flow_run.state.message | tojson }},
  "url": {{ flow_run | ui_url | tojson }}
}"""


def notify_of_failures(client: SyncPrefectClient, block: str | None) -> str:
    """Make the automation, or renew it; returns what a person wants to know of it.

    `block`: TYPE/NAME of a notification or Webhook block that exists, such as `slack-webhook/team`. Without one the webhook at
    HANDNET_WEBHOOK_URL is called; without that nobody is told, and an automation of an earlier deployment stays as it is.
    """
    if block is None and not os.environ.get(WEBHOOK_VARIABLE):
        kept = client.read_automations_by_name(AUTOMATION)
        return "as deployed before" if kept else f"none: neither a block nor {WEBHOOK_VARIABLE} is given"
    slug, document = _existing(client, block) if block else _webhook(os.environ[WEBHOOK_VARIABLE])
    action: CallWebhook | SendNotification
    if slug == "webhook":
        action = CallWebhook(block_document_id=document, payload=PAYLOAD)
    else:
        action = SendNotification(block_document_id=document, subject="handnet: a run failed", body=TEXT)
    trigger = EventTrigger(
        expect=FAILED,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"},
        posture=Posture.Reactive,
        threshold=1,
    )
    automation = AutomationCore(name=AUTOMATION, description="Made by flows/deploy.py", trigger=trigger, actions=[action])
    former = client.read_automations_by_name(AUTOMATION)
    if former:
        client.update_automation(former[0].id, automation)
        for double in former[1:]:
            client.delete_automation(double.id)
    else:
        client.create_automation(automation)
    return f"failures go to {block or f'{slug}/{WEBHOOK_BLOCK}'}"


def _webhook(url: str) -> tuple[str, UUID]:
    if not url.strip().startswith(("http://", "https://")):
        raise ValueError(f"{WEBHOOK_VARIABLE}: expected an http or https address")  # a secret: it is not repeated
    block = Webhook(url=SecretStr(url.strip()), headers=SecretDict({"Content-Type": "application/json"}))
    return "webhook", block.save(WEBHOOK_BLOCK, overwrite=True)  # type: ignore[return-value]


def _existing(client: SyncPrefectClient, name: str) -> tuple[str, UUID]:
    slug, _, document_name = name.partition("/")
    try:
        document = client.read_block_document_by_name(document_name, block_type_slug=slug)
    except ObjectNotFound:
        raise ValueError(f"expected the TYPE/NAME of a block on the server, such as slack-webhook/team, got {name!r}") from None
    capabilities = document.block_schema.capabilities if document.block_schema else []
    if slug != "webhook" and "notify" not in capabilities:
        raise ValueError(f"block {name!r}: expected one that notifies, or a webhook, got one that can do {sorted(capabilities)}")
    return slug, document.id
