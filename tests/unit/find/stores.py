"""A small store of activations with planted features, for the tests of Find and Explain."""

from __future__ import annotations

import re

import numpy as np

from mistudio_torch.codes import CodesWriter

TOPICS = {
    "cooking": "soup bread oven butter salt recipe flour pepper onion garlic sauce dinner",
    "space": "orbit rocket planet telescope comet galaxy moon astronaut gravity satellite launch star",
    "law": "court judge contract lawyer statute appeal verdict clause trial evidence plaintiff witness",
    "music": "guitar violin melody rhythm chord piano concert opera tempo singer drum harmony",
}
_FILLER = "the a of and to with for in on some many very good old new small large then here there"
FILLER = _FILLER.split()
WORD, TOPIC, RANDOM, DEAD, DENSE, NUMBERS = range(6)
"""What feature does what: fires on the word `token`, on cooking words, at random, never, everywhere, on numbers."""
D_SAE = 8


def texts(count=400, seed=0):
    rng = np.random.default_rng(seed)
    names = list(TOPICS)
    for number in range(count):
        label = names[number % len(names)]
        words = [str(rng.choice(TOPICS[label].split() if rng.random() < 0.4 else FILLER)) for _ in range(40)]
        if rng.random() < 0.3:
            words[int(rng.integers(5, 35))] = str(rng.choice(["token", "tokens"]))
        if rng.random() < 0.3:
            words[int(rng.integers(5, 35))] = str(rng.integers(10, 99999))
        yield label, " ".join(words) + f" n{number}."


def fires(feature, word, rng):
    if feature == WORD:
        return 5.0 + rng.random() if word.startswith("token") else 0.0
    if feature == TOPIC:
        return 2.0 + rng.random() if word in TOPICS["cooking"].split() else 0.0
    if feature == RANDOM:
        return rng.random() if rng.random() < 0.03 else 0.0
    if feature == DENSE:
        return 0.5 + rng.random()
    if feature == NUMBERS:
        return 3.0 + rng.random() if word.isdigit() else 0.0
    return 0.0


def write_store(folder, documents=None, *, meta=None):
    """Writes the store; `documents` are (label, text), by default `texts()`."""
    rng = np.random.default_rng(1)
    ids = {}
    folder.mkdir(parents=True, exist_ok=True)
    lineage = {"model_name": "toy/model", "layer": 3, "sae_sha256": "ab" * 32, "corpus_sha256": "cd" * 32}
    with CodesWriter(folder, d_sae=D_SAE, meta=lineage | (meta or {})) as writer:
        for label, text in documents if documents is not None else texts():
            spans = np.array([m.span() for m in re.finditer(r"\w+|[^\w\s]", text)], np.int32).reshape(-1, 2)
            tokens = [text[a:b] for a, b in spans]
            at = [(t, f, v) for t, w in enumerate(tokens) for f in range(6) if (v := fires(f, w.casefold(), rng)) > 0]
            triples = np.array(at, np.float64).reshape(-1, 3)
            writer.add_document(
                text,
                np.array([ids.setdefault(t, len(ids)) for t in tokens], np.uint32),
                spans,
                triples[:, 0].astype(np.int64),
                triples[:, 1].astype(np.int64),
                triples[:, 2],
                labels={"topic": label},
            )
        writer.close()
    return folder


class Folder:
    """A bare folder as an artifact."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return self.folder / name
