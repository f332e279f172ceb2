"""A LoRA resolver for vLLM: adapters of any linear method, kept as kilobytes, become LoRA when a request names them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from ttnet.errors import TTFileError, TTValueError

logger = logging.getLogger(__name__)

SOURCE = "TTNET_VLLM_ADAPTERS"  # environment variables: a bank, or a folder with folders of adapters
CACHE = "TTNET_VLLM_CACHE"  # where LoRA is written; by default a folder that goes with the process
_WRITING = threading.Lock()  # as making models without weights changes torch for all threads
RANK = "TTNET_VLLM_RANK"  # one rank for all, at most vLLM's max_lora_rank; by default the smallest that holds each


class LoraStore:
    """Adapters of linear methods in a bank or in folders, each written as LoRA when it is first asked for.

    Args:
        source: A bank's folder, or a folder with a folder for each adapter.
        cache: Where the LoRA checkpoints go; `None` takes a temporary folder.
        rank: The rank of all of them; `None` takes the smallest that holds each.

    Raises:
        TTValueError: If there is no such folder, or the rank is below 1.
    """

    def __init__(self, source: str | Path, cache: str | Path | None = None, rank: int | None = None) -> None:
        self.source, self.rank = Path(source), rank
        if not self.source.is_dir():
            raise TTValueError(f"{SOURCE} is {str(source)!r}; expected the folder of a bank, or one with adapters.")
        if rank is not None and rank < 1:
            raise TTValueError(f"{RANK} is {rank}; expected a rank of at least 1.")
        self._temporary = None if cache else tempfile.TemporaryDirectory(prefix="ttnet-lora-")
        self.cache = Path(cache or (self._temporary.name if self._temporary else ""))

    def lora(self, name: str, base_model: str) -> Path | None:
        """Give the folder of an adapter as a LoRA checkpoint.

        Args:
            name: The adapter's name, in the bank or of its folder.
            base_model: The base model that is served.

        Returns:
            The folder; `None` if there is no adapter of that name for that model.

        Raises:
            TTError: If it cannot be written as LoRA.
        """
        from ttnet_llm.bank.saving import is_bank, read_index, row_digest

        if is_bank(self.source):
            if name not in read_index(self.source).numbers:
                return None
            state = f"{self.source.resolve()} {name} {row_digest(self.source, name)}"
        else:
            # A name comes from a request: it is one of the folders that are there, and no way to others.
            if name not in {each.name for each in self.source.iterdir() if each.is_dir()}:
                return None
            state = f"{(self.source / name).resolve()} {_latest(self.source / name)}"
        target = self.cache / hashlib.sha256(f"{state} {base_model} {self.rank}".encode()).hexdigest()[:32]
        with _WRITING:
            if target.is_dir():
                return target
            return target if self._write(name, base_model, target) else None

    def _write(self, name: str, base_model: str, target: Path) -> bool:
        from peft.utils import get_peft_model_state_dict

        from ttnet_llm.bank.saving import is_bank
        from ttnet_llm.loading import find_adapter, load_adapter, load_skeleton
        from ttnet_llm.lora.checkpoint import read_config, read_weights
        from ttnet_llm.lora.export import export_lora

        folder = find_adapter(self.source if is_bank(self.source) else self.source / name)
        named = str(read_config(folder).get("base_model_name_or_path") or "")
        if not _same_model(named, base_model):
            logger.info("The adapter %r is for %r, and %r is served.", name, named, base_model)
            return False
        with tempfile.TemporaryDirectory(prefix="ttnet-adapter-") as place:
            if is_bank(self.source):
                from ttnet_llm.bank import AdapterBank

                bank = AdapterBank.load(self.source, load_skeleton(self.source, base=base_model), device="cpu")
                folder = Path(place) / "adapter"
                bank.export(name, folder)
            loaded = load_adapter(folder, model=base_model, weights=False)
            asked = [key for key in get_peft_model_state_dict(loaded) if "_network." in key]
            if lacking := sorted(set(asked) - set(read_weights(folder))):  # of which PEFT only warns
                raise TTFileError(f"{str(folder)!r} lacks {lacking[0]!r}, which its config asks for; save it again.")
            export_lora(loaded, target, pad_to=self.rank or "uniform")
        return True


def _latest(folder: Path) -> int:
    """Give when anything in a folder last changed."""
    return max((file.stat().st_mtime_ns for file in folder.rglob("*")), default=0)


def _same_model(named: str, served: str) -> bool:
    """Tell whether an adapter is for the model that is served, by its id or the folder that holds it."""
    return named == served or (Path(named).exists() and Path(served).exists() and Path(named).samefile(served))


def make_resolver(store: LoraStore) -> Any:
    """Make the resolver that vLLM asks.

    Args:
        store: The adapters.

    Returns:
        An instance of a subclass of vLLM's `LoRAResolver`.
    """
    from vllm.lora.request import LoRARequest  # type: ignore[import-not-found, unused-ignore]
    from vllm.lora.resolver import LoRAResolver  # type: ignore[import-not-found, unused-ignore]

    class TTNetResolver(LoRAResolver):  # type: ignore[misc, unused-ignore]
        """Answers a request's adapter name with a LoRA checkpoint."""

        async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
            """Find an adapter; `None` leaves the name to other resolvers."""
            try:
                folder = await asyncio.to_thread(store.lora, lora_name, base_model_name)
            except Exception as error:  # whatever is wrong with one adapter, the server goes on
                logger.warning("The adapter %r cannot be served: %s", lora_name, error)
                return None
            if folder is None:
                return None
            return LoRARequest(lora_name=lora_name, lora_int_id=_number(folder.name), lora_path=str(folder))

    return TTNetResolver()


def _number(text: str) -> int:
    """Give a text a positive number that is the same in every process of a server."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (2**62) + 1


def register() -> None:
    """Register the resolver with vLLM, as its plugin system asks; does nothing where no adapters are named.

    Raises:
        TTValueError: If an environment variable says something that will not do.
    """
    source = os.environ.get(SOURCE)
    if not source:
        return
    from vllm.lora.resolver import LoRAResolverRegistry

    rank = os.environ.get(RANK)
    if rank is not None and not rank.isdecimal():
        raise TTValueError(f"{RANK} is {rank!r}; expected a rank of at least 1.")
    store = LoraStore(source, os.environ.get(CACHE), None if rank is None else int(rank))
    LoRAResolverRegistry.register_resolver("ttnet", make_resolver(store))
