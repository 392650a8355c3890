from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from midstream.analysis import analyze, analyze_image
from midstream.analysis.image import shrunk
from midstream.errors import InputError
from midstream.tensors import Tensor


def scene(seed: int = 0, height: int = 240, width: int = 320) -> NDArray[np.uint8]:
    """A picture with the 1/f spectrum of photographs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width))
    frequency[0, 0] = 1.0
    values = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) / frequency, s=(height, width))
    return np.asarray(255 * (values - values.min()) / np.ptp(values), dtype=np.uint8)


def features(picture: Tensor) -> dict[str, float]:
    return analyze(picture, kind="image").features


@pytest.mark.parametrize("levels", [1, 2, 4, 16, 256])
def test_entropy_of_equally_frequent_levels(levels: int) -> None:
    picture = np.resize(np.arange(levels, dtype=np.uint8), (64, 64))
    assert features(picture)["entropy"] == pytest.approx(np.log2(levels))


def test_entropy_of_unequal_levels() -> None:
    picture = np.repeat(np.array([0, 1, 2], dtype=np.uint8), [2048, 1024, 1024]).reshape(64, 64)
    assert features(picture)["entropy"] == pytest.approx(1.5)


def test_a_step_has_one_edge() -> None:
    picture = np.zeros((100, 100), dtype=np.uint8)
    picture[:, 50:] = 200
    found = features(picture)
    assert found["edge_density"] == pytest.approx(0.01)
    # Sobel sees the step in 2 of 100 columns, at half its height each.
    assert found["gradient_mean"] == pytest.approx(200 / 100)
    # The Laplacian is +200 and -200 in one column each.
    assert found["laplacian_variance"] == pytest.approx(2 * 200**2 / 100)


def test_blur_lowers_detail_and_score() -> None:
    rising = [analyze(np.asarray(cv2.GaussianBlur(scene(), (0, 0), sigma)), "image") for sigma in (4, 2, 1, 0.5)]
    for name in ("edge_density", "gradient_mean", "laplacian_variance"):
        values = [found.features[name] for found in rising]
        assert values == sorted(values) and values[0] < values[-1], name
    scores = [found.score for found in rising]
    assert scores == sorted(scores) and scores[0] + 20 < scores[-1]


def test_dark_noise_is_no_edge() -> None:
    rng = np.random.default_rng(0)
    assert features(rng.integers(0, 4, (100, 100), dtype=np.uint8))["edge_density"] == 0.0


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (48, 64)])
def test_one_colour_is_no_complexity(shape: tuple[int, int], level: int) -> None:
    found = analyze(np.full(shape, level, dtype=np.uint8), kind="image")
    assert found.score == 0.0
    assert set(found.features.values()) == {0.0}


def test_every_layout_of_a_picture_is_the_same_picture() -> None:
    rgb = np.dstack([scene(seed) for seed in range(3)])
    wanted = features(rgb)
    chw = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    rgba = np.dstack([rgb, scene(3)])
    for same in (rgb[np.newaxis], chw, chw[np.newaxis], rgba, rgb.astype(np.float32), rgb / 255.0):
        assert features(same) == wanted
    for grey in (scene()[np.newaxis], scene()[..., np.newaxis], scene()[np.newaxis, :, :, np.newaxis]):
        assert features(grey) == features(scene())


def test_a_normalised_tensor_is_stretched() -> None:
    picture = scene()
    assert np.ptp(picture) == 255
    assert features((picture.astype(np.float32) - 127.5) / 127.5) == features(picture)
    assert features((picture - 127.5) * 1e306)["entropy"] == features(picture)["entropy"]


def test_a_large_picture_is_shrunk_first() -> None:
    large = np.asarray(cv2.resize(scene(), (1280, 960), interpolation=cv2.INTER_NEAREST))
    same = np.asarray(cv2.resize(scene(), (640, 480), interpolation=cv2.INTER_NEAREST))
    assert features(large) == features(same)


@pytest.mark.parametrize("shape", [(1, 9000), (9000, 1), (3, 5001), (999, 1281), (1281, 999)])
def test_every_shape_can_be_shrunk(shape: tuple[int, int]) -> None:
    small = shrunk(np.full(shape, 77, np.uint8), 640)
    assert max(small.shape) == 640
    assert np.all(small == 77)


def test_shrinking_leaves_nothing_out() -> None:
    dots = np.zeros((1200, 1600), np.uint8)
    dots[::8, ::8] = 255
    small = shrunk(dots, 200)
    assert small.min() == small.max() == 4


def test_step_density_is_the_share_of_neighbours_that_differ() -> None:
    stripes = np.repeat(np.arange(0, 240, 30, dtype=np.uint8), 4)
    rows = np.tile(stripes, (32, 1))
    steps, neighbours = 7 * 32, 2 * 31 * 32
    assert features(rows)["step_density"] == pytest.approx(steps / neighbours)
    assert features(np.ascontiguousarray(rows.T))["step_density"] == pytest.approx(steps / neighbours)


def test_strong_compression_leaves_fewer_steps() -> None:
    picture = scene()
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 5])
    coarse = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
    assert features(coarse)["step_density"] < features(picture)["step_density"]


def test_every_edge_density_is_of_the_same_scale() -> None:
    small = features(scene(height=240, width=320))
    large = features(np.asarray(cv2.resize(scene(), (1280, 960), interpolation=cv2.INTER_CUBIC)))
    assert large["edge_density"] == pytest.approx(small["edge_density"], rel=0.15)


def test_spatial_frequency_is_that_of_eskicioglu_and_fisher() -> None:
    picture = scene().astype(np.float64)
    rows = np.square(np.diff(picture, axis=1)).sum() / picture.size
    columns = np.square(np.diff(picture, axis=0)).sum() / picture.size
    assert features(scene())["spatial_frequency"] == pytest.approx(np.sqrt(rows + columns))


def test_colourfulness_is_that_of_hasler_and_suesstrunk() -> None:
    rgb = np.dstack([scene(seed, 100, 120) for seed in range(3)])
    red, green, blue = (rgb[..., channel].astype(np.float64) for channel in range(3))
    rg, yb = red - green, (red + green) / 2 - blue
    wanted = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert features(rgb)["colourfulness"] == pytest.approx(wanted)
    assert features(np.repeat(scene()[..., np.newaxis], 3, axis=2))["colourfulness"] == pytest.approx(0.0, abs=1e-5)


def test_the_channels_entropies() -> None:
    rgb = np.zeros((64, 64, 3), dtype=np.uint8)
    rgb[..., 0] = np.arange(64) * 4
    rgb[:32, :, 2] = 255
    found = features(rgb)
    assert [found[f"entropy_{name}"] for name in ("red", "green", "blue")] == pytest.approx([6.0, 0.0, 1.0])
    grey = features(rgb[..., 0])
    assert {grey[f"entropy_{name}"] for name in ("red", "green", "blue")} == {grey["entropy"]}


def test_the_order_of_the_channels_may_be_told() -> None:
    rgba = np.dstack([scene(seed) for seed in range(4)])
    for picture in (rgba, rgba[..., :3]):
        bgr = picture[..., [2, 1, 0, 3][: picture.shape[2]]]
        for same in (bgr, bgr.transpose(2, 0, 1), bgr / 255.0):
            assert analyze_image(same, colour="BGR").features == features(picture)
    assert analyze_image(rgba, colour="BGR").features != features(rgba)
    with pytest.raises(InputError, match="'GBR' is not known"):
        analyze_image(rgba, colour="GBR")  # type: ignore[arg-type]


def test_one_pixel_has_defined_features() -> None:
    assert set(features(np.array([[[255, 0, 0]]], dtype=np.uint8)).values()) > {0.0}
    assert features(np.array([[[255, 0, 0]]], dtype=np.uint8))["colourfulness"] == pytest.approx(
        0.3 * np.hypot(255, 127.5)
    )


def test_the_most_colourful_picture_there_is() -> None:
    red_and_green = np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)
    assert features(red_and_green)["colourfulness"] == pytest.approx(255 + 0.3 * 127.5)
