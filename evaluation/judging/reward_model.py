"""A reward model: a transformers sequence classifier whose single output rates a conversation's last answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bnf.data.chat_template import DEFAULT_DATE, ChatTemplate, LostText, RenderingError
from evaluation.types import Generation, Message


class RewardModel:
    """Rates conversations in batches of similar length, in bfloat16 on a GPU and float32 on a CPU.

    Raises:
        ValueError: where the model has more than one output, or its tokenizer no chat template.
    """

    def __init__(self, model: Path, *, batch_size: int = 8, date: str = DEFAULT_DATE) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        from bnf.data.rendering import load_tokenizer

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = load_tokenizer(model, date)
        dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        loaded = AutoModelForSequenceClassification.from_pretrained(model, dtype=dtype)
        if loaded.config.num_labels != 1:
            raise ValueError(
                f"a reward model must have one output, got {loaded.config.num_labels} from {model}; give a sequence classifier "
                "that was trained as a reward model"
            )
        self._model = loaded.to(self._device).eval()
        self._max_length: int | None = getattr(loaded.config.get_text_config(), "max_position_embeddings", None)
        # With a batch of one nothing is padded, and a classifier without a padding token works.
        self._pad = self._tokenizer.pad_token_id
        if loaded.config.pad_token_id is None:
            loaded.config.pad_token_id = self._pad
        self._batch_size = 1 if self._pad is None else batch_size

    def rewards(self, conversations: Sequence[Sequence[Message]]) -> Iterator[tuple[int, Generation]]:
        """Yields (index, the reward as text).

        A conversation that is longer than the model can read has the finish reason "prompt_too_long": cut, it would be rated without its
        end. One whose answer the chat template doesn't write whole has an "error".

        Raises:
            ValueError: where the chat template doesn't write all that stands before an answer.
        """
        import torch

        template = ChatTemplate(self._tokenizer)
        texts: dict[int, str] = {}
        for index, messages in enumerate(conversations):
            try:
                texts[index] = template.conversation(messages)
            except RenderingError as error:
                if isinstance(error, LostText) and error.message == len(messages) - 1:
                    continue
                raise ValueError(
                    f"judge.model_name_or_path must be a reward model that reads whole conversations: {error}"
                ) from error
        for index in range(len(conversations)):
            if index not in texts:
                yield index, Generation("", [], "error: the chat template doesn't write all of the answer", 0, 0)
        ids = {index: list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for index, text in texts.items()}
        order = sorted(ids, key=lambda index: len(ids[index]))
        if self._max_length is not None:
            for index in [index for index in order if len(ids[index]) > self._max_length]:
                order.remove(index)
                yield index, Generation("", [], "prompt_too_long", len(ids[index]), 0)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            width = max(len(ids[index]) for index in batch)
            pad = self._pad if self._pad is not None else 0
            # Padded on the right: a causal classifier reads the last token that is not padding.
            rows = torch.tensor([ids[index] + [pad] * (width - len(ids[index])) for index in batch], device=self._device)
            mask = torch.tensor(
                [[1] * len(ids[index]) + [0] * (width - len(ids[index])) for index in batch], device=self._device
            )
            with torch.inference_mode():
                logits = self._model(input_ids=rows, attention_mask=mask).logits[:, 0]
            for index, reward in zip(batch, logits.float().tolist(), strict=True):
                yield index, Generation(repr(float(reward)), [], "stop", len(ids[index]), 0)
