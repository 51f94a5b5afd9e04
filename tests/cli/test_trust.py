"""A run that was received: what it names is not run, what it holds is not believed."""

from __future__ import annotations

import json
import os

import h5py
import pytest

from evonas.errors import EvonasError
from evonas.store import Store

PAYLOAD = "open('was-run', 'w').close()\nclass Task:\n    def __init__(self, data, context): pass\n"


def change(**settings) -> None:
    with Store.open("runs/first", write=True) as store:
        store.set_header(settings={**store.header["settings"], **settings})


def commands(store: Store) -> list[tuple]:
    return [
        ("resume", "first", "--generations", 9),
        ("calibrate", "first", "--genomes", 4),
        ("train", f"first:{store.front_ids()[0]}", "--tokens", 512, "-o", "out"),
        ("export", f"first:{store.front_ids()[0]}", "--untrained", "--to", "torch", "-o", "out"),
    ]


@pytest.mark.parametrize("place", ["runs/first/payload.py", "runs/first/__init__.py", "runs/payload/__init__.py"])
def test_code_among_the_runs_is_not_run(cli, in_copy, place):
    (in_copy / place).parent.mkdir(exist_ok=True)
    (in_copy / place).write_text(PAYLOAD)
    module = place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    change(task=f"{module}:Task")
    for command in commands(Store.open("runs/first")):
        if command[0] == "export":
            continue  # it needs no task where the run knows the vocabulary
        assert "lies among the runs: it is not run" in cli(*command, code=2).sentence, command
    assert not (in_copy / "was-run").exists() and not (in_copy / "out").exists()


@pytest.mark.parametrize("task", ["torch:load", "subprocess:call", "os:system", "json.decoder:JSONDecoder"])
def test_what_is_installed_is_not_called_unless_it_is_a_task(cli, in_copy, task):
    change(task=task, data="true")
    for command in commands(Store.open("runs/first"))[:3]:
        assert "nor a class with the methods of a task" in cli(*command, code=2).sentence, command


def test_a_task_of_ones_own_goes_on(cli, in_tmp_path, small, space_file):
    """As in a search: its module lies in the working folder, whatever that is called."""
    text = "from evonas.tasks import TextTask\n\ndef make(data, context):\n    return TextTask(data, context)\n"
    (in_tmp_path / "mine.py").write_text(text)
    cli("evolve", *small, "--task", "mine:make", "--run", "own", "--executor", "serial")
    assert "3 generations" in cli("resume", "own", "--generations", 3, "--executor", "serial").out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": 5}, "does not say which task"),
        ({"data": 5}, "the setting 'data' is not a text"),
        ({"seeds": [5]}, "the setting 'seeds' is not a list of labels with genes"),
        ({"constraints": [5]}, "the setting 'constraints' is not a list of texts"),
        ({"reuse": [5]}, "the setting 'reuse' is not a list of texts"),
        ({"objectives": 5}, "the setting 'objectives' is not a list of texts"),
    ],
)
def test_settings_of_other_kinds_are_refused(cli, in_copy, changes, says):
    change(**changes)
    done = cli("resume", "first", "--generations", 9, code=2)
    assert says in done.sentence or "setting 'task' is not a text" in done.sentence
    cli("report", "first")


@pytest.mark.parametrize("reference", [{"ideal": 5}, "x", {"ideal": [1.0], "reference": [1.0, 2.0]}, {}])
def test_a_reference_that_is_none_is_damage(in_copy, reference):
    with h5py.File("runs/first/population.h5", "r+") as file:
        file.attrs["reference"] = json.dumps(reference)
    with pytest.raises(EvonasError, match="its reference is not two points"):
        Store.open("runs/first")


def test_a_reference_of_other_objectives_is_damage(cli, in_copy):
    with Store.open("runs/first", write=True) as store:
        store.set_header(reference={"ideal": [1.0], "reference": [2.0]})
    done = cli("resume", "first", "--generations", 9, "--executor", "serial", code=(1, 2))
    assert "its reference point is of 1 objectives" in done.sentence


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    "command",
    [
        ("genome", "show", "pipe.json"),
        ("genome", "show", "zero.json"),
        ("evolve", "--space", "pipe.json"),
        ("train", "pipe.json"),
        ("export", "nanogpt-cpu", "--weights", "pipe.json", "--to", "torch", "-o", "out"),
    ],
)
def test_pipes_and_devices_are_not_read(cli, in_tmp_path, command):
    os.mkfifo("pipe.json")
    os.symlink("/dev/zero", "zero.json")
    assert "not a plain file" in cli(*command, code=(1, 2)).sentence


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_as_journal_is_not_read(cli, in_copy):
    os.unlink("runs/first/journal.jsonl")
    os.mkfifo("runs/first/journal.jsonl")
    assert "not a plain file" in cli("report", "first", code=1).sentence
