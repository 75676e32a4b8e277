"""What the golden tests do with files that lack something, hold something unknown, or are wrong in one number."""

import json

import golden_files
import golden_summary
import numpy as np
import pytest
import test_golden_digits
import test_golden_fft
import test_golden_kernel_points
import test_golden_quadrature
import test_golden_s2cnn_layers
import test_golden_s2cnn_nets
import test_golden_swin
import test_golden_wigner

from jaxgeo.grids.latlon import soft_grid
from jaxgeo.harmonics.wigner import wigner_d


@pytest.fixture
def write(tmp_path):
    """Stores arrays, and a configuration where there is one."""

    def store(arrays, config=None):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        stated = {} if config is None else {"config_json": np.array(json.dumps(config))}
        np.savez(path, **arrays, **stated)
        return path

    return store


@pytest.fixture
def weights():
    return {"b3/weights": soft_grid(3).weights / 72}


@pytest.mark.parametrize(
    ("keys", "config", "family"),
    [
        (["b7/weights"], None, "quadrature"),
        (["ls", "betas", "d"], None, "wigner"),
        (["so3_b9/inv_X", "so3_b9/inv_y"], {}, "fft"),
        (["soft_b3/so3"], {}, "kernel points"),
        (["any/input", "any/output"], {"cases": []}, "layers"),
        (["weights/input_layer.kernel", "input"], {}, "s2cnn"),
        (["weights/input_layer.weight", "input"], {}, "cnn"),
        (["input", "output"], {"kind": "segmentation S2CNN"}, "s2cnn"),
        (["input", "output"], {"kind": "baseline segmentation CNN"}, "cnn"),
        (["logits", "labels"], None, "metrics"),
        (["rotated/projected"], None, "digits"),
        (["weights/patch_embed.proj.weight"], {"kind": "HEAL-SWIN-UNet"}, "swin"),
        (["nside8/w4/idcs"], None, "windows"),
        (["something"], {"kind": "something else"}, None),
    ],
)
def test_a_file_is_known_by_its_content(write, keys, config, family):
    assert golden_files.family(write({key: np.zeros(1) for key in keys}, config)) == family


def test_optional_arrays_are_not_demanded(write, weights):
    test_golden_quadrature.test_quadrature_is_that_of_the_original(write(weights))
    degrees, betas = (5, 2), np.array([0.3])
    rows = np.concatenate([wigner_d(degree, betas).reshape(1, -1) for degree in degrees], 1)
    stored = {"ls": np.array(degrees), "betas": betas, "d": rows}
    test_golden_wigner.test_wigner_functions_are_those_of_the_original(write(stored))
    assert {key for key, _ in golden_files.MET} == {"weights", "d"}  # what was there, and no more, was compared


def test_arrays_that_nothing_computes_fail_by_name(write, weights):
    check = test_golden_quadrature.test_quadrature_is_that_of_the_original
    with pytest.raises(AssertionError, match="beta_Chebyshev"):
        check(write(weights | {"b3/beta_Chebyshev": np.zeros(6)}))
    with pytest.raises(AssertionError, match="loose"):
        check(write(weights | {"loose": np.zeros(6)}))
    with pytest.raises(AssertionError, match="near_identity_4"):
        test_golden_kernel_points.test_kernel_points_are_those_of_the_original(
            write({"near_identity_4/s2": np.zeros((1, 2))}, {"near_identity": [[{}, {}]]})
        )
    with pytest.raises(AssertionError, match="surprise"):
        test_golden_fft.test_transforms_and_their_gradients_are_those_of_the_original(
            write({"s2_b1/x": np.zeros((1, 2, 2)), "s2_b1/surprise": np.zeros(1)}), "s2_b1"
        )
    with pytest.raises(AssertionError, match="s4_b1"):
        test_golden_fft.test_transforms_and_their_gradients_are_those_of_the_original(
            write({"s4_b1/y": np.zeros(1)}), "s4_b1"
        )


def test_unknown_layers_and_networks_fail_by_name(write):
    path = write({"a/input": np.zeros((1, 1, 2, 2)), "a/output": np.zeros(1)})
    with pytest.raises(AssertionError, match="so3pool"):
        test_golden_s2cnn_layers.test_layer_and_its_gradients_are_those_of_the_original(
            path, {"key": "a", "kind": "so3pool"}
        )
    with pytest.raises(AssertionError, match="'key': 'a'"):  # described by no configuration
        test_golden_s2cnn_layers.test_layer_and_its_gradients_are_those_of_the_original(path, {"key": "a"})
    with pytest.raises(AssertionError, match="S2ConvNet_deep"):
        test_golden_s2cnn_nets.read(write({"input": np.zeros(1)}, {"upstream_class": "S2ConvNet_deep"}))


def test_an_array_that_others_need_is_asked_for_by_name(write):
    with pytest.raises(AssertionError, match="holds no array 'ls'"):
        test_golden_wigner.test_wigner_functions_are_those_of_the_original(write({"betas": np.zeros(1)}))
    with pytest.raises(AssertionError, match="holds no array 'x'"):
        test_golden_fft.test_transforms_and_their_gradients_are_those_of_the_original(
            write({"s2_b1/X": np.zeros((1, 1), complex)}), "s2_b1"
        )
    path = write({"a/input": np.zeros((1, 1, 2, 2)), "a/output": np.zeros((1, 1, 2, 2, 2))})
    with pytest.raises(AssertionError, match="one kernel among its weights"):
        test_golden_s2cnn_layers.test_layer_and_its_gradients_are_those_of_the_original(
            path, {"key": "a", "kind": "s2conv", "max_beta": 0.3}
        )
    with pytest.raises(AssertionError, match="does not say 'fs'"):
        test_golden_s2cnn_nets.read(write({"input": np.zeros(1)}, {"kind": "S2CNN"}))
    with pytest.raises(AssertionError, match="nothing computes turned"):
        test_golden_digits.test_projection_and_rotations_are_the_published_ones(
            write({"turned/rx": np.zeros((2, 2))}, {"b": 1})
        )


def test_a_number_beyond_the_mark_fails(write, weights):
    wrong = weights["b3/weights"].copy()
    wrong[1] += 2e-14
    with pytest.raises(AssertionError, match="weights"):
        test_golden_quadrature.test_quadrature_is_that_of_the_original(write({"b3/weights": wrong}))
    with pytest.raises(AssertionError, match="shape"):
        golden_files.compare_entries({"a": np.zeros((1, 2))}, {"a": np.zeros(2)}, atol=1.0)
    for ours in (np.full(3, 1 + 2e-10), np.array([1, 1, np.nan]), np.ones(1)):
        with pytest.raises(AssertionError, match="'a'"):
            golden_files.compare({"a": np.ones(3)}, {"a": ours})
    # What is stored in float32 can be met to its rounding only.
    golden_files.compare({"a": np.ones(3, np.float32)}, {"a": np.full(3, 1 + 1e-7)})
    golden_files.compare_entries({"a": np.array([1, np.nan])}, {"a": np.array([1, np.nan])}, atol=0)


@pytest.mark.parametrize(
    ("got", "expected", "share"),
    [
        ([1.0, 3.0], [1.0, 2.0], 2.0),  # of a mark of one half
        ([1.0, np.nan, np.inf], [1.0, np.nan, np.inf], 0.0),
        ([1.0, 2.0], [1.0, np.nan], np.inf),
        ([1.0, 2.0], [1.0, 2.0, 3.0], np.inf),
        (np.array([255], np.uint8), np.array([0], np.uint8), 510.0),  # not 1, as bytes would have it
        ([], np.zeros(0), 0.0),
    ],
)
def test_deviations_are_noted_in_units_of_the_mark(got, expected, share):
    golden_files.MET.clear()
    try:
        golden_files.compare_entries({"a": np.asarray(expected)}, {"a": np.asarray(got)}, atol=0.5)
        assert share <= 1
    except AssertionError:
        assert share > 1
    assert list(golden_files.MET) == [("a", share)]
    golden_files.MET.clear()
    golden_files.compare({"b": np.array([3.0, 4.0])}, {"b": np.array([3.0, 4.0 + 1e-10])})
    assert golden_files.MET[0][1] == pytest.approx(0.2, rel=1e-5)  # 1e-10 of a norm of 5, of a mark of 1e-10


def test_a_named_folder_without_readable_files_is_one_sentence(tmp_path, monkeypatch):
    def problem(folder):
        monkeypatch.setenv("JAXGEO_GOLDEN", str(folder))
        return golden_files.folder_problem()

    assert "which is no folder" in problem(tmp_path / "missing")
    assert "holds no .npz file" in problem(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "cut.npz").write_bytes(b"PK\x03\x04 not an archive")
    (tmp_path / "none.npz").write_bytes(b"")
    with (tmp_path / "single.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))  # no archive
    assert "none of whose 3 .npz files can be read: cut.npz is damaged" in problem(tmp_path)
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    assert "none of whose 4" in problem(tmp_path)  # nothing pickled is ever read
    np.savez(tmp_path / "whole.npz", ls=np.array([1]))
    assert problem(tmp_path) is None  # the damaged ones fail by themselves
    assert golden_files.family(tmp_path / "none.npz") is None
    assert "none.npz is damaged" in golden_files.damage(tmp_path / "none.npz")
    monkeypatch.delenv("JAXGEO_GOLDEN")
    assert golden_files.folder_problem() is None


def test_how_numbers_are_laid_out_does_not_count(write):
    values = np.arange(6.0).reshape(2, 3)
    arrays = {
        "big": values.astype(">f8"),
        "columns": np.asfortranarray(values),
        "nonfinite/one": np.array(np.inf, ">f4"),
    }
    loaded, _ = golden_files.load(write(arrays))
    assert loaded["one"].shape == ()
    assert loaded["one"].dtype == np.float32
    for key in ("big", "columns"):
        assert loaded[key].flags.c_contiguous
        np.testing.assert_array_equal(loaded[key], values)


def test_numbers_of_few_digits_are_met_to_their_rounding_only():
    exact = np.linspace(0, 300, 1000)  # squares beyond the largest number of 16 bits
    golden_files.compare({"a": exact.astype(np.float16)}, {"a": exact})
    golden_files.compare_entries({"a": exact.astype(np.float16)}, {"a": exact}, atol=0)
    with pytest.raises(AssertionError, match="'a'"):
        golden_files.compare({"a": exact.astype(np.float16)}, {"a": 1.003 * exact})


def test_what_a_configuration_lacks_or_adds_fails_by_name(write):
    model = {"embed_dim": 4, "depths": [2, 2], "num_heads": [1, 2]}
    stated = {"upstream_class": test_golden_swin.SPHERE, "data_spec": {"base_pix": 8, "dim_in": 512, "f_in": 1}}
    weights = {"weights/patch_embed.proj.bias": np.zeros(4), "input": np.zeros((1, 1, 512))}
    for changes, message in (
        ({}, "does not say 'rel_pos_bias'"),
        ({"rel_pos_bias": None, "shift_strategy": "other"}, "knows the shift other"),
        ({"rel_pos_bias": None, "shift_strategy": "nest_roll", "other": 1}, "does not say 'patch_size'"),
        ({"decoder_class": "Other"}, "knows the decoder Other"),
    ):
        path = write(weights, stated | {"model": model | changes})
        assert golden_files.family(path) == "swin"
        with pytest.raises(AssertionError, match=message):
            test_golden_swin.read(path)
    with pytest.raises(AssertionError, match=r"knows the options \['other'\]"):
        test_golden_swin.shared_of({"other": 1}, {})
    with pytest.raises(AssertionError, match="does not say 'upstream_class'"):
        test_golden_swin.read(write(weights, {}))
    with pytest.raises(AssertionError, match="an array of the name input"):
        test_golden_swin.read(write({"weights/patch_embed.proj.bias": np.zeros(4)}, stated))
    listed = write(weights, ["no", "names"])
    assert golden_files.family(listed) is None
    assert "must hold an object of names and values, got list" in golden_files.damage(listed)


def test_a_kind_is_one_line_of_all_its_tests():
    kind = golden_summary.Kind({"a", "b"}, [3, 4], [(0.25, "x in a"), (0.5, "y in b")], [])
    assert golden_summary.summary_line("fft", kind) == "fft: 2 files, 7 arrays, worst 0.5 (y in b)"
    exact = golden_summary.Kind({"a"}, [1], [(0.0, "x in a")], ["test_a"])
    assert golden_summary.summary_line("windows", exact) == (
        "windows: 1 file, 1 array, no deviation; 1 FAILED, the first is test_a"
    )
    assert "nothing compared" in golden_summary.summary_line("fft", golden_summary.Kind({"a"}, [], [], []))
