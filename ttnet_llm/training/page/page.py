"""The page: what was done, what came of it, examples, and what the adapter is made of."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ttnet_llm.files import write_text
from ttnet_llm.lora.spectrum import ModuleSpectrum
from ttnet_llm.training.kinds.shown import Shown
from ttnet_llm.training.methods import find_method
from ttnet_llm.training.metrics import SHARES
from ttnet_llm.training.page.charts import Line, chart
from ttnet_llm.training.page.html import escape, folded, section, shorten, table
from ttnet_llm.training.page.look import SCRIPT, STYLE
from ttnet_llm.training.pictures import smooth
from ttnet_llm.training.report import facts, seconds, size
from ttnet_llm.training.settings import FinetuneResult

PANELS = 4  # kinds of modules that are drawn


def write_page(
    result: FinetuneResult,
    folder: Path,
    *,
    shown: Mapping[str, Sequence[Shown]] | None = None,
    spectra: Sequence[ModuleSpectrum] = (),
) -> None:
    """Write `report.html`, which needs nothing but itself.

    Args:
        result: The run.
        folder: Where to write.
        shown: Examples under headings.
        spectra: What the adapter does to the modules.
    """
    method, settings = find_method(result.settings.method).title, result.settings
    title = f"{method} on {Path(settings.train).name if settings.train else settings.task}"
    body = "\n".join(
        (
            f"<h1>{escape(title)}</h1>",
            f'<p class="faint">Base model {escape(settings.model)}. Kind {escape(result.kind)}: '
            f"{escape(result.labels)}.</p>",
            "" if result.warning is None else f"<p><strong>{escape(result.warning)}</strong></p>",
            _tiles(result),
            section("The course of training", _curves(result)),
            section("Before and after", _before_and_after(result)),
            section("Held-out examples", *_examples(shown or {})),
            section("What the adapter is made of", *_made_of(spectra)),
            section("The run", table([], facts(result), kind="facts"), _settings(result)),
        )
    )
    write_text(folder / "report.html", _document(title, body))


def _document(title: str, body: str) -> str:
    # The texts are escaped. Should that ever fail, a browser still runs no other script than this, and fetches nothing.
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""


def _number(name: str, value: float) -> str:
    return f"{value:.1%}" if name in SHARES else f"{value:.4g}"


def _tiles(result: FinetuneResult) -> str:
    parameters = result.parameters
    first, after = next(iter(result.after.items()))
    tokens = result.tokens_per_second
    where = "of the process" if result.device == "cpu" else f"of {result.device}"
    tiles = [
        (first.replace("_", " "), _number(first, after), f"{_number(first, result.before[first])} before"),
        ("trainable parameters", f"{parameters.trainable:,}", f"{parameters.share:.3%} of all"),
        ("saved weights", size(result.adapter_bytes), "with the head" if parameters.head else ""),
        ("time per step", seconds(result.seconds_per_step), "" if tokens is None else f"{tokens:,.0f} tokens a second"),
        ("peak memory", size(result.peak_memory), where),
    ]
    inner = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(more)}</dd></div>"
        for name, value, more in tiles
    )
    return f'<dl class="tiles">{inner}</dl>'


def _curves(result: FinetuneResult) -> str:
    first = next(iter(result.after)).replace("_", " ")
    losses = [point for point in result.losses if math.isfinite(point[1])]
    trend = None
    if len(losses) > 4:
        steps, values = zip(*losses, strict=True)
        trend = list(zip(steps, smooth(values), strict=True))
    left = chart("Training loss", [Line("training loss", losses, trend)], x_label="step")
    right = chart(f"Held-out {first}", [Line(first, result.scores)], x_label="step")
    return f'<div class="charts">{left}{right}</div>'


def _before_and_after(result: FinetuneResult) -> str:
    rows = [
        [
            name.replace("_", " "),
            _number(name, result.before[name]),
            _number(name, value),
            f"{100 * (value - result.before[name]):+.1f} points"
            if name in SHARES
            else f"{value - result.before[name]:+.4g}",
        ]
        for name, value in result.after.items()
    ]
    count = f"{result.examples[1]:,} held-out examples"
    head = ", its new head at random" if result.parameters.head else ""
    note = f"By the same {count}. Before: the untouched base model{head}."
    return f'{table(["", "before", "after", "change"], rows)}<p class="faint">{escape(note)}</p>'


def _examples(shown: Mapping[str, Sequence[Shown]]) -> list[str]:
    pieces = []
    for heading, examples in shown.items():
        if examples:
            pieces.append(f"<h3>{escape(heading)}</h3>")
            pieces.extend(_example(example) for example in examples)
    return pieces


def _example(example: Shown) -> str:
    verdict = {None: "", True: ' class="good"', False: ' class="bad"'}[example.right]
    given = f"<blockquote>{escape(shorten(example.given))}</blockquote>" if example.given else ""
    return (
        f"<article>{given}<dl><dt>wanted</dt><dd>{escape(shorten(example.wanted))}</dd>"
        f"<dt>before</dt><dd>{escape(example.before)}</dd>"
        f"<dt>after</dt><dd{verdict}>{escape(example.after)}</dd></dl></article>"
    )


def _made_of(spectra: Sequence[ModuleSpectrum]) -> list[str]:
    if not spectra:
        return []
    kinds: dict[str, list[ModuleSpectrum]] = {}
    for spectrum in spectra:
        if spectrum.singular_values:
            kinds.setdefault(spectrum.name.rpartition(".")[2], []).append(spectrum)
    charts = [
        chart(f"Singular values of the updates of {kind}", _lines(members), x_label="index", log=True)
        for kind, members in list(kinds.items())[:PANELS]
    ]
    rows = [
        [
            spectrum.name,
            " x ".join(map(str, spectrum.shape)),
            f"{spectrum.parameters:,}",
            "; ".join(_ranks(ranks) for ranks in spectrum.train_ranks) or "-",
            *_size_of_update(spectrum),
        ]
        for spectrum in spectra
    ]
    header = ["module", "shape", "parameters", "ranks of the trains", "rank", "effective rank", "largest"]
    total = sum(spectrum.parameters for spectrum in spectra)
    note = f"{total:,} parameters in {len(spectra)} modules."
    if all(spectrum.singular_values is None for spectrum in spectra):
        note += " They follow a layer with a curved function between, so there is no update of a weight to take apart."
    return [
        f'<p class="faint">{escape(note)}</p>',
        f'<div class="charts">{"".join(charts)}</div>' if charts else "",
        folded("All modules", table(header, rows)),
    ]


def _lines(members: Sequence[ModuleSpectrum]) -> list[Line]:
    """Take the first module, the middle one and the last."""
    chosen = sorted({0, len(members) // 2, len(members) - 1})
    return [
        Line(members[k].name, [(float(i), value) for i, value in enumerate(members[k].singular_values or (), 1)])
        for k in chosen
    ]


def _ranks(ranks: Sequence[int]) -> str:
    inner = ranks[1:-1]
    return ", ".join(map(str, inner)) if len(set(inner)) > 1 else str(max(inner, default=1))


def _size_of_update(spectrum: ModuleSpectrum) -> list[str]:
    values = spectrum.singular_values
    if values is None:
        return ["-"] * 3
    return [str(len(values)), f"{spectrum.effective_rank:.1f}", f"{max(values, default=0.0):.3g}"]


def _settings(result: FinetuneResult) -> str:
    rows = [
        [name.replace("_", " "), str(value)] for name, value in asdict(result.settings).items() if value is not None
    ]
    return folded("All settings", table([], rows, kind="facts"))
