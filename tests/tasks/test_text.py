"""The text task: its corpus, its split, and files that are no text to learn from."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

from evonas.errors import EXIT_USAGE, EvonasError
from evonas.tasks import TextTask

CONTEXT = 16


def de_bruijn(symbols: int, order: int) -> list[int]:
    """A cyclic sequence in which every word of ``order`` symbols occurs exactly once (Fredricksen, Maiorana 1978)."""
    word, out = [0] * symbols * order, []

    def extend(t: int, period: int) -> None:
        if t > order:
            if order % period == 0:
                out.extend(word[1 : period + 1])
            return
        word[t] = word[t - period]
        extend(t + 1, period)
        for symbol in range(word[t - period] + 1, symbols):
            word[t] = symbol
            extend(t + 1, t)

    extend(1, 1)
    return out


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A file of 8,000 bytes in which any three neighbours tell their offset, and the array of those offsets."""
    sequence = np.array(de_bruijn(20, 3))
    path = tmp_path_factory.mktemp("marked") / "marked.bin"
    path.write_bytes((33 + sequence).astype(np.uint8).tobytes())
    offset_of = np.full((20, 20, 20), -1)
    offset_of[sequence[:-2], sequence[1:-1], sequence[2:]] = np.arange(len(sequence) - 2)
    assert len(sequence) == 8000 and np.sum(offset_of >= 0) == 7998
    return path, offset_of


def offsets(batch: tuple[np.ndarray, np.ndarray], offset_of: np.ndarray) -> np.ndarray:
    """Offsets in the file of the bytes of each window, inputs and last target: (B, T + 1)."""
    x, y = batch
    window = np.concatenate([x, y[:, -1:]], axis=1)
    found = offset_of[window[:, :-2], window[:, 1:-1], window[:, 2:]]
    assert np.all(np.diff(found, axis=1) == 1), "a window is a piece of the text"
    return found[:, :1] + np.arange(window.shape[1])


@pytest.mark.parametrize("tokens", [None, 10 * CONTEXT])
def test_training_and_validation_share_no_byte(marked, tokens):
    path, table = marked
    task = TextTask(path, CONTEXT)
    trained = set(offsets(task.batch(np.random.default_rng(0), 60_000), table).ravel().tolist())
    held_out = {k for batch in task.validation(tokens, 7) for k in offsets(batch, table).ravel().tolist()}
    assert trained == set(range(7200)), "all of the first 90% is trained on, to its last byte"
    assert min(held_out) == 7200 and max(held_out) < 8000
    assert not trained & held_out


def test_validation_windows_cover_the_held_out_text_once(marked):
    path, table = marked
    starts = sorted(offsets(b, table)[0, 0] for b in TextTask(path, CONTEXT).validation(None, 1))
    assert starts == list(range(7200, 8000 - CONTEXT, CONTEXT))


def test_a_few_validation_tokens_are_spread_over_all_of_it(marked):
    path, table = marked
    starts = [offsets(b, table)[0, 0] for b in TextTask(path, CONTEXT).validation(4 * CONTEXT, 1)]
    assert len(starts) == 4 and starts[0] == 7200 and starts[-1] == max(range(7200, 8000 - CONTEXT, CONTEXT))
    gaps = np.diff(starts)
    assert gaps.max() - gaps.min() <= CONTEXT


def test_the_vocabulary_is_the_bytes_that_occur(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(bytes([0, 7, 255]) * 1000)
    task = TextTask(path, CONTEXT)
    assert task.vocab_size == 3
    x, _ = task.batch(np.random.default_rng(0), 4)
    assert set(np.unique(x)) == {0, 1, 2}
    assert np.all((x[:, 1:] - x[:, :-1]) % 3 == 1), "ids keep the order of the bytes"


def test_rare_bytes_late_in_a_long_file_count(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"ab" * 1_500_000 + b"c" + b"ab" * 100)
    assert TextTask(path, CONTEXT).vocab_size == 3


def test_the_embedded_corpus_is_pythons_language_reference():
    from pydoc_data.topics import topics

    size = len("\n\n".join(topics.values()).encode())
    task = TextTask(None, CONTEXT)
    held_out = size - int(0.9 * size)
    windows = sum(len(x) for x, _ in task.validation(None, 512))
    assert size > 300_000 and 60 < task.vocab_size <= 256
    assert windows == (held_out - 1) // CONTEXT
    assert "embedded" in task.source


def test_the_embedded_corpus_does_not_depend_on_the_order_of_its_topics(monkeypatch):
    import pydoc_data.topics

    first = TextTask(None, CONTEXT).batch(np.random.default_rng(0), 4)
    turned = dict(reversed(pydoc_data.topics.topics.items()))
    monkeypatch.setattr(pydoc_data.topics, "topics", turned)
    assert np.array_equal(first, TextTask(None, CONTEXT).batch(np.random.default_rng(0), 4))


def test_the_smallest_text_that_will_do_is_the_one_the_error_names(tmp_path):
    path = tmp_path / "data.txt"
    path.write_bytes(b"ab" * 50)
    with pytest.raises(EvonasError) as caught:
        TextTask(path, CONTEXT)
    need = int(str(caught.value).split("at least ")[1].split()[0])
    path.write_bytes(b"ab" * (need // 2))
    task = TextTask(path, CONTEXT)
    assert task.batch(np.random.default_rng(0), 2)[0].shape == (2, CONTEXT)
    assert len(list(task.validation(None, 1))) >= 2


# -- wrong input ----------------------------------------------------------------------------------------------------


def refused(data, context=CONTEXT):
    with pytest.raises(EvonasError) as caught:
        TextTask(data, context)
    assert caught.value.exit_code == EXIT_USAGE
    return str(caught.value)


def test_a_folder(tmp_path):
    message = refused(tmp_path)
    assert f"{tmp_path} is a folder" in message and "one text file" in message


def test_a_missing_file(tmp_path):
    assert f"no such file: {tmp_path / 'nowhere.txt'}" in refused(tmp_path / "nowhere.txt")


def test_a_missing_folder_on_the_way(tmp_path):
    (tmp_path / "file").touch()
    assert str(tmp_path / "file" / "text.txt") in refused(tmp_path / "file" / "text.txt")


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.txt").touch()
    assert "is empty" in refused(tmp_path / "empty.txt")


def test_a_tiny_file(tmp_path):
    (tmp_path / "tiny.txt").write_text("to be or not to be")
    message = refused(tmp_path / "tiny.txt")
    assert "18 bytes are too few" in message and "smaller --context" in message


def test_a_context_too_long_for_the_file(text_file):
    assert "a context of 5000 needs at least" in refused(text_file, 5000)


def test_one_byte_repeated(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 5000)
    assert "one byte repeated" in refused(tmp_path / "a.txt")


@pytest.mark.parametrize("context", [0, -4])
def test_no_context(text_file, context):
    assert f"context {context}" in refused(text_file, context)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is empty" in refused(tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("secret" * 1000)
    path.chmod(0)
    assert "can't be read" in refused(path)


def test_the_fingerprint_is_that_of_all_its_bytes(tmp_path, text_file):
    text = text_file.read_bytes()
    assert TextTask(text_file, 8).fingerprint == f"{len(text)} bytes, sha256 {hashlib.sha256(text).hexdigest()}"
    for changed in (text[1:], b"!" + text[1:], text[:-1] + b"!"):
        (tmp_path / "changed.txt").write_bytes(changed)
        assert TextTask(tmp_path / "changed.txt", 8).fingerprint != TextTask(text_file, 8).fingerprint
    assert TextTask(None, 8).fingerprint == TextTask(None, 16).fingerprint
