"""`scenes`: the picture's truth against a slow second ray caster, the contract of a source, and the cache."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openjepa.data import scenes
from openjepa.data.scenes import casting, scene, source, world
from openjepa.data.source import open_source
from openjepa.errors import ConfigError, DataError

VIEW_DEG = 48  # of the camera, along the shorter side


# ---------------------------------------------------------------- a second ray caster, float64, ray by ray


def slow_span(solid, origin, direction):
    """Distance to the first point of the solid's surface ahead: every face on its own, nearest one wins."""
    centre, half, height = np.array(solid.centre), solid.half_width, solid.half_height
    cos, sin = math.cos(solid.yaw_rad), math.sin(solid.yaw_rad)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    o, d = turn @ (origin - centre), turn @ direction
    found = []
    if solid.shape == "cube":
        for axis in range(3):
            for side in (-half, half):
                t = (side - o[axis]) / d[axis]
                p = np.delete(o + t * d, axis)
                found += [t] if np.all(np.abs(p) <= half) else []
    else:
        round_axes = slice(3) if solid.shape == "sphere" else slice(2)
        p, q = o[round_axes], d[round_axes]
        roots = np.roots([q @ q, 2 * p @ q, p @ p - half * half])
        real = roots[np.abs(roots.imag) < 1e-12].real
        found += [t for t in real if solid.shape == "sphere" or abs(o[2] + t * d[2]) <= height]
        if solid.shape == "cylinder":
            caps = [(side - o[2]) / d[2] for side in (-height, height)]
            found += [t for t in caps if np.hypot(*(o + t * d)[:2]) <= half]
    return min((t for t in found if t > 0), default=math.inf)


def slow_cast(solids, origin, direction):
    """(distance, instance) of one ray."""
    ground = -origin[2] / direction[2] if direction[2] < 0 else math.inf
    spans = [min(ground, casting.FAR), *(slow_span(s, origin, direction) for s in solids)]
    return min(spans), int(np.argmin(spans))


def slow_rays(camera, size):
    right, up, forward = np.array(camera.axes)
    focal = min(size) / 2 / math.tan(math.radians(VIEW_DEG) / 2)
    for row in range(size[0]):
        for column in range(size[1]):
            ray = (column + 0.5 - size[1] / 2) * right - (row + 0.5 - size[0] / 2) * up
            ray = ray + focal * forward
            yield ray / np.linalg.norm(ray)


@pytest.mark.parametrize(("index", "size"), [(0, (32, 32)), (2, (24, 40)), (10, (34, 20))])
def test_truth_matches_a_slow_ray_caster(index, size):
    truth = scenes.observe(3, index, size)
    made, _ = scene._compose(3, index, size, 6)
    origin = np.array(made.camera.position)
    slow = [slow_cast(made.solids, origin, ray) for ray in slow_rays(made.camera, size)]
    distance, instances = (np.array(column).reshape(size) for column in zip(*slow, strict=True))
    same = instances == truth.instances
    assert len(truth.objects) == len(made.solids) > 1
    assert (~same).mean() < 0.005
    np.testing.assert_allclose(truth.depth[same], distance[same], rtol=1e-5)
    for number, one in enumerate(truth.objects):
        assert one.visible_pixels == (truth.instances == number + 1).sum()
        np.testing.assert_allclose(one.distance, distance[same & (instances == number + 1)].min(), rtol=2e-3)


def test_shadows_match_a_slow_ray_caster():
    made, hits = scene._compose(3, 11, (32, 32), 6)
    dark, lamp = casting.shadowed(made, hits), made.lamp.astype(float)
    points, normals = hits.points.T.astype(float), hits.normals.T.astype(float)
    is_lit = normals @ lamp > 0.1  # the others are dark whatever stands in between
    slow = [
        slow_cast(made.solids, p + 2e-3 * n, lamp)[1] > 0 for p, n in zip(points[is_lit], normals[is_lit], strict=True)
    ]
    assert 0.01 < np.mean(slow) < 0.9
    assert np.mean(dark[is_lit] != slow) < 0.005


# --------------------------------------------------------------------------------------- what a scene promises


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**62),
    st.integers(0, 10**9),
    st.tuples(st.integers(16, 90), st.integers(16, 90)),
    st.integers(1, source.MOST_OBJECTS),
    st.floats(*source.SCALES),
)
def test_every_scene_is_well_posed(seed, index, size, max_objects, scale):
    one = scenes.render(seed, index, size, max_objects, scale)
    assert one.image.shape == (*size, 3)
    assert one.image.dtype == one.instances.dtype == np.uint8
    assert one.depth.shape == one.instances.shape == size
    assert ((one.depth > 0.5) & (one.depth <= casting.FAR)).all()
    assert 1 <= len(one.objects) <= max_objects
    counts = np.bincount(one.instances.ravel())
    assert counts[1:].tolist() == [o.visible_pixels for o in one.objects]
    assert min(o.visible_pixels for o in one.objects) >= 12 * size[0] * size[1] / 64**2
    for task, answer in scenes.TASKS.items():
        assert 0 <= answer(one) < len(scene.class_names(task, max_objects))


def test_no_two_objects_meet():
    for index in range(60):
        made, _ = scene._compose(1, index, (64, 64), 8)
        for i, a in enumerate(made.solids):
            for b in made.solids[:i]:
                assert math.hypot(a.x - b.x, a.y - b.y) > a.footprint + b.footprint


def test_whole_objects_are_in_the_picture_without_occlusion():
    for index in range(40):
        truth = scenes.observe(4, index, (48, 64), max_objects=1)
        seen = truth.instances > 0
        assert seen.any()
        assert not np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]]).any()


def test_scale_makes_solids_larger_and_leaves_the_count():
    pairs = [[scenes.observe(4, i, max_objects=2, scale=scale) for scale in (1.0, 1.5)] for i in range(60)]
    assert np.mean([len(a.objects) == len(b.objects) for a, b in pairs]) > 0.9
    shown = np.mean([[np.mean([o.visible_pixels for o in truth.objects]) for truth in pair] for pair in pairs], axis=0)
    assert 1.6 < shown[1] / shown[0] < 2.8  # area; large ones are framed only by cameras further off


def test_same_address_same_bytes_and_another_address_another_scene():
    first, again = scenes.render(5, 7), scenes.render(5, 7)
    for field in ("image", "depth", "instances"):
        assert getattr(first, field).tobytes() == getattr(again, field).tobytes()
    for seed, index in ((5, 8), (6, 7)):
        assert (scenes.render(seed, index).image != first.image).mean() > 0.5


def test_the_picture_and_the_truth_without_it_agree():
    whole, truth = scenes.render(2, 3, (40, 56)), scenes.observe(2, 3, (40, 56))
    assert whole.objects == truth.objects
    np.testing.assert_array_equal(whole.depth, truth.depth)
    np.testing.assert_array_equal(whole.instances, truth.instances)


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (96, 96), (160, 160)])
def test_objects_do_not_depend_on_the_size_of_the_image(size):
    def layout(one):
        return [(o.shape, o.colour, o.size, o.material, o.position, o.yaw_rad) for o in one.objects]

    for index in range(10):
        assert layout(scenes.observe(9, index, size)) == layout(scenes.observe(9, index))


@pytest.fixture(scope="module")
def many():
    return [scenes.observe(0, index) for index in range(600)]


@pytest.mark.parametrize("task", scenes.TASKS)
def test_classes_are_balanced(many, task):
    num_classes = len(scene.class_names(task, 6))
    shares = np.bincount([scenes.TASKS[task](t) for t in many], minlength=num_classes) / len(many)
    assert len(shares) == num_classes
    assert shares.min() > 0.7 / num_classes
    assert shares.max() < 1.35 / num_classes


def test_every_kind_of_object_appears(many):
    kinds = (scenes.SHAPES, scenes.COLOURS, scenes.RADII, scenes.MATERIALS)
    for field, known in zip(("shape", "colour", "size", "material"), kinds, strict=True):
        assert {getattr(o, field) for t in many for o in t.objects} == set(known)
    assert len(world.PATTERNS) == len({scene._compose(0, i, (64, 64), 1)[0].ground.pattern
                                       for i in range(60)})  # fmt: skip


def test_tasks_agree_with_depth_and_mask(many):
    for truth in many[:100]:
        counts = np.bincount(truth.instances.ravel())[1:]
        closest = truth.depth[truth.instances > 0].min()
        assert scenes.num_objects(truth) == truth.instances.max() - 1
        assert scenes.distance_bin(truth) == np.digitize(closest, scenes.DISTANCE_EDGES)
        largest = truth.objects[int(counts.argmax())]
        assert scenes.SHAPES[scenes.shape_of_largest(truth)] == largest.shape


def test_objects_have_the_colour_of_their_name():
    agreed = []
    for index in range(40):
        one = scenes.render(8, index)
        for number, thing in enumerate(one.objects):
            mean = one.image[one.instances == number + 1].mean(axis=0)
            if thing.colour != "gray" and thing.material == "matt":
                agreed.append(mean.argmin() == np.argmin(scenes.COLOURS[thing.colour]))
    assert np.mean(agreed) > 0.85


# ------------------------------------------------------------------------------------------------ the source


def test_source_gives_pictures_names_and_labels():
    for task in scenes.TASKS:
        few = scenes.Scenes(5, (32, 48), seed=2, task=task)
        assert len(few) == 5
        items = list(few)
        assert [item.name for item in items] == [f"scenes/{i:06d}" for i in range(5)]
        assert [item.label for item in items] == few.labels().tolist()
        assert scenes.truths(few, range(5))[task].tolist() == few.labels().tolist()
        assert few.labels().dtype == np.int64
        np.testing.assert_array_equal(items[3].image, scenes.render(2, 3, (32, 48)).image)
        assert max(few.labels()) < len(few.classes)
        assert task in few.identity
    with pytest.raises(IndexError):
        few[5]


def test_cache_equals_fresh_renders(tmp_path):
    fresh = scenes.Scenes(70, (16, 20), seed=1, task="distance_bin")
    # One spawned process: rendering elsewhere must not change a byte.
    cached = scenes.Scenes(70, (16, 20), 1, task="distance_bin", cache=tmp_path / "c", workers=1)
    (path,) = (tmp_path / "c").iterdir()
    written = path.stat().st_mtime_ns
    assert all((a.image == b.image).all() and a.label == b.label and a.name == b.name
               for a, b in zip(fresh, cached, strict=True))  # fmt: skip
    np.testing.assert_array_equal(fresh.labels(), cached.labels())
    other = scenes.Scenes(70, (16, 20), 1, task="num_objects", cache=tmp_path / "c")
    assert path.stat().st_mtime_ns == written
    np.testing.assert_array_equal(other.labels(), scenes.truths(fresh, range(70))["num_objects"])


def test_a_pickled_source_does_not_carry_its_cache(tmp_path):
    cached = scenes.Scenes(20, (16, 16), cache=tmp_path)
    first = cached[0].image
    text = pickle.dumps(cached)
    assert len(text) < 2000
    np.testing.assert_array_equal(pickle.loads(text)[0].image, first)
    first[:] = 0  # an item is the caller's own
    assert cached[0].image.any()


def test_an_interrupted_cache_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(source, "render", fail)
    with pytest.raises(KeyboardInterrupt):
        scenes.Scenes(3, (16, 16), cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_torn_or_foreign_cache_is_refused(tmp_path):
    scenes.Scenes(3, (16, 16), cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (whole[:-5], b"", b"something else entirely"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="Delete it"):
            scenes.Scenes(3, (16, 16), cache=tmp_path)[0]
    np.save(path, np.zeros(3))
    with pytest.raises(DataError, match="holds something else"):
        scenes.Scenes(3, (16, 16), cache=tmp_path).labels()


def test_specs(tmp_path):
    assert scenes.parse("scenes").identity == scenes.Scenes().identity
    given = "scenes?num_images=20&size=48&seed=3&task=shape_of_largest&max_objects=4"
    wanted = scenes.Scenes(20, (48, 48), 3, 4, task="shape_of_largest")
    assert scenes.parse(given).identity == wanted.identity
    larger = scenes.parse(given + "&scale=1.5")
    assert "scale=1.5" in larger.identity
    assert not np.array_equal(larger[0].image, wanted[0].image)
    assert open_source("scenes?num_images=7&size=32x48")[6].image.shape == (32, 48, 3)
    assert scenes.parse(f"scenes?num_images=2&size=16&cache={tmp_path}").cache == tmp_path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scenes?sede=3", "'seed'"),
        ("scenes?task=num_object", "'num_objects'"),
        ("scenes?size=48by48", "48x64"),
        ("scenes?size=8", "16 to 1024"),
        ("scenes?num_images=none", "num_images"),
        ("scenes?num_images=0", "one at least"),
        ("scenes?max_objects=99", "is 1 to"),
        ("scenes?scale=4", "is 0.7 to 1.6"),
        ("scenes?seed=1&seed=2", "twice"),
        ("scenes?workers=-1", "negative"),
        ("scenes?", "unknown key"),
        ("scenes:seed=1", "is not 'scenes'"),
    ],
)
def test_bad_specs_say_what_to_write(spec, message):
    with pytest.raises(ConfigError, match=message):
        scenes.parse(spec)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        scenes.Scenes(0, (1, 1), task="x", workers=-1)
    assert len(error.value.mistakes) == 4
