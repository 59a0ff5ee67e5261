"""A model with thoughts and its tokenizer, of which a token is a character."""

from tokenizers import AddedToken

from evaluation.generation.thinking import ThinkingEngine
from evaluation.types import Generation

MARKERS = ("<think>", "</think>")
END = "\n</think>"


class Characters:
    """A tokenizer with a token for each character, and with special tokens of their own."""

    def __init__(self, **special):
        self._special = dict(enumerate(special.values()))
        self.added_tokens_decoder = {token: AddedToken(text, special=True) for token, text in self._special.items()}
        self.all_special_ids, self.all_special_tokens = [*self._special], [*self._special.values()]
        self.eos_token = special.get("eos")

    def __call__(self, text, add_special_tokens=True):
        for token, name in self._special.items():
            text = text.replace(name, chr(token))
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids, skip_special_tokens=False, clean_up_tokenization_spaces=False):
        shown = {} if skip_special_tokens else self._special
        return "".join(shown.get(token, "" if token in self._special else chr(token)) for token in ids)


class Model:
    """A model that says one text after each question, and a short one after a thought's end."""

    takes, supports_choices, version = "ids", True, "model 1"

    def __init__(self, says, after="4.", max_model_len=None):
        self.says, self.after, self.max_model_len = says, after, max_model_len
        self.calls, self.seeds = [], []

    def generate(self, prompts, sampling, received=None):
        self.calls.append((len(prompts), sampling))
        for index, ids in enumerate(prompts):
            question, _, written = "".join(map(chr, ids)).partition("?")
            text = self.says[question]
            if not text.startswith(written):
                assert written.endswith(END), "what was put in ends the prompt"
                text = written + self.after
            room = len(text) if self.max_model_len is None else self.max_model_len - len(ids)
            if room < 1:
                yield index, [Generation("", [], "prompt_too_long", len(ids), 0)] * sampling.n
                continue
            rest = text[len(written) :]
            said = rest[: min(sampling.max_new_tokens, room)]
            one = Generation(said, [ord(letter) for letter in said], "stop" if said == rest else "length", len(ids), len(said))
            yield index, [one] * sampling.n

    def loglikelihoods(self, pairs):
        yield from enumerate((float(len(rest)), True) for _, rest in pairs)

    def reseed(self, seed):
        self.seeds.append(seed)

    def close(self):
        pass


def said(model, budget, sampling, *questions):
    """The completions of questions, each as (text, how it ended, whether its thought was cut)."""
    engine = ThinkingEngine(model, Characters(), MARKERS, budget)
    prompts = [[ord(letter) for letter in f"{question}?"] for question in questions]
    found = dict(engine.generate(prompts, sampling))
    for index, (one, *_) in found.items():
        assert one.token_ids == [ord(letter) for letter in one.completion]
        assert one.num_completion_tokens == len(one.completion) and one.num_prompt_tokens == len(prompts[index])
    return [[(one.completion, one.finish_reason, one.is_thought_cut) for one in found[index]] for index in range(len(prompts))]


LONG = "<think>one two three four</think>\n\n44."
