import gguf
import numpy as np
import pytest
import torch

from tests.exchange.conftest import changed
from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.exchange.gguf_vectors import read_control_vector, write_control_vector


def test_a_control_vector_round_trips_to_the_last_bit_with_all_metadata(vectors, tmp_path):
    path = tmp_path / "vector.gguf"
    write_control_vector(path, vectors)
    read = read_control_vector(path)
    assert sorted(read.directions) == [10, 18, 30]
    for vector in vectors:
        assert torch.equal(read.directions[vector.layer], vector.vector)
    assert [v.metadata for v in read.ours] == [v.metadata for v in vectors]
    assert all(torch.equal(ours.vector, v.vector) for ours, v in zip(read.ours, vectors, strict=True))
    assert (read.unit, read.model_hint) == ("contrast", "SmolLM2-135M-Instruct")


def test_the_file_is_laid_out_as_llama_cpp_reads_it(vectors, tmp_path):
    path = tmp_path / "vector.gguf"
    write_control_vector(path, vectors)
    reader = gguf.GGUFReader(path)
    fields = {n: reader.get_field(n).contents() for n in ("general.architecture", "controlvector.layer_count")}
    assert fields == {"general.architecture": "controlvector", "controlvector.layer_count": 3}
    found = {t.name: (t.tensor_type.name, list(t.shape)) for t in reader.tensors}
    assert found == {f"direction.{n}": ("F32", [576]) for n in (9, 17, 29)}


def test_the_unit_is_stated_and_changes_the_length_alone(vectors, tmp_path):
    path = tmp_path / "vector.gguf"
    write_control_vector(path, vectors, unit="unit")
    read = read_control_vector(path)
    assert read.unit == "unit"
    for vector in vectors:
        assert float(read.directions[vector.layer].norm()) == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(read.directions[vector.layer] * vector.vector.norm(), vector.vector)


@pytest.mark.parametrize(("program", "lowest"), [("llama.cpp", 2), ("repeng", 1)])
def test_layers_that_a_program_cannot_express_are_refused_before_anything_is_written(
    vectors, tmp_path, program, lowest
):
    path = tmp_path / "vector.gguf"
    with pytest.raises(UserError, match=f"cannot act on layer {lowest - 1}.*our layer {lowest}"):
        write_control_vector(path, [*vectors, changed(vectors[0], layer=lowest - 1)], program=program)
    assert not list(tmp_path.glob("*.gguf*"))
    write_control_vector(path, [changed(vectors[0], layer=lowest)], program=program)
    assert list(read_control_vector(path).directions) == [lowest]


def test_vectors_of_two_methods_or_twice_one_layer_do_not_share_a_file(vectors, tmp_path):
    for other in (changed(vectors[0], method="ica", layer=4), vectors[0]):
        with pytest.raises(UserError, match="one trait, method and model"):
            write_control_vector(tmp_path / "vector.gguf", [*vectors, other])
    with pytest.raises(UserError, match="got 0 vectors"):
        write_control_vector(tmp_path / "vector.gguf", [])


def test_a_field_of_another_kind_than_it_should_be_is_one_clear_error(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "controlvector")
    writer.add_uint32("controlvector.model_hint", 7)
    writer.add_tensor("direction.9", np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DamagedFileError, match="not a whole GGUF file"):
        read_control_vector(tmp_path / "odd.gguf")


def test_a_truncated_file_is_one_clear_error_wherever_it_was_cut(vectors, tmp_path):
    whole = tmp_path / "vector.gguf"
    write_control_vector(whole, vectors[:1])
    data = whole.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 400, 7), len(data) // 2, len(data) - 1300]:
        cut.write_bytes(data[:length])
        with pytest.raises(DamagedFileError, match=r"cut\.gguf"):
            read_control_vector(cut)


def test_a_foreign_gguf_or_no_file_is_said_to_be_so(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("direction.3", np.ones(4, dtype=np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(DamagedFileError, match="'llama', not a control vector"):
        read_control_vector(path)
    with pytest.raises(MissingInputError):
        read_control_vector(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.ones(4, np.float16), "is F16, not F32"),
        (np.full(4, np.nan, np.float32), "holds NaN"),
        (np.full(4, 1e30, np.float32), "numbers too large"),
    ],
)
def test_directions_that_are_not_finite_float32_are_refused(tmp_path, values, said):
    path = tmp_path / "vector.gguf"
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_tensor("direction.3", values)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(DamagedFileError, match=rf"direction\.3 .*{said}"):
        read_control_vector(path)


def _written(path, directions):
    writer = gguf.GGUFWriter(path, "controlvector")
    for number, values in directions.items():
        writer.add_tensor(f"direction.{number}", np.full(4, values, np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def test_a_direction_of_zeros_stands_for_a_block_that_is_left_alone(tmp_path, caplog):
    read = read_control_vector(_written(tmp_path / "some.gguf", {1: 1.0, 2: 0.0, 3: 2.0}))
    assert sorted(read.directions) == [2, 4]
    assert "direction.2 hold zeros alone and are left out" in caplog.text
    with pytest.raises(DamagedFileError, match="holds no directions"):
        read_control_vector(_written(tmp_path / "none.gguf", {1: 0.0, 2: 1e-40}))
