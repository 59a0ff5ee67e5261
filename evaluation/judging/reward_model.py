"""A reward model: a transformers sequence classifier whose single output rates a conversation's last answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from bnf.data.chat_template import DEFAULT_DATE, ChatTemplate, LostText, RenderingError
from bnf.model_folders import open_config, open_weights
from bnf.parallel.node_folders import NODE_FOLDER, NodeFolder
from bnf.parallel.ray_workers import RayWorker, connect, start_workers
from bnf.parallel.share import end_all, share_out
from evaluation.engines import LoadOption, check_room
from evaluation.types import Generation, Message

# Which of `evaluation.engines.LOAD_OPTIONS` it takes: with Ray alone.
OPTIONS: frozenset[LoadOption] = frozenset({"num_replicas"})
_KEY = "judge.model_name_or_path"
# A chunk fills a worker for a while, and where there are few batches each worker gets several, so that none waits long for the last.
_CHUNK_BATCHES = 32
_CHUNKS_EACH = 4
# Conversations as token ids, which are computed together.
_Batch = list[list[int]]


class RewardModel:
    """Rates conversations in batches of similar length, in bfloat16 on a GPU and float32 on a CPU.

    Args:
        num_replicas: With `ray`, an address, so many workers there load the model and share out the batches that it alone would compute.

    Raises:
        ValueError: where the model has more than one output, its tokenizer no chat template, or Ray isn't there.
    """

    def __init__(
        self, model: Path, *, batch_size: int = 8, date: str = DEFAULT_DATE, num_replicas: int = 1, ray: str | None = None
    ) -> None:
        from bnf.data.rendering import load_tokenizer

        assert ray is not None or num_replicas == 1, "a recipe is refused that has replicas without Ray"
        self._tokenizer = load_tokenizer(model, date)
        config = open_config(model, key=_KEY)
        if config.num_labels != 1:
            raise ValueError(
                f"a reward model must have one output, got {config.num_labels} from {model}; give a sequence classifier "
                "that was trained as a reward model"
            )
        self._max_length: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
        # With a batch of one nothing is padded, and a classifier without a padding token works.
        pad = self._tokenizer.pad_token_id
        self._batch_size = 1 if pad is None else batch_size
        opening = _Opening(model, pad)
        self._classifier = _Here(opening) if ray is None else _OnRay(opening, num_replicas, ray)

    def rewards(self, conversations: Sequence[Sequence[Message]]) -> Iterator[tuple[int, Generation]]:
        """Yields (index, the reward as text).

        A conversation that is longer than the model can read has the finish reason "prompt_too_long": cut, it would be rated without its
        end. One whose answer the chat template doesn't write whole, or with a control token that can't be spelled, has an "error".

        Raises:
            ValueError: where the chat template doesn't write all that stands before an answer.
        """
        from bnf.data.control import SpellingError
        from bnf.data.rendering import whole_conversation

        template = ChatTemplate(self._tokenizer)
        ids: dict[int, list[int]] = {}
        unread: dict[int, str] = {}
        for index, messages in enumerate(conversations):
            try:
                ids[index] = whole_conversation(self._tokenizer, template, messages)
            except SpellingError as error:
                unread[index] = str(error)
            except RenderingError as error:
                if isinstance(error, LostText) and error.message == len(messages) - 1:
                    unread[index] = "the chat template doesn't write all of the answer"
                    continue
                raise ValueError(
                    f"judge.model_name_or_path must be a reward model that reads whole conversations: {error}"
                ) from error
        for index, reason in unread.items():
            yield index, Generation("", [], f"error: {reason}", 0, 0)
        order = sorted(ids, key=lambda index: len(ids[index]))
        if self._max_length is not None:
            for index in [index for index in order if len(ids[index]) > self._max_length]:
                order.remove(index)
                yield index, Generation("", [], "prompt_too_long", len(ids[index]), 0)
        batches = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        for number, rewards in self._classifier([[ids[index] for index in batch] for batch in batches]):
            for index, reward in zip(batches[number], rewards, strict=True):
                yield index, Generation(repr(float(reward)), [], "stop", len(ids[index]), 0)

    def close(self) -> None:
        """Frees the model."""
        self._classifier.close()


@dataclass(frozen=True)
class _Opening:
    """The model's folder, and its tokenizer's padding token."""

    model: Path
    pad: int | None


class _Here:
    """The classifier, loaded in this process. What it is given together is rounded together."""

    def __init__(self, opening: _Opening) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        loaded = open_weights(AutoModelForSequenceClassification.from_pretrained, opening.model, key=_KEY, dtype=dtype)
        if loaded.config.pad_token_id is None:
            loaded.config.pad_token_id = opening.pad
        self._model, self._pad = loaded.to(self._device).eval(), opening.pad or 0
        self.about = None

    def __call__(self, message: Sequence[_Batch]) -> Iterator[tuple[int, list[float]]]:
        """The rewards of each batch, with its number."""
        import torch

        for number, batch in enumerate(message):
            width = max(map(len, batch))
            # Padded on the right: a causal classifier reads the last token that is not padding.
            rows = torch.tensor([ids + [self._pad] * (width - len(ids)) for ids in batch], device=self._device)
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in batch], device=self._device)
            with torch.inference_mode():
                logits = self._model(input_ids=rows, attention_mask=mask).logits[:, 0]
            yield number, logits.float().tolist()

    def close(self) -> None: ...


def _open_on_node(asked: tuple[NodeFolder, _Opening]) -> _Here:
    """On a node, which has the model's folder where the function says."""
    folder, opening = asked
    return _Here(replace(opening, model=Path(folder(str(opening.model)))))


_Worker = RayWorker[Sequence[_Batch], tuple[int, list[float]], None]


class _OnRay:
    """Workers on Ray that have loaded the classifier. Where one ends, another one computes its chunk of batches again."""

    def __init__(self, opening: _Opening, count: int, address: str) -> None:
        self._workers = _start(opening, count, address)

    def __call__(self, batches: Sequence[_Batch]) -> Iterator[tuple[int, list[float]]]:
        # Where none is left, sharing out says so.
        size = max(1, min(_CHUNK_BATCHES, -(-len(batches) // (_CHUNKS_EACH * max(1, len(self._workers))))))
        chunks = [range(len(batches))[start : start + size] for start in range(0, len(batches), size)]
        done: set[int] = set()

        def work(worker: _Worker, chunk: range) -> Iterator[tuple[int, list[float]]]:
            for place, rewards in worker.ask([batches[number] for number in chunk]):
                yield chunk[place], rewards

        with closing(share_out(self._workers, chunks, work)) as found:
            for number, rewards in found:
                if number not in done:
                    done.add(number)
                    yield number, rewards

    def close(self) -> None:
        end_all(worker.end for worker in self._workers)


def _start(opening: _Opening, count: int, address: str) -> list[_Worker]:
    cluster = connect(address)
    check_room(address, cluster, count, 1)
    return start_workers(
        count,
        _open_on_node,
        # A worker's own folder is another one.
        (NODE_FOLDER.get(), replace(opening, model=opening.model.absolute())),
        # Beside a GPU the cores only prepare; without one they compute.
        num_gpus=1 if cluster.num_gpus else 0,
        num_cpus=0 if cluster.num_gpus else cluster.cores_each(min(count, cluster.room_for(1))),
        variables={},
    )
