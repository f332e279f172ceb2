"""The commands that use what was trained: predict, generate, chat, evaluate."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

from ttnet.errors import TTValueError
from ttnet_llm.command_line.console import (
    Base,
    Console,
    Json,
    ModelArgument,
    Quiet,
    Screen,
    make_table,
    one_sentence_errors,
    plain,
    typer,
)
from ttnet_llm.command_line.finetune import ENCODING_HELP

Option = typer.Option
BatchSize = Annotated[int, Option(help="Inputs in a batch.")]
Length = Annotated[int | None, Option(help="Tokens to cut inputs to; by default as in training.")]
NewTokens = Annotated[int, Option(help="Tokens to write at most.")]
Temperature = Annotated[float, Option(help="0 takes the likeliest token; above, tokens are drawn.")]
TopP = Annotated[float, Option(help="Draw of the likeliest tokens with this probability together.")]
Seed = Annotated[int | None, Option(help="Of the draws; by default a new one every time.")]
Dtype = Annotated[str | None, Option(help="Of the base weights: float32, bfloat16 or float16.")]
Device = Annotated[str | None, Option(help="cpu, cuda or mps; by default an accelerator if there is one.")]
System = Annotated[str | None, Option(help="What the model is told before a chat.")]


def predict(
    model: ModelArgument,
    data: Annotated[str | None, Option(help="A csv, jsonl or parquet file; it needs no labels.")] = None,
    text: Annotated[list[str] | None, Option(help="A text instead; repeat for several.")] = None,
    output: Annotated[str | None, Option(help="A csv or jsonl file; by default jsonl on the screen.")] = None,
    text_column: Annotated[list[str] | None, Option(help="Column of text; give two for pairs.")] = None,
    base: Base = None,
    encoding: Annotated[str | None, Option(help=ENCODING_HELP)] = None,
    batch_size: BatchSize = 32,
    max_length: Length = None,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    dtype: Dtype = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say of new data what the model makes of it: classes, numbers, tags, texts or vectors, beside the inputs."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.folders import output_file
        from ttnet_llm.inference import Chooser, Generation, Predictor
        from ttnet_llm.inference.records import beside, check_output, rows_of, take_inputs, take_questions, writing
        from ttnet_llm.training.tables import Table, read_table

        if (data is None) == (not text):
            raise TTValueError("Say either --data FILE or --text TEXT, which may be repeated.")
        if output is not None:
            check_output(output)
            output_file(output, reads=(data, model, base))
        how = Generation(max_new_tokens, temperature, top_p, seed)
        table = Table("--text", {"text": text}) if data is None else read_table(data, encoding=encoding)
        loaded, tokenizer, details = _open(screen, model, base, dtype, device)
        length = details.max_length if max_length is None and details else max_length
        predictor: Any
        if details and details.kind == "choices":
            predictor = Chooser(loaded, tokenizer, max_length=length)
            inputs = take_questions(table, details, asked=tuple(text_column or ()))
        else:
            predictor = Predictor(loaded, tokenizer, max_length=length, generation=how)
            columns = ("text",) if data is None else tuple(text_column or ())
            inputs = take_inputs(table, predictor.kind, asked=columns, trained=details.columns if details else None)
        readable = text and output is None and not as_json and not quiet
        shown = []
        with writing(output) as write, screen.progress("Predicting", len(inputs)) as advance:
            outputs = predictor(inputs, batch_size=batch_size)
            for done, record in enumerate(beside(rows_of(table), outputs), 1):
                shown.append(record) if readable else write(record)
                advance(done)
        if readable:
            _print_readable(shown)
        elif output is not None:
            screen.say(f"Saved in {output}: {len(inputs):,} rows.")


def generate(
    model: ModelArgument,
    prompt: Annotated[list[str], Option(help="What the model goes on after; repeat for several.")],
    system: System = None,
    raw: Annotated[bool, Option("--raw", help="Take the prompt as it is, and not as a turn of a chat.")] = False,
    base: Base = None,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    dtype: Dtype = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Let a language model write; one that was trained on chats, or has a template for them, answers."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.inference import Generation
        from ttnet_llm.inference import generate as write
        from ttnet_llm.inference.generation import check_writes

        how = Generation(max_new_tokens, temperature, top_p, seed)
        if raw and system is not None:
            raise TTValueError("--system is a turn of a chat, and --raw was given; leave out one of the two.")
        loaded, tokenizer, details = _open(screen, model, base, dtype, device)
        check_writes(loaded)
        # As it was trained: with a template on chats, and without one on texts or prompts.
        chats = bool(details.columns.messages) if details else bool(getattr(tokenizer, "chat_template", None))
        as_chat = not raw and (chats or system is not None)
        prompts = [_turns(system, each) if as_chat else each for each in prompt]
        streamed = len(prompts) == 1 and not as_json and Console().is_terminal
        texts = write(loaded, tokenizer, prompts, how, streamer=_streamer(tokenizer) if streamed else None)
        screen.result({"texts": texts})
        if not (as_json or streamed):
            for text in texts:
                Console(soft_wrap=True, markup=False, highlight=False).print(text)


def chat(
    model: ModelArgument,
    system: System = None,
    base: Base = None,
    max_new_tokens: NewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    dtype: Dtype = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Talk to a language model; an empty line or Ctrl-D ends, /new begins another chat."""
    with one_sentence_errors(resumable=False, quiet=quiet) as screen:
        from ttnet_llm.inference import Generation
        from ttnet_llm.inference import generate as write
        from ttnet_llm.inference.generation import check_writes

        how = Generation(max_new_tokens, temperature, top_p, seed)
        loaded, tokenizer, _ = _open(screen, model, base, dtype, device)
        check_writes(loaded)
        if not getattr(tokenizer, "chat_template", None):
            raise TTValueError(
                f"The tokenizer of {model!r} has no template for chats; use `ttnet-llm generate`, or take a model that "
                "was tuned for chats."
            )
        beginning = [] if system is None else [{"role": "system", "content": system}]
        turns = list(beginning)
        for line in _lines(quiet):
            if line == "/new":
                turns = list(beginning)
                continue
            turns.append({"role": "user", "content": line})
            streamer = _streamer(tokenizer) if Console().is_terminal else None
            (answer,) = write(loaded, tokenizer, [turns], how, streamer=streamer)
            turns.append({"role": "assistant", "content": answer})
            if streamer is None:
                Console(soft_wrap=True, markup=False, highlight=False).print(answer)


def evaluate(
    model: ModelArgument,
    data: Annotated[str, Option(help="A labelled csv, jsonl or parquet file.")],
    base: Base = None,
    encoding: Annotated[str | None, Option(help=ENCODING_HELP)] = None,
    batch_size: Annotated[int | None, Option(help="Inputs in a batch; by default as in training.")] = None,
    label_separator: Annotated[
        str | None, Option(help="What stands between the labels of a cell; by default as in training.")
    ] = None,
    predictions: Annotated[str | None, Option(help="A jsonl file for predictions and logits.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge a fine-tuned model on a labelled file."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.folders import output_file
        from ttnet_llm.training import evaluate as judge
        from ttnet_llm.training.evaluation import write_predictions

        if batch_size is not None and batch_size < 1:
            raise TTValueError(f"batch_size is {batch_size}; expected an integer of at least 1.")
        if predictions:
            output_file(predictions, reads=(data, model, base))
        with screen.status("Predicting"):
            how: Any = {"encoding": encoding, "batch_size": batch_size, "label_separator": label_separator}
            found = judge(model, data, model=base, **how)
        if predictions:
            write_predictions(found, predictions)
        table = make_table("measure", "value")
        for name, value in found.measures.items():
            table.add_row(name, f"{value:.4f}")
        table.add_row("examples", f"{len(found.predictions):,}")
        screen.table(table)
        screen.result(dict(found.measures) | {"examples": len(found.predictions)})


COMMANDS = (evaluate, predict, generate, chat)


def _open(screen: Screen, model: str, base: str | None, dtype: str | None, device: str | None) -> tuple[Any, Any, Any]:
    """Load a model with its tokenizer, and how it was fed in training, if that is known."""
    import torch

    from ttnet_llm.loading import find_model, load
    from ttnet_llm.training.details import DETAILS, read_details

    options = {} if dtype is None else {"dtype": getattr(torch, _known(dtype))}
    with screen.status("Loading"):
        loaded, tokenizer = load(model, base=base, **options)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            loaded = loaded.to(place)
        except (RuntimeError, AssertionError) as error:  # there is none, or torch was built without
            raise TTValueError(f"device is {device!r}, which cannot be used here: {error}") from error
        folder = find_model(model)
    return loaded, tokenizer, read_details(folder) if (folder / DETAILS).is_file() else None


def _known(dtype: str) -> str:
    known = ("float32", "bfloat16", "float16")
    if dtype not in known:
        raise TTValueError(f"dtype is {dtype!r}; expected one of {', '.join(known)}.")
    return dtype


def _turns(system: str | None, prompt: str) -> list[dict[str, str]]:
    beginning = [] if system is None else [{"role": "system", "content": system}]
    return [*beginning, {"role": "user", "content": prompt}]


def _lines(quiet: bool) -> Iterator[str]:
    """Read what the user says, with a mark before it where somebody sits at the terminal."""
    mark = "> " if sys.stdin.isatty() and not quiet else ""
    with suppress(EOFError):
        while line := input(mark).strip():
            yield line


def _streamer(tokenizer: Any) -> Any:
    from transformers import TextStreamer

    return TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def _print_readable(records: list[dict[str, Any]]) -> None:
    kinds = [name for name in ("probability",) if name in records[0]]
    table = make_table("text", "prediction", *kinds, texts=2)
    for record in records:
        found = record["prediction"]
        if isinstance(found, list) and found and isinstance(found[0], float):
            found = ", ".join(f"{number:.3f}" for number in found[:4]) + f", ... ({len(found)} numbers)"
        elif isinstance(found, list):
            found = (", " if "probabilities" in record else " ").join(map(str, found))  # labels, or tags of words
        elif isinstance(found, float):
            found = f"{found:.4g}"
        table.add_row(plain(str(record["text"])), plain(found), *(f"{record[name]:.1%}" for name in kinds))
    Console().print(table)
