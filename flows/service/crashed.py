"""Runs whose process is gone. Prefect would show them as running for ever, and hold their slots.

`mark_crashed` knows them by their locks in the home, and so marks no run of another home. Where the whole machine is gone nothing looks
into its home; there an automation of the server marks what has said nothing for two minutes (`watch_for_silence`).
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.runs.home import own_server
from flows.runs.record import CRASHED, RUNNING, Run, all_runs
from flows.runs.sweeps import SweepFolder, all_sweeps
from flows.service.accelerator import free

AUTOMATION = "bnf-crashed"
FLOW = "align"
# A run says every 30 seconds that it is there (`flows.runs.home`).
SILENCE = timedelta(seconds=120)
_ALIVE = "prefect.flow-run.heartbeat"
_ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled")}


def watch_for_silence(client: SyncPrefectClient) -> bool:
    """Have the server mark this flow's runs as crashed that fall silent. Returns whether that is new; one of another version is replaced.

    Runs of other flows speak less often, and are left alone. A run that was only cut off from the server goes on, and its end counts.
    """
    wanted = AutomationCore(
        name=AUTOMATION,
        description="Marks runs of the flow align as crashed whose machine has said nothing for two minutes.",
        trigger=EventTrigger(
            after={_ALIVE},
            expect={_ALIVE, *_ENDED},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": FLOW}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="its machine says nothing any more")],
    )
    known = client.read_automations_by_name(AUTOMATION)
    if any(
        (one.description, one.trigger, one.actions) == (wanted.description, wanted.trigger, wanted.actions) for one in known
    ):
        return False
    for one in known:
        client.delete_automation(one.id)
    client.create_automation(wanted)
    return True


def mark_crashed(home: Path) -> None:
    """Mark runs and sweeps without a process as crashed, in the home and in Prefect's records, and free their slots."""
    runs = all_runs(home)
    every: list[Run | SweepFolder] = [*runs, *all_sweeps(home)]
    gone = [one for one in every if one.record.state == RUNNING and one.state == CRASHED]
    if gone:
        with get_client(sync_client=True) as client:
            for one in gone:
                # Another server's run: this one knows nothing of it. A sweep may have died before it had one.
                with contextlib.suppress(ObjectNotFound):
                    if one.record.flow_run_id is not None:
                        client.set_flow_run_state(
                            UUID(one.record.flow_run_id), Crashed(message="its process is gone"), force=True
                        )
                one.end_crashed()
    # On a server of several homes the slot may be another's; there the lease's end frees it. A run that is starting, as the one that asks,
    # holds none.
    if own_server(home) and not any(run.state == RUNNING and run.record.flow_run_id is not None for run in runs):
        free()
