"""The run's only state: one folder per run, written by one process, read by anyone with plain h5py or pandas.

``runs/<name>/`` holds

``population.h5``
    The run up to one of its last committed generations. It is never changed in place: a merge copies it, appends to
    the copy, fsyncs the copy, renames it over the old one and fsyncs the folder. At every instant it is one
    complete, consistent HDF5 file.
``journal.jsonl``
    What came since then: one JSON line with a CRC32 for each evaluation, generation and change of the header, fsynced
    before the call returns. It is replaced by an empty file only after ``population.h5`` holds its rows.
``weights/``
    Checkpoints (safetensors) of the trainings that may go on to a higher rung, one per genome: weights, optimiser
    state, how far it is. What has no use any more is removed at each commit; what is lost is trained again, to the
    same result. Nothing reads them once the run is done: the folder may be deleted.
``calibration.json``, ``front.png``
    What ``evonas calibrate`` and the end of a search leave.
``lock``
    JSON with pid, host and start time of the writer that holds the file lock; a dead writer's lock is free.
``calibration.lock``
    The same of who calibrates the run.

What a kill leaves behind. In ``append``: the line is whole or torn; a torn last line was never acknowledged and is
dropped (a bad line further up is an error, never skipped). In a merge before the rename: the old file and the full
journal. Between the rename and the emptying of the journal: rows in both; evaluations and generations are numbered, so
none counts twice. A reader takes the journal first and ``population.h5`` after it: it may run beside a writer, takes no
lock, and misses nothing that was acknowledged before it looked.

Why so. Appending to an HDF5 file in place is not safe against a kill (its metadata is written in several steps; the
single-writer mode keeps readers safe, not the file), and a copy for every generation makes a commit dearer the longer
the run is. So a commit is a line in the journal, and the copy comes when the journal holds a sixteenth of what the file
does: a constant per evaluation (``tools/bench_store.py``). A run of fewer than 256 evaluations merges at every commit,
and every run when its writer closes it: that is when plain h5py sees the newest generations; evonas itself always does.

A ``population.h5`` that this process has neither written nor read before is first read by a child (``probe.py``):
HDF5's C code may crash or loop for ever on a damaged file. What a file claims (rows, lengths of texts) is held against
its size before anything is read, and only columns stored as evonas stores them are.

Layout of ``population.h5``, schema 2 (in schema 1 every commit was a merge). Root attributes:

``schema`` (int), ``created`` (ISO 8601), ``command``, ``device`` (text), ``seed`` (int), and as JSON: ``settings``,
``space``, ``versions``, ``objectives`` (list of {name, unit, direction}), ``constraints``, ``reference``
(hypervolume ideal and reference points, null until set), ``seed_genomes`` (list of {id, label}), ``notes``.

Groups of 1-D datasets of equal length, one row per entry:

``genomes``
    id, genes (JSON), parents (JSON list of ids), operator, generation, label.
``evaluations``
    One row per genome *and rung*: a genome that went on has several, which ``<name>_fidelity`` tells apart; a
    generation that failed whole and was done again has its rows twice, the later count; one that was interrupted and
    then finished with other candidates has rows that the search was not told (``asked``, below, says which it was).
    sequence (0, 1, 2, ...), genome_id, generation, index, status, reason, finished (seconds since the run began,
    cumulative over resumes), provenance (JSON), cost_seconds, cost_tokens and any further ``cost_<name>``; for each
    objective ``<name>``, ``<name>_spread``, ``<name>_fidelity``, ``<name>_device`` and, where known,
    ``<name>_sketch`` (base64, see ``evonas.sketch``). NaN and "" mean not measured; a column that appears later is NaN
    or "" in earlier rows.
``generations``
    generation, evaluations, front_size, hypervolume, seconds, failures (JSON), rng (JSON), best (JSON), extra (JSON:
    whatever else the search noted: ``asked``, index and genome id of each candidate; ``hopeless``, generations in a row
    after which no member met the constraints; ``credit``, the rate of each mutation from then on; ``surrogate``, where
    it was asked: Kendall's ``tau`` of what it said of the latest results without having seen them (while nothing meets
    the constraints, of what tells of these), ``coverage``, the share of them within a standard deviation of that (null:
    too few), and ``share``, of its places by its skill; with rungs ``rungs``, genomes told at each, and ``expected``,
    for each rung below the last the pairs and the standard error from which the last one is expected).
``population``
    generation, genome_id, rank (0 is non-dominated among the members of the same fidelity, -1 has no complete
    measurement); the members of each generation in the order the search gave them.

Numbers are float64 or int64, text is variable-length UTF-8, which h5py gives as bytes without ``asstr``::

    with h5py.File("runs/NAME/population.h5") as f:
        columns = f["evaluations"].items()
        table = pd.DataFrame({k: (d.asstr() if d.dtype == object else d)[:] for k, d in columns})

No pickle anywhere. Numbers that JSON can't hold (NaN, infinity) are null in JSON columns.
"""

from __future__ import annotations

from .notes import (
    ENDED,
    MOVED,
    UNSETTLED,
    compared_from,
    moved_at,
    note_aim,
    note_end,
    note_revised,
    note_settled,
    note_spent,
    seconds_since_aim,
)
from .reuse import Known, known_from
from .runs import find_run, load_genome_ref, newest_run, runs_folder
from .store import Entry, Store
from .told import told_records, trained_outcome

__all__ = [
    "ENDED",
    "MOVED",
    "UNSETTLED",
    "Entry",
    "Known",
    "Store",
    "compared_from",
    "find_run",
    "known_from",
    "load_genome_ref",
    "moved_at",
    "newest_run",
    "note_aim",
    "note_end",
    "note_revised",
    "note_settled",
    "note_spent",
    "runs_folder",
    "seconds_since_aim",
    "told_records",
    "trained_outcome",
]
