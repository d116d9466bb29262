"""The results that are kept: one JSON per result, written from its run, and the page that holds them all.

record(RUN, NAME)                       results/NAME.json, and results/NAME.dct where it is small
python -m decoct.report.results         docs/results.md from results/*.json
python -m decoct.report.results --check   exit status 1 if docs/results.md is not what would be written
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decoct.errors import FormatError, RecipeError
from decoct.file import replacing
from decoct.report import words
from decoct.report.page import replace_text
from decoct.report.published import Claim, compare, measured
from decoct.report.reading import Run, read

SMALL = 200_000
"""Bytes below which a result's file is kept beside its JSON."""

_MACHINE = ("machine", "cores", "threads", "platform")
_SAID = ("name", "title", "file", "benchmark", "command", "description", "notes", "note", "machine", "versions", "date",
         "seed", "columns")  # fmt: skip
_NEITHER = (*_MACHINE, "seed", "recipe_hash", "date")
_FAMILIES = {"prune": "Pruning", "quantize": "quantization", "distill": "distillation", "lowrank": "low rank",
             "compact": "compact networks"}  # fmt: skip


def record(run_dir: str | Path, name: str, results_dir: str | Path = "results", command: str | None = None) -> Path:
    """Write ``NAME.json`` of a finished run, and ``NAME.dct`` when it is under 200 kB; returns the JSON's path.

    command: how to get this result again; by default ``decoct compress recipes/NAME.toml -o runs/NAME``.

    Raises RecipeError when the run has not finished, or has left no file.
    """
    run = read(run_dir)
    if not run.finished or run.model is None:
        raise RecipeError(
            f"{run.path} has no result to keep: its last stage is {run.last.stage!r}; finish the run first"
        )
    folder = Path(results_dir)
    kept = folder / f"{name}.dct"
    path = replace_text(folder / f"{name}.json", json.dumps(summary(run, name, command), indent=2) + "\n")
    if run.size_bytes is not None and run.size_bytes < SMALL:
        with replacing(kept) as file:
            file.write(run.model.read_bytes())
    else:
        kept.unlink(missing_ok=True)
    return path


def summary(run: Run, name: str, command: str | None = None) -> dict[str, Any]:
    """What is kept of a finished run, as plain JSON values."""
    last, ours = run.last, measured(run)
    environment = run.environment
    before = run.before if words.comparable(run.before, last) else None
    latency = last.latency_ms and last.reference_ms and {
        "median_ms": last.latency_ms.median, "p10_ms": last.latency_ms.p10, "p90_ms": last.latency_ms.p90,
        "reference_median_ms": last.reference_ms.median, "reference_p10_ms": last.reference_ms.p10,
        "reference_p90_ms": last.reference_ms.p90,
    }  # fmt: skip
    return {
        "name": name,
        "command": command or f"decoct compress recipes/{name}.toml -o runs/{name}",
        "recipe": run.recipe,
        "recipe_hash": run.recipe_hash,
        "seed": environment.get("seed"),
        "methods": run.methods,
        "versions": {key: value for key, value in environment.items() if key not in _NEITHER},
        "machine": {key: environment[key] for key in _MACHINE if key in environment} or machine(),
        "date": str(environment.get("date") or datetime.now(UTC).date().isoformat()),
        "bytes": run.size_bytes,
        "bytes_bare": last.bytes_bare,
        "bytes_raw": run.first.bytes_raw,
        "bytes_zipped": run.first.bytes_zipped,
        "ratio": _rounded(run.ratio),
        "score": last.score,
        "score_name": last.score_name,
        "score_split": last.score_split,
        "score_before": before.score if before else None,
        "error_percent": last.error_percent,
        "error_before_percent": before.error_percent if before else None,
        "parameters": last.parameters,
        "nonzeros": last.nonzeros,
        "weights_ratio": _rounded(ours["weights_ratio"]),
        "macs": last.macs,
        "macs_nonzero": last.macs_nonzero,
        "macs_ratio": _rounded(ours["macs_ratio"]),
        "seconds": run.seconds,
        "latency": latency,
        "published": run.recipe.get("published"),
        "bytes_paper": last.bytes_paper,
        "bytes_huffman": last.bytes_huffman,
        "bytes_ans": last.bytes_ans,
        "bytes_entropy": last.bytes_entropy,
        "sections": last.sections,
        "warnings": words.warnings(run),
    }


def machine() -> dict[str, Any]:
    """This machine: processor, cores that may be used, threads (unknown here), platform."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return {"machine": name, "cores": os.cpu_count(), "threads": None, "platform": platform.platform()}


def load(results_dir: str | Path) -> list[dict[str, Any]]:
    """Every result and benchmark of a folder, by file name; FormatError, naming the file, for what is no result."""
    found = []
    for path in sorted(Path(results_dir).glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: not JSON: {error}") from error
        if not isinstance(data, dict):
            raise FormatError(f"{path}: expected an object, found {type(data).__name__}")
        found.append(
            {
                "name": path.stem,
                "file": path.with_suffix(".dct").name if path.with_suffix(".dct").exists() else None,
                **data,
            }
        )
    return found


def is_benchmark(data: Mapping[str, Any]) -> bool:
    """Whether a JSON of the results folder is a table of speed, not a compressed model."""
    return bool(data.get("benchmark")) or "bytes" not in data


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """The page of all results, as Markdown."""
    ours = [result for result in results if not is_benchmark(result)]
    benchmarks = [result for result in results if is_benchmark(result)]
    families: dict[str, list[Mapping[str, Any]]] = {}
    for result in ours:
        families.setdefault(family(result), []).append(result)
    parts = [_INTRODUCTION]
    for title, members in families.items():
        parts.append(_family(title, members))
    if benchmarks:
        parts.append("## Benchmarks\n")
        parts.extend(_benchmark(data) for data in benchmarks)
    if not results:
        parts.append("No result has been recorded yet.\n")
    return "\n".join(parts)


_INTRODUCTION = """\
# Results

<!-- Written by `python -m decoct.report.results` from results/*.json: change those, not this page. -->

Every figure here was measured by the program, on the machine that is named, and comes with the command that gives it
again. Sizes are of the whole file on disk, with every header, table and bias. "Times faster" is the latency of the
model that came in over the file's, on ONNX Runtime with one thread and one example, interleaved. Published figures are
marked [read] when they were read at their source and [M] when they are from memory and still have to be checked there.
"""


def family(result: Mapping[str, Any]) -> str:
    """The heading under which a result stands: the kinds of method that it went through.

    >>> family({"methods": ["train.finetune", "prune.magnitude", "quantize.kmeans", "coding.ans"]})
    'Pruning and quantization'
    """
    given = result.get("family")
    if given:
        return str(given)
    heads = [str(method).partition(".")[0] for method in result.get("methods") or []]
    kinds = [_FAMILIES[head] for head in dict.fromkeys(heads) if head in _FAMILIES]
    if not kinds:
        return "Coding alone"
    title = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} and {kinds[-1]}"
    return title[0].upper() + title[1:]


def _family(title: str, members: Sequence[Mapping[str, Any]]) -> str:
    heads = (
        "result",
        "file",
        "times smaller",
        "score",
        "before",
        "weights left",
        "times fewer MACs",
        "times faster",
        "run",
    )
    rows = [
        (
            f"`{each['name']}`",
            _bytes(each.get("bytes")),
            words.times(each.get("ratio")),
            _score(each, "score", "error_percent"),
            _score(each, "score_before", "error_before_percent"),
            _left(each),
            words.times(each.get("macs_ratio")),
            words.times(_faster(each)),
            words.duration(each.get("seconds")),
        )
        for each in members
    ]
    parts = [f"## {title}\n", _table(heads, rows)]
    claims = [
        (each, claim)
        for each in members
        for claim in compare(each.get("published"), {**each, "density": _density(each)})
    ]
    if claims:
        parts += ["Beside what was published:\n", _claims(claims)]
    if any(each.get("bytes_paper") is not None or each.get("bytes_entropy") is not None for each in members):
        parts += ["The same networks by other ways of counting:\n", _accounts(members)]
    parts += ["To get a result again, and to check the file that is kept:\n", *(_how(each) for each in members)]
    return "\n".join(parts)


def _claims(claims: Sequence[tuple[Mapping[str, Any], Claim]]) -> str:
    rows = [
        (f"`{each['name']}`", claim.what, f"{claim.published}{f' [{claim.tag}]' if claim.tag else ''}", claim.ours,
         f"**{claim.outcome}**" if claim.outcome == "missed" else claim.outcome, claim.source)
        for each, claim in claims
    ]  # fmt: skip
    return _table(("result", "figure", "published", "here", "outcome", "source"), rows)


def _accounts(members: Sequence[Mapping[str, Any]]) -> str:
    heads = ("result", "file", "bare", "Huffman", "ANS", "entropy", "paper's own way")
    keys = ("bytes", "bytes_bare", "bytes_huffman", "bytes_ans", "bytes_entropy", "bytes_paper")
    return _table(heads, [(f"`{each['name']}`", *(_bytes(each.get(key) or None) for key in keys)) for each in members])


def _how(result: Mapping[str, Any]) -> str:
    name = result["name"]
    lines = [f"# {name}: {_where(result)}", str(result.get("command", ""))]
    if result.get("file"):
        lines.append(f"decoct eval results/{result['file']} recipes/{name}.toml")
    warned = "".join(f"- {_cell(text)}\n" for text in result.get("warnings") or [])
    return "```\n" + "\n".join(lines) + "\n```\n" + (f"\nIts warnings:\n\n{warned}" if warned else "")


def _where(result: Mapping[str, Any]) -> str:
    machine, versions = result.get("machine") or {}, result.get("versions") or {}
    known = machine if isinstance(machine, Mapping) else {"machine": machine}
    said = [str(known[key]) for key in ("machine", "cpu", "processor") if known.get(key)][:1]
    said += [f"{known[key]} {key}" for key in ("cores", "threads") if known.get(key)]
    said += [f"torch {versions['torch']}"] if isinstance(versions, Mapping) and versions.get("torch") else []
    said += [f"seed {result['seed']}"] if result.get("seed") is not None else []
    said += [str(result["date"])] if result.get("date") else []
    return ", ".join(said)


def _benchmark(data: Mapping[str, Any]) -> str:
    parts = [f"### {data.get('title') or data['name']}\n"]
    parts += [f"{data[key]}\n" for key in ("description", "notes", "note") if isinstance(data.get(key), str)]
    for name, table in data.items():
        if isinstance(table, list) and table and all(isinstance(row, Mapping) for row in table):
            parts += [] if name in ("table", "rows") else [f"{name.replace('_', ' ')}:\n"]
            parts.append(_records(table))
    facts = {name: value for name, value in data.items() if name not in _SAID and not isinstance(value, list | Mapping)}
    said = [
        f"- {name.replace('_', ' ')}: {_value(value, name)}\n" for name, value in facts.items() if value is not None
    ]
    parts += ["".join(said)] if said else []
    lines = [f"# {where}"] if (where := _where(data)) else []
    lines += [str(data["command"])] if data.get("command") else []
    parts += ["```\n" + "\n".join(lines) + "\n```\n"] if lines else []
    return "\n".join(parts)


def _records(table: Sequence[Mapping[str, Any]]) -> str:
    heads = list(dict.fromkeys(key for row in table for key in row))
    rows = [tuple(_value(row.get(head), head) for head in heads) for row in table]
    return _table([_cell(head.replace("_", " ")) for head in heads], rows)


def _value(value: Any, name: str = "") -> str:
    """A benchmark's value: bytes with a unit where the name says so, other numbers with the digits that count."""
    if value is None:
        return words.NONE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "yes" if value is True else "no" if value is False else _cell(str(value))
    if "bytes" in name and "per" not in name:
        return words.size(value)
    return f"{value:,}" if isinstance(value, int) else words.digits(value, 6 if 0.9 < value < 1.1 else 4)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns of figures stand to the right."""
    right = [all(_figure(row[place]) for row in rows) for place in range(len(heads))]
    lines = [heads, ["---:" if side else "---" for side in right], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _figure(text: str) -> bool:
    return text == words.NONE or text[:1].isdigit() or text[:1] == "-"


def _cell(text: str) -> str:
    """Text that stays within one cell of a table, and is text only."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _bytes(count: float | None) -> str:
    return words.NONE if count is None else f"{count:,.0f}"


def _score(result: Mapping[str, Any], key: str, error: str) -> str:
    if result.get(error) is not None:
        return f"{result[error]:.2f} % error"
    return words.digits(result.get(key), 4)


def _density(result: Mapping[str, Any]) -> float | None:
    """The share of the weights that came in that is left."""
    return 1 / result["weights_ratio"] if result.get("weights_ratio") else None


def _faster(result: Mapping[str, Any]) -> float | None:
    """Latency of the model that came in over that of the file: ONNX Runtime, batch 1, one thread, interleaved."""
    latency = result.get("latency")
    return latency["reference_median_ms"] / latency["median_ms"] if latency else None


def _left(result: Mapping[str, Any]) -> str:
    share = _density(result)
    return words.NONE if share is None else f"{result['nonzeros']:,} ({words.percent(share)})"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page of results, or with ``--check`` say whether it is up to date; returns an exit status."""
    parser = argparse.ArgumentParser(prog="python -m decoct.report.results", description=main.__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the JSON files")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"), help="the page")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if the page is not up to date")
    chosen = parser.parse_args(arguments)
    text = render(load(chosen.results))
    if not chosen.check:
        replace_text(chosen.out, text)
        return 0
    if chosen.out.is_file() and chosen.out.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{chosen.out} is not what {chosen.results} gives: run python -m decoct.report.results\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
