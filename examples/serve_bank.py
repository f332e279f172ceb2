"""Serve a bank of adapters over HTTP: requests that come together make one batch, each with its own adapter.

Run by itself it serves a tiny random model to twenty clients at a time and compares their answers with each adapter's
alone. `python serve_bank.py MODEL BANK` serves a model and a bank of your own on port 8000, until Ctrl-C.
"""

import asyncio
import json
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ttnet_llm import AdapterBank, LorettaRepConfig

MOST_ROWS, WAIT = 32, 0.01  # of a batch, and seconds that the first request of one waits for others


class Request(BaseModel):
    """What a client asks."""

    prompt: str = Field(min_length=1)
    adapter: str | None = None
    max_new_tokens: int = Field(16, ge=1, le=512)


class Batcher:
    """Takes requests together that come at about the same time.

    Args:
        bank: The adapters and their model.
        tokenizer: The model's.
    """

    def __init__(self, bank: AdapterBank, tokenizer: Any) -> None:
        self.bank, self.tokenizer = bank, tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.queue: asyncio.Queue[tuple[Request, asyncio.Future[str]]] = asyncio.Queue()
        self.batches: list[int] = []  # how many rows each had

    async def answer(self, request: Request) -> str:
        """Wait for the answer to a request."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self.queue.put((request, future))
        return await future

    async def run(self) -> None:
        """Work on batches until cancelled."""
        while True:
            rows = [await self.queue.get()]
            await asyncio.sleep(WAIT)
            while len(rows) < MOST_ROWS and not self.queue.empty():
                rows.append(self.queue.get_nowait())
            self.batches.append(len(rows))
            try:
                texts = await asyncio.to_thread(self.generate, [request for request, _ in rows])
            except Exception as error:  # of one batch, which must not end the others
                for _, future in rows:
                    if not future.done():
                        future.set_exception(RuntimeError(str(error)))
                continue
            for (_, future), text in zip(rows, texts, strict=True):
                if not future.done():  # a client may have gone
                    future.set_result(text)

    def generate(self, requests: list[Request]) -> list[str]:
        """Answer several requests in one batch, each by its adapter."""
        inputs = self.tokenizer([request.prompt for request in requests], padding=True, return_tensors="pt")
        longest = max(request.max_new_tokens for request in requests)
        with self.bank.use([request.adapter for request in requests]), torch.inference_mode():
            model: Any = self.bank.model
            tokens = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        kept = [row[: request.max_new_tokens] for row, request in zip(new, requests, strict=True)]
        return list(self.tokenizer.batch_decode(kept, skip_special_tokens=True))


def make_app(bank: AdapterBank, tokenizer: Any) -> FastAPI:
    """Make the service."""
    batcher = Batcher(bank, tokenizer)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)
    app.state.batcher = batcher

    @app.get("/adapters")
    def adapters() -> list[str]:
        return bank.names

    @app.post("/generate")
    async def generate(request: Request) -> dict[str, str]:
        if request.adapter is not None and request.adapter not in bank:
            raise HTTPException(404, f"There is no adapter {request.adapter!r}.")
        return {"text": await batcher.answer(request)}

    return app


def tiny() -> tuple[AdapterBank, Any]:
    """A random model with fifty random adapters, in place of one that knows anything."""
    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<unk>", *(f"word{k}" for k in range(61))]
    plain = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, vocab_size=len(words), pad_token_id=0, eos_token_id=None, bos_token_id=None)
    bank = AdapterBank(LlamaForCausalLM(config).eval(), LorettaRepConfig(init_weights=False, alpha=64))
    for k in range(50):
        bank.add(f"user-{k}")
    return bank, tokenizer


def main() -> None:
    """Serve, or show that it works."""
    if len(sys.argv) == 3:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
        uvicorn.run(make_app(AdapterBank.load(sys.argv[2], model.eval()), tokenizer), port=8000)
        return
    bank, tokenizer = tiny()
    app = make_app(bank, tokenizer)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def ask(k: int) -> tuple[Request, str]:
        request = Request(prompt=f"word{k % 7} word{k % 11}", adapter=f"user-{k}" if k % 5 else None)
        body = json.dumps(request.model_dump()).encode()
        post = urllib.request.Request(f"http://127.0.0.1:{port}/generate", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(post, timeout=120) as response:
            return request, json.loads(response.read())["text"]

    try:
        with ThreadPoolExecutor(20) as clients:
            answers = list(clients.map(ask, range(50)))
    finally:
        server.should_exit = True
        thread.join()
    batcher = app.state.batcher
    for request, text in answers:
        assert [text] == batcher.generate([request])
    assert len({text for _, text in answers}) > 20  # adapters differ in what they say
    print(f"50 requests of 20 clients, in {len(batcher.batches)} batches of up to {max(batcher.batches)} rows")


if __name__ == "__main__":
    main()
