"""Tables of what was measured: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.measures import Measure, Results, Spread


@dataclass(frozen=True)
class Section:
    """Results of one model."""

    title: str
    results: Results
    counterparts: Mapping[str, str]
    """Of each program, which of ours it is compared with."""


def markdown(sections: Sequence[Section], machine: str, settings: str) -> str:
    """All of it, as a document."""
    lines = [
        f"Measured on: {machine}. {settings}",
        "",
        "Medians, with quartiles in brackets. Ratios: Satchel's value by the other's, by rounds.",
    ]
    for section in sections:
        lines += ["", f"### {section.title}", "", *_table(section)]
    return "\n".join(lines) + "\n"


def _table(section: Section) -> list[str]:
    lines = ["| | | | Satchel is | rounds |", "| --- | --- | ---: | ---: | ---: |"]
    for measure, programs in section.results.values.items():
        label = f"{measure.name} ({measure.unit})"
        for name in programs:
            found = section.results.spread(measure, name)
            row = [label, name, _shown(found), _ratio(section, measure, name), str(found.count)]
            lines.append("| " + " | ".join(row) + " |")
            label = ""
    return lines


def _ratio(section: Section, measure: Measure, name: str) -> str:
    ours = section.counterparts.get(name, name)
    ratio = None if ours == name else section.results.ratio(measure, ours, name)
    return "" if ratio is None else "× " + _shown(ratio, digits=2)


def _shown(found: Spread, digits: int | None = None) -> str:
    if digits is None:
        digits = 2 if found.median < 10 else 1 if found.median < 1000 else 0
    middle = f"{found.median:,.{digits}f}"
    if found.count == 1:
        return middle
    return f"{middle} [{found.low:,.{digits}f}, {found.high:,.{digits}f}]"


def document(sections: Sequence[Section], machine: str, settings: str) -> str:
    """All of it, with every single value, as JSON."""
    return json.dumps(
        {
            "machine": machine,
            "settings": settings,
            "sections": [
                {"title": section.title, "measures": _measures(section)} for section in sections
            ],
        },
        indent=1,
    )


def _measures(section: Section) -> list[dict[str, object]]:
    found = []
    for measure, programs in section.results.values.items():
        rows = []
        for name, values in programs.items():
            ours = section.counterparts.get(name, name)
            ratio = None if ours == name else section.results.ratio(measure, ours, name)
            spread = asdict(section.results.spread(measure, name))
            row = {"program": name, "values": values, **spread}
            rows.append({**row, "ratio": None if ratio is None else asdict(ratio)})
        found.append({**asdict(measure), "programs": rows})
    return found
