"""One contract for every task: those of TASKS, and a user's own class."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from evonas.errors import EXIT_USAGE, EvonasError
from evonas.tasks import NOT_YET, TASKS, Task, fingerprint, load_task

CONTEXT = 16
OWN_TASK = '''
import numpy as np
from torch.nn.functional import cross_entropy


class Counting:
    """Count on, modulo 10 in training and modulo 7 in validation."""

    name, vocab_size = "counting", 10

    def __init__(self, data, context):
        self.data, self.context = data, context

    def batch(self, rng, batch_size):
        return self._count(rng.integers(0, 10, size=batch_size), 10)

    def validation(self, tokens, batch_size):
        count = 7 if tokens is None else min(7, max(1, tokens // self.context))
        for k in range(0, count, batch_size):
            yield self._count(np.arange(k, min(count, k + batch_size)), 7)

    def _count(self, starts, modulus):
        tokens = (starts[:, None] + np.arange(self.context + 1)) % modulus
        return tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)

    def loss(self, logits, targets):
        return cross_entropy(logits.transpose(1, 2).float(), targets, reduction="none").mean(dim=1)


class Half:
    name, vocab_size, context = "half", 10, 4

    def __init__(self, data, context):
        pass

    def batch(self, rng, batch_size):
        return None


class Demanding:
    def __init__(self, data, context):
        raise KeyError("no 'labels' in the data")


def takes_nothing():
    return Counting(None, 4)
'''


@pytest.fixture
def own_package(in_tmp_path, monkeypatch):
    """A user's package ``own_package.tasks`` in the working folder, which is not on sys.path."""
    package = in_tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(OWN_TASK)
    (package / "broken.py").write_text("import json\njson.loads('{')\n")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(in_tmp_path))])
    yield "own_package.tasks"
    for name in [n for n in sys.modules if n.partition(".")[0] == "own_package"]:
        del sys.modules[name]


@pytest.fixture(params=[*sorted(TASKS), "own"])
def task(request, text_file):
    if request.param == "own":
        return load_task(request.getfixturevalue("own_package") + ":Counting", None, CONTEXT)
    return load_task(request.param, str(text_file), CONTEXT)


def arrays(batches):
    return [np.concatenate(part) for part in zip(*batches)]


def test_a_task_of_another_context_than_it_was_asked_for_is_refused(own_package, in_tmp_path):
    (in_tmp_path / "own_package" / "fixed.py").write_text(
        OWN_TASK
        + "\n\nclass Fixed(Counting):\n    def __init__(self, data, context):\n        super().__init__(data, 128)\n"
    )
    with pytest.raises(EvonasError, match="has a context of 128, asked for 16") as caught:
        load_task("own_package.fixed:Fixed", None, CONTEXT)
    assert "--context 128" in caught.value.hint
    assert load_task("own_package.fixed:Fixed", None, 128).context == 128


@pytest.mark.parametrize(
    ("batch", "why"),
    [  # the usual slip: a window of T bytes gives T - 1 inputs and targets
        ("return [part[:, 1:] for part in super().batch(rng, batch_size)]", r"gives \[\(1, 15\), \(1, 15\)\], exp"),
        ("return super().batch(rng, 2)", r"gives \[\(2, 16\), \(2, 16\)\], expected inputs and targets of \(1, 16\)"),
        ("return None", "its batch fails with TypeError: 'NoneType'"),
    ],
)
def test_a_task_whose_batches_are_of_another_shape_is_refused(own_package, in_tmp_path, batch, why):
    own = f"\n\nclass Slip(Counting):\n    def batch(self, rng, batch_size):\n        {batch}\n"
    (in_tmp_path / "own_package" / "slip.py").write_text(OWN_TASK + own)
    with pytest.raises(EvonasError, match=f"task 'own_package.slip:Slip': .*{why}") as caught:
        load_task("own_package.slip:Slip", None, CONTEXT)
    assert "evonas.tasks.base.Task" in caught.value.hint


def test_it_keeps_the_protocol(task):
    assert isinstance(task, Task)
    assert task.context == CONTEXT and task.vocab_size >= 2 and task.name


def test_batches_are_windows_of_tokens(task):
    for batch_size in (1, 5):
        for array in task.batch(np.random.default_rng(0), batch_size):
            assert array.shape == (batch_size, CONTEXT) and array.dtype == np.int64
            assert array.min() >= 0 and array.max() < task.vocab_size


def test_targets_are_the_next_tokens(task):
    for x, y in [task.batch(np.random.default_rng(0), 4), *task.validation(None, 4)]:
        assert np.array_equal(x[:, 1:], y[:, :-1])


def test_the_generator_alone_decides_on_a_batch(task):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = (arrays([task.batch(np.random.default_rng(3), 8)]) for _ in range(2))
    other = arrays([task.batch(np.random.default_rng(4), 8)])
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], other[0])
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_one_generator_goes_on_from_batch_to_batch(task):
    rng = np.random.default_rng(0)
    assert not np.array_equal(task.batch(rng, 8)[0], task.batch(rng, 8)[0])


@pytest.mark.parametrize("tokens", [None, 1, 5 * CONTEXT])
def test_validation_is_always_the_same_whatever_the_batch_size(task, tokens):
    reference = arrays(task.validation(tokens, 3))
    task.batch(np.random.default_rng(0), 4)
    for batch_size in (1, 3, 1000):
        batches = list(task.validation(tokens, batch_size))
        assert all(len(x) <= batch_size for x, _ in batches)
        assert all(np.array_equal(a, b) for a, b in zip(reference, arrays(batches)))
        assert all(a.dtype == np.int64 and a.shape[1] == CONTEXT for pair in batches for a in pair)


def test_validation_takes_about_as_many_tokens_as_asked(task):
    assert arrays(task.validation(5 * CONTEXT, 2))[0].shape == (5, CONTEXT)
    everything = arrays(task.validation(None, 2))[0]
    assert len(everything) > 5
    assert np.array_equal(everything, arrays(task.validation(10**12, 2))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_the_mean_cross_entropy_of_each_sequence(task, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, CONTEXT, task.vocab_size, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(task.vocab_size, (3, CONTEXT), generator=generator)
    loss = task.loss(logits, targets)
    assert loss.shape == (3,) and loss.dtype == torch.float32
    for k in range(3):
        expected = cross_entropy(logits[k].float(), targets[k])
        assert loss[k].item() == pytest.approx(expected.item(), rel=1e-5)
    loss.mean().backward()
    assert logits.grad.abs().sum() > 0


def test_of_no_knowledge_the_loss_is_that_of_a_guess(task):
    loss = task.loss(torch.zeros(1, CONTEXT, task.vocab_size), torch.zeros(1, CONTEXT, dtype=torch.long))
    assert loss.item() == pytest.approx(np.log(task.vocab_size), rel=1e-6)


# -- wrong input ----------------------------------------------------------------------------------------------------


def refused(name, data=None, context=CONTEXT):
    with pytest.raises(EvonasError) as caught:
        load_task(name, data, context)
    assert caught.value.exit_code == EXIT_USAGE and caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("name", NOT_YET)
def test_tasks_to_come_say_so(name):
    assert f"task {name!r} is not built yet" in refused(name)


def test_an_unknown_task_names_the_nearest():
    message = refused("txet")
    assert "unknown task 'txet'" in message and "'text'" in message and "package.module:Name" in message


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("nowhere_at_all:Task", "nowhere_at_all"),
        ("own_package.nowhere:Task", "own_package.nowhere"),
        ("own_package.tasks:Missing", "Missing"),
        ("own_package.tasks:", "own_package.tasks"),
        ("own_package.broken:Task", "JSONDecodeError"),
        ("own_package.tasks:Demanding", "no 'labels' in the data"),
        ("own_package.tasks:takes_nothing", "takes_nothing"),
        (":Task", "':Task'"),
        (".tasks:Task", "'.tasks:Task'"),
        ("own_package.tasks:np", "np"),
    ],
)
def test_what_can_not_be_loaded_is_named_with_its_reason(own_package, reference, why):
    message = refused(reference)
    assert repr(reference) in message and why in message


def test_a_class_that_lacks_methods_is_told_which(own_package):
    message = refused(f"{own_package}:Half")
    assert "lacks validation, loss" in message and "batch" not in message


def test_an_error_of_the_users_own_passes_unchanged(own_package, in_tmp_path):
    (in_tmp_path / "own_package" / "polite.py").write_text(
        "from evonas.errors import EvonasError\n"
        "def make(data, context):\n    raise EvonasError('the labels are missing', 'Add them.')\n"
    )
    assert refused("own_package.polite:make") == "the labels are missing\nAdd them."


def test_the_path_and_the_context_reach_the_users_class(own_package):
    made = load_task(f"{own_package}:Counting", "some/path", 5)
    assert (made.data, made.context) == ("some/path", 5)


def test_data_and_batches_need_no_torch(text_file):
    code = (
        "import sys, numpy; from evonas.tasks import load_task\n"
        f"task = load_task('text', {str(text_file)!r}, 8)\n"
        "task.batch(numpy.random.default_rng(0), 2); list(task.validation(None, 4))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_fingerprint_is_optional_and_text(task):
    found = fingerprint(task)
    assert found is None if type(task).__name__ == "Counting" else "sha256" in found
    task.fingerprint = 7
    assert fingerprint(task) == "7"


def test_a_fingerprint_that_fails_is_the_users_to_mend():
    class Broken:
        name = "broken"

        @property
        def fingerprint(self):
            raise ValueError("no file")

    with pytest.raises(EvonasError, match="task 'broken': its fingerprint fails with ValueError: no file"):
        fingerprint(Broken())


@pytest.mark.parametrize(
    "leaving", ["import sys\nsys.exit('bye')\n", "import sys\ndef Task(*_):\n    sys.exit('bye')\n"]
)
def test_a_task_that_leaves_does_not_end_evonas(own_package, in_tmp_path, leaving):
    (in_tmp_path / "own_package" / "leaving.py").write_text(leaving)
    with pytest.raises(EvonasError, match=r"task 'own_package.leaving:Task' can't be .*: SystemExit: bye"):
        load_task("own_package.leaving:Task", None, CONTEXT)
