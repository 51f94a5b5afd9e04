"""What a run notes of itself."""

from __future__ import annotations

import time

import pytest

from evonas.store import Store, note_aim, note_spent, seconds_since_aim

from .conftest import HEADER, fill


def test_a_run_killed_before_anything_was_stored_keeps_its_aim(folder):
    with Store.create(folder, HEADER) as store:
        time.sleep(0.5)
        fill(store, 0, 1)
    with Store.open(folder, write=True) as store:
        time.sleep(0.1)
        note_aim(store)  # and then nothing more, as a kill leaves it
    with Store.open(folder, write=True) as store:
        assert store.seconds >= 0.5 > seconds_since_aim(store)


@pytest.mark.parametrize("aim", [-1, "soon", True, float("nan"), None])
def test_an_aim_that_is_none_is_passed_over(folder, aim):
    with Store.create(folder, {**HEADER, "notes": {"aimed_at_seconds": aim}}) as store:
        assert seconds_since_aim(store) == pytest.approx(store.seconds, abs=1)


def test_time_in_which_nothing_was_stored_counts_once_it_is_noted(folder):
    with Store.create(folder, HEADER) as store:
        fill(store, 0, 1)
        time.sleep(0.2)
        note_spent(store)
    spent = store.finished[0] + 0.2
    assert Store.open(folder).seconds >= spent
    with Store.open(folder, write=True) as store:
        assert store.seconds >= spent
        fill(store, 2, 3)
    assert Store.open(folder).seconds >= store.finished[-1] >= spent


@pytest.mark.parametrize("spent", [-1, "long", True, 10**400, None])
def test_noted_time_that_is_none_is_passed_over(folder, spent):
    Store.create(folder, {**HEADER, "notes": {"spent_seconds": spent}}).close()
    assert Store.open(folder).seconds == 0
