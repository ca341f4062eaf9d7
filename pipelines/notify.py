"""Has the server tell a webhook of runs that fail, crash or do not start in time.

    export PREFECT_API_URL=http://127.0.0.1:4200/api
    python -m pipelines.notify https://hooks.slack.com/services/...

It makes a notification block and an automation of Prefect, both named "ldebm"; a second call
replaces them, and ``--remove`` takes them away. The message is the field ``text`` of a JSON object,
as Slack and Mattermost read it; ``--field content`` is what Discord reads.
"""

from __future__ import annotations

import argparse
import sys
import urllib.parse
from collections.abc import Sequence
from typing import Any

from ldebm.errors import LdebmError, UsageError
from pipelines.engine import require_configured_server

__all__ = ["main"]

NAME = "ldebm"
EVENTS = {
    "prefect.flow-run.Failed",
    "prefect.flow-run.Crashed",
    "prefect.flow-run.TimedOut",
    "prefect.flow-run.Late",
}
ENDED_WELL = "prefect.flow-run.Completed"
SUBJECT = "{{ flow.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


def notify(url: str, field: str, *, completed: bool) -> None:
    """Makes or replaces the block and the automation."""
    from prefect.automations import Automation
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import EventTrigger, Posture

    block = CustomWebhookNotificationBlock(
        name=NAME, url=url, json_data={field: "{{subject}}\n{{body}}"}
    )
    block_id = block.save(NAME, overwrite=True)
    remove()
    Automation(
        name=NAME,
        description="Tells a webhook of runs that failed or are late (pipelines/notify.py).",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect=EVENTS | ({ENDED_WELL} if completed else set()),
            match={"prefect.resource.id": "prefect.flow-run.*"},
            threshold=1,
        ),
        actions=[SendNotification(block_document_id=block_id, subject=SUBJECT, body=BODY)],
    ).create()


def remove() -> bool:
    """Deletes the automation; whether there was one."""
    from prefect.automations import Automation

    try:
        found: Any = Automation.read(name=NAME)
    except ValueError:  # Prefect's answer where there is none
        return False
    found.delete()
    return True


def checked(url: str) -> str:
    """The URL of a webhook.

    Raises:
        UsageError: it is no address of a web server.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r}: expected the URL of a webhook, as https://host/path")
    return url


def main(arguments: Sequence[str] | None = None) -> int:
    """Sets the notifications of the server that PREFECT_API_URL names."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.notify", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("url", nargs="?", help="of the webhook")
    parser.add_argument("--field", default="text", help="of the JSON object (default: text)")
    parser.add_argument("--completed", action="store_true", help="tell of runs that end well too")
    parser.add_argument("--remove", action="store_true", help="tell no more")
    options = parser.parse_args(arguments)
    try:
        if (options.url is None) != options.remove:
            raise UsageError("expected the URL of a webhook, or --remove")
        url = None if options.remove else checked(options.url)
        require_configured_server("notifications are sent by a Prefect server")
        if url is None:
            print("removed" if remove() else "there was nothing to remove")
            return 0
        notify(url, options.field, completed=options.completed)
        print(f"runs that fail or are late are told to {url}")
    except LdebmError as error:
        print(f"notify: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
