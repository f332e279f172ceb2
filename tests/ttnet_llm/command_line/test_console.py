"""What the commands show fits a terminal of 80 columns, and is still all there."""

import io
import json

import pytest
from rich.console import Console

from ttnet_llm.command_line.console import Screen, make_table

TABLES = [
    (
        ("module", "shape", "params", "train ranks", "rank", "largest", "effective rank"),
        ("model.layers.11.self_attn.q_proj", "4096x11008", "12,345", "4 to 12, 5 to 9", "8", "1.23e+03", "7.9"),
    ),
    (
        ("layer", "shape", "ranks", "params", "of dense", "weight error", "output error", "s"),
        (
            "model.layers.11.self_attn.q_proj",
            "4096x11008",
            "12 to 345",
            "12,345,678",
            "99.9%",
            "0.123",
            "0.0123",
            "9.4",
        ),
    ),
    (
        ("method", "adapter", "norms", "head", "trainable", "share of all"),
        ("LoRETTA_rep", "123,456,789", "123,456", "1,234", "123,456,789", "12.3456%"),
    ),
    (
        ("module", "shape", "ranks", "parameters", "of LoRA", "error"),
        ("model.layers.11.mlp.down_proj", "11008x4096", "12 to 345", "12,345,678", "120.3%", "1.2e-07"),
    ),
]


@pytest.mark.parametrize(("headings", "row"), TABLES)
def test_nothing_is_cut_in_80_columns(headings: tuple[str, ...], row: tuple[str, ...]) -> None:
    table = make_table(*headings)
    table.add_row(*row)
    screen = io.StringIO()
    Console(file=screen, width=80).print(table)
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = screen.getvalue()
    assert "…" not in text
    for word in {word for heading in headings for word in heading.split()} | set(row[1:]):
        assert word in text, word
    starts = [
        line.split()[0] for line in lines[lines.index(next(li for li in lines if "──" in li)) + 1 :] if line.split()
    ]
    assert "".join(starts) == row[0]  # the name goes on below


def test_a_screen_says_what_it_is_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, as_json in ((False, False), (True, False), (False, True), (True, True)):
        screen = Screen(quiet, as_json)
        table = make_table("a")
        table.add_row("b")
        screen.table(table)
        screen.say("All is [well].")
        screen.result({"error": float("nan"), "path": "ä"})
        screen.warn("Look out.")
        with screen.status("Working"), screen.progress("Working", 2) as advance:
            advance(2)
        out, err = capsys.readouterr()
        assert ("All is [well]." in out) == (not quiet and not as_json)
        assert ("b" in out.split()) == (not quiet and not as_json)
        assert "Note: Look out." in err
        if as_json:
            assert json.loads(out)["path"] == "ä"
