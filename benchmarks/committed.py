"""What lies in benchmarks/results, and how a document gives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHAPES = {"llava": "LLaVA", "qwen2_vl": "Qwen2-VL", "internvl": "InternVL"}


def result(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def percent(share: dict[str, float]) -> str:
    value, low, high = (100 * share[k] for k in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def origin(data: dict[str, Any]) -> str:
    return f"`{data['command']}`, commit {data['commit']}."
