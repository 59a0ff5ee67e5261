"""How the results of several runs came about: their time, their machines and the versions of packages, from the artifacts' manifests."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime

from evaluation.report.study_facts import Made
from flows.runs.record import Run, now
from tasks.manifest import Manifest


def made_by(runs: Sequence[Run]) -> Made:
    """The runs' own and shared artifacts, each once."""
    artifacts = {artifact.folder: artifact for run in runs for artifact in run.artifacts.values()}
    manifests: list[Manifest] = []
    for artifact in artifacts.values():
        with contextlib.suppress(FileNotFoundError):
            manifests.append(artifact.manifest)
    versions: dict[str, list[str]] = {}
    for manifest in manifests:
        for package, version in manifest["versions"].items():
            if version not in versions.setdefault(package, []):
                versions[package].append(version)
    machines = list(dict.fromkeys(_in_words(manifest) for manifest in manifests))
    ended = max((run.record.ended or run.record.started for run in runs), key=datetime.fromisoformat, default=now())
    return Made(
        seconds=sum(manifest["seconds"] for manifest in manifests),
        machines=machines,
        versions=versions,
        date=ended.partition("T")[0],
        num_unknown=len(artifacts) - len(manifests),
        at_once=_at_once(runs),
    )


def _at_once(runs: Sequence[Run]) -> int:
    """The most runs that were at work at the same time."""
    spans = [
        (datetime.fromisoformat(run.record.started), datetime.fromisoformat(run.record.ended))
        for run in runs
        if run.record.started is not None and run.record.ended is not None
    ]
    return max((sum(start <= moment < end for start, end in spans) for moment, _ in spans), default=1)


def _in_words(manifest: Manifest) -> str:
    machine = manifest["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
