import json

import pytest
from PIL import Image

from ifuvit.data.coco import read_boxes, read_coco
from ifuvit.data.encoding import layout
from ifuvit.data.images import Box
from ifuvit.utils.errors import InputError


def write(folder, images, annotations):
    (folder / "images").mkdir(exist_ok=True)
    for image in images:
        Image.new("RGB", (4, 4)).save(folder / "images" / image["file_name"])
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder / "images", path


IMAGES = [{"id": 30, "file_name": "c.png"}, {"id": 4, "file_name": "a.png"}]
ANNOTATIONS = [
    {"id": 1, "image_id": 30, "caption": "first of c"},
    {"id": 2, "image_id": 4, "caption": "of a"},
    {"id": 0, "image_id": 30, "caption": "second of c"},
]


def test_images_by_id_captions_in_file_order(tmp_path):
    images = read_coco(*write(tmp_path, IMAGES, ANNOTATIONS))
    assert [(image.id, image.captions) for image in images] == [
        ("4", ("of a",)),
        ("30", ("first of c", "second of c")),
    ]
    assert images[0].source == tmp_path / "images" / "a.png"
    assert all(image.problem is None for image in images)


def test_order_is_that_of_pycocotools(tmp_path):
    COCO = pytest.importorskip("pycocotools.coco").COCO
    images, captions = write(tmp_path, IMAGES, ANNOTATIONS)
    coco = COCO(captions)
    theirs = [
        (str(key), tuple(entry["caption"] for entry in coco.loadAnns(coco.getAnnIds(key)))) for key in sorted(coco.imgs)
    ]
    assert [(image.id, image.captions) for image in read_coco(images, captions)] == theirs


def test_missing_file_is_a_problem_of_the_image(tmp_path):
    images, captions = write(tmp_path, IMAGES, ANNOTATIONS)
    (images / "c.png").unlink()
    ok, gone = read_coco(images, captions)
    assert ok.problem is None and gone.problem is not None and "c.png" in gone.problem
    (images / "a.png").unlink()
    with pytest.raises(InputError, match="none of the images"):
        read_coco(images, captions)


@pytest.mark.parametrize(
    "images, annotations, match",
    [
        (IMAGES, [{"image_id": 5, "caption": "x"}], "image id 5, which is not among"),
        (IMAGES, [{"image_id": 4, "category_id": 1}], "not the instances"),
        (IMAGES, [{"image_id": 4}], "has no 'caption'"),
        (IMAGES, [{"image_id": 4, "caption": None}], "caption is None"),
        (IMAGES, [{"image_id": "4", "caption": "x"}], "image_id is '4', not a number"),
        ([IMAGES[0], IMAGES[0]], [], "listed twice"),
        ([], [], "lists no images"),
    ],
)
def test_malformed_annotations(tmp_path, images, annotations, match):
    with pytest.raises(InputError, match=match):
        read_coco(*write(tmp_path, images, annotations))


def test_unreadable_inputs(tmp_path):
    images, captions = write(tmp_path, IMAGES, ANNOTATIONS)
    whole = captions.read_text()
    captions.write_text(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated"):
        read_coco(images, captions)
    captions.write_text("[]")
    with pytest.raises(InputError, match="top level is a list"):
        read_coco(images, captions)
    captions.write_text("{}")
    with pytest.raises(InputError, match="no list 'images'"):
        read_coco(images, captions)
    with pytest.raises(InputError, match="no such file"):
        read_coco(images, tmp_path / "absent.json")
    with pytest.raises(InputError, match="no such directory"):
        read_coco(tmp_path / "absent", captions)


def instances(folder, annotations, **changes):
    content = {
        "images": [{"id": 30, "width": 40, "height": 20}, {"id": 4, "width": 10, "height": 30}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 2, "name": "bus"}],
        "annotations": annotations,
        **changes,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_boxes_are_told_in_the_centered_square(tmp_path):
    path = instances(
        tmp_path,
        [
            {"image_id": 30, "category_id": 7, "bbox": [20, 5, 10, 5]},
            {"image_id": 4, "category_id": 2, "bbox": [0, 10, 10, 10]},
        ],
    )
    assert read_boxes(path) == {30: [Box(1, 0.5, 0.25, 0.5, 0.25)], 4: [Box(0, 0, 0, 1, 1)]}
    first, second = read_coco(*write(tmp_path, IMAGES, ANNOTATIONS), path)
    assert first.boxes == (Box(0, 0, 0, 1, 1),) and second.boxes is not None and second.boxes[0].kind == 1
    assert all(image.boxes is None for image in read_coco(*write(tmp_path, IMAGES, ANNOTATIONS)))


@pytest.mark.parametrize(
    "annotation, match",
    [
        ({"image_id": 31, "category_id": 7, "bbox": [0, 0, 1, 1]}, "annotations.0.: of image 31 and category 7"),
        ({"image_id": 30, "category_id": 8, "bbox": [0, 0, 1, 1]}, "annotations.0.: of image 30 and category 8"),
        ({"image_id": 30, "category_id": 7, "bbox": [0, 0, 1]}, "bbox is .0, 0, 1., not four numbers"),
        ({"image_id": 30, "category_id": 7}, "has no 'bbox'"),
    ],
)
def test_malformed_boxes(tmp_path, annotation, match):
    with pytest.raises(InputError, match=match):
        read_boxes(instances(tmp_path, [annotation]))


def test_another_instances_file_is_another_plan(tmp_path):
    """A preparation that was begun with other boxes must not be continued."""
    from ifuvit.data.plan import make_plan

    digests = set()
    for box in (None, [0, 10, 10, 10], [0, 10, 5, 5]):
        path = None if box is None else instances(tmp_path, [{"image_id": 4, "category_id": 2, "bbox": box}])
        digests.add(make_plan(read_coco(*write(tmp_path, IMAGES, ANNOTATIONS), path)).digest)
    assert len(digests) == 3


def test_a_layout_has_the_smallest_object_over_each_cell():
    grid = layout([Box(4, 0.5, 0.5, 0.2, 0.2), Box(1, 0.25, 0.25, 0.6, 0.5)], 4)
    assert grid.tolist() == [[0, 0, 0, 0], [0, 2, 2, 0], [0, 2, 5, 0], [0, 0, 0, 0]]
    with pytest.raises(InputError, match="255 kinds"):
        layout([Box(255, 0, 0, 1, 1)], 4)
