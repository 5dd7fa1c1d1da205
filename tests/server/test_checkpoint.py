from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.arrays import Parameters
from common.errors import StateError
from common.strategies import ServerState
from server.checkpoint import CheckpointStore, Unit, write_atomic
from server.training_state import SiteRound, TrainingState

STUDY = "a" * 64
DTYPES = [np.dtype(name) for name in ("f8", "f4", "f2", "i8", "i4", "u8", "u1", "?")]
ARRAYS = st.dictionaries(
    st.text("abz/.", min_size=1, max_size=6),
    st.sampled_from(DTYPES).flatmap(lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))),
    max_size=5,
)


def store(folder: Path, study: str = STUDY) -> CheckpointStore:
    return CheckpointStore(folder / "checkpoints", study)


def loaded(folder: Path, name: str) -> Unit:
    unit = store(folder).load(name)
    assert unit is not None
    return unit


@settings(deadline=None)  # it waits for the disk
@given(ARRAYS)
def test_arrays_come_back_bit_by_bit_and_in_order(tmp_path_factory: pytest.TempPathFactory, arrays):
    folder = tmp_path_factory.mktemp("checkpoint")
    store(folder).save("unit", Unit(arrays, {}))
    found = loaded(folder, "unit").arrays
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_saving_copies_no_array(tmp_path: Path):
    unit = Unit({"x": np.ones(1 << 21), "y": np.ones((1 << 10, 1 << 10), np.float32)}, {})
    tracemalloc.start()
    store(tmp_path).save("unit", unit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_values_come_back(tmp_path: Path):
    values = {
        "round_number": 3,
        "text": "é",
        "share": 0.1,
        "list": [1, [2, "x"]],
        "nothing": None,
        "nested": {"a": True},
    }
    store(tmp_path).save("unit", Unit({}, values))
    assert loaded(tmp_path, "unit").values == values


def test_a_training_state_comes_back(tmp_path: Path):
    parameters = Parameters(
        {"z": np.float32([[1, 2], [3, 4]]), "a": np.array(0.1, dtype=np.float32), "m": np.arange(3.0) / 7}
    )
    server = ServerState({"first": np.arange(8.0) / 3, "second": np.ones(8)})
    history = (SiteRound(1, "north", 12, 0.1), SiteRound(1, "south", 9, 1 / 3))
    state = TrainingState(1, parameters, server, history, ("1 west site_silent",))
    store(tmp_path).save("unit", state.to_unit())
    found = TrainingState.from_unit(loaded(tmp_path, "unit"))
    assert found.parameters.layout == parameters.layout
    assert found.parameters.digest() == parameters.digest()
    assert {k: v.tobytes() for k, v in found.server.vectors.items()} == {
        k: v.tobytes() for k, v in server.vectors.items()
    }
    assert (found.round_number, found.history, found.absent) == (1, history, state.absent)


def test_what_was_not_saved_is_none_and_names_are_sorted(tmp_path: Path):
    assert store(tmp_path).load("training.federated.cnn.fold0") is None
    for name in ("table.federated.fold0", "evaluation.local-a.cnn.fold1"):
        store(tmp_path).save(name, Unit({}, {}))
    assert store(tmp_path).names() == ("evaluation.local-a.cnn.fold1", "table.federated.fold0")


def test_saving_again_replaces(tmp_path: Path):
    for n in (1, 2):
        store(tmp_path).save("unit", Unit({"n": np.array(n)}, {"n": n}))
    assert loaded(tmp_path, "unit").values == {"n": 2}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["unit.safetensors"]


def test_another_study_is_refused_by_digest(tmp_path: Path):
    store(tmp_path).save("unit", Unit({}, {}))
    with pytest.raises(StateError, match="is of study aaaaaaaaaaaa, expected bbbbbbbbbbbb"):
        store(tmp_path, "b" * 64).load("unit")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float):
    store(tmp_path).save("unit", Unit({"w": np.arange(100.0)}, {"n": 1}))
    path = tmp_path / "checkpoints" / "unit.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StateError, match=r"unit\.safetensors is damaged"):
        store(tmp_path).load("unit")


def test_a_flipped_bit_is_refused_wherever_it_is(tmp_path: Path):
    store(tmp_path).save("unit", Unit({"w": np.arange(16.0)}, {"loss": 0.125}))
    path = tmp_path / "checkpoints" / "unit.safetensors"
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            found = loaded(tmp_path, "unit")
        except StateError:
            continue
        # a bit of the padding, or one whose change has no meaning
        assert found.values == {"loss": 0.125}
        np.testing.assert_array_equal(found.arrays["w"], np.arange(16.0))


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path):
    store(tmp_path).save("unit", Unit({}, {"loss": 1.0}))
    with pytest.raises(ValueError, match="JSON"):
        store(tmp_path).save("unit", Unit({}, {"loss": float("nan")}))
    assert loaded(tmp_path, "unit").values == {"loss": 1.0}


SAVE_FOR_EVER = """
import sys, numpy as np
from pathlib import Path
from server.checkpoint import CheckpointStore, Unit
store = CheckpointStore(Path(sys.argv[1]), "a" * 64)
n = 0
while True:
    store.save("unit", Unit({"w": np.full(200_000, float(n))}, {"n": n}))
    print(n, flush=True)
    n += 1
"""


def test_a_kill_in_the_middle_leaves_a_whole_former_or_new_file(tmp_path: Path):
    """``kill -9`` at several moments of a loop of saves: what is read is always one save as a whole."""
    for delay_saves, spin in ((1, 0), (2, 20_000), (1, 90_000), (3, 200_000)):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path / "checkpoints")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        done = [int(process.stdout.readline()) for _ in range(delay_saves)][-1]
        for _ in range(spin):
            pass  # some fraction of a save
        os.kill(process.pid, signal.SIGKILL)
        done = max([done, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        unit = loaded(tmp_path, "unit")
        assert unit.values["n"] in (done, done + 1)
        np.testing.assert_array_equal(unit.arrays["w"], np.full(200_000, float(unit.values["n"])))


def test_the_next_run_removes_what_a_kill_left_and_a_reader_does_not(tmp_path: Path):
    store(tmp_path).save("unit", Unit({}, {}))
    partial = tmp_path / "checkpoints" / ".partial-x"
    partial.write_bytes(b"half")
    reader = store(tmp_path)
    reader.load("unit")
    assert partial.exists()
    reader.save("unit", Unit({}, {}))
    assert not partial.exists()


def test_a_full_disk_leaves_the_former_file_and_is_said(tmp_path: Path):
    store(tmp_path).save("unit", Unit({"w": np.zeros(3)}, {"n": 1}))
    code = (
        "import resource, signal, sys; import numpy as np; from pathlib import Path;"
        "from server.checkpoint import CheckpointStore, Unit;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY));"
        "CheckpointStore(Path(sys.argv[1]), 'a' * 64).save('unit', Unit({'w': np.zeros(5000)}, {'n': 2}))"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "checkpoints")]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    path = tmp_path / "checkpoints" / "unit.safetensors"
    assert f"StateError: cannot write {path}: File too large" in ended.stderr
    assert loaded(tmp_path, "unit").values == {"n": 1}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_gone_is_said(tmp_path: Path):
    with pytest.raises(StateError, match="cannot write"):
        write_atomic(tmp_path / "absent" / "file", b"x")


def test_parameters_in_the_file_are_those_that_were_saved_also_after_it_is_saved_anew(tmp_path: Path):
    kept = store(tmp_path)
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(0.5), "c": np.zeros((0, 2), np.float16)}
    kept.save("unit", Unit({"other": np.arange(3)} | {f"p/{name}": array for name, array in arrays.items()}, {}))
    found = kept.mapped("unit", prefix="p/", names=tuple(arrays))
    kept.save("unit", Unit({}, {}))
    for _ in range(2):
        assert found.layout == Parameters(arrays).layout
        assert found.digest() == Parameters(arrays).digest()
        assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())
        found.release()


def test_a_released_model_is_not_in_memory_and_can_be_read_again(tmp_path: Path):
    values = np.random.default_rng(0).random(4 << 20, dtype=np.float32)
    kept = store(tmp_path)
    kept.save("unit", Unit({"p/w": values}, {}))
    found = kept.mapped("unit", prefix="p/", names=("w",))
    total = float(found["w"].sum())
    before = resident_of_files()
    found.release()
    assert before - resident_of_files() > 0.9 * values.nbytes
    assert float(found["w"].sum()) == total


def resident_of_files() -> int:
    """Bytes of files that this process has in memory."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile")]
    return int(line.split()[1]) << 10


def test_a_unit_that_was_never_saved_cannot_be_mapped(tmp_path: Path):
    with pytest.raises(StateError, match="cannot read checkpoint"):
        store(tmp_path).mapped("unit", prefix="p/", names=("w",))
